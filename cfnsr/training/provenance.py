"""What determines a result, and what merely accompanies it."""

import datetime
import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfnsr.training import source_code

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "librosa", "av", "cfnsr")


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a number."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def device(chosen: "torch.device") -> dict[str, Any]:
    """The device by name, and on a CPU its threads: sums depend on how they are split."""
    import torch  # not at the top, because hashing a file needs none of it

    if chosen.type == "cuda":
        return {"device": torch.cuda.get_device_name(chosen), "n_threads": None}
    return {"device": chosen.type, "n_threads": torch.get_num_threads()}


def timing(started_s: float, finished_s: float) -> dict[str, Any]:
    """Seconds, date, host and git state: no result depends on them."""
    finished = datetime.datetime.fromtimestamp(finished_s, datetime.UTC)
    return {
        "seconds": round(finished_s - started_s, 2),
        "finished": finished.isoformat(timespec="seconds"),
        "host": platform.node(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def fingerprint(description: dict[str, Any]) -> str:
    """A short name for a training: its description and the code that would run."""
    code = source_code.hashes(description["model"]["class"])
    what = {"description": description, "code": code}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
