"""The pipeline on the control: from nothing, once more, and one fold.

    python benchmarks/pipeline.py [--set row=cfn_sr ...]

In a temporary clone of this repository's last commit, without its DVC cache: `dvc repro`, then the
same again, which should run nothing, then `dvc exp run -S fold=4`. Seconds of a stage are from its
"Running stage" to the next one's, as DVC prints them. What a training stage takes beyond the
training itself (`timing.json` of its run) is its start-up, DVC's own work included.

From nothing it takes about ten minutes on two cores; `--set row=audio` makes it shorter.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import report

REPOSITORY = Path(__file__).parents[1]
_RUNNING = re.compile(r"Running stage '([^']+)'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", nargs="*", default=[], help="as of `dvc exp run -S`")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    packages = ("dvc", "papermill", "torch")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        run(
            ["git", "clone", "--quiet", str(arguments.repository.resolve()), str(clone)], REPOSITORY
        )
        settings = [word for change in arguments.set for word in ("-S", change)]
        commands = {
            "from nothing": ["dvc", "exp", "run", *settings] if settings else ["dvc", "repro"],
            "once more": ["dvc", "repro"],
            "fold=4": ["dvc", "exp", "run", "-S", "fold=4"],
        }
        rows, stages, trained = [], [], {}
        for name, command in commands.items():
            idle_pct = report.idle_pct()
            total_s, of_stage = timed_stages(command, clone)
            rows.append(
                {
                    "case": name,
                    "command": " ".join(command),
                    "seconds": round(total_s, 1),
                    "n_stages_run": len(of_stage),
                    "idle_before_pct": idle_pct,
                }
            )
            stages += [{"case": name, "stage": stage, "seconds": s} for stage, s in of_stage]
            # After the first command: what DVC checks out later has no timing.json.
            trained = trained or training_seconds(clone)
    report.write("pipeline", rows, packages, arguments.output)
    report.write("pipeline_stages", by_kind(stages, trained), packages, arguments.output)


def run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)


def timed_stages(command: list[str], folder: Path) -> tuple[float, list[tuple[str, float]]]:
    """Seconds of a DVC command, and of each stage that it ran."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append((time.perf_counter() - started, line))
    if process.wait():
        sys.exit(f"{' '.join(command)} failed:\n" + "".join(line for _, line in lines[-40:]))
    total_s = time.perf_counter() - started
    return total_s, stage_seconds(lines, total_s)


def stage_seconds(lines: Iterable[tuple[float, str]], total_s: float) -> list[tuple[str, float]]:
    """From what DVC printed when: each stage that was run, and until when the next one was."""
    starts = [(at, found.group(1)) for at, line in lines if (found := _RUNNING.search(line))]
    ends = [*(at for at, _ in starts), total_s][1:]
    return [(stage, end - at) for (at, stage), end in zip(starts, ends, strict=True)]


def training_seconds(clone: Path) -> dict[str, float]:
    """Seconds of training, all seeds, by the stage that did it."""
    seconds: dict[str, float] = {}
    for path in sorted(clone.glob("runs/synthetic/*/*/fold_*/seed_*/timing.json")):
        row, fold = path.parts[-4], path.parts[-3].removeprefix("fold_")
        name = f"{row}-{fold}"
        seconds[name] = seconds.get(name, 0.0) + json.loads(path.read_text())["seconds"]
    return seconds


def by_kind(stages: list[dict[str, Any]], trained: dict[str, float]) -> list[dict[str, Any]]:
    """One line a kind of stage (`fusion@cfn_sr`, all folds) of the first command."""
    if not stages:
        return []
    table = pd.DataFrame(stages)
    table = table[table["case"] == table["case"].iloc[0]]
    table["training_s"] = table["stage"].str.partition("@")[2].map(trained)
    table["start_up_s"] = table["seconds"] - table["training_s"]
    table["kind"] = table["stage"].str.replace(r"-\d+$", "", regex=True)
    kinds = table.groupby("kind", sort=False).agg(
        n=("stage", "size"),
        seconds=("seconds", "sum"),
        training_s=("training_s", "sum"),
        n_trained=("training_s", "count"),
        start_up_s_median=("start_up_s", "median"),
        start_up_s_max=("start_up_s", "max"),
    )
    share = 100 * kinds["seconds"] / kinds["seconds"].sum()
    kinds.insert(2, "share_pct", share)
    return kinds.round(2).reset_index().to_dict("records")


if __name__ == "__main__":
    main()
