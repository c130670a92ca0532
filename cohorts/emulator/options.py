"""Every choice of the emulator, with its default, and the presets.

Defaults marked [A] are assumptions of ours: no published number was found, and none of them may be quoted as a fact
about MC-MED. The others follow what is published about it (Kansal et al., Scientific Data 12:1094, 2025; the data
dictionary; label counts in public code that reads the files).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from phewas.errors import ConfigError, nearest

LARGEST = 300_000  # patients; the range of the identifiers holds no more patients and visits


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the emulated hospital looks. Shares lie in 0 to 1; a share of 0 switches its trap off.

    Parameters
    ----------
    patients
        Number of patients, 1 to 300,000.
    waveforms, numerics, zip
        Write the waveform tree; write numerics.csv; pack the waveforms into ten archives ``waveforms_0xx.zip`` to
        ``waveforms_9xx.zip`` (by the first digit of the suffix folder, with the same tree inside).
    traps
        False sets every option below the line "traps" to "off".
    visits_mean, frequent_share, frequent_mean
        Mean visits of a patient; share of frequent attenders and their mean of further visits [A].
    age_mean, age_sd
        Years, at the visits, after clipping to 18-90.
    female_share, unknown_sex
        Of patients.
    monitored, monitored_age_slope, monitored_within_patient
        Share of visits with a waveform; how much likelier it is in older visits (standard deviations per 20 years) and
        the correlation between visits of a patient [A, both set so that the published mean age of 55 and the 53,123
        patients with waveforms come out].
    los_median_h, los_p95_h
        Hours in the emergency department; the 95th percentile is [A].
    least_share, effects_follow_age
        Every planted condition that is not rare befalls at least this share of the patients (of its sex; of the oldest
        where it follows age); False keeps age out of the conditions that change the signal. For cohorts of some hundred
        patients, in which a hospital's own shares leave too few cases [A].
    no_history, history_median, history_p99, history_max
        Share of patients without a row in pmh.csv [A]; rows of the others, lognormal [A], cut at a maximum [A].
    history_repeats
        Share of rows that repeat an earlier code of the patient on a new date [A]. Chance repeats come on top, so that
        distinct codes are about 45 % of the rows.
    history_after, history_same_day
        Share of rows dated after the first visit, and on its day [A].
    icd9_share
        Share of pmh.csv rows of type Dx9 [A, in line with the 2,758 visits that have any].
    both_channels, ecg_only, ppg_only, resp_only
        Channels among visits with waveforms [A]; they are scaled to a sum of 1.
    resp_share
        Share of waveform visits with a Resp folder.
    long_overlap, long_overlap_s
        Share of waveform visits whose first II and first Pleth segment overlap for at least `long_overlap_s` seconds
        (times `duration_scale`).
    segments_median, segments_p99, segments_max
        Segments per channel, lognormal [A].
    segment_median_s, segment_sigma, segment_max_s
        Length of a segment in seconds, lognormal [A]; median and maximum are multiplied by `duration_scale`.
    duration_scale
        Makes all recordings shorter, to save disk.
    longer_recorded
        Segments of visits of patients with the condition `planted.RECORDED` (which leaves the signal as it is) are so
        many times longer: a phenotype that the recording tells and the wave does not. 1: no longer than others'.
    channel_offset_s
        Channels start within this many seconds of each other [A], times `duration_scale` where that is below 1.
    hum
        Amplitude of 60 Hz mains hum, in millivolts on II and as share of the pulse on Pleth [A].
    header_fraction
        Share of headers whose time has milliseconds [A].
    rare_formats
        Share of signal files in WFDB formats 212, 24 and 32 instead of 16 [A].

    Traps. In the tables, as share of rows unless said otherwise:

    shared_ids
        True: MRN and CSN come from one range of numbers. False: MRN lie 50 million lower.
    age_jitter
        Age of each visit is off by up to this many years.
    late_years
        True: dates are shifted to 2205-2295, so that 30 % and more lie beyond the end of 64-bit nanoseconds (2262).
        False: to 2105-2195.
    race_blank, acuity_blank, dc_blank
        Blank cells in visits.csv; acuity is [A].
    negative_gaps
        Visits with a time before the time that it must follow.
    dx_blank, dx_two, dx_three
        Visit diagnosis blank, or with two or three codes joined by a comma [A].
    malformed
        pmh.csv codes in a bad form [A]: dot kept, lower case, blank behind, placeholder x kept or lost, category only,
        not billable, procedure code, text that says "no code", code type wrong or blank, two codes in a cell.
    exact_duplicates
        pmh.csv rows that repeat another one in full [A].
    lab_newlines
        Results in labs.csv with commas, quotes and line breaks in the cell [A].
    decimal_commas, cell_newlines, unknown_patients, blank_mrn, short_rows, repeated_visits
        Off by default, since only defended against in public code: vital signs with a decimal comma; line breaks in
        quoted cells of visits.csv; pmh.csv rows of a patient without visit, without MRN, with too few fields; visits
        listed twice.

    In the waveforms, as share of segments [A]:

    overlapping, duplicated, out_of_order
        A segment that begins before the one before it ends; is stored again under a new number; has its number
        exchanged with the next one.
    motion, flat, saturated, missing
        Motion burst, flat run, saturation, run of missing samples (one in ten of these: all samples).
    no_dat, no_hea, truncated, zero_length, no_date, time_24, unparsable, other_rate
        Signal file gone; header gone; half the signal file; no samples; no date and time in the header; time
        ``24:00:00``; record line that cannot be parsed; rate other than the channel's.

    In the waveforms, as share of visits with waveforms [A]:

    not_in_summary, only_in_summary, wrong_summary, unknown_visit
        Folder without row in waveform_summary.csv; row without folder; wrong number and duration; a folder more, of a
        CSN that visits.csv does not have.
    """

    patients: int = 2_000
    waveforms: bool = True
    numerics: bool = True
    zip: bool = False
    traps: bool = True
    visits_mean: float = 1.68
    frequent_share: float = 0.004
    frequent_mean: float = 15.0
    age_mean: float = 53.0
    age_sd: float = 20.0
    female_share: float = 0.543
    unknown_sex: float = 0.0003
    monitored: float = 0.706
    monitored_age_slope: float = 0.20
    monitored_within_patient: float = 0.7
    los_median_h: float = 5.0
    los_p95_h: float = 24.0
    least_share: float = 0.0
    effects_follow_age: bool = True
    no_history: float = 0.12
    history_median: float = 25.0
    history_p99: float = 600.0
    history_max: int = 1_000
    history_repeats: float = 0.35
    history_after: float = 0.20
    history_same_day: float = 0.03
    icd9_share: float = 0.015
    both_channels: float = 0.80
    ecg_only: float = 0.14
    ppg_only: float = 0.05
    resp_only: float = 0.01
    resp_share: float = 0.606
    long_overlap: float = 0.266
    long_overlap_s: float = 600.0
    segments_median: float = 3.0
    segments_p99: float = 60.0
    segments_max: int = 200
    segment_median_s: float = 240.0
    segment_sigma: float = 1.5
    segment_max_s: float = 21_600.0
    duration_scale: float = 1.0
    longer_recorded: float = 1.0
    channel_offset_s: float = 30.0
    hum: float = 0.01
    header_fraction: float = 0.7
    rare_formats: float = 0.1
    # traps of the tables
    shared_ids: bool = True
    age_jitter: int = 2
    late_years: bool = True
    race_blank: float = 0.003
    acuity_blank: float = 0.01
    dc_blank: float = 0.044
    negative_gaps: float = 0.005
    dx_blank: float = 0.03
    dx_two: float = 0.08
    dx_three: float = 0.01
    malformed: float = 0.005
    exact_duplicates: float = 0.02
    lab_newlines: float = 0.01
    decimal_commas: float = 0.0
    cell_newlines: float = 0.0
    unknown_patients: float = 0.0
    blank_mrn: float = 0.0
    short_rows: float = 0.0
    repeated_visits: float = 0.0
    # traps of the waveforms
    overlapping: float = 0.01
    duplicated: float = 0.005
    out_of_order: float = 0.002
    motion: float = 0.08
    flat: float = 0.05
    saturated: float = 0.02
    missing: float = 0.03
    no_dat: float = 0.002
    no_hea: float = 0.002
    truncated: float = 0.002
    zero_length: float = 0.002
    no_date: float = 0.002
    time_24: float = 0.002
    unparsable: float = 0.002
    other_rate: float = 0.002
    not_in_summary: float = 0.002
    only_in_summary: float = 0.002
    wrong_summary: float = 0.002
    unknown_visit: float = 0.002

    def effective(self) -> Options:
        """Return the options with every trap off where `traps` is False, and the same otherwise."""
        if self.traps:
            return self
        off: dict[str, Any] = {name: False if isinstance(getattr(self, name), bool) else 0 for name in TRAPS}
        return replace(self, **off)


#: Options that are traps: everything from `shared_ids` on.
TRAPS: tuple[str, ...] = tuple(
    f.name for i, f in enumerate(fields(Options)) if i >= [g.name for g in fields(Options)].index("shared_ids")
)

# Shorter recordings where disk counts: 24 s instead of 4 min at the median, 1 min of overlap instead of 10.
# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"patients": 40, "duration_scale": 0.1, "segments_max": 2, "segment_max_s": 400.0},
    # Few patients, and so common conditions; a signal at nearly every visit, short, and mostly the pulse alone.
    "demo": {
        "patients": 600, "visits_mean": 1.35, "monitored": 0.95, "least_share": 0.27, "effects_follow_age": False,
        "no_history": 0.0, "history_median": 6.0, "history_p99": 40.0, "both_channels": 0.10, "ecg_only": 0.02,
        "ppg_only": 0.87, "resp_only": 0.01, "resp_share": 0.10, "long_overlap": 0.05, "long_overlap_s": 20.0,
        "segments_median": 2.0, "segments_p99": 8.0, "segments_max": 4, "segment_median_s": 50.0, "segment_sigma": 0.7,
        "segment_max_s": 200.0, "unknown_patients": 0.002, "blank_mrn": 0.002, "short_rows": 0.002,
        "repeated_visits": 0.01, "no_dat": 0.004, "no_hea": 0.004, "truncated": 0.004, "zero_length": 0.004,
        "no_date": 0.004, "time_24": 0.004, "unparsable": 0.004, "other_rate": 0.004, "not_in_summary": 0.008,
        "only_in_summary": 0.008, "wrong_summary": 0.008, "unknown_visit": 0.008,
    },
    "small": {"patients": 2_000, "duration_scale": 0.1, "segments_max": 8},
    "study": {"patients": 15_000, "duration_scale": 0.1, "segments_max": 12, "numerics": False},
    "full": {"patients": 70_545, "waveforms": False, "numerics": False},
}
# fmt: on

_POSITIVE = ("visits_mean", "age_mean", "age_sd", "los_median_h", "history_median", "segments_median",
             "segment_median_s", "segment_max_s", "duration_scale", "longer_recorded", "long_overlap_s",
             "frequent_mean")  # fmt: skip
_ABOVE = (("los_p95_h", "los_median_h"), ("history_p99", "history_median"), ("segments_p99", "segments_median"))
_NO_SHARE = {"monitored_age_slope": 3.0, "segment_sigma": 3.0, "channel_offset_s": 600.0, "hum": 10.0}


def options(preset: str = "small", *, settings: Sequence[str] = (), **given: Any) -> Options:
    """Return a preset's options with further ones set.

    Parameters
    ----------
    preset
        ``tiny``, ``demo``, ``small``, ``study`` or ``full``.
    settings
        Texts ``key=value``, as on the command line; ``true`` and ``false`` for switches.
    **given
        Options by name; they win over `settings`. None leaves an option as it is.

    Raises
    ------
    ConfigError
        A preset or an option is unknown, or a value is of the wrong kind or out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}.{nearest(preset, PRESETS)}", expected=", ".join(PRESETS))
    kinds = {f.name: type(f.default) for f in fields(Options)}
    values: dict[str, Any] = dict(PRESETS[preset])
    for setting in settings:
        name, sign, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise ConfigError(f"the setting {setting!r} has no value", expected="key=value, such as malformed=0.02")
        _known(name, kinds)
        values[name] = _read(name, text.strip(), kinds[name])
    for name, value in given.items():
        _known(name, kinds)
        if value is not None:
            values[name] = value
    made = Options(**values)
    _check(made, kinds)
    return made


def _known(name: str, kinds: dict[str, type]) -> None:
    if name not in kinds:
        raise ConfigError(f"the emulator has no option {name!r}.{nearest(name, kinds)}",
                          cure="phewas emulate mcmed --show lists the options with their values")  # fmt: skip


def _read(name: str, text: str, kind: type) -> Any:
    """Return a value written as text."""
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ConfigError(f"{name} is {text!r}", expected=expected) from error


def _check(made: Options, kinds: dict[str, type]) -> None:
    """Refuse what cannot be made."""
    for name, kind in kinds.items():
        value = getattr(made, name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if type(value) is not kind:
            raise ConfigError(f"{name} is {value!r}", expected=f"a value of the kind {kind.__name__}")
    if not 1 <= made.patients <= LARGEST:
        raise ConfigError(f"{made.patients} emulated patients", expected=f"1 to {LARGEST:,}")
    for name in (n for n, k in kinds.items() if k is float and n not in _POSITIVE):
        if name in ("history_p99", "los_p95_h", "segments_p99"):
            continue
        most = _NO_SHARE.get(name, 1.0)
        if not 0 <= getattr(made, name) <= most:
            raise ConfigError(f"{name} is {getattr(made, name):g}", expected=f"0 to {most:g}")
    for name in _POSITIVE:
        if not 0 < getattr(made, name) < 1e6:
            raise ConfigError(f"{name} is {getattr(made, name):g}", expected="a number above 0")
    for upper, lower in _ABOVE:
        if not getattr(made, upper) > getattr(made, lower):
            raise ConfigError(f"{upper} is {getattr(made, upper):g}", expected=f"more than {lower}")
    if not 1 <= made.visits_mean <= 2.0 or made.frequent_mean > 40 or made.frequent_share * made.frequent_mean > 0.5:
        raise ConfigError(
            f"visits_mean is {made.visits_mean:g} with {made.frequent_share:g} frequent attenders",
            expected="1 to 2 visits a patient, frequent_mean up to 40, frequent_share x frequent_mean up to 0.5",
        )
    if not 0 <= made.age_jitter <= 10 or not 1 <= made.segments_max <= 1_000 or not 1 <= made.history_max <= 20_000:
        raise ConfigError("age_jitter, segments_max or history_max is out of range",
                          expected="age_jitter 0 to 10, segments_max 1 to 1,000, history_max 1 to 20,000")  # fmt: skip
    if made.both_channels + made.ecg_only + made.ppg_only + made.resp_only <= 0:
        raise ConfigError("no visit has a channel", expected="both_channels, ecg_only, ppg_only or resp_only above 0")
