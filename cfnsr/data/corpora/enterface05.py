"""eNTERFACE'05: 43 people, 5 sentences for each of 6 emotions (Martin et al., 2006).

`subject 1/anger/sentence 1/s1_an_1.avi`. Sources of the layout: code of albanie/mcnDatasets
(enterface/getEnterfaceImdb.m) and of two others that read person, emotion and sentence from the
folders, because file names are not consistent. Person 6 has one uncut film an emotion, which all
but the first leave out, as is done here. The first counts 1293 films: 6 of person 6, and 3 happy
ones fewer than the grid among people 1 to 30; which ones only the folder can tell. Nor is it
known who the women are, 19 % by the corpus's page, enterface.net/enterface05/emotion.html.
Paper: doi.org/10.1109/ICDEW.2006.145.
"""

import re
from itertools import product
from pathlib import Path, PurePath

from cfnsr import InputError
from cfnsr.data.corpora.base import BASIC_EMOTIONS, Corpus, Take, dealt

_FOLDERS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
_CODES = ("an", "di", "fe", "ha", "sa", "su")
#: Some unpack the spaces as hyphens.
_PATH = re.compile(
    rf"/subject[ -](\d+)/({'|'.join(_FOLDERS)})/(?:sentence[ -](\d)/)?(?:[^/]+/)?[^/]*?(\d)\.\w+"
)
_UNCUT = 6
_PEOPLE = [person for person in range(1, 45) if person != _UNCUT]


def _take(person: int, emotion: int, sentence: int) -> Take:
    clip = f"s{person}_{_CODES[emotion - 1]}_{sentence}"
    return Take(person, emotion, 0, sentence, 1, clip)


def read(path: Path) -> Take:
    """Read the folders of a film: person, emotion and sentence."""
    match = _PATH.search(path.as_posix().lower())
    sentence = int(match[3] or match[4]) if match else 0
    if match is None or int(match[1]) not in _PEOPLE or not 1 <= sentence <= 5:
        raise InputError(
            f"{path.name} is not where eNTERFACE'05 has it: expected a path such as subject 1/"
            "anger/sentence 1/s1_an_1.avi; unpack the distribution anew, or move the file away"
        )
    return _take(int(match[1]), _FOLDERS.index(match[2]) + 1, sentence)


def _path(take: Take) -> PurePath:
    emotion = _FOLDERS[take.emotion_index]
    return PurePath(
        f"subject {take.actor}", emotion, f"sentence {take.statement}", f"{take.clip}.avi"
    )


CORPUS = Corpus(
    name="eNTERFACE'05",
    emotions=BASIC_EMOTIONS,
    groups=dealt(_PEOPLE, 5),
    chance_pct=100 * 215 / 1287,
    takes=tuple(_take(*codes) for codes in product(_PEOPLE, range(1, 7), range(1, 6))),
    pattern="subject 1/anger/sentence 1/s1_an_1.avi",
    suffixes=(".avi",),
    read=read,
    path=_path,
    uses=lambda path: re.search(rf"/subject[ -]{_UNCUT}/", path.as_posix().lower()) is None,
    licence="for scientific research",
    source="enterface.net/enterface05",
)
