"""Held-out against training patients on the page: what is shown, what is marked, what is hidden."""

from __future__ import annotations

from phewas.reports.shift import shift_rows, shift_warnings
from phewas.schema import Shift


def row(variable, level="", **more):
    base = {
        "comparison": "held_out", "variable": variable, "level": level, "kind": "category" if level else "continuous",
        "unit": "patients", "n_tested": 200, "n_training": 400, "missing_tested": 0, "missing_training": 0, "smd": 0.0,
    }  # fmt: skip
    return base | more


def write(run, rows):
    Shift.write(Shift.build(rows), run)


def test_means_shares_and_marks(tmp_path):
    age = row("age", mean_tested=47.2, sd_tested=19.0, mean_training=57.9, sd_training=19.5, smd=-0.556)
    levels = [row("sex", s, count_tested=a, count_training=b, smd=d)
              for s, a, b, d in (("F", 120, 200, 0.2), ("M", 76, 195, -0.22), ("U", 4, 5, 0.01))]  # fmt: skip
    write(tmp_path, [age, row("sex", kind="category", smd=0.22), *levels])
    shown = shift_rows(tmp_path, small_cell=11)
    assert shown[0] == {"what": "Age at the encounter, years", "tested": "47.2 (19.0)", "training": "57.9 (19.5)",
                        "smd": "−0.56", "notable": True, "level": False}  # fmt: skip
    by_name = {r["what"]: r for r in shown}
    assert (by_name["F"]["tested"], by_name["F"]["training"], by_name["F"]["smd"]) == ("≈60 %", "≈50 %", "0.20")
    assert (by_name["U"]["tested"], by_name["U"]["training"], by_name["U"]["smd"]) == ("–", "–", "–")
    open_to_all = {r["what"]: r for r in shift_rows(tmp_path, small_cell=0)}
    assert (open_to_all["U"]["tested"], open_to_all["F"]["tested"]) == ("2.0 %", "60.0 %")
    assert "47.2 (19.0) against 57.9 (19.5)" in shift_warnings(shown)[0]


def test_no_sides_no_table_and_no_shift_no_warning(tmp_path):
    assert shift_rows(tmp_path, small_cell=11) == []
    write(tmp_path, [row("age", mean_tested=50.0, mean_training=50.1, smd=0.01), row("age", comparison="fold 0")])
    shown = shift_rows(tmp_path, small_cell=11)
    assert len(shown) == 1
    assert shown[0]["tested"] == "50.0 (–)"
    assert shift_warnings(shown) == []
