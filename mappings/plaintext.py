"""Plain tables of text read as bytes: each field becomes the number of its text, and no text is made twice.

A table of codes is millions of rows of a few thousand texts. Where it is plain (ASCII, no quotes, every row of as many
fields as the header, fields of at most 16 bytes) a field is two 64-bit words, and looking the words up in a table of
those met so far gives its number without ever making a string. What is not plain is left to the general reader, which
gives the same numbers at four times the cost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

Words = np.ndarray[Any, np.dtype[np.uint64]]
Numbers = np.ndarray[Any, np.dtype[np.int32]]

#: Bytes read at a time: a few arrays of that order stay in the processor's cache.
CHUNK = 1 << 21
#: Longest field that is two words.
LONGEST = 16
_NEWLINE, _RETURN, _QUOTE, _TAB = 10, 13, 34, 9
# Odd constants with well mixed bits (Knuth, TAOCP 3, 6.4: multiplicative hashing).
_MIX_A, _MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
#: Up to so many texts are compared one by one.
_FEW = 4
#: Bits of a word that belong to a field of that many bytes; the first word, and the second.
_FIRST = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(LONGEST + 1)], np.uint64)
_SECOND = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(LONGEST + 1)], np.uint64)


class NotPlainError(Exception):
    """The table is none that is read here; never seen by a user."""


@dataclass(frozen=True, eq=False)
class Numbered:
    """The columns of a plain table.

    Attributes
    ----------
    texts
        By role: the distinct texts, in no order of meaning; empty fields are not among them.
    numbers
        By role: int32 [rows], the place of each row's text in `texts`; their number where the field is empty.
    """

    texts: dict[str, pl.Series]
    numbers: dict[str, Numbers]


def read(file: Path, *, separator: str, width: int, roles: dict[str, int], heads: dict[str, int]) -> Numbered | None:
    """Read some columns of a plain table.

    Parameters
    ----------
    file
        Not packed. Its first line is the header.
    separator
        One ASCII character.
    width
        Number of columns of the header.
    roles
        Place of each column that is read, by its role.
    heads
        Roles of which only so many leading bytes count, at most `LONGEST`.

    Returns
    -------
    Numbered or None
        None where the table is not plain: it has quotes, bytes outside of ASCII, NUL, tabs beside another separator,
        lines that end in two ways, blank or ragged rows, or a field of more than `LONGEST` bytes in a column that is
        read.
    """
    if width < 2 or sys.byteorder != "little":
        return None
    found = {role: _Texts() for role in roles}
    parts: dict[str, list[Numbers]] = {role: [] for role in roles}
    try:
        for chunk in _chunks(file, ord(separator), width):
            ends = _ends(chunk, width)
            for role, place in roles.items():
                first, second = _words(chunk, ends, place, heads.get(role))
                parts[role].append(found[role].numbers(first, second))
    except NotPlainError:
        return None
    numbers = {}
    for role in roles:
        # Each column's parts go as soon as they are joined: a table stands in memory once.
        numbers[role] = np.concatenate([*parts.pop(role), np.empty(0, np.int32)])
        if found[role].empty:
            numbers[role][numbers[role] < 0] = len(found[role].first)
    return Numbered({role: texts.series() for role, texts in found.items()}, numbers)


def _chunks(file: Path, separator: int, width: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Yield whole lines, each chunk followed by `LONGEST` bytes that belong to nothing."""
    with file.open("rb") as handle:
        header = handle.readline()
        if header.count(separator) != width - 1 or _QUOTE in header:
            raise NotPlainError
        rest = b""
        while True:
            read = handle.read(CHUNK)
            data = rest + read
            if not read:
                if not data:
                    return
                data += b"\n"  # the last line may lack its end
            cut = data.rfind(b"\n") + 1
            rest = data[cut:]
            if len(rest) > 4 * CHUNK:
                raise NotPlainError  # no table of codes has such lines
            if not cut:
                continue
            chunk = np.frombuffer(data[:cut] + bytes(LONGEST), np.uint8)
            yield _checked(chunk, separator)
            if not read:
                return


def _checked(chunk: np.ndarray[Any, np.dtype[np.uint8]], separator: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the chunk with its separators turned into tabs, unless there is something special in it."""
    text = chunk[:-LONGEST]
    if int(text.max()) > 126 or int(text.min()) < _TAB or (text == _QUOTE).any():
        raise NotPlainError
    if separator != _TAB:
        if (text == _TAB).any():
            raise NotPlainError
        chunk = np.where(chunk == separator, np.uint8(_TAB), chunk)
    return chunk


def _ends(chunk: np.ndarray[Any, np.dtype[np.uint8]], width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return int64 [rows + 1, width]: where each field ends; the row before the first ends before the chunk."""
    marks = np.flatnonzero(chunk[:-LONGEST] <= _NEWLINE)
    n_rows = len(marks) // width
    ends = np.full((n_rows + 1, width), -1, np.int64)
    if len(marks) != n_rows * width:
        raise NotPlainError
    ends[1:] = marks.reshape(n_rows, width)
    lines = chunk[ends[1:, -1]] == _NEWLINE
    if not lines.all() or np.count_nonzero(chunk[:-LONGEST] == _NEWLINE) != n_rows:
        raise NotPlainError
    return ends


def _words(
    chunk: np.ndarray[Any, np.dtype[np.uint8]], ends: np.ndarray[Any, np.dtype[np.int64]], place: int, head: int | None
) -> tuple[Words, Words | None]:
    """Return a column's fields as one or two words each."""
    begin = ends[:-1, -1] + 1 if place == 0 else ends[1:, place - 1] + 1
    length = ends[1:, place] - begin
    if place == ends.shape[1] - 1:
        returns = chunk[ends[1:, place] - 1] == _RETURN
        if returns.any():
            if not returns.all():
                raise NotPlainError
            length = length - 1
    if head is not None:
        length = np.minimum(length, head)
    longest = int(length.max(initial=0))
    if longest > LONGEST:
        raise NotPlainError
    words: Words = np.ndarray((len(chunk) - 7,), np.uint64, buffer=chunk.data, strides=(1,))  # one at each byte
    shortest = int(length.min(initial=LONGEST))
    if shortest == longest:  # a column of one length, such as a date
        first = words[begin] & _FIRST[longest]
        return first, words[begin + 8] & _SECOND[longest] if longest > 8 else None
    first = words[begin]
    if shortest < 8:
        first &= _FIRST[length]
    return first, words[begin + 8] & _SECOND[length] if longest > 8 else None


class _Texts:
    """The distinct texts of a column: an open table of words, filled a chunk at a time.

    Places are found by multiplicative hashing and linear probing, for all rows of a chunk at once: nearly every row is
    done in the first round, and the few others go round again.
    """

    def __init__(self) -> None:
        self.first, self.second = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.empty = self._wide = False
        self._size(10)

    def numbers(self, first: Words, second: Words | None) -> Numbers:
        """Return int32 [rows]: the number of each text, new ones being added; -1 for the empty text."""
        number = self._find(first, second)
        new = np.flatnonzero(number < 0)
        if len(new):
            kept = new[first[new] != 0]  # no byte is NUL, so that a first word of zero is the empty text
            self.empty, new = self.empty or len(kept) < len(new), kept
        if len(new):
            a, b = first[new], second[new] if second is not None else np.zeros(len(new), np.uint64)
            self._add(a, b)
            number[new] = self._find(a, b)
        return number

    def series(self) -> pl.Series:
        """Return the texts in the order of their numbers."""
        both = np.stack([self.first, self.second], axis=1)
        return pl.Series(both.view("S16").ravel().astype("U16").tolist(), dtype=pl.String)

    def _size(self, bits: int) -> None:
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._a, self._b = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.uint64)
        self._number = np.full(1 << bits, -1, np.int32)

    def _slot(self, first: Words, second: Words | None) -> np.ndarray[Any, np.dtype[np.int64]]:
        mixed = first * _MIX_A
        if second is not None:
            mixed ^= second * _MIX_B
        mixed >>= self._shift
        return mixed.view(np.int64)

    def _find(self, first: Words, second: Words | None) -> Numbers:
        if len(self.first) <= _FEW and not self._wide and second is None:
            few: Numbers = np.full(len(first), -1, np.int32)
            for i, word in enumerate(self.first):
                few[first == word] = i
            return few
        slot = self._slot(first, second)
        number: Numbers = self._number[slot]
        wrong = self._a[slot] != first
        if second is not None:
            wrong |= self._b[slot] != second
        elif self._wide:
            wrong |= self._b[slot] != 0
        left = np.flatnonzero(wrong & (number >= 0))
        while len(left):
            at = (slot[left] + 1) & self._mask
            slot[left] = at
            number[left] = self._number[at]
            wrong = (self._a[at] != first[left]) | (self._b[at] != (second[left] if second is not None else 0))
            left = left[wrong & (self._number[at] >= 0)]
        return number

    def _add(self, first: Words, second: Words) -> None:
        order = np.lexsort((second, first))
        first, second = first[order], second[order]
        new = np.append(True, (first[1:] != first[:-1]) | (second[1:] != second[:-1]))
        first, second = first[new], second[new]
        start = len(self.first)
        self.first, self.second = np.append(self.first, first), np.append(self.second, second)
        self._wide = self._wide or bool(second.any())
        if 4 * len(self.first) > len(self._number):
            self._size(len(self.first).bit_length() + 3)
            first, second, start = self.first, self.second, 0
        number = np.arange(start, start + len(first), dtype=np.int32)
        slot = self._slot(first, second)
        while len(number):
            free = self._number[slot] < 0
            self._number[slot[free]] = number[free]  # of several that want one place, the last has it
            won = self._number[slot] == number
            self._a[slot[won]], self._b[slot[won]] = first[won], second[won]
            lost = ~won
            number, first, second, slot = number[lost], first[lost], second[lost], (slot[lost] + 1) & self._mask
