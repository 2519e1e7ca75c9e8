"""A synthetic voice: a glottal source through formants, with emotional stretches in it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SAMPLE_RATE_HZ = 24_000
#: When the voice sounds: what the project analyses, and never the end of the shortest clip.
SPEECH_S = (0.5, 2.9)
_FADE_S = 0.05
_TREMOR_HZ = 9.0
_FOURTH_FORMANT_HZ = 3700
_BANDWIDTHS_HZ = (80, 100, 140, 220)


class Timbre(NamedTuple):
    """A vowel and how it is voiced.

    `tilt` is a low pass's pole, negative for a bright voice; `breath` the noise beside the glottal
    pulses; `tremor` how much of the amplitude comes and goes.
    """

    f1_hz: float
    f2_hz: float
    f3_hz: float
    tilt: float
    breath: float
    tremor: float


#: The vowel around the emotional stretch.
CARRIER = Timbre(500, 1500, 2500, 0.6, 0.02, 0.0)
#: By emotion, whichever corpora have it.
TIMBRES = {
    "neutral": Timbre(730, 1090, 2440, 0.6, 0.02, 0.0),
    "calm": Timbre(310, 870, 2240, 0.85, 0.02, 0.0),
    "happy": Timbre(280, 2300, 3000, 0.2, 0.02, 0.0),
    "sad": Timbre(560, 820, 2700, 0.85, 0.15, 0.3),
    "angry": Timbre(760, 1750, 2500, -0.5, 0.05, 0.3),
    "fearful": Timbre(400, 2050, 2600, 0.2, 0.5, 0.6),
    "disgust": Timbre(480, 1250, 1650, 0.3, 0.05, 0.0),
    "surprised": Timbre(900, 1500, 3100, -0.2, 0.3, 0.0),
}
#: Two more, of no emotion, that name a part of the face.
POINTERS = {
    "upper": Timbre(350, 1900, 2400, -0.5, 0.02, 0.0),
    "lower": Timbre(850, 1150, 2000, 0.85, 0.02, 0.0),
}


class Speaker:
    """An actor's pitch, and the factor on all formants that the length of the vocal tract sets."""

    def __init__(self, rng: np.random.Generator, woman: bool) -> None:
        """A new actor."""
        pitches_hz, scales = ((180, 240), (1.08, 1.18)) if woman else ((95, 140), (0.95, 1.05))
        self.pitch_hz = rng.uniform(*pitches_hz)
        self.formant_scale = rng.uniform(*scales)


def speak(
    speaker: Speaker,
    stretches: Sequence[tuple[Timbre, float, float]],
    strength: float,
    duration_s: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """The waveform, shape (n_samples,), in -1 to 1: CARRIER around the stretches.

    Args:
        stretches: when the voice has another timbre, from start to end in seconds.
        strength: how far it goes from CARRIER to that timbre, 1 for all the way.
    """
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    vibrato = 1 + 0.06 * _swing(time_s, rng.uniform(0.6, 1.2), rng)
    cycles = np.cumsum(speaker.pitch_hz * vibrato) / SAMPLE_RATE_HZ
    glottis = 2 * (cycles % 1) - 1
    noise = rng.standard_normal(len(time_s))
    shares = [_fade(time_s, start_s, end_s) for _, start_s, end_s in stretches]
    voiced = (1 - sum(shares)) * _resonate(glottis, noise, CARRIER, speaker)
    carrier = np.array(CARRIER)
    for (target, _, _), share in zip(stretches, shares, strict=True):
        timbre = Timbre(*(carrier + strength * (np.array(target) - carrier)))
        tremor = 1 - timbre.tremor * np.sin(np.pi * _TREMOR_HZ * time_s) ** 2
        voiced += share * tremor * _resonate(glottis, noise, timbre, speaker)
    syllables = 0.7 + 0.3 * _swing(time_s, rng.uniform(3.5, 4.5), rng)
    waveform = 0.1 * voiced * syllables * _fade(time_s, *SPEECH_S) + 0.001 * noise
    return np.clip(waveform, -1, 1).astype(np.float32)


def _swing(time_s: Array, rate_hz: float, rng: np.random.Generator) -> Array:
    """A sine from a random phase on."""
    return np.sin(2 * np.pi * (rate_hz * time_s + rng.random()))


def _fade(time_s: Array, start_s: float, end_s: float) -> Array:
    """1 within the stretch, 0 outside."""
    return np.interp(time_s, [start_s, start_s + _FADE_S, end_s - _FADE_S, end_s], [0, 1, 1, 0])


def _resonate(glottis: Array, noise: Array, timbre: Timbre, speaker: Speaker) -> Array:
    """Pulses and breath through the vocal tract, at unit power, so that loudness is no cue."""
    from scipy import signal  # 1 s that those who make no clips need not pay

    formants_hz = np.array([timbre.f1_hz, timbre.f2_hz, timbre.f3_hz, _FOURTH_FORMANT_HZ])
    angle = 2 * np.pi * speaker.formant_scale * formants_hz / SAMPLE_RATE_HZ
    radius = np.exp(-np.pi * np.array(_BANDWIDTHS_HZ) / SAMPLE_RATE_HZ)
    # One pair of poles a formant, each section with gain 1 at 0 Hz: b0 0 0 1 a1 a2.
    sections = np.zeros((5, 6))
    sections[:, 3] = 1
    sections[:4, 4], sections[:4, 5] = -2 * radius * np.cos(angle), radius**2
    sections[4, 4] = -timbre.tilt
    sections[:, 0] = sections[:, 3:].sum(1)
    sound = signal.sosfilt(sections, glottis + timbre.breath * noise)
    return sound / np.sqrt(np.mean(sound**2))
