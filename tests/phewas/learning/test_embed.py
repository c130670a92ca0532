"""Embeddings as Parquet: their means, resuming by shard, and the picture that shows no small group."""

from __future__ import annotations

import types

import numpy as np
import polars as pl
import pytest
import torch

from phewas.encoders import registry
from phewas.errors import ConfigError, LearningError
from phewas.learning import embed
from phewas.learning.embed import Embed, embed_store
from phewas.reports.embedding import picture
from phewas.rundir import write_npy, write_parquet
from phewas.schema import LABELS_PATH, Encounters, LabelColumns, LabelRows, Patients, Phenotypes, Windows
from phewas.segments.store import contract_folder
from phewas.stats import embedding_map
from phewas.stats.embedding_map import coordinates, principal_plane, umap_plane

SMALL, FEATURES = registry.get("net1d-small"), registry.get("pulse-features")
N = 30


@pytest.fixture
def run(tmp_path):
    """Write a store of two shards: 30 encounters of 3 windows, one a patient, 8 of them with a disease."""
    rng = np.random.default_rng(0)
    rows, values = [], []
    t = np.arange(1250) / 125
    for person in range(N):
        for k in range(3):
            rows.append({"segment_id": f"r{person}:{k}", "encounter_id": f"e{person:02d}", "patient_id": f"p{person}",
                         "recording_id": f"r{person}", "start_sample": k, "draw": k})  # fmt: skip
            wave = np.sin(2 * np.pi * (0.8 + person / 40) * t) + 0.1 * rng.standard_normal(1250)
            values.append((wave - wave.mean()) / wave.std())
    folder = contract_folder(tmp_path, SMALL.contract)
    write_parquet(pl.DataFrame(rows, schema=Windows.dtypes(), orient="row"), folder / "index.parquet")
    write_npy(np.array(values[:45], np.float16), folder / "PPG" / "shard-00000.npy")
    write_npy(np.array(values[45:], np.float16), folder / "PPG" / "shard-00001.npy")
    ids = [f"e{person:02d}" for person in range(N)]
    people = [f"p{person}" for person in range(N)]
    labels = np.zeros((N, 2), dtype=np.int8)
    labels[:15, 0] = labels[:8, 1] = 1
    write_npy(labels, tmp_path / LABELS_PATH)
    LabelRows.write(pl.DataFrame({"encounter_id": ids, "patient_id": people}), tmp_path)
    LabelColumns.write(pl.DataFrame({"phenotype": ["401.1", "250"]}), tmp_path)
    sexes = ["F"] * 25 + ["M"] * 5
    Patients.write(
        Patients.build([{"patient_id": p, "sex": s} for p, s in zip(people, sexes, strict=True)]), tmp_path
    )
    Encounters.write(
        Encounters.build([{"encounter_id": e, "patient_id": p, "age": 40.0} for e, p in zip(ids, people, strict=True)]),
        tmp_path,
    )
    described = {"chapter": "c", "chapter_order": 1, "sex": "both", "vocabulary": "v"}
    Phenotypes.write(
        Phenotypes.build(
            [{"phenotype": n, "description": d} | described for n, d in (("401.1", "High"), ("250", "Sweet"))]
        ),
        tmp_path,
    )
    return tmp_path


def job(run, spec=SMALL, **more):
    base = {"run": run, "spec": spec, "weights": None, "weights_sha256": "random", "seed": 0,
            "device": torch.device("cpu"), "precision": "float32"}  # fmt: skip
    return Embed(**(base | more))


def test_vectors_are_the_encoders_and_encounters_their_means(run):
    folder = embed_store(job(run))
    parts = pl.concat([pl.read_parquet(f) for f in sorted((folder / "segments").glob("*.parquet"))])
    assert parts.height == 3 * N
    assert parts.schema["embedding"] == pl.Array(pl.Float32, 64)
    windows = np.concatenate([np.load(f) for f in sorted(run.glob("segments/*/PPG/*.npy"))])
    torch.manual_seed(0)
    from phewas.learning.model import build_encoder

    plain = build_encoder(SMALL, weights=None, seed=0).eval()
    with torch.inference_mode():
        expected = plain(torch.from_numpy(windows)[:, None].float()).numpy()
    np.testing.assert_allclose(parts["embedding"].to_numpy(), expected, atol=1e-4)
    people = pl.read_parquet(folder / "encounters.parquet")
    assert people["n_segments"].to_list() == [3] * N
    np.testing.assert_allclose(people["embedding"].to_numpy(), expected.reshape(N, 3, -1).mean(1), atol=1e-4)


def test_a_killed_call_goes_on_with_the_shard_that_is_missing(run, monkeypatch, tmp_path_factory):
    plain, calls = embed.store_vectors, []

    def stops(*args, **options):
        calls.append(len(args[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(embed, "store_vectors", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_store(job(run))
    assert not (run / "embeddings").exists()
    folder = embed_store(job(run))
    assert calls == [45, 45, 45]
    embed_store(job(run))
    assert len(calls) == 3, "a finished embedding was made again"
    embed_store(job(run, seed=1))
    assert len(calls) == 5
    assert (folder / "encounters.parquet").is_file()


def test_features_keep_what_is_missing_and_name_their_columns(run):
    folder = embed_store(job(run, FEATURES))
    people = pl.read_parquet(folder / "encounters.parquet")["embedding"].to_numpy()
    assert np.isnan(people).any()
    assert np.isfinite(people[:, 0]).all()
    assert '"rate"' in (folder / "embeddings.json").read_text()


def test_an_embedding_that_is_no_number_is_told():
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x[:, 0, :2] * float("nan")

    with pytest.raises(LearningError, match="4 segments"):
        embed.vectors(Broken(), np.ones((4, 1, 9)), device=torch.device("cpu"), precision="float32")


def test_bf16_is_near_float32(run):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("no bfloat16 on this processor")
    first = embed_store(job(run)) / "encounters.parquet"
    plain = pl.read_parquet(first)["embedding"].to_numpy()
    rounded = pl.read_parquet(embed_store(job(run, precision="bf16")) / "encounters.parquet")["embedding"].to_numpy()
    assert 0 < np.abs(rounded - plain).max() < 0.05 * np.abs(plain).max()


def test_the_plane_is_scikit_learns():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(1).standard_normal((80, 7)) @ np.diag([5, 3, 1, 1, 1, 1, 0.1])
    x[:, 1] += x[:, 0]
    places, share = principal_plane(x.astype(np.float32))
    theirs = PCA(2).fit(StandardScaler().fit_transform(x))
    np.testing.assert_allclose(share, theirs.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(places), np.abs(theirs.transform(StandardScaler().fit_transform(x))), atol=1e-3)


class Umap:
    """In the place of umap-learn, which takes a minute to compile itself: the first two columns it was given."""

    def __init__(self, *, random_state):
        self.seed = random_state

    def fit_transform(self, x):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x.std(0), 1)
        return x[:, :2] + self.seed


def test_umap_is_used_where_it_is_there_and_the_plane_where_it_is_not(run, monkeypatch):
    file = embed_store(job(run, FEATURES)) / "encounters.parquet"  # features have gaps
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: name)
    monkeypatch.setattr(embedding_map, "import_module", lambda name: types.SimpleNamespace(UMAP=Umap))
    places = coordinates(run, file, seed=3)
    assert places["method"].to_list() == ["UMAP"] * N
    assert places["share_x"].null_count() == N
    np.testing.assert_allclose(places["x"].mean(), 3, atol=1e-6)
    drawn = picture(run, places, phenotype=None, small_cell=11, title="t")
    assert drawn.png is not None
    monkeypatch.setattr(embedding_map, "import_module", lambda name: types.SimpleNamespace())
    assert coordinates(run, file, seed=3)["method"][0] == "PCA"
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)
    assert coordinates(run, file, seed=3)["method"][0] == "PCA"


def test_umap_itself_keeps_groups_apart_and_its_seed():
    pytest.importorskip("umap")
    x = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    x[:30] += 8
    x[3, 2] = np.nan
    first = umap_plane(x, seed=1)
    np.testing.assert_array_equal(umap_plane(x, seed=1), first)
    middle = first[:30].mean(0) - first[30:].mean(0)
    assert np.linalg.norm(middle) > 3 * first[:30].std(0).max()


def test_the_picture_shows_no_small_group(run):
    folder = embed_store(job(run))
    places = coordinates(run, folder / "encounters.parquet", seed=0)
    drawn = picture(run, places, phenotype=None, small_cell=11, title="t")
    assert drawn.png is not None
    assert drawn.notes == ["the picture leaves out sex male: too few patients"]
    rare = picture(run, places, phenotype="250", small_cell=11, title="t")
    assert any("250 Sweet: too few" in note for note in rare.notes)
    public = picture(run, places, phenotype="250", small_cell=0, title="t")
    assert public.notes == []
    few = picture(run, places.head(5), phenotype=None, small_cell=11, title="t")
    assert few.png is None
    with pytest.raises(ConfigError, match="no phenotype '25'"):
        picture(run, places, phenotype="25", small_cell=11, title="t")
