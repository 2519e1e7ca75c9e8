"""CREMA-D: 91 actors, 12 sentences, 6 emotions (Cao et al., 2014).

Names, sexes and the 20 takes of the full grid that are not distributed: the files of the
distribution itself, github.com/CheyneyComputerScience/CREMA-D (VideoFlash, SentenceFilenames.csv,
VideoDemographics.csv), which agree with each other. An emotion is the one that the actor was asked
for, not what the crowd saw. Paper: doi.org/10.1109/TAFFC.2014.2336244.
"""

import re
from itertools import product
from pathlib import Path, PurePath

from cfnsr import InputError
from cfnsr.data.corpora.base import Corpus, Take, dealt, most_frequent_pct

_CODES = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
#: Unspecified, low, medium, high; only the first sentence is spoken at all levels.
_LEVELS = ("XX", "LO", "MD", "HI")
_NAME = re.compile(
    rf"(1\d\d\d)_({'|'.join(_SENTENCES)})_({'|'.join(_CODES)})_({'|'.join(_LEVELS)})"
)
_PEOPLE = range(1001, 1092)
#: Of everybody, by number.
_SEXES = (
    "MFFFMFFFFFMFFMMMMFMFFMMFFMMFFFMMMMMMFMMMMMFMMFFMFMMFFFFFMFMFFMFMMMMMMMMFFFFFMFFMMFMFMMMMFMF"
)
_WOMEN = frozenset(actor for actor, sex in zip(_PEOPLE, _SEXES, strict=True) if sex == "F")
_ABSENT = re.compile("1002_TIE_NEU|1008_WSI|1009_MTI|1019_ITH|1076_ITS_NEU")


def read(path: Path) -> Take:
    """Read a name such as `1001_IEO_ANG_HI`: actor, sentence, emotion, level."""
    match = _NAME.fullmatch(path.stem.upper())
    if match is None or int(match[1]) not in _PEOPLE:
        raise InputError(
            f"{path.stem!r} is not a CREMA-D name: expected one such as 1001_IEO_ANG_HI; rename "
            "the file or move it away"
        )
    emotion = list(_CODES).index(match[3]) + 1
    statement = _SENTENCES.index(match[2]) + 1
    return Take(int(match[1]), emotion, _LEVELS.index(match[4]), statement, 1, match[0])


_NAMES = [
    f"{actor}_{sentence}_{emotion}_{level}"
    for actor, emotion, sentence, level in product(_PEOPLE, _CODES, _SENTENCES, _LEVELS)
    if (level != "XX") == (sentence == "IEO" and emotion != "NEU")
]
_TAKES = tuple(read(Path(name)) for name in _NAMES if not _ABSENT.match(name))

CORPUS = Corpus(
    name="CREMA-D",
    emotions=tuple(_CODES.values()),
    groups=dealt(_PEOPLE, 5, _WOMEN),
    women=_WOMEN,
    chance_pct=most_frequent_pct(_TAKES),  # 1271 of 7442
    takes=_TAKES,
    pattern="VideoFlash/1001_*.flv",
    suffixes=(".flv", ".mp4"),
    read=read,
    path=lambda take: PurePath("VideoFlash", f"{take.clip}.flv"),
    licence="Open Database License 1.0",
    source="github.com/CheyneyComputerScience/CREMA-D",
)
