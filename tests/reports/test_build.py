"""The page and the files beside it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import openpyxl
import polars as pl
import pytest

from phewas.errors import SchemaError
from phewas.reports import build
from phewas.reports.training import read_history
from phewas.schema import Definitions, Flow, PhenotypeResults, Rejects, Splits, Subgroups, Unmapped

nan = float("nan")
VOID = {"meta", "link", "img", "input", "br"}
HOSTILE = ["<script>alert(1)</script>", "=HYPERLINK(\"http://x\")", "x" * 10_000, "糖尿病 ßéø العربية",
           "\x00\x1b\u202eevil", "{{ 7*7 }}",
           "</style><img src=x onerror=alert(1)>", "$\\alpha$", "'\"--><svg/onload=1>"]


class Reader(HTMLParser):
    """Collects what a browser would see, and complains about tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def source_of(path):
    """Return the page without plotly's script, which is not ours and has millions of characters."""
    text = path.read_text(encoding="utf-8")
    head = '<script type="application/octet-stream" id="plotly">'
    start = text.index(head) + len(head)
    end = text.index("</script>", start)
    script = gzip.decompress(base64.b64decode(text[start:end]))
    assert script == (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    assert base64.b64encode(hashlib.sha256(script).digest()).decode() in text[:start]
    assert "Licensed under the MIT license" in text[:start]
    return text[:start] + text[end:]


def read(path):
    reader = Reader()
    reader.feed(source_of(path))
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    return reader


def test_the_page_says_it_all(phenome, make_run, about):
    page = read(build(make_run(phenome(60)), meta=about, small_cell=11))
    for words in (
        "Which diseases can net see in Demo cohort?", "The encoder is untrained.", "Contamination cannot be excluded.",
        "no PPG recording", "1,111", "the code is a placeholder for 'no code'", "1,234", "Z00.0", "456",
        "best mean tuning AUC 0.612 in epoch 2", "at least 2 distinct days", "phewas run --cohort demo",
        "raw and not for sharing", "phenotypes were not tested", "too few case patients", "0.643", "777",
    ):
        assert words in page.text, words
    assert "SECRET" not in page.text


def test_files_beside_the_page(phenome, make_run, about):
    report = build(make_run(phenome(60)), meta=about, small_cell=11).parent
    assert {str(p.relative_to(report)) for p in report.rglob("*") if p.is_file()} == {
        "index.html", "figures/manhattan_auc.png", "figures/manhattan_auc.pdf", "tables/phenotypes.csv",
        "tables/phenotypes.parquet", "tables/phenotypes.tex", "results.xlsx",
    }
    links = [a["href"] for tag, a in read(report / "index.html").tags if tag == "a"]
    assert all(link.startswith("#") or (report / link).is_file() for link in links)
    assert (report / "figures" / "manhattan_auc.png").read_bytes()[:4] == b"\x89PNG"
    assert pl.read_parquet(report / "tables" / "phenotypes.parquet").height == 60


def test_nothing_is_fetched_and_everything_is_named(phenome, make_run, about):
    path = build(make_run(phenome(60)), meta=about, small_cell=11)
    page, source = read(path), source_of(path)
    tags = [tag for tag, _ in page.tags]
    assert {"header", "main", "nav", "footer"} <= set(tags)
    assert tags.count("h1") == 1
    assert tags.count("table") == tags.count("caption")
    assert tags.count("script") == 4
    assert not {"link", "iframe", "object"} & set(tags)
    assert all(a["src"].startswith("data:image/png;base64,") and len(a["alt"]) > 20 for t, a in page.tags if t == "img")
    assert not re.search(
        r"(https?:)?//[a-z]",
        re.sub(r"data:[^\"]*|http://www.w3.org/2000/svg|(?s:<script type=.application/octet.*?</script>)", "", source))
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    targets = {a["href"][1:] for t, a in page.tags if t == "a" and a["href"].startswith("#")}
    assert targets <= set(page.ids)
    assert "default-src 'none'" in source


def test_hostile_text_stays_text(row, group, make_run, about):
    results = PhenotypeResults.build([
        row(f"{i}.1", description=text, chapter=text, chapter_order=i, auc=nan if i == 2 else 0.7,
            auc_low=nan, flags=text) for i, text in enumerate(HOSTILE, 1)])
    run = make_run(
        results,
        flow=Flow.build([{"step": t, "unit": "rows", "n_in": 300, "n_out": 200, "reason": t} for t in HOSTILE]),
        unmapped=Unmapped.build([
            {"code": t, "vocabulary": "unknown", "n_rows": 99, "n_patients": 50, "reason": t} for t in HOSTILE]),
        subgroups=Subgroups.build([group(f"{i}.1", t, t, 1) for i, t in enumerate(HOSTILE, 1)]),
        definitions=Definitions.build([{"phenotype": f"{i}.1", "code_system": t, "code": t}
                                       for i, t in enumerate(HOSTILE, 1)]),
    )
    text = "".join(HOSTILE)
    (run / "cohort" / "disjointness.json").write_text(json.dumps({"rule": text, "note": text, "contamination": text}))
    words = {f.name: text for f in dataclasses.fields(about) if isinstance(getattr(about, f.name), str)}
    meta = dataclasses.replace(about, **words, warnings=HOSTILE, encoder_card={t: t for t in HOSTILE},
                               settings={t: {t: t} for t in HOSTILE})
    path = build(run, meta=meta, small_cell=11)
    page, source = read(path), source_of(path)
    assert [t for t, _ in page.tags].count("script") == 4
    assert [t for t, _ in page.tags].count("img") == 2
    assert not {"svg"} & {t for t, _ in page.tags}
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", source)
    assert len(source) < 4_000_000
    assert "{{ 7*7 }}" in source
    cards = card_data(path)
    assert cards["1.1"]["d"] == HOSTILE[0]
    assert cards["1.1"]["s"][0][0] == HOSTILE[0]
    book = openpyxl.load_workbook(path.parent / "results.xlsx")
    cells = [cell for sheet in book for line in sheet.iter_rows() for cell in line if cell.value is not None]
    assert {cell.data_type for cell in cells} <= {"s", "n"}
    assert not [cell for cell in cells if cell.hyperlink]
    assert all(cell.quotePrefix for cell in cells if str(cell.value).startswith("="))
    latex = (path.parent / "tables" / "phenotypes.tex").read_text(encoding="utf-8")
    assert "\\$\\textbackslash{}alpha\\$" in latex
    assert "=HYPERLINK" not in (path.parent / "tables" / "phenotypes.csv").read_text().replace("\"'=HYPERLINK", "")


def card_data(path):
    packed = re.search(r'id="card-data">(.*?)</script>', path.read_text(encoding="utf-8"))[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_small_counts_appear_nowhere(row, make_run, about):
    blank = {k: None for k, c in PhenotypeResults.columns().items() if c.nullable}
    results = PhenotypeResults.build([
        row("1.1", n_excluded=7, n_case_patients=104), row("2.1", n_case_patients=222),
        row("3.1", **{**blank, "status": "too_few_cases", "n_case_patients": 7, "n_cases": 7}),
    ])
    sides = ["train"] * 333 + ["tuning"] * 7 + ["held_out"] * 111
    run = make_run(
        results,
        flow=Flow.build([{"step": "cohort", "unit": "patients", "n_in": 458, "n_out": 451, "reason": "no signal"}]),
        splits=Splits.build({"patient_id": f"p{i}", "split": s, "why": ""} for i, s in enumerate(sides)),
        rejects=Rejects.build(
            {"table": "t", "source": "s", "reason": r} for r in ["no_date"] * 7 + ["blank_id"] * 33),
        unmapped=Unmapped.build([
            {"code": "A", "vocabulary": "unknown", "n_rows": 33, "n_patients": 7, "reason": "none"}]),
    )
    path = build(run, meta=dataclasses.replace(about, seed=1), small_cell=11)
    page = read(path)
    before = page.text.split("Reporting checklist")[0]  # whose items have numbers of their own
    numbers = re.findall(r"(?<![\d.,])\d[\d,]*(?![\d.,]*\d)", before)
    assert {"458", "451", "333", "111", "33", "1,003", "104"} & set(numbers) == set()
    assert page.text.count("<11") >= 6
    assert "222" in numbers
    assert {"≈460", "≈450", "≈330", "≈110", "≈30", "≈1,000"} <= set(page.text.split())
    told = dict(card_data(path)["1.1"]["n"])
    assert told["Excluded encounters"] == "<11"
    assert told["Case patients"] == "≈100"
    figure = json.loads(re.search(r'id="figure-data">(.*?)</script>', source_of(path))[1])
    assert {point[14] for point in figure["points"]} == {"≈100", "222"}
    page = read(build(run, meta=about, small_cell=0))
    assert {"458", "451", "333", "111"} <= set(page.text.split())
    assert "<11" not in page.text


def test_segments_as_units_mark_table_figure_and_page(phenome, make_run, about):
    path = build(make_run(phenome(20, unit="segment")), meta=about, small_cell=11)
    page = read(path)
    assert page.text.count("Segments are counted as if") == 2
    assert "segments as units" in page.text
    assert "segment" in pl.read_csv(path.parent / "tables" / "phenotypes.csv")["unit"].to_list()


def test_patients_on_two_sides_are_counted_not_named(phenome, make_run, about):
    run = make_run(phenome(5))
    (run / "cohort" / "disjointness.json").write_text(json.dumps({"intersection": ["SECRET1"] * 12}))
    text = read(build(run, meta=about, small_cell=11)).text
    assert "Patients on two sides of the study: 12." in text
    assert "SECRET" not in text


def test_two_builds_same_bytes(phenome, make_run, about):
    run = make_run(phenome(60))
    report = build(run, meta=about, small_cell=11).parent
    first = {p: p.read_bytes() for p in report.rglob("*") if p.is_file()}
    build(run, meta=about, small_cell=11)
    assert first == {p: p.read_bytes() for p in report.rglob("*") if p.is_file()}


def test_the_least_of_runs(phenome, make_run, about):
    run = make_run(phenome(4, tested=-1.0), flow=Flow.empty(), rejects=Rejects.empty(), unmapped=Unmapped.empty())
    (run / "cohort" / "disjointness.json").unlink()
    (run / "model" / "history.csv").unlink()
    text = read(build(run, meta=about, small_cell=11)).text
    for words in ("No phenotype was tested.", "Every diagnosis code reached a phenotype.", "The flow table is empty."):
        assert words in text


def test_nothing_but_holes(phenome, make_run, about):
    holes = [pl.lit(float("nan")).alias(k) for k, c in PhenotypeResults.columns().items()
             if c.nullable and c.dtype == pl.Float64]
    text = read(build(make_run(phenome(30).with_columns(holes)), meta=about, small_cell=11)).text
    assert "nan" not in text.lower().split()


def test_faults_are_told_in_words(phenome, make_run, about):
    run = make_run(phenome(4))
    (run / "model" / "history.csv").write_text("epoch\n1\n")
    with pytest.raises(SchemaError, match="lacks the columns"):
        build(run, meta=about, small_cell=11)
    (run / "model" / "history.csv").write_bytes(b"")
    with pytest.raises(SchemaError, match="cannot be read"):
        read_history(run / "model" / "history.csv")
    (run / "cohort" / "disjointness.json").write_text("[")
    with pytest.raises(SchemaError, match="not valid JSON"):
        build(run, meta=about, small_cell=11)
    (run / "results" / "chapters.parquet").unlink()
    (run / "cohort" / "disjointness.json").unlink()
    with pytest.raises(SchemaError, match="missing"):
        build(run, meta=about, small_cell=11)


def test_the_costs_of_the_label_rules_are_shown_and_small_ones_hidden(tmp_path):
    from phewas.reports.labels import label_rules

    rules = [
        {"rule": "days", "option": "min_code_days", "value": 2, "n": 1234, "lost": "cases"},
        {"rule": "sex", "option": "sex_rule", "value": True, "n": 4, "lost": "cells"},
    ]
    (tmp_path / "phenotypes").mkdir()
    (tmp_path / "phenotypes" / "summary.json").write_text(json.dumps({"rules": rules, "notes": ["3 without a date"]}))
    hidden = label_rules(tmp_path, small_cell=11)
    assert [row["n"] for row in hidden["rules"]] == ["≈1,230", "<11"]
    assert hidden["label_notes"] == []
    open_to_all = label_rules(tmp_path, small_cell=0)
    assert [row["n"] for row in open_to_all["rules"]] == ["1,234", "4"]
    assert open_to_all["rules"][1]["setting"] == "sex_rule = on"
    assert open_to_all["label_notes"] == ["3 without a date"]
    assert label_rules(tmp_path / "none", small_cell=11) == {"rules": [], "label_notes": []}
