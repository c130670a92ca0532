"""How a rival's inputs become columns: learned from training rows, no label looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phewas.stats.baseline import spline_columns, spline_knots
from phewas.stats.rival_inputs import Inputs
from phewas.stats.tails import Floats

Rows = NDArray[np.intp]

MOST_KNOTS = 4
"""Knots of a number's spline: three columns follow a risk that rises at both ends."""
HARMONICS = 2
"""Waves a day, and their double, for an hour."""
LEAST_LEVEL = 0.01
"""Share of the training rows that a category needs for a column of its own; smaller ones are one."""
FLAT = 1e-6
"""Columns whose spread is below this share of their mean, and directions below it of an input's largest, are rounding:
the windows' measures are kept in single precision."""


@dataclass(frozen=True)
class Block:
    """One input: its columns before and after they are made uncorrelated.

    `knots` of a number (empty: linear), `fill` what stands in for an unknown one; `levels` of a category; `flag`
    whether absence has a column; `centre` [d] and `turn` [d, r] the map to uncorrelated columns of unit variance.
    """

    kind: str
    knots: Floats
    fill: float
    levels: tuple[str, ...]
    flag: bool
    centre: Floats
    turn: Floats

    def raw(self, values: NDArray[np.generic]) -> Floats:
        """Return the columns as they are, float64 [N, d]."""
        if self.kind == "category":
            return np.stack([values == level for level in self.levels], axis=1).astype(np.float64)
        numbers = np.asarray(values, dtype=np.float64)
        unknown = np.isnan(numbers)
        if self.kind == "hour":
            turn = 2 * np.pi * np.where(unknown, 0.0, numbers) / 24
            waves = [wave(k * turn) for k in range(1, HARMONICS + 1) for wave in (np.sin, np.cos)]
            columns = np.stack([np.where(unknown, 0.0, wave) for wave in waves], axis=1)
        else:
            columns = spline_columns(np.where(unknown, self.fill, numbers), self.knots)
        return np.concatenate([columns, unknown[:, None]], axis=1) if self.flag else columns

    def __call__(self, values: NDArray[np.generic]) -> Floats:
        """Return the columns, float64 [N, r]."""
        return (self.raw(values) - self.centre) @ self.turn


def _block(kind: str, values: NDArray[np.generic]) -> Block | None:
    """Learn one input from training values; None where it does not vary."""
    knots, fill, levels, flag = np.empty(0), 0.0, (), False
    if kind == "category":
        names, counts = np.unique(values.astype(str), return_counts=True)
        # The last level would follow from the others; the map below would drop it in any case.
        levels = tuple(names[counts >= LEAST_LEVEL * len(values)].tolist())
        if not levels:
            return None
    else:
        numbers = np.asarray(values, dtype=np.float64)
        unknown = np.isnan(numbers)
        flag = bool(unknown.any())
        if unknown.all():
            return None
        if kind == "number":
            known = numbers[~unknown]
            fill = float(np.median(known))
            # Of a number that is constant but for rounding, a spline would see nothing else.
            knots = spline_knots(numbers) if known.std() > FLAT * abs(known.mean()) else np.empty(0)
            if len(knots) > MOST_KNOTS:
                knots = knots[[0, 1, 3, 4]]
    bare = Block(kind, knots, fill, levels, flag, np.zeros(0), np.zeros((0, 0)))
    columns = bare.raw(values)
    centre = columns.mean(axis=0)
    spread = columns.std(axis=0)
    scale = np.where((spread > FLAT * np.abs(centre)) & (spread > 1e-12), spread, np.inf)
    _, singular, right = np.linalg.svd((columns - centre) / scale, full_matrices=False)
    keep = singular > FLAT * max(float(singular.max(initial=0.0)), 1e-300)
    if np.isinf(scale).all() or not keep.any():
        return None
    turn = (right[keep].T / scale[:, None]) / (singular[keep] / np.sqrt(len(columns)))
    return Block(kind, knots, fill, levels, flag, centre, turn)


@dataclass(frozen=True)
class Design:
    """A rival's columns: a block for each input that varies among the training rows."""

    blocks: dict[str, Block]

    @classmethod
    def learn(cls, inputs: Inputs, rows: Rows) -> Design:
        """Learn from the training rows."""
        found = {name: _block(kind, values[rows]) for name, kind, values in listed(inputs)}
        return cls({name: block for name, block in found.items() if block is not None})

    def columns(self, inputs: Inputs, rows: Rows) -> NDArray[np.float32]:
        """Return float32 [len(rows), width], every column of mean 0 and variance 1 in the training rows."""
        values = {name: found for name, _, found in listed(inputs)}
        parts = [block(values[name][rows]) for name, block in self.blocks.items()]
        return np.concatenate(parts, axis=1).astype(np.float32) if parts else np.empty((len(rows), 0), dtype=np.float32)


def listed(inputs: Inputs) -> list[tuple[str, str, NDArray[np.generic]]]:
    """Return name, kind and values of every input, in a fixed order."""
    named = (("number", inputs.numbers), ("category", inputs.categories), ("hour", inputs.hours))
    return [(name, kind, values) for kind, group in named for name, values in group.items()]
