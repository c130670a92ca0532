"""The verbs `phewas vocabularies` and `phewas codes`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phewas.errors import PhewasError, VocabularyError

if TYPE_CHECKING:
    from phewas.mappings.lookup import Entry, Found
    from phewas.mappings.vocabulary import Vocabulary

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)

WHAT, HOW = "What to look up", "How"
_MOST = 40
_SEX_RULES = {
    "both": "both",
    "F": "women only (everybody else is excluded)",
    "M": "men only (everybody else is excluded)",
}


@app.callback()
def vocabularies(context: typer.Context) -> None:
    """List the vocabularies, or add one of your own.

    A vocabulary maps ICD codes to phenotypes. `--vocabulary` takes a name from this list, an alias (phecode, phecodeX),
    or a file.

    Example: phewas vocabularies
    """
    if context.invoked_subcommand is not None:
        return
    from phewas.mappings import vocabulary as room

    rows = []
    for name, source in room.available().items():
        try:
            made = room.load(name)
        except PhewasError as error:
            rows.append((name, "", "", "", "", f"{source}; {error.found}"))
            continue
        codes = f"{made.code_map.select('vocabulary', 'code').n_unique():,}" if made.derive is None else "all"
        systems = ", ".join(made.code_systems)
        rows.append((name, made.version, systems, f"{made.phenotypes.height:,}", codes, source))
    _table(("name", "version", "code systems", "phenotypes", "codes", "source"), rows)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV or Parquet with the columns code, vocabulary (code system) and phenotype, and where wanted "
            "description, chapter, sex, parents and exclusions (joined by |).",
            show_default=False,
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="A second file that describes the phenotypes, one row each.", rich_help_panel=HOW),
    ] = None,
) -> None:
    """Store a vocabulary of your own under a name, for good.

    The usual column names of published lists are understood (ICD, vocabulary_id, phecode, phecode_string, category).

    Example: phewas vocabularies add phecodeX1.1 phecodeX_unrolled_ICD_CM.csv --labels phecodeX_info.csv
    """
    from phewas.mappings import custom

    made = custom.add(name, file, labels=labels)
    n_codes = made.code_map.select("vocabulary", "code").n_unique()
    typer.echo(
        f"{name} {made.version}: {made.phenotypes.height:,} phenotypes, {n_codes:,} codes "
        f"({', '.join(made.code_systems)}), stored in {custom.home() / name}"
    )
    for note in made.notes:
        typer.echo(f"Note: {note}")


def codes(
    text: Annotated[
        str,
        typer.Argument(metavar="X", help="A phenotype (427.2, CV_416.21) or an ICD code (I48.91).", show_default=False),
    ],
    vocabulary: Annotated[
        list[str] | None,
        typer.Option(help="Only this vocabulary (name or file); may be given again.", rich_help_panel=WHAT),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help=f"List everything, not the first {_MOST} rows.", rich_help_panel=HOW)
    ] = False,
) -> None:
    """Show the codes and rules of a phenotype, or what an ICD code means in each vocabulary.

    A text that is both, such as 427.2, is answered as both.

    Example: phewas codes I48.91
    """
    from phewas.mappings import lookup
    from phewas.mappings import vocabulary as room

    loaded = _loaded(vocabulary or _in_order(room.available()), asked=bool(vocabulary))
    found = lookup.find(text, loaded)
    shown = _entries_to_show(found, loaded, asked=bool(vocabulary))
    for name in shown:
        _entry(found.entries[name], most=None if every else _MOST)
    further = [name for name in found.entries if name not in shown and loaded[name].derive is None]
    if further:
        typer.echo(f"Also a phenotype of {', '.join(further)}: add --vocabulary {further[0]}.\n")
    if found.codes.height:
        _meanings(found, asked=bool(vocabulary))


def _in_order(names: Iterable[str]) -> list[str]:
    """Return the vocabularies with those that most people mean first."""
    first = ["phecode1.2", "phecodeX1.0"]
    return [*first, *(name for name in names if name not in first)]


def _loaded(names: Iterable[str], *, asked: bool) -> dict[str, Vocabulary]:
    from phewas.mappings import vocabulary as room

    loaded = {}
    for name in names:
        try:
            loaded[name if room.is_file_name(name) else room.resolve(name)] = room.load(name)
        except VocabularyError as error:
            # One damaged vocabulary of the user's must not hide the others from somebody who did not ask for it.
            if asked:
                raise
            typer.echo(f"Left out: {error.found}", err=True)
    return loaded


def _entries_to_show(found: Found, loaded: dict[str, Vocabulary], *, asked: bool) -> list[str]:
    """Return the vocabularies whose phenotype is shown: all that were asked for, else the first.

    The phenotypes of a rule-made vocabulary are codes, so unless they were asked for they are answered as such.
    """
    if asked:
        return list(found.entries)
    return [name for name in found.entries if loaded[name].derive is None][:1]


def _entry(entry: Entry, *, most: int | None) -> None:
    typer.echo(f"{entry.phenotype}  {entry.description}  ({entry.vocabulary})")
    typer.echo(f"chapter: {entry.chapter}")
    typer.echo(f"sex: {_SEX_RULES[entry.sex]}")
    for title, frame in (("parents", entry.parents), ("children", entry.children)):
        rows = [f"{name} {description}" for name, description in frame.rows()]
        typer.echo(f"{title}: {'; '.join(rows) or 'none'}")
    n = entry.exclusions.height
    typer.echo(f"control exclusions: {f'codes of {n} phenotypes keep a person out of the controls' if n else 'none'}")
    if n:
        _table(("excluded by", "description"), entry.exclusions.rows(), most=most)
    for (system,), part in sorted(entry.codes.group_by("vocabulary", maintain_order=True), key=lambda item: item[0]):
        direct = int((part["via"] == "direct").sum())
        typer.echo(f"\n{system}: {part.height} codes, {direct} direct, {part.height - direct} by way of children")
        _table(("code", "means", "via"), part.select("code", "means", "via").rows(), most=most)
    if not entry.codes.height:
        typer.echo("no codes")
    typer.echo("")


def _meanings(found: Found, *, asked: bool) -> None:
    from phewas.mappings.lookup import NO_MAP

    systems = found.codes["code_system"].unique(maintain_order=True).to_list()
    typer.echo(f"As a code ({' or '.join(systems)}):")
    rows = [
        (
            row["code_system"],
            row["code"],
            row["vocabulary"],
            row["phenotype"] or "-",
            row["description"] or row["reason"] or "",
            row["rolls_up_to"] or "",
        )
        for row in found.codes.iter_rows(named=True)
        if asked or row["reason"] != NO_MAP  # most vocabularies leave most code systems aside
    ]
    _table(("code system", "code", "vocabulary", "phenotype", "description", "rolls up to"), rows)
    if found.near:
        typer.echo(f"The nearest codes in the maps: {', '.join(found.near)}")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, most: int | None = None) -> None:
    """Print a table: ruled on a terminal, else with tabs between the cells, for other programs."""
    import sys

    every = list(rows)
    rows = every if most is None else every[:most]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for column in columns:
            table.add_column(column, overflow="fold")  # a name that is cut short cannot be typed again
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # as text: "[MCAS]" in a description is no markup
        Console().print(table)
    else:
        for row in (columns, *rows):
            typer.echo("\t".join(row))
    if len(every) > len(rows):
        typer.echo(f"... and {len(every) - len(rows):,} more (--all)")
