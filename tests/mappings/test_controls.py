"""The shipped control phenotypes exist and stand on one side; a list of one's own is checked."""

from __future__ import annotations

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings.controls import controls
from phewas.mappings.vocabulary import SHIPPED, load


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_control_is_a_phenotype_with_a_reason(name):
    vocabulary = load(name)
    listed = controls(vocabulary)
    assert listed["phenotype"].is_in(vocabulary.phenotypes["phenotype"].to_list()).all()
    assert listed["phenotype"].is_unique().all()
    assert (listed["reason"].str.len_chars() > 0).all()
    for kind, least in (("negative", 13), ("positive", 7)):
        assert listed.filter(pl.col("kind") == kind).height >= least
    # No negative control has a positive one above it, or the other way round.
    stems = {kind: {p.split(".")[0] for p in listed.filter(pl.col("kind") == kind)["phenotype"]} for kind in
             ("negative", "positive")}
    assert not stems["negative"] & stems["positive"]
    chapters = vocabulary.phenotypes.join(listed.filter(pl.col("kind") == "negative"), on="phenotype")["chapter"]
    assert not chapters.str.to_lowercase().str.contains("circulat|cardio|respir").any()


@pytest.mark.parametrize(("text", "words"), [
    ("phenotype\n427.21\n", "lacks kind"),
    ("phenotype,kind\n427.21,none\n", "kind 'none'"),
    ("phenotype,kind\n427.299,positive\n", "427.299.* is not in phecode 1.2"),
    ("phenotype,kind\n427.21,positive\n427.21,negative\n", "twice"),
    ("", "cannot be read"),
])
def test_a_list_that_cannot_be_is_refused(tmp_path, text, words):
    file = tmp_path / "own.csv"
    file.write_text(text)
    with pytest.raises(VocabularyError, match=words):
        controls(load("phecode1.2"), file=file)


def test_a_list_of_ones_own_replaces_ours(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("kind,phenotype\nnegative, 008\n")
    assert controls(load("phecode1.2"), file=file).rows() == [("008", "negative", "")]
    with pytest.raises(VocabularyError, match="there is no file"):
        controls(load("phecode1.2"), file=tmp_path / "none.csv")
