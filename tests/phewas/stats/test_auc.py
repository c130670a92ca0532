from __future__ import annotations

from pathlib import Path

import mpmath
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from phewas.errors import StatisticsError
from phewas.stats.auc import auc, auc_matrix, influence, placements
from phewas.stats.tails import hanley_mcneil_variance, min_detectable_auc, newcombe_bounds, t_two_sided

FRAME = pl.read_csv(Path(__file__).parent / "data" / "stats_reference.csv")


def column(name: str) -> np.ndarray:
    return FRAME[name].to_numpy()


# pROC 1.18.0 on R 4.2.2, method="delong": score, label, AUC, variance, logit bounds with the normal quantile.
PROC = [
    ("cont_a", "y", 0.774613059804, 0.00110931720628, 0.702794141308, 0.833196208843),
    ("cont_a", "y_masked", 0.782955041467, 0.00116607875751, 0.70870969588, 0.842482445307),
    ("cont_b", "y", 0.795860426779, 0.00102934661678, 0.725830882554, 0.851658409344),
    ("fp16", "y", 0.774475684587, 0.00110970054955, 0.702650043889, 0.833073370879),
    ("ord5", "y", 0.757899075007, 0.00112168179561, 0.686423037638, 0.817416597082),
    ("ord5", "y_masked", 0.766968572676, 0.00115446319231, 0.693953889083, 0.82690872517),
    ("const", "y", 0.5, 0.0, None, None),
    ("separated", "y", 1.0, 0.0, None, None),
    ("near1", "y", 0.982232805202, 6.22962186948e-05, 0.95795426799, 0.992600435192),
]
AP = {"cont_a": 0.52079245464, "cont_b": 0.569498330627, "fp16": 0.520266589368, "ord5": 0.456296680519,
      "const": 0.254166666667, "near1": 0.964058409361}
# scipy 1.17.1 brunnermunzel: statistic and p.
BRUNNER_MUNZEL = {"cont_a": (8.24505035883, 2.56929494933e-13), "cont_b": (9.22159529713, 1.93765972657e-15),
                  "ord5": (7.70042949311, 5.34800305393e-12), "near1": (61.097847191, 1.55604996236e-66)}
# Obuchowski's own function (R port doAUCcluster), patients as clusters.
CLUSTERED = {"cont_a": 0.00124251057153, "cont_b": 0.00126555573556, "ord5": 0.00131165659016}


@pytest.mark.parametrize("score, label, area, variance, low, high", PROC)
def test_matches_proc(score, label, area, variance, low, high):
    found = auc(column(score), column(label))
    assert found.auc[0] == pytest.approx(area, abs=1e-12)
    assert found.se[0] ** 2 == pytest.approx(variance, rel=1e-10, abs=1e-16)
    if low is not None:
        half = stats.norm.isf(0.025) * found.se[0] / (area * (1 - area))
        logit = np.log(area / (1 - area))
        bounds = [1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))]
        assert bounds == pytest.approx([low, high], abs=1e-10)
        # The t quantile is a little wider than pROC's normal one.
        assert low - 0.004 < found.low[0] < low
        assert high < found.high[0] < high + 0.004
        wald = [area - 1.959963984540054 * found.se[0], area + 1.959963984540054 * found.se[0]]
        if (score, label) == ("cont_a", "y"):
            assert wald == pytest.approx([0.709333688123, 0.839892431485], abs=1e-10)


@pytest.mark.parametrize("score", AP)
def test_average_precision_reference(score):
    assert auc(column(score), column("y")).average_precision[0] == pytest.approx(AP[score], abs=1e-10)


@pytest.mark.parametrize("score", BRUNNER_MUNZEL)
def test_brunner_munzel_reference(score):
    found, (statistic, p) = auc(column(score), column("y")), BRUNNER_MUNZEL[score]
    assert found.statistic[0] == pytest.approx(statistic, rel=1e-10)
    assert found.p[0] == pytest.approx(p, rel=1e-9)
    assert found.neg_log10_p[0] == pytest.approx(-np.log10(p), abs=1e-9)
    assert found.p_test[0] == "Brunner-Munzel t"


@pytest.mark.parametrize("score", CLUSTERED)
def test_clustered_reference(score):
    found = auc(column(score), column("y"), clusters=column("patient"))
    assert found.se[0] ** 2 == pytest.approx(CLUSTERED[score], rel=1e-10)
    y, patient = column("y"), column("patient")
    assert found.n_case_clusters[0] == len(set(patient[y == 1]))
    assert found.n_control_clusters[0] == len(set(patient[y == 0]))


def test_degenerate_scores():
    constant, separated = auc(column("const"), column("y")), auc(column("separated"), column("y"))
    assert (constant.p[0], constant.neg_log10_p[0], constant.zero_variance[0]) == (1.0, 0.0, True)
    assert constant.low[0] < 0.5 < constant.high[0]
    assert separated.high[0] == 1.0
    assert 0.9 < separated.low[0] < 1.0
    assert separated.ci_method[0] == "Newcombe method 5"
    assert separated.neg_log10_p[0] == pytest.approx(float(mpmath.log10(mpmath.binomial(240, 61) / 2)), rel=1e-12)
    tiny = auc(np.arange(7.0), np.array([0, 0, 0, 0, 1, 1, 1]))
    assert tiny.p[0] == pytest.approx(stats.mannwhitneyu([4, 5, 6], [0, 1, 2, 3], method="exact").pvalue)


def test_undefined_is_nan_and_few_clusters_have_no_interval():
    none = auc(np.arange(4.0), np.array([0, 0, 0, -1]))
    assert np.isnan([none.auc[0], none.se[0], none.low[0], none.p[0], none.average_precision[0]]).all()
    assert (none.n_cases[0], none.n_controls[0], none.p_test[0], none.ci_method[0]) == (0, 3, "", "")
    one = auc(np.array([3.0, 2, 1, 0]), np.array([1, 1, 0, 0]), clusters=np.array([7, 7, 8, 9]))
    assert one.auc[0] == 1.0
    assert np.isnan([one.se[0], one.low[0], one.p[0]]).all()


def test_refusals():
    scores, labels = np.zeros((4, 70), dtype=np.float32), np.tile(np.array([[1], [0], [1], [-1]], np.int8), 70)
    scores[3, 66] = np.nan
    auc_matrix(scores, labels)
    scores[0, 66] = np.nan
    with pytest.raises(StatisticsError, match=r"column 66 .* 1 cases"):
        auc_matrix(scores, labels)
    with pytest.raises(StatisticsError, match="column 0 has labels"):
        auc_matrix(np.zeros((2, 1)), np.array([[2], [0]]))
    with pytest.raises(StatisticsError, match="shape"):
        auc_matrix(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(StatisticsError, match="clusters"):
        auc_matrix(np.zeros((2, 1)), np.zeros((2, 1)), clusters=np.zeros(3))
    with pytest.raises(StatisticsError, match="scores are"):
        auc(np.array(["a", "b"]), np.array([1, 0]))


SAMPLE = st.integers(4, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float32, n, elements=st.one_of(st.integers(-4, 4).map(float), st.floats(-50, 50, width=32))),
        hnp.arrays(np.int8, n, elements=st.sampled_from([-1, 0, 1])),
    )
).filter(lambda pair: (pair[1] == 1).sum() >= 2 and (pair[1] == 0).sum() >= 2)


@settings(max_examples=80, deadline=None)
@given(SAMPLE)
def test_identities(sample):
    score, label = sample
    cases, controls = score[label == 1].astype(float), score[label == 0].astype(float)
    found = auc(score, label)
    u = stats.mannwhitneyu(cases, controls).statistic
    assert found.auc[0] == pytest.approx(u / (len(cases) * len(controls)), abs=1e-14)
    assert auc(-score, label).auc[0] == pytest.approx(1 - found.auc[0], abs=1e-14)
    wide = score.astype(np.float64)
    assert auc(np.arctan(wide) * 3 + wide, label).auc[0] == found.auc[0]
    keep = label >= 0
    assert found.auc[0] == pytest.approx(roc_auc_score(label[keep], score[keep]), abs=1e-12)
    assert found.average_precision[0] == pytest.approx(average_precision_score(label[keep], score[keep]), abs=1e-12)
    v10, v01 = placements(score, label)
    assert v10.mean() == pytest.approx(found.auc[0], abs=1e-13)
    assert v01.mean() == pytest.approx(found.auc[0], abs=1e-13)
    brute = (cases[:, None] > controls).astype(float) + 0.5 * (cases[:, None] == controls)
    np.testing.assert_allclose(v10, brute.mean(1), atol=1e-14)
    np.testing.assert_allclose(v01, brute.mean(0), atol=1e-14)
    assert abs(influence(score, label).sum()) < 1e-12
    if found.se[0] > 1e-6:
        with np.errstate(all="ignore"):
            oracle = stats.brunnermunzel(controls, cases)
        assert found.statistic[0] == pytest.approx(oracle.statistic, rel=1e-8, abs=1e-10)
        assert found.p[0] == pytest.approx(oracle.pvalue, rel=1e-7, abs=1e-300)
    single = auc(score, label, clusters=np.arange(len(score))[::-1])
    assert single.se[0] == pytest.approx(found.se[0], abs=1e-13)
    if found.se[0] > 1e-6:
        assert single.df[0] == pytest.approx(found.df[0], rel=1e-9)
    double = auc(np.repeat(score, 2), np.repeat(label, 2), clusters=np.repeat(np.arange(len(score)), 2))
    assert double.se[0] == pytest.approx(found.se[0], abs=1e-12)


def test_row_order_and_cluster_codes_do_not_matter():
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(300, 3)).astype(np.float32)
    labels = rng.choice(np.array([-1, 0, 1], dtype=np.int8), size=(300, 3))
    patients = rng.integers(0, 90, 300)
    order = rng.permutation(300)
    names = np.array([f"p{i}" for i in patients])
    one = auc_matrix(scores, labels, clusters=patients)
    two = auc_matrix(scores[order], labels[order], clusters=names[order])
    for field in ("auc", "se", "low", "high", "p", "df", "average_precision"):
        np.testing.assert_allclose(getattr(one, field), getattr(two, field), rtol=1e-11)


@pytest.mark.parametrize("t, df", [(3, 10), (45, 2000), (60, 5000), (45, 1e6), (200, 1000), (38.5, 17_000), (1e4, 90)])
def test_tail_against_mpmath(t, df):
    with mpmath.workdps(40):
        x = mpmath.mpf(df) / (df + mpmath.mpf(t) ** 2)
        exact = -mpmath.log10(mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf("0.5"), 0, x, regularized=True))
    assert t_two_sided(t, df)[1] == pytest.approx(float(exact), rel=1e-11)


def test_newcombe_solves_its_equation_and_mirrors():
    low, high = newcombe_bounds(0.8, 30, 70, z=1.96)
    for t in (low, high):
        k = 49
        variance = t * (1 - t) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t)) / 2100
        assert abs(0.8 - t) == pytest.approx(1.96 * np.sqrt(variance), abs=1e-12)
    mirrored = newcombe_bounds(0.2, 30, 70, z=1.96)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert newcombe_bounds(1.0, 20, 1000, z=1.96)[1] == 1.0


def test_min_detectable_auc_has_the_power_it_claims():
    m, n = np.array([20, 100, 1000, 0]), np.array([2000, 15_000, 15_000, 50])
    found = min_detectable_auc(m, n)
    assert np.isnan(found[3])
    null = np.sqrt(hanley_mcneil_variance(0.5, m[:3], n[:3]))
    there = np.sqrt(hanley_mcneil_variance(found[:3], m[:3], n[:3]))
    power = stats.norm.sf((0.5 + stats.norm.isf(0.025) * null - found[:3]) / there)
    np.testing.assert_allclose(power, 0.8, atol=1e-9)


def test_coverage_with_two_encounters_a_patient():
    """Chronic disease, correlated scores: 95 % intervals must hold, plain DeLong is known to cover about 87 %."""
    rng = np.random.default_rng(20240611)
    reps, patients = 400, 600
    sick = rng.random((patients, reps)) < 0.1
    personal = rng.normal(size=(patients, reps)) * np.sqrt(0.5)
    noise = rng.normal(size=(2, patients, reps)) * np.sqrt(0.5)
    truth = 0.7
    shift = stats.norm.ppf(truth) * np.sqrt(2)
    scores = (personal + noise + shift * sick).reshape(2 * patients, reps)
    labels = np.concatenate([sick, sick]).astype(np.int8)
    clustered = auc_matrix(scores, labels, clusters=np.tile(np.arange(patients), 2))
    plain = auc_matrix(scores, labels)
    covered = ((clustered.low < truth) & (truth < clustered.high)).mean()
    naive = ((plain.low < truth) & (truth < plain.high)).mean()
    assert 0.91 < covered < 0.98
    assert naive < covered - 0.02
