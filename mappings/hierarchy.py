"""Parents and children of phenotypes: the complete roll-up from parents, and back to the nearest ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from phewas.errors import VocabularyError


def ancestors(names: Sequence[str], parents: Iterable[tuple[str, ...]]) -> pl.DataFrame:
    """Return the complete roll-up that follows from parents.

    Parameters
    ----------
    names
        Every phenotype.
    parents
        (phenotype, parent) pairs among `names`; a phenotype may have several parents.

    Returns
    -------
    polars.DataFrame
        phenotype, ancestor: each phenotype with itself, its parents, their parents, and so on; sorted.

    Raises
    ------
    VocabularyError
        A phenotype is its own ancestor by way of others.
    """
    above: dict[str, list[str]] = {name: [] for name in names}
    for child, parent in parents:
        above[child].append(parent)
    closed: dict[str, set[str]] = {}
    for start in names:
        # Depth first, by hand: a chain may be longer than the recursion limit.
        path, stack = [start], [iter(above[start])]
        while stack:
            for parent in stack[-1]:
                if parent in path:
                    circle = " -> ".join([*path[path.index(parent) :], parent])
                    raise VocabularyError(f"the parents form a circle: {circle}", cure="take one of these parents away")
                if parent not in closed:
                    path.append(parent)
                    stack.append(iter(above[parent]))
                    break
            else:
                done = path.pop()
                stack.pop()
                closed[done] = {done}.union(*(closed[one] for one in above[done]))
    pairs = [(name, ancestor) for name in names for ancestor in closed[name]]
    frame = pl.DataFrame(pairs, schema={"phenotype": pl.String, "ancestor": pl.String}, orient="row")
    return frame.sort("phenotype", "ancestor")


def parents_first(phenotypes: pl.DataFrame, rollup: pl.DataFrame) -> pl.DataFrame:
    """Return the phenotypes by chapter, in their order but each after its ancestors in the same chapter.

    Parameters
    ----------
    phenotypes
        phenotype, chapter_order, and further columns that are kept.
    rollup
        As `ancestors` returns it.
    """
    chapter = dict(phenotypes.select("phenotype", "chapter_order").rows())
    above: dict[str, list[str]] = {}
    for phenotype, ancestor in rollup.rows():
        if phenotype != ancestor and chapter[phenotype] == chapter[ancestor]:
            above.setdefault(phenotype, []).append(ancestor)
    place: dict[str, int] = {}
    for name in phenotypes["phenotype"]:
        # The ancestor with the fewest ancestors of its own stands highest.
        for ancestor in sorted(above.get(name, []), key=lambda one: (len(above.get(one, [])), one)):
            place.setdefault(ancestor, len(place))
        place.setdefault(name, len(place))
    order = pl.Series([place[name] for name in phenotypes["phenotype"]], dtype=pl.Int64)
    return phenotypes.with_columns(order.alias("place")).sort("chapter_order", "place").drop("place")


def nearest_above(rollup: pl.DataFrame) -> pl.DataFrame:
    """Return phenotype and parent: those ancestors that are no ancestor of another ancestor of the phenotype.

    Parameters
    ----------
    rollup
        Complete, as `phewas.mappings.vocabulary.Vocabulary` has it.
    """
    proper = rollup.filter(pl.col("phenotype") != pl.col("ancestor"))
    further = proper.join(proper, left_on="ancestor", right_on="phenotype").select(
        "phenotype", pl.col("ancestor_right").alias("ancestor")
    )
    nearest = proper.join(further.unique(), on=["phenotype", "ancestor"], how="anti")
    return nearest.select("phenotype", pl.col("ancestor").alias("parent")).sort("phenotype", "parent")
