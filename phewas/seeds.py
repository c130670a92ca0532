"""Random choices that depend on a seed and on identifiers, never on order or on the number of workers."""

from __future__ import annotations

import hashlib

import numpy as np


def hashed(*parts: object) -> int:
    """Return a 128-bit number that is a hash of `parts`, taken as text."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest())


def uniform(*parts: object) -> float:
    """Return a number in [0, 1) that is a hash of `parts`."""
    return (hashed(*parts) >> 75) / 2**53


def generator(*parts: object) -> np.random.Generator:
    """Return a random generator seeded by a hash of `parts`.

    Examples
    --------
    >>> bool(generator("windows", 0, "a").random() == generator("windows", 0, "a").random())
    True
    """
    return np.random.Generator(np.random.PCG64(hashed(*parts)))
