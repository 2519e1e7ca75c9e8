"""What the benchmarks share: the machine, interleaved timing, and a table that is also a csv."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, cores that may be used, memory, and the GPU if there is one."""
    cpu = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    total_kib = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    parts = [cpu.group(1) if cpu else platform.processor()]
    parts.append(f"{len(os.sched_getaffinity(0))} cores")
    if total_kib:
        parts.append(f"{int(total_kib.group(1)) / 2**20:.0f} GiB")
    if Path("/dev/nvidiactl").exists():
        import torch

        parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(parts)


def versions(*packages: str) -> str:
    """Of Python and of the packages that matter for one benchmark."""
    return ", ".join([f"python {platform.python_version()}", *map(_package, packages)])


def idle_pct(seconds: float = 2.0) -> float:
    """The share of the processors that nobody uses: near 100 where nothing else runs."""

    def ticks() -> tuple[int, int]:
        found = [int(word) for word in _read("/proc/stat").partition("\n")[0].split()[1:]]
        return sum(found[3:5]), sum(found)

    before = ticks()
    time.sleep(seconds)
    idle, everything = (after - first for after, first in zip(ticks(), before, strict=True))
    return round(100 * idle / everything, 1) if everything else float("nan")  # not counted here


def interleaved(
    cases: Mapping[str, Callable[[], Any]], n_repetitions: int, n_warm_up: int = 0
) -> dict[str, list[float]]:
    """Seconds of each call of each case, taken in turn, so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(-n_warm_up, n_repetitions):
        for name, call in cases.items():
            started = time.perf_counter()
            call()
            if repetition >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest; not rounded, so that ratios may be taken of them."""
    chosen = (statistics.median(values), min(values), max(values))
    return dict(zip(("median", "min", "max"), chosen, strict=True))


def write(name: str, rows: list[dict[str, Any]], packages: tuple[str, ...], output: Path) -> None:
    """Print rows as a table and keep them as `<output>/<name>.csv`, with the machine."""
    table = pd.DataFrame(rows)
    about = {"machine": machine(), "versions": versions(*packages)}
    print(f"\n{name}: {about['machine']}; {about['versions']}")
    print(table.to_string(index=False, na_rep="-"), flush=True)
    output.mkdir(parents=True, exist_ok=True)
    table.assign(**about).to_csv(output / f"{name}.csv", index=False, lineterminator="\n")


def _package(name: str) -> str:
    return f"{name} {version(name)}"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
