"""SIGKILL at random moments: what goes on ends with the bytes of an undisturbed run."""

import os
import random
import shutil
import signal
import sys
import time
from threading import Event, Thread

import dask
import pytest
from conftest import SMALL
from harness import LEFT_S, Command, files_under
from test_pipeline import change, clone, run  # noqa: F401  `clone` is a fixture
from test_train import settings

from cfnsr import cluster
from cfnsr.params import Schedule
from cfnsr.training import grid

pytestmark = pytest.mark.slow
N_TRAININGS, N_PREPROCESSINGS, N_WORKERS, N_REPRODUCTIONS = 20, 20, 10, 5
#: Of the workers: at their own pace they would save no state of so short a training.
SAVES = "from cfnsr.training import train; train.SAVE_EVERY_S = 0"

TRAIN = """
import sys
from pathlib import Path
from cfnsr.params import Params
from cfnsr.training import grid
params = Params.model_validate_json(sys.argv[2])
grid.train_group("systems", [1], params, Path(sys.argv[1]))
"""
PREPROCESS = """
import sys
from pathlib import Path
from cfnsr.data import preprocess, sources
from cfnsr.params import Params, Preprocess
root, folder = map(Path, sys.argv[1:3])
control = Params(data="synthetic")
preprocess.preprocess(
    sources.manifest(root, control), root, folder / "arrays", control,
    Preprocess.model_validate_json(sys.argv[3]), folder / "scratch",
)
"""


@pytest.fixture
def repository(random_arrays, tmp_path):
    shutil.copytree(random_arrays, tmp_path / "project/build/synthetic/arrays")
    return tmp_path / "project"


def timed(command, under_way):
    """Let a command end; how long it was under way, in seconds."""
    command.wait_for(under_way)
    started = time.monotonic()
    assert command.has_ended(600)
    assert command.process.returncode == 0, command.printed
    return time.monotonic() - started


def kill_often(n_kills, start, under_way, results, counts, kind):
    """Start a command and kill it at random, until that was done so often; let it end in between.

    Args:
        under_way: what the command prints when it begins to work.
        results: a function that gives the content of the files that it leaves, and one that
            removes all that it has made.
    """
    contents, clear = results
    length_s = timed(start(), under_way)
    undisturbed = contents()
    assert undisturbed
    clear()
    rng = random.Random(kind)
    n_left, is_there, is_whole = n_kills, False, True
    while n_left or not is_there:
        command = start()
        command.wait_for(under_way)
        started = time.monotonic()
        if not command.has_ended(rng.uniform(0, length_s) if n_left else 600):
            n_left, is_there, is_whole = n_left - 1, False, False
            counts.add("SIGKILL", kind, "kills")
            for limit_s, n in zip(LEFT_S, command.left(), strict=True):
                counts.add("SIGKILL", kind, f"processes left after {limit_s} s", n)
            continue
        assert command.process.returncode == 0, command.printed
        counts.add("SIGKILL", kind, "ends")
        counts.add("SIGKILL", kind, "ends with other bytes", contents() != undisturbed)
        assert contents() == undisturbed
        if is_whole:  # nothing was done before; the first may have been slowed down
            length_s = min(length_s, time.monotonic() - started)
        is_there = is_whole = True
        if n_left:
            clear()


def test_killed_trainings(repository, counts):
    schedules = {name: Schedule(n_epochs=8, batch_size=32) for name in ("video", "audio", "fusion")}
    params = settings(**schedules).model_copy(update={"row": "mmtm"})
    saving = {"DASK_DISTRIBUTED__WORKER__PRELOAD": SAVES}
    arguments = (sys.executable, "-c", TRAIN, repository, params.model_dump_json())

    def clear():
        shutil.rmtree(repository / "runs")
        shutil.rmtree(repository / "build/scratch")

    kill_often(
        N_TRAININGS,
        lambda: Command(*arguments, **saving),
        "runs to train",
        (lambda: files_under(repository / "runs"), clear),
        counts,
        "training",
    )


def test_killed_preprocessings(sixty_clips, tmp_path, counts):
    arguments = (sys.executable, "-c", PREPROCESS, sixty_clips, tmp_path, SMALL.model_dump_json())
    kill_often(
        N_PREPROCESSINGS,
        lambda: Command(*arguments),
        "clip/s",
        (
            lambda: files_under(tmp_path / "arrays"),
            lambda: [shutil.rmtree(tmp_path / name) for name in ("arrays", "scratch")],
        ),
        counts,
        "preprocessing",
    )


def test_killed_workers(repository, tmp_path, counts, monkeypatch):
    """Two a training: Dask gives up a task whose workers die four times."""
    params = settings(audio=Schedule(n_epochs=60, batch_size=32))
    params = params.model_copy(update={"row": "audio"})
    rng = random.Random("workers")

    def kill_twice(client, length_s, has_ended, killed):
        while len(killed) < 2 and not has_ended.is_set():
            busy = [name for name, tasks in client.processing().items() if tasks]
            # One that has just died may still be said to be busy.
            pids = client.run(os.getpid, workers=busy[:1], on_error="ignore") if busy else {}
            if pids:
                time.sleep(rng.uniform(0, length_s / 2))
                os.kill(pids[busy[0]], signal.SIGKILL)
                killed.append(busy[0])
            time.sleep(0.02)

    with (
        dask.config.set({"distributed.worker.preload": [SAVES]}),
        cluster.local_cluster(True, gpus=[], n_workers=2) as workers,
        workers.get_client() as client,
    ):
        monkeypatch.setenv(cluster.ADDRESS, workers.scheduler_address)

        def trained(name):
            shutil.copytree(repository / "build", tmp_path / name / "build")
            grid.train_group("systems", [1], params, tmp_path / name)
            return files_under(tmp_path / name / "runs")

        started = time.monotonic()
        undisturbed = trained("undisturbed")
        length_s = time.monotonic() - started
        n_killed = 0
        while n_killed < N_WORKERS:
            has_ended, killed = Event(), []
            killer = Thread(target=kill_twice, args=(client, length_s, has_ended, killed))
            killer.start()
            found = trained(f"after_{n_killed}")
            has_ended.set()
            killer.join()
            shutil.rmtree(tmp_path / f"after_{n_killed}")
            n_killed += len(killed)
            counts.add("SIGKILL", "a Dask worker", "kills", len(killed))
            counts.add("SIGKILL", "a Dask worker", "ends")
            counts.add("SIGKILL", "a Dask worker", "ends with other bytes", found != undisturbed)
            assert found == undisturbed


def test_killed_reproductions(clone, counts):  # noqa: F811
    change(clone, row="audio", fold=2)

    def clear():
        for name in ("runs", "build", "data/synthetic", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(clone / name, ignore_errors=True)
        run(clone, "git", "checkout", "--", "dvc.lock")

    kill_often(
        N_REPRODUCTIONS,
        lambda: Command("dvc", "repro", "train@2", cwd=clone),
        "",
        (lambda: {**files_under(clone / "runs"), "lock": (clone / "dvc.lock").read_bytes()}, clear),
        counts,
        "dvc repro",
    )
