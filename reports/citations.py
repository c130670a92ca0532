"""What a run has to cite: the tool, vocabulary, encoder, data and methods that it used, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from phewas.reports.meta import ReportMeta

_DENNY = (
    "Denny JC, Bastarache L, Ritchie MD, et al. Systematic comparison of phenome-wide association study of electronic "
    "medical record data and genome-wide association study data. Nat Biotechnol 2013;31:1102-1110. "
    "doi:10.1038/nbt.2749"
)
_WU = (
    "Wu P, Gifford A, Meng X, et al. Mapping ICD-10 and ICD-10-CM codes to phecodes: workflow development and initial "
    "evaluation. JMIR Med Inform 2019;7(4):e14325. doi:10.2196/14325"
)
_SHUEY = (
    "Shuey MM, Stead WW, Aka I, et al. Next-generation phenotyping: introducing phecodeX for enhanced discovery "
    "research in medical phenomics. Bioinformatics 2023;39(11):btad655. doi:10.1093/bioinformatics/btad655"
)
_WHO = "World Health Organization. International statistical classification of diseases, 10th revision."

# The first word of a vocabulary's name decides.
VOCABULARIES = {"phecodex": (_SHUEY,), "phecode": (_DENNY, _WU), "icd10": (_WHO,), "icd-10": (_WHO,)}

# What a method is called in the result table, and whom to cite for it. Volumes, pages and DOIs of this file were looked
# up in other publications' reference lists, not taken from memory.
METHODS = {
    "newcombe": "Newcombe RG. Confidence intervals for an effect size measure based on the Mann-Whitney statistic. "
    "Part 2: asymptotic methods and evaluation. Stat Med 2006;25:559-573. doi:10.1002/sim.2324",
    "delong": "DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated receiver "
    "operating characteristic curves: a nonparametric approach. Biometrics 1988;44:837-845. doi:10.2307/2531595",
    "obuchowski": "Obuchowski NA. Nonparametric analysis of clustered ROC curve data. Biometrics 1997;53:567-578. "
    "doi:10.2307/2533958",
    "brunner": "Brunner E, Munzel U. The nonparametric Behrens-Fisher problem: asymptotic theory and a small-sample "
    "approximation. Biom J 2000;42:17-25.",
    "permutation": "Phipson B, Smyth GK. Permutation p-values should never be zero: calculating exact p-values when "
    "permutations are randomly drawn. Stat Appl Genet Mol Biol "
    "2010;9:Article39. doi:10.2202/1544-6115.1585",
}
FDR = (
    "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach to multiple "
    "testing. J R Stat Soc B 1995;57:289-300. doi:10.1111/j.2517-6161.1995.tb02031.x"
)
FURTHER = {  # by the column that holds what was computed
    "p_holm": ("family-wise error", "Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat "
               "1979;6:65-70."),
    "q_by": ("false discovery rate under dependence", "Benjamini Y, Yekutieli D. The control of the false discovery "
             "rate in multiple testing under dependency. Ann Stat 2001;29:1165-1188. doi:10.1214/aos/1013699998"),
    "q_maxt": ("family-wise error under dependence", "Westfall PH, Young SS. Resampling-based multiple testing: "
               "examples and methods for p-value adjustment. New York: Wiley; 1993."),
}
REPORTING = (
    "Collins GS, Moons KGM, Dhiman P, et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction "
    "models that use regression or machine learning methods. BMJ 2024;385:e078378. doi:10.1136/bmj-2023-078378",
    "Benchimol EI, Smeeth L, Guttmann A, et al. The REporting of studies Conducted using Observational "
    "Routinely-collected health Data (RECORD) statement. PLoS Med 2015;12:e1001885. doi:10.1371/journal.pmed.1001885",
)


@dataclass(frozen=True)
class Citation:
    """One thing that was used, and how to cite it."""

    what: str
    text: str


def citations(meta: ReportMeta, results: pl.DataFrame) -> list[Citation]:
    """Return what this run has to cite, in the order tool, data, vocabulary, encoder, methods, reporting.

    Parameters
    ----------
    meta
        The run.
    results
        `phewas.schema.PhenotypeResults`; the vocabulary and the methods that it names are cited.
    """
    found = [Citation("tool", f"phewas {meta.version}: phenome-wide evaluation of biosignal encoders.")]
    if meta.data_citation:
        found.append(Citation(f"data, {meta.title}", meta.data_citation))
    for vocabulary in sorted(set(results.get_column("vocabulary").to_list())):
        first = vocabulary.lower().replace(" ", "")
        for start, texts in VOCABULARIES.items():
            if first.startswith(start):
                found += [Citation(f"vocabulary, {vocabulary}", text) for text in texts]
                break
        else:
            found.append(Citation(f"vocabulary, {vocabulary}", "A vocabulary of your own: cite its source."))
    if text := meta.encoder_card.get("citation", ""):
        found.append(Citation(f"encoder, {meta.encoder}", text))
    if text := meta.encoder_card.get("weights", ""):
        found.append(Citation("encoder, weights", text))
    tested = results.filter(pl.col("status") == "tested")
    said = " ".join(_said(tested, ("ci_method", "p_test"))).lower()
    found += [Citation("method", text) for word, text in METHODS.items() if word in said]
    if tested.get_column("q_fdr").count():
        found.append(Citation("method, false discovery rate", FDR))
    found += [Citation(f"method, {what}", text) for column, (what, text) in FURTHER.items()
              if column in tested.columns and tested.get_column(column).count()]
    return found + [Citation("reporting", text) for text in REPORTING]


def _said(tested: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    return [text for c in columns for text in tested.get_column(c).drop_nulls().unique().sort().to_list()]
