"""MIMIC-IV indexed by ECG lead II, for ECG encoders; see `phewas.cohorts.mimic4`."""

from __future__ import annotations

from phewas.cohorts.mimic4 import make

SOURCE = make("mimic4ecg.toml")
