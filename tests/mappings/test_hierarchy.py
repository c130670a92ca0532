from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phewas.errors import VocabularyError
from phewas.mappings import hierarchy


@st.composite
def trees(draw):
    """Return names and parents that always point to an earlier name, so that there is no circle."""
    n = draw(st.integers(1, 12))
    parents = [
        (f"p{i}", f"p{j}") for i in range(n) for j in draw(st.sets(st.integers(0, max(i - 1, 0)), max_size=2)) if j < i
    ]
    return [f"p{i}" for i in range(n)], parents


@settings(max_examples=60, deadline=None)
@given(trees())
def test_the_roll_up_is_every_path_upwards(tree):
    names, parents = tree
    expected = {name: {name} for name in names}
    for _ in names:  # as many rounds as the longest chain can have
        for child, parent in parents:
            expected[child] |= expected[parent]
    found = hierarchy.ancestors(names, parents)
    assert set(found.rows()) == {(name, above) for name in names for above in expected[name]}
    assert not found.is_duplicated().any()


@settings(max_examples=60, deadline=None)
@given(trees())
def test_the_nearest_parents_give_the_roll_up_back(tree):
    rollup = hierarchy.ancestors(*tree)
    nearest = hierarchy.nearest_above(rollup)
    assert hierarchy.ancestors(tree[0], nearest.rows()).equals(rollup)


def test_circles_are_named():
    with pytest.raises(VocabularyError, match="a -> b -> c -> a"):
        hierarchy.ancestors(["a", "b", "c"], [("a", "b"), ("b", "c"), ("c", "a")])


def test_a_chain_longer_than_the_recursion_limit():
    names = [f"p{i}" for i in range(1500)]
    assert hierarchy.ancestors(names, list(zip(names[1:], names, strict=False))).height == 1500 * 1501 // 2


def test_parents_come_first_within_their_chapter():
    table = pl.DataFrame(
        {"phenotype": ["leaf", "other", "middle", "root"], "chapter_order": pl.Series([1, 1, 1, 1], dtype=pl.Int16)}
    )
    rollup = hierarchy.ancestors(["leaf", "other", "middle", "root"], [("leaf", "middle"), ("middle", "root")])
    assert hierarchy.parents_first(table, rollup)["phenotype"].to_list() == ["root", "middle", "leaf", "other"]


def test_nearest_parents_of_phecodes(phecode):
    nearest = dict(hierarchy.nearest_above(phecode.rollup).filter(pl.col("phenotype") == "250.13").rows())
    assert nearest == {"250.13": "250.1"}
