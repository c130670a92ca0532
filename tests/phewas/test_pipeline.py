"""The whole run on a small emulated tree: what it writes, that it resumes, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from phewas import pipeline
from phewas.cli import app
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.encoders import registry
from phewas.schema import LOGITS_PATH, PhenotypeResults, PredictionColumns, PredictionRows, Splits

SETTINGS = """
[segments]
n_segments = 6
shard_encounters = 40
[learn]
epochs = 2
batch_encounters = 16
segments_per_encounter = 4
head_lr = 3e-3
save_every_steps = 3
"""


def phewas(*words: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without the user's settings."""
    clean = {k: v for k, v in os.environ.items() if k != "PHEWAS_DATA"} | {"XDG_CONFIG_HOME": str(cwd / "none")}
    command = [sys.executable, "-m", "phewas", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=clean | (env or {}), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mc-med") / "data"
    emulate_mcmed(root, options=options("demo", patients=330), seed=11, workers=1)
    return root


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "small.toml"
    file.write_text(SETTINGS)
    return file


def command(tree: Path, settings: Path, out: Path) -> list[object]:
    return ["run", "--cohort", "mcmed", "--data", tree, "--encoder", "net1d-small", "--heldout", "random:0.4",
            "--config", settings, "--out", out]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tree, settings, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    done = phewas(*command(tree, settings, out), cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert str(out / "report" / "index.html") in done.stdout
    return out


@pytest.fixture(scope="module")
def undisturbed_s(undisturbed) -> float:
    """Return how long the steps of the undisturbed run took, in seconds."""
    steps = json.loads((undisturbed / "run.json").read_text())["steps"]
    return sum(step["seconds"] for step in steps.values())


def content(run: Path) -> dict[str, bytes]:
    """Return every table and figure of a run; the page names the command, which holds the run folder's own name."""
    parts = ("cohort", "phenotypes", "segments", "model", "predictions", "results", "report")
    files = (f for part in parts for f in (run / part).rglob("*") if f.is_file())
    return {f.relative_to(run).as_posix(): unpacked(f).replace(str(run).encode(), b"RUN") for f in files}


def unpacked(file: Path) -> bytes:
    """Return a file's bytes; of the workbook, which names the command too, those of its parts."""
    if file.suffix != ".xlsx":
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


def test_a_run_writes_every_table_of_the_contract(undisturbed):
    for name in (
        "cohort/patients.parquet", "cohort/encounters.parquet", "cohort/recordings.parquet", "cohort/diagnoses.parquet",
        "cohort/rejects.parquet", "cohort/flow.parquet", "cohort/splits.parquet", "cohort/disjointness.json",
        "phenotypes/phenotypes.parquet", "phenotypes/labels.npy", "phenotypes/unmapped.parquet",
        "segments/windows-10-PPG.parquet", "model/model.safetensors", "model/model.json", "model/history.csv",
        "predictions/logits.npy", "predictions/rows.parquet", "predictions/columns.parquet",
        "results/phenotypes.parquet", "results/chapters.parquet", "results/overview.parquet",
        "report/index.html", "report/figures/manhattan_auc.png", "report/figures/manhattan_auc.pdf",
        "report/tables/phenotypes.csv", "report/tables/phenotypes.parquet",
    ):  # fmt: skip
        assert (undisturbed / name).is_file(), name
    results = PhenotypeResults.read(undisturbed)
    assert results.height == 1817
    tested = results.filter(pl.col("status") == "tested")
    assert tested.height >= 10
    for column in ("auc", "auc_low", "auc_high", "p_value", "q_fdr", "baseline_auc", "delta_auc", "delta_low"):
        assert tested[column].null_count() == 0
    manifest = json.loads((undisturbed / "run.json").read_text())
    assert set(manifest["steps"]) == {"cohort", "split", "phenotypes", "segments", "learn", "evaluate", "report"}
    assert manifest["versions"]["torch"] == torch.__version__


def test_no_patient_is_on_two_sides_and_none_is_named_in_the_report(undisturbed):
    splits = Splits.read(undisturbed)
    assert splits["patient_id"].is_unique().all()
    page = (undisturbed / "report" / "index.html").read_text()
    table = (undisturbed / "report" / "tables" / "phenotypes.csv").read_text()
    for patient in splits["patient_id"].to_list():
        assert patient not in page
        assert patient not in table


def test_a_second_run_does_nothing_and_says_so(tree, settings, undisturbed):
    files = [f for f in undisturbed.rglob("*") if f.is_file() and f.name not in ("run.json", ".lock")]
    before = {f: f.stat().st_mtime_ns for f in files}
    done = phewas(*command(tree, settings, undisturbed), cwd=undisturbed.parent)
    assert done.returncode == 0
    assert "Nothing to do" in done.stderr
    assert {f: f.stat().st_mtime_ns for f in before} == before


def test_the_number_of_workers_changes_nothing(tree, settings, undisturbed, tmp_path):
    out = tmp_path / "one"
    done = phewas(*command(tree, settings, out), "--workers", 1, "--until", "segments", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, whole = content(out), content(undisturbed)
    assert {n: b for n, b in whole.items() if n.split("/")[0] in ("cohort", "phenotypes", "segments")} == one


def test_a_finished_model_scores_elsewhere_as_it_did_here_and_nobody_whom_it_has_met(
    tree, undisturbed, tmp_path, monkeypatch
):
    """Applied to its own source, only those whom it never met are left, with the very scores of the run."""
    monkeypatch.setitem(pipeline.DO, "report", lambda *_: None)  # tested elsewhere
    out = tmp_path / "applied"
    settings = tmp_path / "small.toml"
    settings.write_text("[segments]\nn_segments = 6\nshard_encounters = 40\n[learn]\nsegment_predictions = true\n")
    words = ["predict", "--model", undisturbed / "model", "--cohort", "mcmed", "--data", tree, "--config", settings,
             "--out", out, "--workers", 1]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    theirs, ours = PredictionRows.read(undisturbed).with_row_index("i"), PredictionRows.read(out).with_row_index("j")
    both = theirs.filter(pl.col("split") == "held_out").join(ours, on="encounter_id")
    assert both.height == ours.height == theirs.filter(pl.col("split") == "held_out").height
    assert PredictionColumns.read(out).equals(PredictionColumns.read(undisturbed))
    before, after = np.load(undisturbed / LOGITS_PATH)[both["i"].to_numpy()], np.load(out / LOGITS_PATH)[both["j"]]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    parts = pl.concat([pl.read_parquet(f) for f in (out / "predictions" / "segments").glob("*.parquet")])
    means = parts.group_by("encounter_id").agg(pl.col("logits").arr.get(0).mean().alias("m"), pl.len())
    assert means["len"].sum() == ours["n_segments"].sum()
    joined = ours.join(means, on="encounter_id")
    np.testing.assert_allclose(joined["m"], np.load(out / LOGITS_PATH)[joined["j"].to_numpy(), 0], rtol=1e-4, atol=1e-5)
    results = PhenotypeResults.read(out).filter(pl.col("status") == "tested")
    assert results.height >= 10
    assert results["auc"].null_count() == 0


def test_killed_at_any_moment_it_ends_as_if_undisturbed(tree, settings, undisturbed, undisturbed_s, tmp_path):
    """Kill the process without warning again and again, a little later each time, and compare every byte."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "phewas", *map(str, command(tree, settings, out))]
    # Each attempt gets a quarter of what an undisturbed run takes here, so that it is cut off somewhere in the middle.
    limits_s = [(0.15 + 0.04 * k) * undisturbed_s for k in range(5)]
    kills = 0
    for limit_s in [*limits_s, None]:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
            try:
                process.wait(timeout=limit_s)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert kills >= 3
    ours, theirs = content(out), content(undisturbed)
    assert sorted(ours) == sorted(theirs)
    assert [n for n in ours if ours[n] != theirs[n]] == []
    assert not list(out.rglob("*.tmp"))


def test_only_what_reads_a_changed_setting_is_done_again(tree, settings, undisturbed, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    changed = tmp_path / "changed.toml"
    changed.write_text(SETTINGS + "\n[evaluate]\nfew_cases = 50\n")
    done = phewas(*command(tree, changed, out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "evaluate: done again, because few_cases: 100 -> 50" in done.stderr
    for step in ("cohort", "split", "phenotypes", "segments", "learn"):
        assert f"{step}: done" not in done.stderr


def test_a_touched_output_is_made_again(tree, settings, undisturbed, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "results" / "overview.parquet").write_bytes(b"nothing")
    done = phewas(*command(tree, settings, out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "evaluate: done" in done.stderr
    assert "learn: done" not in done.stderr
    assert (out / "results" / "overview.parquet").read_bytes() == (
        undisturbed / "results" / "overview.parquet"
    ).read_bytes()


def test_the_bare_command_finds_data_and_weights_in_phewas_toml(tree, tmp_path):
    torch.manual_seed(0)
    torch.save(registry.get("anyppg").build().state_dict(), tmp_path / "w.pth")
    (tmp_path / "phewas.toml").write_text(
        f'[cohorts.mcmed]\ndata = "{tree}"\n[encoders.anyppg]\nweights = "w.pth"\n'
    )
    done = phewas("run", "--cohort", "mcmed", "--until", "split", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "does not go with the published" in done.stderr  # the weights fit, but are not the authors' file
    told = json.loads((tmp_path / "phewas-runs" / "mcmed-anyppg" / "cohort" / "disjointness.json").read_text())
    assert told["rule"] == "no-synchronous-ppg-ecg"
    assert told["intersection"] == []
    assert told["contamination"] == "cannot be excluded"


def test_the_data_folder_may_come_from_the_environment(tree, tmp_path):
    words = ("run", "--cohort", "mcmed", "--encoder", "net1d-small", "--until", "cohort")
    done = phewas(*words, cwd=tmp_path, env={"PHEWAS_DATA": str(tree)})
    assert done.returncode == 0, done.stderr


def test_a_dry_run_writes_nothing(tree, tmp_path):
    done = phewas("run", "--cohort", "mcmed", "--data", tree, "--encoder", "net1d-small", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("cohort", "segments", "report", "to do", "GB", "encounters"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- bad input: a short error with its cure, exit code 2, nothing half-written ----------------------------------------


def refused(done, *words: str, out: Path | None = None) -> None:
    text = " ".join(done.stderr.split())
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "What to do:" in done.stderr
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"
    if out is not None:
        assert not out.exists()


def start(tmp_path: Path, *more: object, cohort="mcmed", encoder="net1d-small"):
    return phewas("run", "--cohort", cohort, "--encoder", encoder, "--out", tmp_path / "run", *more, cwd=tmp_path)


def test_no_such_folder(tmp_path):
    refused(start(tmp_path, "--data", tmp_path / "nowhere"), "does not exist", "--data", out=tmp_path / "run")


def test_not_an_mcmed_tree(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "visits.csv").write_text("MRN,CSN\n")
    refused(start(tmp_path, "--data", tmp_path / "data"), "pmh.csv", "waveforms", out=tmp_path / "run")


def broken(tree: Path, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    shutil.copytree(tree, root)
    return root


@pytest.mark.parametrize(
    ("file", "column"), [("visits.csv", "Arrival_time"), ("visits.csv", "Dx_ICD10"), ("pmh.csv", "CodeType")]
)
def test_a_renamed_column(tree, tmp_path, file, column):
    root = broken(tree, tmp_path)
    text = (root / file).read_text()
    (root / file).write_text(text.replace(column, column.replace("_", "") + "x", 1))
    refused(start(tmp_path, "--data", root), column, file, out=tmp_path / "run")


def test_an_empty_visits_table(tree, tmp_path):
    root = broken(tree, tmp_path)
    (root / "visits.csv").write_text((root / "visits.csv").read_text().splitlines()[0] + "\n")
    refused(start(tmp_path, "--data", root), "visits.csv", out=tmp_path / "run")


def test_no_usable_pleth(tree, tmp_path):
    root = broken(tree, tmp_path)
    for folder in list((root / "waveforms").rglob("Pleth")):
        shutil.rmtree(folder)
    refused(start(tmp_path, "--data", root), "PPG")


def test_no_phenotype_reaches_the_case_policy(tree, tmp_path):
    root = broken(tree, tmp_path)
    header = (root / "pmh.csv").read_text().splitlines()[0]
    (root / "pmh.csv").write_text(header + "\n")
    lines = (root / "visits.csv").read_text().splitlines()
    (root / "visits.csv").write_text("\n".join(lines[:25]) + "\n")
    refused(start(tmp_path, "--data", root, "--heldout", "random:0.4"), "no phenotype has", "case patients")


def test_weights_of_another_architecture_truncated_or_pickled(tree, tmp_path):
    torch.save(registry.get("net1d-small").build().state_dict(), tmp_path / "small.pth")
    torch.save(registry.get("anyppg").build(), tmp_path / "pickled.pth")
    torch.save(registry.get("anyppg").build().state_dict(), tmp_path / "cut.pth")
    os.truncate(tmp_path / "cut.pth", 100_000)
    for file, words in (
        ("small.pth", ("does not hold the weights of anyppg", "net1d-small")),
        ("pickled.pth", ("it was not opened",)),
        ("cut.pth", ("damaged or cut short",)),
        ("none.pth", ("there is no weights file",)),
    ):
        done = start(tmp_path, "--data", tree, "--weights", tmp_path / file, encoder="anyppg")
        refused(done, *words, out=tmp_path / "run")


def test_missing_data_and_weights_are_told_in_one_message(tmp_path):
    done = phewas("run", "--cohort", "mcmed", cwd=tmp_path)
    refused(done, "data folder", "weights", "phewas.toml", "PHEWAS_DATA", "PhysioNet", "AnyPPG", "--cohort demo",
            "--encoder net1d-small")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_get_the_nearest(tmp_path):
    refused(start(tmp_path, cohort="mcmd"), "Did you mean mcmed?", out=tmp_path / "run")
    refused(start(tmp_path, cohort="demo", encoder="anypgg"), "Did you mean anyppg?", out=tmp_path / "run")


def test_settings_that_do_not_exist_get_the_nearest(tmp_path):
    (tmp_path / "s.toml").write_text("[learn]\nepoch = 3\n")
    refused(start(tmp_path, "--config", tmp_path / "s.toml", cohort="demo"), "learn.epoch", "epochs")
    (tmp_path / "s.toml").write_text("[learn\n")
    refused(start(tmp_path, "--config", tmp_path / "s.toml", cohort="demo"), "cannot be read")
    refused(start(tmp_path, "--config", tmp_path / "gone.toml", cohort="demo"), "there is no file")
    refused(start(tmp_path, "--heldout", "randomly", cohort="demo"), "randomly")


def test_a_folder_of_another_run(tree, settings, undisturbed):
    words = ["run", "--cohort", "ppgbp", "--data", tree, "--out", undisturbed]
    done = phewas(*words, cwd=undisturbed.parent)
    assert done.returncode == 2
    done = phewas("run", "--cohort", "demo", "--out", undisturbed, cwd=undisturbed.parent)
    refused(done, "belongs to another run", "cohort was mcmed, now demo")


def test_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").write_text("years of work")
    refused(start(tmp_path, cohort="demo"), "is no run directory")
    assert (tmp_path / "run" / "thesis.docx").read_text() == "years of work"


def test_ctrl_c_is_told_in_one_line(tree, settings, tmp_path):
    words = [sys.executable, "-m", "phewas", *map(str, command(tree, settings, tmp_path / "run"))]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "run").exists():
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command continues" in err
    assert "Traceback" not in err


def test_help_is_quick_and_tells_the_options(tmp_path):
    began = time.monotonic()
    done = phewas("run", "--help", cwd=tmp_path, env={"COLUMNS": "120"})
    assert done.returncode == 0
    assert time.monotonic() - began < 10  # half a second in truth; a busy machine is no failure
    for option in ("out", "until", "config", "encoder", "weights", "fit", "heldout", "seed", "workers", "dry-run"):
        assert f"--{option}" in done.stdout


def test_an_encoder_of_one_s_own_goes_through_and_its_code_is_part_of_the_run(tree, settings, tmp_path):
    file = tmp_path / "own_encoder.py"
    file.write_bytes((Path(__file__).resolve().parents[2] / "examples" / "own_encoder.py").read_bytes())
    words = ["run", "--cohort", "mcmed", "--data", tree, "--heldout", "random:0.4", "--config", settings]
    asked = [*words, "--encoder", f"{file.name}:tiny", "--fit", "probe", "--until", "learn"]
    done = phewas(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "phewas-runs" / "mcmed-tiny"
    assert "Running the code of" in done.stderr
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["identity"]["code"].startswith("sha256:")
    assert Path(manifest["config"]["encoder"].removesuffix(":tiny")) == file
    assert (run / "predictions" / "logits.npy").is_file()
    done = phewas(*asked, cwd=tmp_path)
    assert "Nothing to do" in done.stderr
    file.write_text(file.read_text() + "# another version\n")
    done = phewas(*asked, cwd=tmp_path)
    assert done.returncode == 2
    assert "belongs to another run: code was" in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_model_is_used_frozen_and_not_fine_tuned(tree, settings, tmp_path):
    program = torch.jit.script(torch.nn.Sequential(torch.nn.AdaptiveAvgPool1d(16), torch.nn.Flatten()))
    program.save(str(tmp_path / "averages.pt"))
    (tmp_path / "averages.pt.toml").write_text('like = "anyppg"\nwidth = 16\n')
    words = ["run", "--cohort", "mcmed", "--data", tree, "--heldout", "random:0.4", "--config", settings,
             "--encoder", "torchscript:averages.pt", "--until", "learn"]  # fmt: skip
    done = phewas(*words, "--fit", "finetune", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be fine-tuned: averages.pt is a finished program" in done.stderr
    assert "--fit probe" in done.stderr
    done = phewas(*words, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "averages" in done.stdout
