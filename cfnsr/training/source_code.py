"""Which of this package's files a training runs."""

import ast
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
#: What every training runs besides its model.
SHARED = (
    "data/clips",
    "data/corpora/base",
    "training/experiment",
    "training/train",
)
#: Modules beyond `models` whose code a model may run.
_BELOW_MODELS = ("cfnsr.models.", "cfnsr.data.summary", "cfnsr.data.motion")


def hashes(model: str) -> dict[str, str]:
    """The sha256 of each file that a training of `model` runs, by path below the package.

    Args:
        model: as in the registry, such as `cross_modal.CFNSR`.
    """
    found: dict[str, str] = {}
    todo = [*SHARED, f"models/{model.split('.')[0]}"]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        source = (PACKAGE / f"{name}.py").read_bytes()
        found[name] = hashlib.sha256(source).hexdigest()
        if name not in SHARED:
            todo += _imports(source)
    return dict(sorted(found.items()))


def _imports(source: bytes) -> list[str]:
    return [
        node.module.removeprefix("cfnsr.").replace(".", "/")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.startswith(_BELOW_MODELS)
    ]
