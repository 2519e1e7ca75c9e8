"""RAVDESS: file names, emotions, actors and folds (doi.org/10.1371/journal.pone.0196391)."""

import re
from itertools import product
from pathlib import Path, PurePath

from cfnsr import InputError
from cfnsr.data.corpora.base import Corpus, Take

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
N_ACTORS = 24

AUDIO_VIDEO, AUDIO_ONLY = 1, 3
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
_SPEECH = 1


def take(actor: int, emotion: int, intensity: int, statement: int, repetition: int) -> Take:
    """A take, whose clip is called `emotion-…-actor`, 5 fields of a file name."""
    codes = (emotion, intensity, statement, repetition, actor)
    clip = "-".join(f"{code:02d}" for code in codes)
    return Take(actor, emotion, intensity, statement, repetition, clip)


def stem(take: Take, modality: int = AUDIO_VIDEO) -> str:
    """The name of a take's file without its suffix."""
    return f"{modality:02d}-{_SPEECH:02d}-{take.clip}"


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
        "statement": (statement, 2),
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
    return take(actor, emotion, intensity, statement, repetition)


def _is_used(path: Path) -> bool:
    """The video archives also hold 02- files, without sound. What is no take is told later."""
    modality = AUDIO_ONLY if path.suffix.lower() == ".wav" else AUDIO_VIDEO
    try:
        return path.stem == stem(parse_name(path.stem), modality)
    except InputError:
        return True


CORPUS = Corpus(
    name="RAVDESS",
    emotions=EMOTIONS,
    # Four consecutive actors, two of them women (section 3.2).
    groups=tuple(tuple(range(first, first + 4)) for first in range(1, N_ACTORS, 4)),
    n_paper_folds=5,  # the paper never tests actors 21 to 24
    women=frozenset(range(2, N_ACTORS + 1, 2)),
    # Each emotion has two of an actor's fifteen kinds of takes, but neutral one.
    chance_pct=100 * 2 / 15,
    takes=tuple(
        take(*codes)
        for codes in product(
            range(1, N_ACTORS + 1), range(1, len(EMOTIONS) + 1), (1, 2), (1, 2), (1, 2)
        )
        if codes[1:3] != (1, 2)  # neutral has one intensity
    ),
    pattern="Actor_*/01-*.mp4",
    voices="Actor_*/03-*.wav",
    folders="actor_*",
    read=lambda path: parse_name(path.stem),
    path=lambda take: PurePath(f"Actor_{take.actor:02d}", f"{stem(take)}.mp4"),
    uses=_is_used,
    landmarks_name=stem,
    has_landmarks=True,
    licence="CC BY-NC-SA 4.0",
    source="zenodo.org/records/1188976",
)
N_FOLDS = len(CORPUS.groups)
#: 240 of the 1440.
CLIPS_PER_FOLD = len(CORPUS.takes) // N_FOLDS
