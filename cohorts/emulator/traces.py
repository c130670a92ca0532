"""The waveform tree of the emulated hospital: segments of three channels by visit, and the faults of real downloads."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from phewas.cohorts.emulator.hospital import Block, Hospital
from phewas.cohorts.emulator.options import Options
from phewas.cohorts.emulator.planted import PLANTED, RECORDED
from phewas.cohorts.emulator.pulse import Wave, storage_for, write_record
from phewas.cohorts.emulator.signal import LATENTS, Heart, traits_of
from phewas.seeds import generator

RATES_HZ = {"II": 500.0, "Pleth": 125.0, "Resp": 62.5}
ODD_RATES_HZ = {"II": "250", "Pleth": "100", "Resp": "50"}
UNITS = {"II": "mV", "Pleth": "NU", "Resp": "ohm"}
RECORD_FAULTS = ("no_dat", "no_hea", "truncated", "zero_length", "no_date", "time_24", "unparsable", "other_rate")
SHORTEST_S = 2.0
STRANGER = 10_000_000  # a visit that no table has: this much below a known one, outside the range of the identifiers
EPOCH = dt.datetime(1970, 1, 1)
SINUS_SHARE = 0.06  # of patients with fibrillation, recorded in sinus rhythm

# Rows of waveform_summary.csv: CSN, channel folder, segments, seconds.
Summary = list[tuple[int, str, int, float]]


@dataclass
class Segment:
    """One stored record: start on the visit's clock in seconds, samples, and the fault it is given."""

    start_s: float
    n_samples: int
    fault: str = ""


@dataclass
class Plan:
    """What a visit's monitor stored, by channel, in the order of the numbers of the files."""

    channels: dict[str, list[Segment]] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds from the visit's clock 0 to the end of the last segment."""
        ends = (s.start_s + s.n_samples / RATES_HZ[name] for name, all_ in self.channels.items() for s in all_)
        return max(ends, default=0.0)


def plan_visit(options: Options, rng: np.random.Generator, *, stay_s: float) -> Plan:
    """Return the channels and segments of one visit.

    Parameters
    ----------
    stay_s
        Seconds from rooming to decision; what lies beyond is not recorded.
    """
    o, plan = options, Plan()
    shares = np.array([o.both_channels, o.ecg_only, o.ppg_only, o.resp_only])
    shares = shares / shares.sum()
    kind = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    names = (("II", "Pleth"), ("II",), ("Pleth",), ("Resp",), ("Resp",))[kind]
    with_resp = rng.random() < (o.resp_share - shares[3]) / max(1 - shares[3], 1e-9)
    if with_resp and "Resp" not in names:
        names = (*names, "Resp")
    for name in names:
        plan.channels[name] = _segments(o, rng, RATES_HZ[name], stay_s)
    if kind == 0:
        wanted = rng.random() < min(o.long_overlap / shares[0], 1.0)
        _first_overlap(plan, wanted=wanted, at_least_s=o.long_overlap_s * o.duration_scale, part=float(rng.random()))
    for name in names:
        plan.channels[name] = _shuffled(o, rng, plan.channels[name], RATES_HZ[name])
    return plan


def _samples(seconds: float, fs_hz: float) -> int:
    """Return a length that is no whole number of seconds."""
    n = round(max(seconds, SHORTEST_S) * fs_hz)
    if (2 * n) % round(2 * fs_hz):
        return n
    return n + 2 if n <= SHORTEST_S * fs_hz else n - 2


def _segments(o: Options, rng: np.random.Generator, fs_hz: float, stay_s: float) -> list[Segment]:
    """Return segments one after the other, as many and as long as the monitor kept them."""
    spread = np.log(o.segments_p99 / o.segments_median) / 2.3263
    # Rounded down, with the half that this takes away put back, so that the median stays.
    count = int(np.clip((o.segments_median + 0.5) * np.exp(spread * rng.standard_normal()), 1, o.segments_max))
    clock = float(rng.uniform(0, o.channel_offset_s)) * min(o.duration_scale, 1.0)
    out: list[Segment] = []
    for _ in range(count):
        length = o.segment_median_s * np.exp(o.segment_sigma * rng.standard_normal())
        length = min(float(length), o.segment_max_s) * o.duration_scale
        gap = 1 + 60 * o.duration_scale * float(rng.exponential())
        if out and clock >= stay_s - SHORTEST_S:
            break
        n = _samples(min(length, max(stay_s - clock, SHORTEST_S)), fs_hz)
        out.append(Segment(clock, n))
        clock += n / fs_hz + gap
    return out


def _first_overlap(plan: Plan, *, wanted: bool, at_least_s: float, part: float) -> None:
    """Make the first II and the first Pleth segment overlap for long, or not; later segments move along."""
    ecg, ppg = plan.channels["II"], plan.channels["Pleth"]
    ends = [c[0].start_s + c[0].n_samples / RATES_HZ[name] for name, c in (("II", ecg), ("Pleth", ppg))]
    begin = max(ecg[0].start_s, ppg[0].start_s)
    if wanted == (min(ends) - begin >= at_least_s):
        return
    changes = (("II", ecg), ("Pleth", ppg)) if wanted else (("Pleth", ppg),)
    for name, segments in changes:
        fs, first = RATES_HZ[name], segments[0]
        until = begin + at_least_s * (1 + 0.5 * part if wanted else 0.9 * part)
        n = _samples(until - first.start_s, fs)
        if wanted:
            n = max(n, first.n_samples)
        shift = (n - first.n_samples) / fs
        first.n_samples = n
        for later in segments[1:]:
            later.start_s += shift


def _shuffled(o: Options, rng: np.random.Generator, segments: list[Segment], fs_hz: float) -> list[Segment]:
    """Return the segments with overlaps, duplicates, exchanged numbers and broken files among them."""
    out: list[Segment] = []
    for place, segment in enumerate(segments):
        u = rng.random(3 + len(RECORD_FAULTS))
        if place and u[0] < o.overlapping:
            before = segments[place - 1]
            segment.start_s = before.start_s + 0.7 * before.n_samples / fs_hz
        for k, fault in enumerate(RECORD_FAULTS):
            if u[3 + k] < getattr(o, fault):
                segment.fault = fault
        out.append(segment)
        if u[1] < o.duplicated:
            out.append(Segment(segment.start_s, segment.n_samples, "same"))
        if u[2] < o.out_of_order and len(out) > 1 and not {out[-1].fault, out[-2].fault} & {"same"}:
            out[-1], out[-2] = out[-2], out[-1]
    return out


def spoil(o: Options, rng: np.random.Generator, wave: Wave, fs_hz: float) -> Wave:
    """Return a segment with what happens at the bedside: motion, a loose clip (flat), saturation, missing samples."""
    what = rng.random(5)
    begin = rng.integers(0, max(len(wave) - int(fs_hz), 1), 3)
    length = np.maximum(rng.uniform(1, 8, 3) * fs_hz, 2).astype(int)
    spans = [slice(int(a), int(a + n)) for a, n in zip(begin, length, strict=True)]
    if what[0] < o.motion:
        wave[spans[0]] += np.cumsum(rng.standard_normal(len(wave[spans[0]]))) * 0.12
    if what[1] < o.flat:
        wave[spans[1]] = wave[spans[1].start]
    if what[2] < o.saturated:
        wave = np.clip(wave, None, float(np.quantile(wave, 0.9)))
    if what[3] < o.missing:
        wave[slice(None) if what[4] < 0.1 else spans[2]] = np.nan
    return wave


def write_block(root: Path | None, hospital: Hospital, block: Block) -> Summary:
    """Write the records of a block's monitored visits below `root`, and return their rows of waveform_summary.csv.

    Without `root` nothing is written: the rows are those of the tables without their waveforms.
    """
    begun = block.begun()
    out: Summary = []
    for visit in np.flatnonzero(block.monitored).tolist():
        person, place = int(block.index[block.person[visit]]), int(block.number[visit])
        rng = generator(hospital.seed, "recorded", person, place)
        faults = rng.random(4)
        has = [PLANTED[k] for k in np.flatnonzero(begun[visit]).tolist()]
        o = hospital.options
        if any(planted.code == RECORDED for planted in has):
            o = replace(o, segment_median_s=o.segment_median_s * o.longer_recorded)
        plan = plan_visit(o, rng, stay_s=float(block.dispo_s[visit] - block.roomed_s[visit]))
        csn = int(block.csn[visit])
        out += _summary(hospital.options, csn, plan, faults)
        if root is not None:
            carried = frozenset(planted.carries for planted in has if planted.carries)
            opening = EPOCH + dt.timedelta(seconds=int(block.roomed_s[visit]))
            known = [csn, csn - STRANGER] if faults[3] < hospital.options.unknown_visit else [csn]
            _write_visit(root, hospital, person, place, plan, carried, known, opening)
    return out


def _summary(o: Options, csn: int, plan: Plan, faults: Wave) -> Summary:
    """Return a visit's rows of waveform_summary.csv, with the faults that this table has."""
    rows = [
        (csn, channel, len(segments), sum(s.n_samples for s in segments) / RATES_HZ[channel])
        for channel, segments in plan.channels.items()
    ]
    if faults[0] < o.wrong_summary:
        _, channel, count, seconds = rows[-1]
        rows[-1] = (csn, channel, count + 2, seconds * 1.5 + 7)
    if faults[1] < o.not_in_summary:
        return rows[:-1]
    if faults[2] < o.only_in_summary and len(plan.channels) < len(RATES_HZ):
        rows.append((csn, next(c for c in RATES_HZ if c not in plan.channels), 2, 61.048))
    return rows


def _write_visit(
    root: Path, hospital: Hospital, person: int, place: int, plan: Plan, carried: frozenset[str], known: list[int],
    opening: dt.datetime,
) -> None:  # fmt: skip
    """Write a visit's folder; a second number in `known` is that of a visit in no table, with a segment of its own."""
    o = hospital.options
    csn = known[0]
    own = hospital.draws.normal("traits", person, np.arange(len(LATENTS)))
    now = hospital.draws.normal("traits of the visit", person, place, np.arange(len(LATENTS)))
    rng = generator(hospital.seed, "signal", person, place)
    sinus, cv = rng.random() < SINUS_SHARE, float(rng.uniform(0.14, 0.26))
    latent = dict(zip(LATENTS, (own + 0.3 * now).tolist(), strict=True))
    traits = traits_of(latent, carried, in_rhythm=bool(sinus), cv=cv)
    heart = Heart.beating(rng, duration_s=plan.duration_s, traits=traits)
    for channel, segments in plan.channels.items():
        folder = root / f"{csn % 1000:03d}" / str(csn) / channel
        for number, segment in enumerate(segments, start=1):
            if segment.fault == "same":
                _copy_record(folder, csn, number - 1, number)
            else:
                _write_segment(folder, f"{csn}_{number}", channel, segment, heart, o, rng, opening)
    for stranger in known[1:]:
        folder = root / f"{stranger % 1000:03d}" / str(stranger) / "Pleth"
        _write_segment(folder, f"{stranger}_1", "Pleth", Segment(0.0, 3_749), heart, o, rng, opening)


def _write_segment(
    folder: Path, name: str, channel: str, segment: Segment, heart: Heart, o: Options, rng: np.random.Generator,
    opening: dt.datetime,
) -> None:  # fmt: skip
    fs = RATES_HZ[channel]
    n = 0 if segment.fault == "zero_length" else segment.n_samples
    t = segment.start_s + np.arange(n) / fs
    if channel == "II":
        wave = heart.lead_ii(rng, t, hum=2 * o.hum)
    elif channel == "Pleth":
        wave = heart.pleth(rng, t, hum=o.hum) * 0.9 - 0.2
    else:
        wave = heart.respiration(rng, t)
    if n:
        wave = spoil(o, rng, wave, fs)
    fmt = str(rng.choice(("212", "24", "32"), p=(0.4, 0.3, 0.3))) if rng.random() < o.rare_formats else "16"
    storage = storage_for(rng, fmt=fmt, units=UNITS[channel])
    start = opening + dt.timedelta(milliseconds=round(segment.start_s * 1000))
    write_record(folder, name, wave, signal=channel, fs_hz=fs, storage=storage, start=start,
                 fraction="milliseconds" if rng.random() < o.header_fraction else "none")  # fmt: skip
    if segment.fault:
        _break_record(folder, name, channel, segment.fault)


def _copy_record(folder: Path, csn: int, first: int, second: int) -> None:
    """Store a record again under another number; what the first one lacks, the second one lacks, too."""
    header, data = folder / f"{csn}_{first}.hea", folder / f"{csn}_{first}.dat"
    if header.is_file():
        text = header.read_text(encoding="ascii").replace(f"{csn}_{first}", f"{csn}_{second}")
        (folder / f"{csn}_{second}.hea").write_text(text, encoding="ascii")
    if data.is_file():
        (folder / f"{csn}_{second}.dat").write_bytes(data.read_bytes())


def _break_record(folder: Path, name: str, channel: str, fault: str) -> None:
    """Give a sound record its fault."""
    header, data = folder / f"{name}.hea", folder / f"{name}.dat"
    if fault == "no_dat":
        data.unlink()
    elif fault == "no_hea":
        header.unlink()
    elif fault == "truncated":
        content = data.read_bytes()
        data.write_bytes(content[: len(content) // 2])
    else:
        first, *others = header.read_text(encoding="ascii").split("\n")
        words = first.split()
        if fault == "no_date":
            words = words[:4]
        elif fault == "time_24":
            words[4] = "24:00:00"
        elif fault == "unparsable":
            words[1:3] = ["one", "fast"]
        elif fault == "other_rate":
            words[2] = ODD_RATES_HZ[channel]
        header.write_text("\n".join([" ".join(words), *others]), encoding="ascii")
