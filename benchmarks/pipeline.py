"""The pipeline on the control: from nothing, once more, and one fold.

    python benchmarks/pipeline.py [--workers 1 2] [--set row=cfn_sr ...]

For each number of Dask workers, in a temporary clone of this repository's last commit without its
DVC cache: what `make repro` runs, the same again, which should run nothing, `dvc exp run -S fold=4`
after it, which should train nothing, and in another clone one row on one fold. Seconds of a stage
are from its "Running stage" to the next one's, as DVC prints them.
"""

import argparse
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
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--set", nargs="*", default=[], help="as of `dvc exp run -S`")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    settings = [word for change in arguments.set for word in ("-S", change)]
    one_row = ["dvc", "exp", "run", "-S", "fold=4", "-S", "row=mmtm"]
    rows: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    for n_workers in arguments.workers:
        cluster = [sys.executable, "-m", "cfnsr", "cluster", "--workers", str(n_workers), "--"]
        everything = ["dvc", "exp", "run", *settings] if settings else ["dvc", "repro"]
        with tempfile.TemporaryDirectory() as folder:
            clones = [Path(folder) / name for name in ("whole", "part")]
            for clone in clones:
                source = str(arguments.repository.resolve())
                run(["git", "clone", "--quiet", source, str(clone)], REPOSITORY)
            for name, clone, command in (
                ("from nothing", clones[0], [*cluster, *everything]),
                ("once more", clones[0], [*cluster, "dvc", "repro"]),
                ("fold=4 after it", clones[0], ["dvc", "exp", "run", "-S", "fold=4"]),
                ("fold=4, row=mmtm", clones[1], [*cluster, *one_row]),
            ):
                idle_pct = report.idle_pct()
                total_s, of_stage = timed_stages(command, clone)
                case = {"n_workers": n_workers, "case": name}
                rows.append(
                    case
                    | {
                        "seconds": round(total_s, 1),
                        "n_stages_run": len(of_stage),
                        "idle_before_pct": idle_pct,
                    }
                )
                stages += [case | {"stage": stage, "seconds": s} for stage, s in of_stage]
    packages = ("dvc", "distributed", "papermill", "torch")
    report.write("pipeline", rows, packages, arguments.output)
    report.write("pipeline_stages", by_kind(stages), packages, arguments.output)


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


def by_kind(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per kind of stage (all folds of `train`) and number of workers, from nothing."""
    if not stages:
        return []
    table = pd.DataFrame(stages)
    table = table[table["case"] == "from nothing"]
    table["kind"] = table["stage"].str.replace(r"@.*", "", regex=True)
    kinds = table.groupby(["n_workers", "kind"], sort=False).agg(
        n=("stage", "size"), seconds=("seconds", "sum")
    )
    return kinds.round(1).reset_index().to_dict("records")


if __name__ == "__main__":
    main()
