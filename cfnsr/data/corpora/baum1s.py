"""BAUM-1s: 31 people, spontaneous, of which the six basic emotions (Zhalehpour et al., 2017).

`BAUM1s_MP4 - All/s001/S001_001.mp4`; what a film shows stands in Annotations_BAUM1s.xlsx, one line
a film with its name and its emotion in words. Sources: two independent readers of the films and
of that table, which they save as csv (`classify_BAUM1S` by column, another by its text); it is not
documented, so cells are told by what they hold.
Films of the other seven states (boredom, contempt, neutral, unsure, ...) are passed over, as Zhang
et al. (2017) do. How the table says the sexes is not known.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePath

from cfnsr import InputError
from cfnsr.data.corpora.base import BASIC_EMOTIONS, Corpus, Take, dealt

TABLE = "Annotations_BAUM1s.csv"
_WORDS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
_OTHERS = ("boredom", "bothered", "concentrating", "contempt", "neutral", "thinking", "unsure")
_NAME = re.compile(r"S(0[0-3]\d)_\d\d\d")
_PEOPLE = range(1, 32)


def _label(path: Path) -> str | None:
    """The table's word for a film; None where it has none."""
    table = next((each / TABLE for each in path.parents if (each / TABLE).is_file()), None)
    if table is None:
        raise InputError(
            "BAUM-1s's emotions are not beside its films: save Annotations_BAUM1s.xlsx as "
            f"{TABLE} in the folder that root: names"
        )
    return _labels(table, table.stat().st_mtime_ns).get(path.stem.upper())


@lru_cache(maxsize=2)
def _labels(table: Path, changed_ns: int) -> dict[str, str]:
    found = {}
    for line in table.read_text("utf-8-sig").splitlines():
        cells = [cell.strip(' "') for cell in re.split("[,;\t]", line)]
        name = next((cell.upper() for cell in cells if _NAME.fullmatch(cell.upper())), None)
        known = (*_WORDS, *_OTHERS)
        words = [word for cell in cells for word in known if cell[:3].lower() == word[:3]]
        if name and words:
            found[name] = words[0]
    return found


def read(path: Path) -> Take:
    """Read a name such as `S001_001`, person and film, and look its emotion up."""
    match, label = _NAME.fullmatch(path.stem.upper()), _label(path)
    if match is None or int(match[1]) not in _PEOPLE or label not in _WORDS:
        raise InputError(
            f"{path.stem!r} is not a film of BAUM-1s, or {TABLE} has no emotion for it; compare "
            "the two, or move the file away"
        )
    return Take(int(match[1]), _WORDS.index(label) + 1, 0, 1, 1, match[0])


def _table(takes: Iterable[Take]) -> dict[str, str]:
    return {TABLE: "".join(f"{take.clip},{_WORDS[take.emotion_index]}\n" for take in takes)}


CORPUS = Corpus(
    name="BAUM-1s",
    emotions=BASIC_EMOTIONS,
    groups=dealt(_PEOPLE, 5),
    chance_pct=float("nan"),
    takes=tuple(Take(p, e, 0, 1, 1, f"S{p:03d}_{e:03d}") for p in _PEOPLE for e in range(1, 7)),
    takes_are_known=False,
    pattern=f"BAUM1s_MP4 - All/s001/S001_001.mp4 and {TABLE}",
    read=read,
    path=lambda take: PurePath("BAUM1s_MP4 - All", f"s{take.actor:03d}", f"{take.clip}.mp4"),
    uses=lambda path: _label(path) not in _OTHERS,
    tables=_table,
    licence="ask its authors",
    source="its authors, doi.org/10.1109/TAFFC.2016.2553038",
)
