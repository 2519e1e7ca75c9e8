"""Preprocessing against bare decoding and the release's, on real mp4 clips.

    python benchmarks/preprocess.py ROOT [--reference DIR]

ROOT holds Actor_XX/*.mp4 and landmarks/*.csv, as the official archives unpack.
Each case is a process of its own, and the cases take turns. `seconds` is what the work takes once
its modules are imported, as in a notebook, the start of worker processes included;
`command_s` is from the command to its end.

* `cfnsr`: `cfnsr.data.preprocess.preprocess` with a process a core, hashes of the files excluded;
* `decode`: as many processes, spawned, decode every frame of the same files with PyAV and drop it;
* `release`: what DIR/dataset_prep.py does, in its one process. It needs moviepy 1, which this
  project does not: `uv pip install --target PACKAGES --no-deps 'moviepy<2' imageio imageio-ffmpeg
  proglog 'decorator<5'`, and PYTHONPATH=PACKAGES. Nothing in it is changed.

More clips than there are are hard links to the same files under other RAVDESS names. The landmark
files get the 714 columns of the official ones, because the release counts columns.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

N_COLUMNS, X_COLUMN, Y_COLUMN = 714, 297, 365  # of OpenFace's csv
POLL_S = 0.05
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Run(NamedTuple):
    """Seconds of the work and of the command; the most that its processes held together."""

    seconds: float
    command_s: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--reference", type=Path, help="a checkout of the release")
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 80, 800])
    parser.add_argument("--repetitions", type=int, default=3, help="of each case")
    parser.add_argument("--once-from", type=int, default=800, help="so many clips are taken once")
    parser.add_argument("--release-up-to", type=int, default=80, help="clips; it takes a minute")
    parser.add_argument("--output", type=Path, help="instead of benchmarks/results")
    parser.add_argument("--scratch", type=Path, help="where to put GBs of arrays; not in memory")
    parser.add_argument("--case", choices=sorted(CASES), help="run one case on ROOT")
    arguments = parser.parse_args()
    if arguments.case:
        seconds = CASES[arguments.case](arguments.root, arguments.reference)
        (arguments.root.parent / "seconds").write_text(str(seconds))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    import pandas as pd
    import report

    if arguments.reference is None:
        print("release: skipped, no --reference given")
    rows = []
    for n_clips in arguments.clips:
        cases = ["cfnsr", "decode"]
        if arguments.reference and n_clips <= arguments.release_up_to:
            cases.append("release")
        idle_pct = report.idle_pct()
        n_runs = arguments.repetitions if n_clips < arguments.once_from else 1
        runs: dict[str, list[Run]] = {case: [] for case in cases}
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            root = Path(folder) / "clips"
            repeat_clips(arguments.root, root, n_clips)
            for _ in range(n_runs):
                for case in cases:
                    runs[case].append(measure(case, root, arguments.reference))
        decoding_s = report.spread([run.seconds for run in runs["decode"]])["median"]
        for case, measured in runs.items():
            seconds = report.spread([run.seconds for run in measured])
            command = report.spread([run.command_s for run in measured])
            rows.append(
                {
                    "case": case,
                    "n_clips": n_clips,
                    "seconds": round(seconds["median"], 3),
                    "min_s": round(seconds["min"], 3),
                    "max_s": round(seconds["max"], 3),
                    "clips_per_s": round(n_clips / seconds["median"], 2),
                    "time_over_decode": round(seconds["median"] / decoding_s, 2),
                    "command_s": round(command["median"], 3),
                    "peak_rss_mib": round(max(run.peak_mib for run in measured)),
                    "n_runs": n_runs,
                    "idle_before_pct": idle_pct,
                }
            )
    packages = ("av", "librosa", "opencv-python-headless")
    report.write("preprocess", rows, packages, arguments.output or report.RESULTS)
    seconds_of = pd.DataFrame(rows).pivot_table(index="n_clips", columns="case", values="seconds")
    if "release" in seconds_of:
        ratios = (seconds_of["release"] / seconds_of["cfnsr"]).dropna().round(2)
        print(f"release / cfnsr: {ratios.to_dict()}")
    if len(seconds_of) > 1:
        per_clip = seconds_of.diff().iloc[1:].div(seconds_of.index.to_series().diff(), axis=0)
        print(f"seconds of each further clip, without the start:\n{per_clip.dropna(how='all')}")


def repeat_clips(source: Path, target: Path, n_clips: int) -> None:
    """`n_clips` clips under names of their own in RAVDESS's layout, as links to few files."""
    media = sorted(source.glob("Actor_*/01-01-*.mp4"))
    if not media:
        sys.exit(f"no clips in {source}: expected Actor_XX/01-01-*.mp4")
    (target / "landmarks").mkdir(parents=True)
    copies = []
    for i, path in enumerate(media):
        copies.append((target / f"{i}.mp4", target / f"{i}.csv"))
        shutil.copyfile(path, copies[i][0])
        write_official(source / "landmarks" / f"{path.stem}.csv", copies[i][1])
    codes = product(range(1, 25), range(1, 3), range(1, 3), range(1, 9))  # slowest first
    for i, (actor, statement, repetition, emotion) in enumerate(islice(codes, n_clips)):
        name = f"01-01-{emotion:02d}-01-{statement:02d}-{repetition:02d}-{actor:02d}"
        (target / f"Actor_{actor:02d}").mkdir(exist_ok=True)
        os.link(copies[i % len(media)][0], target / f"Actor_{actor:02d}" / f"{name}.mp4")
        os.link(copies[i % len(media)][1], target / "landmarks" / f"{name}.csv")


def write_official(source: Path, target: Path) -> None:
    """Give a csv of frame, time and points the columns, and so the size, of an official one."""
    head, *lines = [line.split(",") for line in source.read_text().splitlines()]
    frame, x, y = head.index("frame"), head.index("x_0"), head.index("y_0")

    def wide(values: list[str], filler: list[str]) -> str:
        cells = values[frame : frame + 3] + filler[3:]
        cells[X_COLUMN : X_COLUMN + 68] = values[x : x + 68]
        cells[Y_COLUMN : Y_COLUMN + 68] = values[y : y + 68]
        return ",".join(cells)

    names = [f"filler_{i}" for i in range(N_COLUMNS)]
    rows = [wide(head, names), *(wide(line, ["0.000"] * N_COLUMNS) for line in lines)]
    target.write_text("\n".join(rows) + "\n")


def measure(case: str, root: Path, reference: Path | None) -> Run:
    """Run a case as a command of its own."""
    command = [sys.executable, __file__, str(root), "--case", case]
    if reference:
        command += ["--reference", str(reference)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak_mib = [0.0]
    poller = threading.Thread(target=_poll, args=(process, peak_mib))
    poller.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - started
    poller.join()
    if process.returncode:
        sys.exit(f"{case} failed:\n{errors.decode()[-2000:]}")
    return Run(float((root.parent / "seconds").read_text()), seconds, peak_mib[0])


def _poll(process: subprocess.Popen[bytes], peak_mib: list[float]) -> None:
    while process.poll() is None:
        peak_mib[0] = max(peak_mib[0], sum(_rss_mib(pid) for pid in _tree(process.pid)))
        time.sleep(POLL_S)


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for of_thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids += [
                found for child in of_thread.read_text().split() for found in _tree(int(child))
            ]
        except OSError:  # it has just ended
            continue
    return pids


def _rss_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MIB
    except OSError:
        return 0.0


def run_cfnsr(root: Path, reference: Path | None) -> float:
    import pandas as pd

    from cfnsr.data import preprocess
    from cfnsr.params import Params, Preprocess

    media = sorted(str(path.relative_to(root)) for path in root.glob("Actor_*/*.mp4"))
    landmarks = [f"landmarks/{Path(name).stem}.csv" for name in media]
    # The files' names stand for their hashes, which another stage of the pipeline computes.
    manifest = pd.DataFrame(
        {"media": media, "landmarks": landmarks, "media_sha256": media, "landmarks_sha256": media}
    )
    output = root.parent / "arrays"
    scratch = root.parent / "scratch"
    started = time.perf_counter()
    preprocess.preprocess(manifest, root, output, Params(data="ravdess"), Preprocess(), scratch)
    return time.perf_counter() - started


def run_decode(root: Path, reference: Path | None) -> float:
    started = time.perf_counter()
    n_processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        for n_frames in pool.map(decode, sorted(root.glob("Actor_*/*.mp4"))):
            assert n_frames > 0
    return time.perf_counter() - started


def decode(path: Path) -> int:
    """Decode every frame of a file; how many there are."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return sum(1 for _ in container.decode(stream))


def run_release(root: Path, reference: Path | None) -> float:
    assert reference is not None
    shutil.rmtree(root / "preprocessed", ignore_errors=True)
    sys.path.insert(0, str(reference.resolve()))
    import dataset_prep  # the release's

    started = time.perf_counter()
    dataset_prep.preprocess_video(str(root))
    dataset_prep.mfcc_features(str(root))
    return time.perf_counter() - started


CASES = {"cfnsr": run_cfnsr, "decode": run_decode, "release": run_release}

if __name__ == "__main__":
    main()
