"""Progress of long work: a bar with rate and time left in a terminal, plain lines elsewhere; both on standard error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
PLAIN_EVERY_S = 15.0

Advance = Callable[[int, str], None]


def say(message: str) -> None:
    """Tell the user one line on standard error."""
    console.print(message, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress(task: str, *, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show how far `task` is.

    Parameters
    ----------
    task
        In two or three words.
    total
        How many units there are.
    unit
        What is counted, in the plural.
    done
        How many were done before, in an earlier run; they do not count for the rate.

    Yields
    ------
    callable
        ``advance(n, note)`` counts `n` further units and shows `note` (may be empty) beside the bar.
    """
    if console.is_terminal:
        with _bar(task, total, unit, done) as advance:
            yield advance
    else:
        with _lines(task, total, unit, done) as advance:
            yield advance


@contextlib.contextmanager
def _bar(task: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task(task, total=total, completed=before, rate="", note="")

        def advance(n: int, note: str) -> None:
            done = bar.tasks[0].completed + n
            rate = (done - before) / max(time.monotonic() - began, 1e-9)
            bar.update(row, advance=n, rate=f"{unit}, {rate:,.0f}/s", note=note)

        yield advance
    say(f"{task}: {total:,} {unit} in {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def _lines(task: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    began = last = time.monotonic()
    done = before

    def advance(n: int, note: str) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S and done < total:
            last = now
            rate = (done - before) / (now - began)
            left = (total - done) / rate
            say(f"{task}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, {left:,.0f} s left {note}".rstrip())

    yield advance
    say(f"{task}: {total:,} {unit} in {time.monotonic() - began:.1f} s")
