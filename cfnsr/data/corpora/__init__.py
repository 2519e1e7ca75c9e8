"""What is known of each corpus: file names, emotions, people and folds. One file each."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from cfnsr import InputError
from cfnsr.data.corpora.base import Corpus as Corpus
from cfnsr.data.corpora.base import Protocol as Protocol
from cfnsr.data.corpora.base import Split as Split
from cfnsr.data.corpora.base import Take as Take
from cfnsr.data.corpora.base import most_frequent_pct as most_frequent_pct

#: By the names of the modules beside this one.
CORPORA: dict[str, Corpus] = {
    module.name: import_module(f"{__name__}.{module.name}").CORPUS
    for module in iter_modules(__path__)
    if module.name != "base"
}
#: The paper's, of which records say nothing: git keeps some that are older than the others.
DEFAULT = "ravdess"


def find(name: str = DEFAULT) -> Corpus:
    """The corpus of that name.

    Raises:
        InputError: there is none; the message lists all.
    """
    if name not in CORPORA:
        raise InputError(f"corpus: expected one of {', '.join(CORPORA)}, found {name}")
    return CORPORA[name]


def of(record: Mapping[str, Any]) -> Corpus:
    """The corpus of what run.json, settings.json or runs.csv records."""
    return find(record.get("corpus", DEFAULT))


def recorded(name: str) -> dict[str, str]:
    """What these files record of a corpus, see `of`."""
    return {} if name == DEFAULT else {"corpus": name}
