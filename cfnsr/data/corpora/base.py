"""What is known of a corpus: its files, emotions, people and folds."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Literal

Protocol = Literal["paper", "nested"]
#: Ekman's six, as several corpora have them.
BASIC_EMOTIONS = ("angry", "disgust", "fearful", "happy", "sad", "surprised")


@dataclass(frozen=True, order=True)
class Take:
    """One utterance, as its file name describes it.

    `emotion` is the place of its emotion in the corpus, from 1; `intensity` 0 where the corpus does
    not say it; `clip` the name that the take has whatever its file is called.
    """

    actor: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    clip: str

    @property
    def emotion_index(self) -> int:
        """The class index, from 0."""
        return self.emotion - 1


@dataclass(frozen=True)
class Split:
    """The actors that train, choose the epoch and test in one fold; `validation` may be empty."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus of films in which people show emotions.

    Attributes:
        name: as it is written in text.
        emotions: their names, in the order of the class indices; those that several corpora have
            are called alike.
        groups: the people of each fold.
        women: as far as it is known who is one.
        chance_pct: what always naming the most frequent emotion gets right; nan where unknown.
        takes: every take, by actor; where the distribution's list is not known
            (`takes_are_known`), as many as there are or fewer, which only `synthetic` draws.
        pattern: how its films lie in a folder, for people; `voices` likewise, where it has sounds
            without a film.
        suffixes: of its films.
        folders: which folders of the root hold them, in lower case; `*` all.
        read: a film's path to its take; raises `InputError` where it says none.
        path: where a take's film lies below the root.
        uses: whether a film or sound is of those that are read; others are passed over in silence.
        landmarks_name: what the table of a take's landmarks is called, without suffix.
        has_landmarks: whether such tables are distributed with it.
        tables: the text files that say more of some takes than their names, by path below the root.
        n_paper_folds: how many of the folds protocol `paper` tests; all unless it says so.
        licence, source: what is allowed, and where to ask for it.
    """

    name: str
    emotions: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    chance_pct: float
    takes: Sequence[Take]
    pattern: str
    read: Callable[[Path], Take]
    path: Callable[[Take], PurePath]
    licence: str
    source: str
    women: frozenset[int] = frozenset()
    voices: str = ""
    suffixes: tuple[str, ...] = (".mp4",)
    folders: str = "*"
    uses: Callable[[Path], bool] = lambda path: True
    landmarks_name: Callable[[Take], str] = attrgetter("clip")
    has_landmarks: bool = False
    takes_are_known: bool = True
    tables: Callable[[Iterable[Take]], Mapping[str, str]] = lambda takes: {}
    n_paper_folds: int | None = None

    @cached_property
    def people(self) -> tuple[int, ...]:
        """Everybody, by number."""
        return tuple(sorted(actor for group in self.groups for actor in group))

    def folds(self, protocol: Protocol) -> tuple[int, ...]:
        """The folds of a protocol, from 1."""
        n_folds = len(self.groups)
        if protocol == "paper" and self.n_paper_folds is not None:
            n_folds = self.n_paper_folds
        return tuple(range(1, n_folds + 1))

    def split(self, fold: int, protocol: Protocol) -> Split:
        """Who trains, who chooses the epoch, who is tested.

        `paper` trains on everybody else. `nested` sets the people of the next fold (cyclically)
        aside to choose the epoch.

        Args:
            fold: one of `folds(protocol)`.
        """
        test = self.groups[fold - 1]
        validation = self.groups[fold % len(self.groups)] if protocol == "nested" else ()
        held_out = {*test, *validation}
        return Split(tuple(a for a in self.people if a not in held_out), validation, test)


def most_frequent_pct(takes: Iterable[Take]) -> float:
    """What always naming the most frequent emotion of some takes gets right."""
    counts = Counter(take.emotion for take in takes)
    return 100 * max(counts.values()) / counts.total()


def dealt(
    people: Iterable[int], n_folds: int, women: Collection[int] = ()
) -> tuple[tuple[int, ...], ...]:
    """People dealt to folds in turn, women first: each fold has as many of them, within one.

    >>> dealt(range(1, 8), 3, women={2, 4})
    ((2, 3, 7), (4, 5), (1, 6))
    """
    order = sorted(people, key=lambda person: (person not in women, person))
    return tuple(tuple(sorted(order[fold::n_folds])) for fold in range(n_folds))
