"""The waveform tree of the demo's cohort: pulses that carry the planted effects, and the faults of real downloads."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phewas.cohorts.emulator.demo_people import Person, Visit
from phewas.cohorts.emulator.pulse import Traits, Wave, breathing, ecg, encode, pulse, storage_for, write_record
from phewas.seeds import generator

PLETH_HZ, ECG_HZ, RESP_HZ = 125.0, 500.0, 62.5
# Faults that add one broken Pleth record to a visit that is sound otherwise. Each befalls at least one visit.
RECORD_FAULTS = (
    "truncated", "no_dat", "no_hea", "no_date", "time_24", "unparsable", "zero_length", "all_nan", "wrong_rate",
    "two_signals", "bad_format",
)  # fmt: skip
# Faults of the visit's folder or its row in waveform_summary.csv.
FOLDER_FAULTS = ("no_summary", "summary_only", "unknown_visit", "wrong_count", "other_channel")

# One row of waveform_summary.csv: channel folder, segments, seconds.
Summary = list[tuple[str, int, float]]


def traits_of(person: Person, visit: Visit, *, seed: int) -> Traits:
    """Return the pulse of a patient at a visit: personal traits, shifted by the conditions that have begun by then.

    Age and sex play no part, so that a phenotype that follows age alone cannot be read from the signal.
    """
    rng = generator(seed, "traits", visit.csn)
    day = visit.departure.date()
    u = {
        name: value + 0.3 * float(z)
        for (name, value), z in zip(person.latent.items(), rng.standard_normal(8), strict=True)
    }
    fibrillation = person.has("I48.91", day) and rng.random() > 0.06  # some are in sinus rhythm when recorded
    failure, tension, sclerosis, lungs = (person.has(c, day) for c in ("I50.9", "I10", "I70.0", "J44.9"))
    cv = rng.uniform(0.14, 0.26) if fibrillation else 0.025 * float(np.exp(0.3 * u["rr"]))
    return Traits(
        rate_per_min=float(np.clip(74 + 8 * u["rate"] + 20 * failure, 45, 150)),
        rr_cv=float(cv),
        irregular=bool(fibrillation),
        amplitude_cv=0.05 * float(np.exp(0.2 * u["amplitude"])) * (0.6 if failure else 1.0),
        rise=float(np.clip(0.21 + 0.018 * u["rise"] + 0.05 * sclerosis, 0.14, 0.36)),
        notch=float(np.clip(0.46 + 0.06 * u["notch"] - 0.16 * tension, 0.08, 0.75)),
        breath_depth=0.05 * float(np.exp(0.3 * u["breath"] + 1.9 * lungs)),
        breath_per_min=float(np.clip(15 + 2 * u["breath_rate"], 9, 24)),
        noise=0.025 * float(np.exp(0.3 * u["noise"])),
    )


def _spoil(wave: Wave, rng: np.random.Generator, fs_hz: float) -> Wave:
    """Add what happens at the bedside: motion, a loose finger clip (flat), saturation and missing stretches."""
    what = rng.random(4)
    start = rng.integers(0, max(len(wave) - int(3 * fs_hz), 1), 4)
    length = (rng.uniform(1, 6, 4) * fs_hz).astype(int)
    spans = [slice(int(a), int(a + n)) for a, n in zip(start, length, strict=True)]
    if what[0] < 0.08:
        size = len(wave[spans[0]])
        wave[spans[0]] += np.cumsum(rng.standard_normal(size)) * 0.12
    if what[1] < 0.05:
        wave[spans[1]] = wave[spans[1].start]
    if what[2] < 0.02:
        wave = np.clip(wave, None, float(np.quantile(wave, 0.9)))
    if what[3] < 0.04:
        wave[spans[3]] = np.nan
    return wave


def write_waveforms(root: Path, persons: Sequence[Person], *, seed: int) -> dict[int, Summary]:
    """Write the records of all monitored visits.

    Returns
    -------
    dict
        Visit number (CSN) to its rows of waveform_summary.csv, faults of that table included.
    """
    monitored = [(p, v) for p in persons for v in p.visits if v.monitored]
    faults = plan_faults(monitored, seed=seed)
    out: dict[int, Summary] = {}
    for person, visit in monitored:
        rows = _write_visit(root, person, visit, faults.get(visit.csn, ""), seed=seed)
        if rows:
            out[visit.csn] = rows
    return out


def plan_faults(monitored: Sequence[tuple[Person, Visit]], *, seed: int) -> dict[int, str]:
    """Return which visit has which fault: each kind once in every 400 visits, and at least once."""
    kinds = [*RECORD_FAULTS, *FOLDER_FAULTS]
    order = sorted((int(generator(seed, "fault", v.csn).integers(2**62)), v.csn) for _, v in monitored)
    times = 1 + len(monitored) // 400
    return {csn: kind for (_, csn), kind in zip(order, kinds * times, strict=False)}


def _write_visit(root: Path, person: Person, visit: Visit, fault: str, *, seed: int) -> Summary:
    """Write one visit's folder and return what the summary says about it."""
    rng = generator(seed, "waves", visit.csn)
    traits = traits_of(person, visit, seed=seed)
    csn = visit.csn
    folder = root / f"{csn % 1000:03d}" / str(csn)
    summary: Summary = []
    # Five to forty clean ten-second windows, over one to four segments whose lengths are no whole seconds.
    windows = 7 + min(int(rng.exponential(9)), 33)
    parts = int(rng.integers(1, 5))
    shares = rng.dirichlet(np.full(parts, 6.0))
    clock = visit.roomed + dt.timedelta(seconds=float(rng.uniform(20, 300)))
    first, total_s = clock, 0.0
    for number, share in enumerate(shares, start=1):
        n = int((10 * max(round(windows * float(share)), 1) + rng.uniform(0.2, 4.0)) * PLETH_HZ)
        fmt = str(rng.choice(["16", "212", "24", "32"], p=[0.9, 0.04, 0.03, 0.03]))
        wave = _spoil(pulse(rng, n_samples=n, fs_hz=PLETH_HZ, traits=traits) * 0.9 - 0.2, rng, PLETH_HZ)
        fraction = "milliseconds" if rng.random() < 0.7 else "none"
        write_record(folder / "Pleth", f"{csn}_{number}", wave, signal="Pleth", fs_hz=PLETH_HZ,
                     storage=storage_for(rng, fmt=fmt, units="NU"), start=clock, fraction=fraction)  # fmt: skip
        total_s += n / PLETH_HZ
        clock += dt.timedelta(seconds=n / PLETH_HZ + float(rng.uniform(2, 240)))
    others = rng.random(2)
    if others[0] < 0.12:
        wave = ecg(rng, n_samples=int(20.0 * ECG_HZ), fs_hz=ECG_HZ, traits=traits)
        # Most of them at the same time as the pulse, some a minute before it.
        start = first if others[0] < 0.08 else first - dt.timedelta(minutes=1)
        write_record(folder / "II", f"{csn}_1", wave, signal="II", fs_hz=ECG_HZ,
                     storage=storage_for(rng, fmt="16", units="mV"), start=start, fraction="milliseconds")  # fmt: skip
        summary.append(("II", 1, 20.0))
    if others[1] < 0.10:
        wave = breathing(rng, n_samples=1250, fs_hz=RESP_HZ, traits=traits)
        write_record(folder / "Resp", f"{csn}_1", wave, signal="Resp", fs_hz=RESP_HZ,
                     storage=storage_for(rng, fmt="16", units="ohm"), start=first, fraction="none")  # fmt: skip
        summary.append(("Resp", 1, 20.0))
    summary.append(("Pleth", parts, round(total_s, 3)))
    if fault in RECORD_FAULTS:
        _broken(folder / "Pleth", f"{csn}_{parts + 1}", fault, rng, clock)
        summary[-1] = ("Pleth", parts + 1, round(total_s + 30.0, 3))
    elif fault == "no_summary":
        summary.pop()
    elif fault == "summary_only":
        absent = next((c for c in ("Resp", "II") if c not in {r[0] for r in summary}), None)
        summary += [(absent, 2, 61.0)] if absent else []
    elif fault == "wrong_count":
        summary[-1] = ("Pleth", parts + 3, round(total_s, 3))
    elif fault == "unknown_visit":
        # A folder whose visit is in no table; the number lies outside the range of the others.
        stranger = csn - 10_000_000
        there = root / f"{stranger % 1000:03d}" / str(stranger)
        wave = pulse(rng, n_samples=3750, fs_hz=PLETH_HZ, traits=traits)
        write_record(there / "Pleth", f"{stranger}_1", wave, signal="Pleth", fs_hz=PLETH_HZ,
                     storage=storage_for(rng, fmt="16", units="NU"), start=first, fraction="none")  # fmt: skip
    elif fault == "other_channel":
        (folder / "ABP").mkdir(parents=True)
        (folder / "ABP" / f"{csn}_1.dat").write_bytes(bytes(200))
    return summary


def _broken(folder: Path, name: str, fault: str, rng: np.random.Generator, start: dt.datetime) -> None:
    """Write one thirty-second record with one fault."""
    storage = storage_for(rng, fmt="16", units="NU")
    wave = np.sin(np.arange(3750) / 15.0) * 0.5 + 0.02 * rng.standard_normal(3750)
    if fault == "all_nan":
        wave = np.full(3750, np.nan)
    if fault == "zero_length":
        wave = wave[:0]
    write_record(folder, name, wave, signal="Pleth", fs_hz=PLETH_HZ, storage=storage, start=start, fraction="none")
    header, data = folder / f"{name}.hea", folder / f"{name}.dat"
    words = header.read_text(encoding="ascii").split("\n")
    record = words[0].split()
    if fault == "truncated":
        data.write_bytes(encode(wave, storage)[0][:1001])
    elif fault == "no_dat":
        data.unlink()
    elif fault == "no_hea":
        header.unlink()
        return
    elif fault == "no_date":
        record = record[:4]
    elif fault == "time_24":
        record[4] = "24:00:00"
    elif fault == "unparsable":
        record[1:3] = ["one", "fast"]
    elif fault == "wrong_rate":
        record[2] = "100"
    elif fault == "two_signals":
        record[1] = "2"
        words.insert(2, words[1])
    elif fault == "bad_format":
        words[1] = words[1].replace(".dat 16 ", ".dat 99 ")
    header.write_text("\n".join([" ".join(record), *words[1:]]), encoding="ascii")
