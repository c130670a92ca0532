"""Hashed choices: fixed for good, uniform, and of nothing but their parts."""

from __future__ import annotations

import hashlib

import numpy as np

from phewas.seeds import generator, hashed, uniform


def test_the_hash_is_blake2b_of_the_parts():
    digest = hashlib.blake2b(b"windows\x000\x00a", digest_size=16).hexdigest()
    assert hashed("windows", 0, "a") == int(digest, 16)


def test_numbers_are_uniform_and_never_one():
    values = np.array([uniform(0, "held_out", k) for k in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.015
    # Fixed for good: another value would silently move patients between studies.
    assert uniform(0, "held_out", "p0") == 0.9389928568833737


def test_parts_do_not_run_into_each_other():
    assert hashed("ab", "c") != hashed("a", "bc")
    assert generator(1, "x").random() == generator(1, "x").random()
    assert generator(1, "x").random() != generator(2, "x").random()
