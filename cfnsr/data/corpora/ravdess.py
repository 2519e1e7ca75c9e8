"""RAVDESS file names, emotions, actors and folds (Livingstone & Russo, 2018)."""

import re
from dataclasses import dataclass
from itertools import product
from typing import Literal

from cfnsr.errors import InputError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
N_ACTORS = 24
ACTORS_PER_FOLD = 4
N_FOLDS = N_ACTORS // ACTORS_PER_FOLD

Protocol = Literal["paper", "nested"]
#: The paper's five folds never test actors 21 to 24; `nested` tests every actor once.
PROTOCOL_FOLDS: dict[Protocol, tuple[int, ...]] = {
    "paper": (1, 2, 3, 4, 5),
    "nested": (1, 2, 3, 4, 5, 6),
}

AUDIO_VIDEO, AUDIO_ONLY = 1, 3
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
_SPEECH = 1


@dataclass(frozen=True, order=True)
class Take:
    """One utterance, as the seven two-digit fields of a RAVDESS file name describe it.

    `emotion` is RAVDESS's code, 1 to 8; `emotion_index` the class index, 0 to 7. Odd actors are
    men, even actors women.
    """

    actor: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    modality: int = AUDIO_VIDEO

    @property
    def clip(self) -> str:
        """The name that the take has whatever its modality: `emotion-…-actor`, 5 fields."""
        codes = (self.emotion, self.intensity, self.statement, self.repetition, self.actor)
        return "-".join(f"{code:02d}" for code in codes)

    @property
    def emotion_index(self) -> int:
        return self.emotion - 1

    def stem(self, modality: int | None = None) -> str:
        """The file name without its suffix, for this or another modality."""
        return f"{modality or self.modality:02d}-{_SPEECH:02d}-{self.clip}"


def parse_name(stem: str) -> Take:
    """Read a file name such as `01-01-06-01-02-01-12` (without suffix).

    Raises:
        InputError: the name does not have seven two-digit fields, or a field is out of range.

    >>> parse_name("01-01-06-01-02-01-12").emotion_index
    5
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        raise InputError(
            f"{stem!r} is not a RAVDESS name: expected seven two-digit fields such as "
            "01-01-06-01-02-01-12; rename the file or move it out of the actor folders"
        )
    modality, channel, emotion, intensity, statement, repetition, actor = map(int, match.groups())
    ranges = {
        "modality": (modality, 3),
        "vocal channel": (channel, 2),
        "emotion": (emotion, len(EMOTIONS)),
        "intensity": (intensity, 2),
        "statement": (statement, len(STATEMENTS)),
        "repetition": (repetition, 2),
        "actor": (actor, N_ACTORS),
    }
    for field, (value, largest) in ranges.items():
        if not 1 <= value <= largest:
            raise InputError(f"{stem!r}: {field} is {value:02d}, expected 01 to {largest:02d}")
    if channel != _SPEECH:
        raise InputError(
            f"{stem!r} is a song (vocal channel 02); this project uses the speech archives, "
            "so move the song files out of the actor folders"
        )
    if emotion == 1 and intensity == 2:
        raise InputError(f"{stem!r}: RAVDESS has no neutral take of strong intensity")
    return Take(actor, emotion, intensity, statement, repetition, modality)


def speech_takes(n_statements: int = 2, n_repetitions: int = 2) -> list[Take]:
    """Every speech take, by actor: 15 emotions and intensities times statements, repetitions.

    Neutral has one intensity.
    """
    return [
        Take(actor, emotion, intensity, statement, repetition)
        for actor, emotion, intensity, statement, repetition in product(
            range(1, N_ACTORS + 1),
            range(1, len(EMOTIONS) + 1),
            (1, 2),
            range(1, n_statements + 1),
            range(1, n_repetitions + 1),
        )
        if (emotion, intensity) != (1, 2)
    ]


#: 240 of the 1440.
CLIPS_PER_FOLD = len(speech_takes()) // N_FOLDS


@dataclass(frozen=True)
class Split:
    """The actors that train, choose the epoch and test in one fold; `validation` may be empty."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def actors_of_fold(fold: int) -> tuple[int, ...]:
    """The four consecutive actors that fold `fold` (from 1) tests: 4k-3 to 4k (section 3.2)."""
    if not 1 <= fold <= N_FOLDS:
        raise InputError(f"fold is {fold}, expected 1 to {N_FOLDS}")
    first = ACTORS_PER_FOLD * (fold - 1) + 1
    return tuple(range(first, first + ACTORS_PER_FOLD))


def split_actors(fold: int, protocol: Protocol) -> Split:
    """Who trains, who chooses the epoch, who is tested.

    `paper` trains on all 20 other actors. `nested` sets the four actors after the test actors
    (cyclically; two men, two women) aside to choose the epoch.

    Raises:
        InputError: the protocol does not have that fold.
    """
    folds = PROTOCOL_FOLDS[protocol]
    if fold not in folds:
        raise InputError(
            f"fold is {fold}, but protocol {protocol} has folds {folds[0]} to {folds[-1]}"
        )
    test = actors_of_fold(fold)
    validation = actors_of_fold(fold % N_FOLDS + 1) if protocol == "nested" else ()
    held_out = {*test, *validation}
    training = tuple(actor for actor in range(1, N_ACTORS + 1) if actor not in held_out)
    return Split(training, validation, test)
