"""RML emotion database: 8 people, 6 emotions, 720 films in six languages (Wang & Guan, 2008).

`s1/an1.avi`, or a folder per language between the two where a person speaks several. Sources: the
page of the corpus (rml.ryerson.ca/rml-emotion-database.html) for people, emotions and number of
films; code of albanie/mcnDatasets (rml/getRmlImdb.m), which finds 120 films an emotion, and the
notes of another project (Canziyos/Mood_Detection) for folders and names. How the films are spread
over people and languages, and who are women, could not be established: only the folder can tell.
Paper: doi.org/10.1109/TMM.2008.927665.
"""

import re
from itertools import product
from pathlib import Path, PurePath

from cfnsr import InputError
from cfnsr.data.corpora.base import BASIC_EMOTIONS, Corpus, Take

_CODES = ("an", "di", "fe", "ha", "sa", "su")
_PATH = re.compile(rf"/s([1-8])/(?:([^/]+)/)?({'|'.join(_CODES)})(\d+)\.\w+")


def _take(person: int, emotion: int, number: int, language: str | None = None) -> Take:
    parts = (f"s{person}", language, f"{_CODES[emotion - 1]}{number}")
    return Take(person, emotion, 0, number, 1, "_".join(filter(None, parts)))


def read(path: Path) -> Take:
    """Read a film's folders and name: person, language if there is one, emotion, number."""
    match = _PATH.search(path.as_posix().lower())
    if match is None:
        raise InputError(
            f"{path.parent.name}/{path.name} is not an RML name: expected one such as s1/an1.avi "
            "or s1/english/an1.avi; rename the file or move it away"
        )
    return _take(int(match[1]), _CODES.index(match[3]) + 1, int(match[4]), match[2])


CORPUS = Corpus(
    name="RML",
    emotions=BASIC_EMOTIONS,
    groups=tuple((person,) for person in range(1, 9)),
    chance_pct=100 * 120 / 720,
    takes=tuple(_take(*codes) for codes in product(range(1, 9), range(1, 7), range(1, 16))),
    takes_are_known=False,
    pattern="s1/an1.avi",
    suffixes=(".avi",),
    read=read,
    path=lambda take: PurePath(f"s{take.actor}", f"{take.clip.split('_')[-1]}.avi"),
    licence="free of charge for research, not for commercial use; a signed agreement is asked for",
    source="rml.ryerson.ca/rml-emotion-database.html",
)
