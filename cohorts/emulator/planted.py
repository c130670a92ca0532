"""What the emulated cohort holds on purpose: which codes carry an effect on the pulse, which follow age, which nothing.

Phecodes are those of the phecode map 1.2 for the ICD-10-CM code. Effects and the age rule are made up; no figure here
describes a real hospital.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["effect", "age", "null", "sex", "rare"]


@dataclass(frozen=True)
class Planted:
    """One code of the emulated cohort.

    Parameters
    ----------
    code, icd9
        ICD-10-CM code (dotted) and an ICD-9-CM code of the same meaning (dotted), or empty.
    phecode
        Phecode 1.2 that the code leads to.
    kind
        ``effect`` shifts the pulse from its onset on; ``age`` depends on age alone; ``null`` on nothing; ``sex`` on
        nothing within one sex; ``rare`` is below the case policy in small cohorts.
    share
        Probability per patient (of that sex); for ``age`` the largest one, reached in old age.
    sex
        F or M where only they can have it, else empty.
    carries
        What an ``effect`` changes in the signal: rhythm, rate, shape, notch or breathing.
    older
        Whether an ``effect`` also becomes likelier with age, so that age explains a part of it.
    """

    code: str
    icd9: str
    phecode: str
    kind: Kind
    share: float
    sex: str = ""
    carries: str = ""
    older: bool = False


#: Shares near those of a hospital; the options `least_share` and `effects_follow_age` change them for small cohorts.
#: Every other code that the patients have is a null, too: it depends on nothing but, where its phenotype does, the sex.
PLANTED: tuple[Planted, ...] = (
    Planted("I48.91", "427.31", "427.21", "effect", 0.24, carries="rhythm", older=True),
    Planted("I50.9", "428.0", "428.1", "effect", 0.12, carries="rate"),
    Planted("I70.0", "440.0", "440.9", "effect", 0.10, carries="shape"),
    Planted("I10", "401.9", "401.1", "effect", 0.34, carries="notch"),
    Planted("J44.9", "496", "496", "effect", 0.10, carries="breathing"),
    Planted("H26.9", "366.9", "366", "age", 0.50),
    Planted("M19.90", "715.90", "740.9", "age", 0.45),
    Planted("N40.0", "600.00", "600", "sex", 0.22, "M"),
    Planted("N95.1", "627.2", "627.2", "sex", 0.10, "F"),
    Planted("E78.5", "272.4", "272.1", "null", 0.28),
    Planted("K21.9", "530.81", "530.11", "null", 0.22),
    Planted("F41.9", "300.00", "300.1", "null", 0.20),
    Planted("G47.00", "780.52", "327.4", "null", 0.12),
    Planted("E03.9", "244.9", "244.4", "null", 0.12),
    Planted("D64.9", "285.9", "285", "null", 0.15),
    Planted("N39.0", "599.0", "591", "null", 0.14),
    Planted("J30.9", "477.9", "476", "null", 0.12),
    Planted("E55.9", "268.9", "261.4", "null", 0.14),
    Planted("N20.0", "592.0", "594.1", "null", 0.06),
    Planted("M54.9", "724.5", "760", "null", 0.20),
    Planted("G35", "340", "335", "rare", 0.004),
    Planted("M32.9", "710.0", "695.42", "rare", 0.003),
    Planted("K50.90", "555.9", "555.1", "rare", 0.005),
    Planted("D86.9", "135", "697", "rare", 0.002),
)

#: The condition whose patients the option `longer_recorded` has recorded for longer.
RECORDED = "E78.5"

# Reasons for a visit that say nothing about the signal: (ICD-10-CM, ICD-9-CM, name, chief complaint).
COMPLAINTS: tuple[tuple[str, str, str, str], ...] = (
    ("R07.9", "786.50", "Chest pain, unspecified", "CHEST PAIN"),
    ("R10.9", "789.00", "Unspecified abdominal pain", "ABDOMINAL PAIN,NAUSEA"),
    ("R51.9", "784.0", "Headache, unspecified", "HEADACHE"),
    ("R42", "780.4", "Dizziness and giddiness", "DIZZINESS,FALL"),
    ("S93.401A", "845.00", "Sprain of unspecified ligament of right ankle, initial encounter", "ANKLE PAIN"),
    ("R55", "780.2", "Syncope and collapse", "SYNCOPE"),
    ("L03.90", "682.9", "Cellulitis, unspecified", "LEG SWELLING"),
    ("R11.2", "787.01", "Nausea with vomiting, unspecified", "EMESIS"),
)
