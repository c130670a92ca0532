"""Signals of one emulated visit: one train of beats that II and Pleth share, with the planted effects in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phewas.cohorts.emulator.pulse import Traits, Wave

Latent = dict[str, float]
LATENTS = ("rate", "rise", "notch", "breath", "breath_rate", "rr", "amplitude", "noise")
TRANSIT_S = 0.22  # from the R wave to the foot of the pulse at the finger


def traits_of(latent: Latent, carried: frozenset[str], *, in_rhythm: bool, cv: float) -> Traits:
    """Return the traits of a visit's pulse: personal ones, shifted by what the patient's conditions carry.

    Parameters
    ----------
    latent
        Personal traits, standard normal, by the names of `LATENTS`.
    carried
        Of ``rhythm``, ``rate``, ``shape``, ``notch`` and ``breathing``, those that a condition has shifted by now.
        Age and sex play no part: what follows age alone cannot be read from the signal.
    in_rhythm
        True where a patient with a rhythm condition is in sinus rhythm all the same.
    cv
        Variation of beat intervals in fibrillation, as a share of their mean.
    """
    fibrillates = "rhythm" in carried and not in_rhythm
    return Traits(
        rate_per_min=min(max(74 + 8 * latent["rate"] + 20 * ("rate" in carried), 45.0), 150.0),
        rr_cv=cv if fibrillates else 0.025 * math.exp(0.3 * latent["rr"]),
        irregular=fibrillates,
        amplitude_cv=0.05 * math.exp(0.2 * latent["amplitude"]),
        rise=min(max(0.21 + 0.018 * latent["rise"] + 0.05 * ("shape" in carried), 0.14), 0.36),
        notch=min(max(0.46 + 0.06 * latent["notch"] - 0.16 * ("notch" in carried), 0.08), 0.75),
        breath_depth=0.05 * math.exp(0.3 * latent["breath"] + 1.9 * ("breathing" in carried)),
        breath_per_min=min(max(15 + 2 * latent["breath_rate"], 9.0), 24.0),
        noise=0.025 * math.exp(0.3 * latent["noise"]),
    )


@dataclass(frozen=True)
class Heart:
    """A visit's beats on its own clock (seconds from the visit's first sample on).

    Parameters
    ----------
    onsets_s, intervals_s, heights
        float64 [beats]: time of the R wave, time to the next one, height of the pulse.
    breath_phase
        Phase of breathing at time 0.
    """

    traits: Traits
    onsets_s: Wave
    intervals_s: Wave
    heights: Wave
    breath_phase: float

    @classmethod
    def beating(cls, rng: np.random.Generator, *, duration_s: float, traits: Traits) -> Heart:
        """Return beats from ten seconds before 0 to ten seconds after `duration_s`."""
        mean_s = 60.0 / traits.rate_per_min
        count = int((duration_s + 20) / mean_s * 1.25) + 20
        phase = float(rng.uniform(0, 2 * np.pi))
        turns = 2 * np.pi * traits.breath_per_min / 60
        sway = 0.0 if traits.irregular else 0.02 * np.sin(turns * mean_s * np.arange(count) + phase)
        intervals = mean_s * np.maximum(1 + sway + traits.rr_cv * rng.standard_normal(count), 0.45)
        heights = 1 + traits.amplitude_cv * rng.standard_normal(count)
        if traits.irregular:
            heights += 0.7 * (np.roll(intervals, 1) / mean_s - 1)
        return cls(traits, np.cumsum(intervals) - intervals - 10.0, intervals, np.clip(heights, 0.2, 2.0), phase)

    def _breath(self, t: Wave) -> Wave:
        return np.asarray(np.sin(2 * np.pi * self.traits.breath_per_min / 60 * t + self.breath_phase))

    def _beat(self, t: Wave) -> NDArray[np.int64]:
        return np.clip(np.searchsorted(self.onsets_s, t, side="right") - 1, 0, len(self.onsets_s) - 1)

    def pleth(self, rng: np.random.Generator, t: Wave, *, hum: float) -> Wave:
        """Return the pulse at times `t` (seconds), float64, about 1 high, around 0.5.

        Two Gaussian waves a beat: the main wave and the dicrotic one (Rubins, Med Biol Eng Comput 46:1271, 2008).
        """
        at = t - TRANSIT_S
        beat = self._beat(at)
        phase = (at - self.onsets_s[beat]) / self.intervals_s[beat]
        rise = self.traits.rise
        shape = np.exp(-0.5 * ((phase - rise) / (0.42 * rise)) ** 2)
        shape += self.traits.notch * np.exp(-0.5 * ((phase - rise - 0.30) / 0.09) ** 2)
        breath = self._breath(t)
        wave = self.heights[beat] * (1 + self.traits.breath_depth * breath) * shape + self.traits.breath_depth * breath
        wave += 0.05 * np.sin(2 * np.pi * 0.02 * t + self.breath_phase) + hum * np.sin(2 * np.pi * 60 * t)
        return np.asarray(wave + self.traits.noise * rng.standard_normal(len(t)))

    def lead_ii(self, rng: np.random.Generator, t: Wave, *, hum: float) -> Wave:
        """Return lead II in millivolts at times `t`: P, QRS and T as Gaussians; no P wave in fibrillation."""
        beat = self._beat(t + 0.2)
        since_s = t - self.onsets_s[beat]
        wave = hum * np.sin(2 * np.pi * 60 * t)
        for centre_s, width_s, height in (
            (-0.13, 0.02, 0.0 if self.traits.irregular else 0.12),
            (-0.02, 0.008, -0.1),
            (0.0, 0.009, 1.0),
            (0.02, 0.009, -0.2),
            (0.21, 0.045, 0.28),
        ):
            if height:
                near = np.abs(since_s - centre_s) < 5 * width_s
                wave[near] += height * np.exp(-0.5 * ((since_s[near] - centre_s) / width_s) ** 2)
        return np.asarray(wave + 0.02 * rng.standard_normal(len(t)))

    def respiration(self, rng: np.random.Generator, t: Wave) -> Wave:
        """Return breathing in ohm at times `t`."""
        return np.asarray(self._breath(t) + 0.05 * rng.standard_normal(len(t)))
