"""What determines a result, and what merely accompanies it."""

import ast
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "librosa", "av", "cfnsr")


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a number."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def device() -> dict[str, Any]:
    """The device by name; of a CPU its threads and the instructions that torch uses.

    Sums depend on how they are split.
    """
    import torch  # not at the top, because most of this module needs none of it

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "n_threads": None, "capability": None}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"device": "cpu", "n_threads": 1, "capability": capability}


def timing(started: datetime) -> dict[str, Any]:
    """Seconds, date, host and git state: no result depends on them."""
    finished = datetime.now(UTC)
    return {
        "seconds": round((finished - started).total_seconds(), 2),
        "finished": finished.isoformat(timespec="seconds"),
        "host": platform.node(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def sha256(description: Mapping[str, Any]) -> str:
    """Of what can be written as JSON, such as all that determines a training."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def code_sha256(model: str) -> str:
    """Of all files that a training runs.

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
    return sha256(found)


def _imports(source: bytes) -> list[str]:
    return [
        node.module.removeprefix("cfnsr.").replace(".", "/")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.startswith(_BELOW_MODELS)
    ]


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
