"""A corpus that is made up: three people, three emotions, `anna/joy.mp4`."""

from itertools import product
from pathlib import PurePath

from cfnsr import InputError
from cfnsr.data.corpora import Corpus, Take

_PEOPLE = ("anna", "bert", "cora")
_EMOTIONS = {"joy": "happy", "grief": "sad", "rage": "angry"}


def _take(person, emotion):
    clip = f"{_PEOPLE[person - 1]}-{list(_EMOTIONS)[emotion - 1]}"
    return Take(person, emotion, 0, 1, 1, clip)


def read(path):
    person, emotion = path.parent.name, path.stem
    if person not in _PEOPLE or emotion not in _EMOTIONS:
        raise InputError(f"{path.name} is no film of this corpus")
    return _take(_PEOPLE.index(person) + 1, list(_EMOTIONS).index(emotion) + 1)


CORPUS = Corpus(
    name="Toy",
    emotions=tuple(_EMOTIONS.values()),
    groups=((1,), (2,), (3,)),
    women=frozenset({1, 3}),
    chance_pct=100 / 3,
    takes=tuple(_take(*codes) for codes in product((1, 2, 3), (1, 2, 3))),
    pattern="anna/joy.mp4",
    read=read,
    path=lambda take: PurePath(*take.clip.split("-")).with_suffix(".mp4"),
    licence="none",
    source="nowhere",
)
