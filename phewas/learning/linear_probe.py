"""One task on frozen embeddings, by the protocol that the encoders' publications share.

Standardised embeddings; a grid search over 5 folds; then the test rows with a bootstrap of 500 samples. Grids and
scores are those of AnyPPG's published code (PKUDigitalHealth/AnyPPG): logistic regression for two classes, a random
forest for several, ridge regression for numbers. Unlike there, the bootstrap has a seed, and draws patients where they
are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import LearningError, SplitError
from phewas.seeds import generator, uniform

Kind = Literal["binary", "multiclass", "regression"]

FOLDS = 5
BOOTSTRAPS = 500
TEST_SHARE = 0.2
FOREST_SEED = 42  # of the published code
GRIDS: dict[Kind, dict[str, list[Any]]] = {
    "binary": {"fit__C": [0.01, 0.1, 1, 10, 100]},
    "multiclass": {
        "fit__n_estimators": [100, 200], "fit__max_depth": [10, 20], "fit__min_samples_split": [2, 5],
    },
    "regression": {"fit__alpha": [0.1, 1, 10, 100]},
}  # fmt: skip
SCORES: dict[Kind, str] = {
    "binary": "roc_auc", "multiclass": "accuracy", "regression": "neg_mean_absolute_error",
}  # fmt: skip
RESERVED = ("signal", "embedding", "split", "patient_id")


@dataclass(frozen=True)
class Task:
    """Rows with a label, and which of them are for testing.

    `labels` float64 [rows] for regression, else strings; `test` bool [rows]; `patients` strings [rows], None where they
    are not known; `rows` int64, the places in the file that they come from; `left_out` rows without a label.
    """

    name: str
    kind: Kind
    labels: NDArray[Any]
    test: NDArray[np.bool_]
    patients: NDArray[Any] | None
    rows: NDArray[np.int64]
    left_out: int


def read_task(file: Path, *, task: str, kind: Kind, seed: int) -> tuple[Task, NDArray[np.float32] | None]:
    """Read labels, sides and patients of a file, and embeddings where it has them.

    Parameters
    ----------
    file
        NPZ or Parquet: a label per row under the task's name; `split` (``train``, ``test``; ``val`` counts as train);
        `patient_id`; `signal` or `embedding`, one row each. Without `split` a fifth of the patients (or rows) is drawn.
    task, kind, seed
        The label's name, what it is, and the seed of that draw.

    Raises
    ------
    LearningError
        The file or the label is missing, or the label is no number where one is needed.
    SplitError
        A patient is on both sides, or a side is empty.
    """
    columns = _columns(file)
    if task not in columns:
        others = sorted(set(columns) - set(RESERVED))
        raise LearningError(f"{file.name} has no label {task!r}", expected=f"one of {', '.join(others) or 'any'}")
    labels = columns[task]
    rows = len(labels)
    wrong = [n for n in RESERVED if n in columns and len(columns[n]) != rows]
    if wrong or labels.ndim != 1:
        name = wrong[0] if wrong else task
        raise LearningError(f"{name} of {file.name} has another number of rows", expected=f"{rows:,}")
    if kind == "regression":
        try:
            labels = labels.astype(np.float64)
        except ValueError as error:
            raise LearningError(f"the label {task} is no number", cure="--type binary or multiclass") from error
        known = np.isfinite(labels)
    else:
        known = _known(labels, kind)
        labels = np.array([_word(v) for v in labels])
    kept = np.flatnonzero(known)
    patients = columns["patient_id"][kept].astype(str) if "patient_id" in columns else None
    test = _sides(columns, kept, patients, seed=seed)
    if patients is not None and len(both := np.intersect1d(patients[test], patients[~test])):
        raise SplitError(
            f"{len(both)} patients of {file.name} are among both training and test rows",
            cure="make `split` by patient, or leave it out: a fifth of the patients is then drawn",
        )
    made = Task(task, kind, labels[kept], test, patients, kept, rows - len(kept))
    _check(made)
    return made, columns["embedding"][kept].astype(np.float32) if "embedding" in columns else None


def _columns(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an NPZ or Parquet file by name."""
    if not file.is_file() or file.suffix not in (".npz", ".parquet"):
        raise LearningError(f"there is no file {file}" if not file.is_file() else f"{file.name} is of another kind",
                            expected="an NPZ or Parquet file with a label per row")  # fmt: skip
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        table = pl.read_parquet(file)
        return {
            name: np.stack(table[name].to_list()) if name in ("signal", "embedding") else table[name].to_numpy()
            for name in table.columns
        }
    except (ValueError, OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise LearningError(f"{file.name} cannot be read ({error})", expected="arrays without objects") from error


def _known(labels: NDArray[Any], kind: Kind) -> NDArray[np.bool_]:
    """Return which labels are there: neither NaN nor null nor blank; beside 0 and 1 of two classes, -1 is none."""
    if labels.dtype.kind in "iuf":
        there = np.isfinite(labels)
        three_states = kind == "binary" and set(np.unique(labels[there]).tolist()) == {-1, 0, 1}
        return np.asarray(there & (labels >= 0) if three_states else there)
    return np.array([v is not None and str(v).strip() not in ("", "nan", "None") for v in labels], dtype=bool)


def _word(value: Any) -> str:
    """Return a label as text; 1.0 and 1 and True are one label."""
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value)


def _sides(
    columns: dict[str, NDArray[Any]], kept: NDArray[np.int64], patients: NDArray[Any] | None, *, seed: int
) -> NDArray[np.bool_]:
    if "split" in columns:
        words = np.char.lower(columns["split"][kept].astype(str))
        strange = sorted(set(words) - {"train", "val", "valid", "validation", "test"})
        if strange:
            raise SplitError(f"the split {str(strange[0])!r} is unknown", expected="train, val or test")
        return np.asarray(words == "test")
    names = patients if patients is not None else kept.astype(str)
    return np.array([uniform("probe-test", seed, name) < TEST_SHARE for name in names], dtype=bool)


def _check(task: Task) -> None:
    """Refuse a side without rows, and classes that cannot be told apart."""
    for words, side in (("test", task.test), ("train", ~task.test)):
        if not side.any():
            raise SplitError(f"no {words} row has a label", expected="rows on both sides")
        classes = np.unique(task.labels[side])
        if task.kind != "regression" and len(classes) < 2:
            raise LearningError(f"all {words} rows have the label {classes[0]}", expected="two classes or more")
    n = len(np.unique(task.labels))
    if task.kind == "binary" and n != 2:
        raise LearningError(f"the label {task.name} has {n} values", expected="two", cure="--type multiclass")


def evaluate(
    task: Task, embeddings: NDArray[np.float32], *, seed: int, bootstraps: int = BOOTSTRAPS, by_row: bool = False
) -> dict[str, Any]:
    """Fit by grid search on the training rows and measure on the test rows.

    Parameters
    ----------
    task, embeddings
        The rows, and float32 [rows, width]; NaN is filled with the training median.
    seed, bootstraps
        Of the bootstrap, and its samples.
    by_row
        The bootstrap draws rows, as published, though patients are known.

    Returns
    -------
    dict
        JSON-ready: counts, the chosen parameters, and each measure as [value, low, high] (2.5 and 97.5 %): ``auc``
        (several classes: one against the rest, macro mean), ``accuracy``; ``mae`` and ``r`` (Pearson).
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    fits = {
        "binary": lambda: LogisticRegression(solver="lbfgs", max_iter=1000),
        "multiclass": lambda: RandomForestClassifier(random_state=FOREST_SEED),
        "regression": Ridge,
    }
    steps: list[tuple[str, Any]] = [("scale", StandardScaler()), ("fit", fits[task.kind]())]
    if np.isnan(embeddings).any():
        steps.insert(0, ("fill", SimpleImputer(strategy="median", keep_empty_features=True)))
    search = GridSearchCV(Pipeline(steps), GRIDS[task.kind], cv=FOLDS, scoring=SCORES[task.kind])
    try:
        search.fit(embeddings[~task.test], task.labels[~task.test])
    except ValueError as error:
        raise LearningError(
            f"the grid search over {FOLDS} folds failed: {error}", expected=f"at least {FOLDS} training rows a class"
        ) from error
    x, y = embeddings[task.test], task.labels[task.test]
    if task.kind == "regression":
        outputs, classes = search.predict(x), np.empty(0)
    else:
        outputs, classes = search.predict_proba(x), search.classes_
    of_rows = task.patients is None or by_row
    units = np.arange(len(y)) if of_rows else np.unique(np.asarray(task.patients)[task.test], return_inverse=True)[1]
    values = measures(y, outputs, classes)
    drawn, undefined = _bootstrap(y, outputs, classes, units, seed=seed, samples=bootstraps)
    return {
        "task": task.name, "type": task.kind, "seed": seed,
        "n_train": int((~task.test).sum()), "n_test": int(task.test.sum()), "n_without_label": task.left_out,
        "bootstrap": {"samples": bootstraps, "undefined": undefined,
                      "unit": "row" if of_rows else "patient"},
        "chosen": {name.removeprefix("fit__"): value for name, value in search.best_params_.items()},
        "measures": {name: [value, *np.percentile(drawn[name], [2.5, 97.5]).tolist()] if len(drawn[name])
                     else [value, None, None] for name, value in values.items()},
    }  # fmt: skip


def measures(y: NDArray[Any], outputs: NDArray[Any], classes: NDArray[Any]) -> dict[str, float]:
    """Return the measures of a test side; without `classes` the outputs are predicted numbers."""
    from sklearn.metrics import roc_auc_score

    if not len(classes):
        error = float(np.abs(y - outputs).mean())
        r = float(np.corrcoef(y, outputs)[0, 1]) if np.std(y) > 0 and np.std(outputs) > 0 else float("nan")
        return {"mae": error, "r": r}
    accuracy = float((classes[outputs.argmax(1)] == y).mean())
    if len(classes) == 2:
        return {"auc": float(roc_auc_score(y == classes[1], outputs[:, 1])), "accuracy": accuracy}
    there = [k for k, name in enumerate(classes) if 0 < (y == name).sum() < len(y)]
    aucs = [roc_auc_score(y == classes[k], outputs[:, k]) for k in there]
    return {"auc": float(np.mean(aucs)), "accuracy": accuracy}


def _bootstrap(
    y: NDArray[Any], outputs: NDArray[Any], classes: NDArray[Any], units: NDArray[np.int64], *, seed: int, samples: int
) -> tuple[dict[str, list[float]], int]:
    """Return the measures of samples drawn with replacement, and how many samples held one class only."""
    rng = generator("probe-bootstrap", seed)
    order = np.argsort(units, kind="stable")
    starts = np.concatenate([np.flatnonzero(np.diff(units[order], prepend=-1)), [len(units)]])
    n = len(starts) - 1
    drawn: dict[str, list[float]] = {name: [] for name in measures(y, outputs, classes)}
    undefined = 0
    for _ in range(samples):
        chosen = rng.integers(0, n, n)
        rows = np.concatenate([order[starts[k] : starts[k + 1]] for k in chosen])
        if len(classes) and len(np.unique(y[rows])) < 2:
            undefined += 1
            continue
        for name, value in measures(y[rows], outputs[rows], classes).items():
            if np.isfinite(value):
                drawn[name].append(value)
    return drawn, undefined
