"""What a drawn clip shows, and where its random numbers come from."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, Self, get_args

import numpy as np

from cfnsr.data import corpora
from cfnsr.data.corpora import Take
from cfnsr.data.synthetic.faces import Array
from cfnsr.data.synthetic.voices import SPEECH_S
from cfnsr.params import DrawnClips

#: Of a face: brows and eyes, or the mouth.
Part = Literal["upper", "lower"]
PARTS: tuple[Part, ...] = get_args(Part)

#: Steps of the R_d sequence by d, 1/g to 1/g^d with g^(d+1) = g + 1: its points fill the cube
#: evenly. Written out, since another processor's powers may end in other digits.
_STEPS = {
    2: (0.7548776662466927, 0.5698402909980532),
    5: (
        0.8812714616335696,
        0.7766393890897682,
        0.6844301295853426,
        0.6031687406857282,
        0.5315553977157913,
    ),
}


@dataclass(frozen=True)
class Cue:
    """What a clip shows: emotions by name, and when the voice shows its own.

    `upper` is what brows and eyes show, `lower` what the mouth shows. `points_to` is the part that
    the voice names, in the first half of its stretch if it also shows an emotion, `voice`.

    `strength`, 1 or 2, is the take's intensity. Takes of an emotion that the corpus does not have
    in just these two (RAVDESS's neutral) draw one, so that strength tells nothing about the
    emotion. The face shows its emotions in `faces.CUE_LANDMARKS`.
    """

    upper: str
    lower: str
    voice: str | None
    points_to: Part | None
    strength: int
    voice_start_s: float
    voice_end_s: float

    @classmethod
    def draw_lots(
        cls,
        take: Take,
        clips: DrawnClips,
        upper: str,
        lower: str,
        voice: str | None,
        points_to: Part | None,
    ) -> Self:
        """How strongly a take shows this, and when its voice does: the same in every process."""
        rng = random_numbers(clips, f"cue {take.clip}")
        is_given = _intensities(clips.corpus, take.emotion) == {1, 2}
        strength = take.intensity if is_given else int(rng.integers(1, 3))
        duration_s = rng.uniform(0.9, 1.2)
        start_s = rng.uniform(SPEECH_S[0] + 0.1, SPEECH_S[1] - 0.1 - duration_s)
        return cls(upper, lower, voice, points_to, strength, start_s, start_s + duration_s)


def takes(clips: DrawnClips) -> list[Take]:
    """Every take that is drawn."""
    return [
        take
        for take in corpora.find(clips.corpus).takes
        if take.statement <= clips.n_statements and take.repetition <= clips.n_repetitions
    ]


def takes_of(names: Iterable[str], clips: DrawnClips) -> list[Take]:
    """The takes of drawn clips, by the clips' names."""
    by_clip = {take.clip: take for take in takes(clips)}
    return [by_clip[name] for name in names]


@cache
def _intensities(corpus: str, emotion: int) -> set[int]:
    return {take.intensity for take in corpora.find(corpus).takes if take.emotion == emotion}


def random_numbers(clips: DrawnClips, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose; hashed, because Python's `hash` differs per process."""
    digest = hashlib.sha256(f"{clips.seed} {purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def even_lots(clips: DrawnClips, emotion: int, n_lots: int) -> dict[Take, Array]:
    """Uniform numbers that decide what the takes of an emotion show, (n_lots,) by take.

    They come from a randomly shifted R_d sequence along the actors. One take's numbers are exactly
    uniform on the cube, so a closed form holds in expectation, and shares come out far closer to
    it than with independent draws. An actor's takes are shuffled first, lest they depend on
    intensity.
    """
    rng = random_numbers(clips, f"emotion {emotion}")
    group = [take for take in takes(clips) if take.emotion == emotion]
    shuffled = dict(zip(group, rng.random(len(group)), strict=True))
    group.sort(key=lambda take: (take.actor, shuffled[take]))
    steps = np.outer(np.arange(len(group)), _STEPS[n_lots])
    return dict(zip(group, (rng.random(n_lots) + steps) % 1, strict=True))
