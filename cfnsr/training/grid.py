"""The runs of a fold, as a graph on Dask: encoders first, then what starts from them."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker, as_completed, get_worker
from tqdm import tqdm

from cfnsr import InputError, cluster
from cfnsr.data import files
from cfnsr.data.clips import Clips, load_clips
from cfnsr.models.registry import Group, asked_for, find
from cfnsr.params import Params
from cfnsr.training.experiment import (
    Experiment,
    changed_by,
    is_a_change,
    predecessors,
    starting_weights,
)
from cfnsr.training.runs import Run, read_run, run_folder
from cfnsr.training.train import is_there, train, wanted_info

#: What a worker reports to whoever waits: a run's name and its epoch.
TOPIC = "cfnsr epochs"


@dataclass(frozen=True)
class Task:
    """A row on a fold with a seed, as a worker is told of it.

    `repository` is where the project lies, on a file system that all workers share.
    """

    row: str
    fold: int
    seed: int
    params: Params
    repository: Path

    @property
    def name(self) -> str:
        return f"{self.row}, fold {self.fold}, seed {self.seed}"

    @property
    def runs(self) -> Path:
        return self.repository / "runs" / self.params.data / self.params.protocol

    @property
    def folder(self) -> Path:
        """Where the run is, or will be."""
        return run_folder(self.runs, self.row, self.fold, self.seed)

    @property
    def scratch(self) -> Path:
        """Where the unfinished trainings of its group and fold are kept."""
        of_fold = self.folder.parents[1].relative_to(self.repository / "runs")
        return self.repository / "build" / "scratch" / "train" / of_fold

    @property
    def n_epochs(self) -> int:
        """1 for a row without epochs."""
        schedule = getattr(self.params.source.training, find(self.row).schedule, None)
        return schedule.n_epochs if schedule else 1

    def experiment(self) -> Experiment:
        """With its clips and what it starts from.

        Raises:
            InputError: these are not there.
        """
        weights = starting_weights(self.row, self.fold, self.seed, self.params, self.runs)
        arrays = arrays_folder(self.row, self.params, self.repository)
        index = arrays / "index.csv"
        clips = _load(arrays, index.stat().st_mtime_ns if index.exists() else 0)
        return Experiment(self.row, self.fold, self.seed, self.params, clips, weights)

    def is_done(self) -> bool:
        """Whether the run is there already, and trained as it would be now."""
        return (self.folder / "run.json").exists() and is_there(
            self.folder, wanted_info(self.experiment())
        )


def tasks(rows: Iterable[str], fold: int, params: Params, repository: Path) -> list[Task]:
    """Every run of rows on a fold, each after those that it starts from.

    A switch that is set already, or has no subject in the data, has none.
    """
    return [
        Task(row, fold, seed, params, repository)
        for row in rows
        if is_a_change(find(row), params)
        for seed in find(row).seeds(params.seeds)
    ]


def train_group(
    group: Group, folds: Iterable[int], params: Params, repository: Path
) -> dict[str, list[Run]]:
    """Train what params.yaml asks for of a group on some folds, as far as it is not there.

    Where not one row alone is asked for, runs of others are removed: a fold's folder then holds
    what a fresh training would leave. A second process that trains a group of a fold waits for the
    first, and then finds its runs.

    Returns:
        The runs by row, in the order of the registry, folds and seeds.

    Raises:
        InputError: no such fold, nothing of the group is asked for, arrays, actors or encoders are
            missing, or a training diverged.
    """
    folds = [params.model_copy(update={"fold": fold}).folds[0] for fold in folds]
    rows = [row for row in asked_for(params.row, params.seeds) if find(row).group == group]
    if not rows:
        raise InputError(f"params.yaml asks for no row of group {group}; see `row`")
    wanted = [task for fold in folds for task in tasks(rows, fold, params, repository)]
    with ExitStack() as turns:
        for scratch in sorted({task.scratch for task in wanted}):
            turns.enter_context(files.turn(scratch))
        if params.row in ("all", group):
            _remove_others(wanted)
        for row in rows:
            _make_arrays(row, params, repository)
        run_all(wanted)
    runs = {row: [read_run(task.folder) for task in wanted if task.row == row] for row in rows}
    return {row: found for row, found in runs.items() if found}


def run_all(wanted: Sequence[Task]) -> None:
    """Train what is not there yet, on the cluster of `cluster.connect`.

    Raises:
        InputError: something is missing, a training diverged, or its workers died.
    """
    todo: list[Task] = []
    for task in wanted:
        waits = any(other.name in _before(task) for other in todo)
        if waits or not task.is_done():
            todo.append(task)
    if todo:
        with cluster.connect(todo[0].params.source.training.same_bits) as client:
            _train_on(client, todo, len(wanted))


def _before(task: Task) -> list[str]:
    """The names of the tasks that it starts from."""
    before = predecessors(task.row, task.seed, task.params.seeds).values()
    return [replace(task, row=row, seed=seed).name for row, seed in before]


def _train_on(client: Client, todo: Sequence[Task], n_wanted: int) -> None:
    """Each task after those that it starts from; the first error ends all."""
    progress = _Progress(todo)
    print(
        f"{progress.folds}: {len(todo)} of {n_wanted} runs to train, {progress.of_all}; "
        f"dashboard {client.dashboard_link}",
        file=sys.stderr,
    )
    client.subscribe_topic(TOPIC, progress.note)
    futures: dict[str, Future[None]] = {}
    for task in todo:
        futures[task.name] = client.submit(
            _train,
            task,
            [futures[name] for name in _before(task) if name in futures],
            key=f"{task.name} {uuid4().hex}",  # what is trained again is not the task of before
            priority=_cost(task),
        )
    try:
        for future in as_completed(futures.values()):
            error = cluster.outcome(future)
            if isinstance(error, KilledWorker):
                raise InputError(
                    "a training's worker died several times, mostly for lack of memory; what is "
                    "finished is kept, so free some memory, or start fewer workers, and run this "
                    "again"
                )
            if error is not None:
                raise error
    finally:
        client.unsubscribe_topic(TOPIC)
        client.cancel(list(futures.values()))
        progress.bar.close()


def _train(task: Task, before: Sequence[None]) -> None:
    """On a worker; `before` are what must have been trained first."""
    worker = get_worker()

    def report(epoch: int) -> None:
        worker.log_event(TOPIC, {"run": task.name, "epoch": epoch})

    report(0)
    train(task.experiment(), task.folder, task.scratch, report)
    report(task.n_epochs)


def _cost(task: Task) -> int:
    """How long a training takes, roughly: those that see take ten times as long an epoch."""
    system = find(task.row)
    return task.n_epochs * (10 if "frames" in system.inputs and not system.combines else 1)


class _Progress:
    """How far the trainings of a fold are, as one line that moves, on a terminal."""

    def __init__(self, todo: Sequence[Task]) -> None:
        self.tasks = {task.name: task for task in todo}
        self.epochs = dict.fromkeys(self.tasks, -1)  # not begun
        folds = sorted({task.fold for task in todo})
        self.folds = f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
        self.bar = tqdm(
            total=sum(map(_cost, todo)),
            desc=self.folds,
            bar_format="{desc}: {percentage:.0f} %, {remaining} left, {postfix}",
            disable=not cluster.on_a_terminal(),
        )

    @property
    def of_all(self) -> str:
        """How many runs of all folds there are."""
        task = next(iter(self.tasks.values()))
        rows = asked_for(task.params.row, task.params.seeds)
        folders = [
            each.folder
            for fold in task.params.folds
            for each in tasks(rows, fold, task.params, task.repository)
        ]
        return f"{sum(folder.is_dir() for folder in folders)} of {len(folders)} in all folds there"

    def note(self, event: tuple[float, dict[str, Any]]) -> None:
        """What a worker reports, see `_train`."""
        _, said = event
        if said["run"] in self.tasks:
            self.epochs[said["run"]] = said["epoch"]
            share = {
                name: max(epoch, 0) / self.tasks[name].n_epochs
                for name, epoch in self.epochs.items()
            }
            self.bar.n = round(sum(share[name] * _cost(task) for name, task in self.tasks.items()))
            n_done = sum(part >= 1 for part in share.values())
            under_way = [
                f"{self.tasks[name].row} {epoch}/{self.tasks[name].n_epochs}"
                for name, epoch in self.epochs.items()
                if epoch >= 0 and share[name] < 1
            ]
            self.bar.set_postfix_str(f"{n_done}/{len(share)} runs, {' '.join(under_way)}")


def _remove_others(wanted: Sequence[Task]) -> None:
    """Remove the runs of a group and fold that are not asked for any more."""
    kept = {task.folder for task in wanted}
    for fold in {folder.parents[1] for folder in kept}:
        for folder in fold.glob("*/seed_*"):
            if folder not in kept:
                shutil.rmtree(folder)
        for row in fold.glob("*/"):
            if not any(row.iterdir()):
                row.rmdir()


def arrays_folder(row: str, params: Params, repository: Path) -> Path:
    """Where the arrays are that a row is given: the pipeline's, or others that it asks for."""
    name = "_".join(["arrays", *find(row).preprocess.values()])
    return repository / "build" / params.data / name


def _make_arrays(row: str, params: Params, repository: Path) -> None:
    """Preprocess anew for a row that changes its settings, unless that is done."""
    if not find(row).preprocess or not is_a_change(find(row), params):
        return
    from cfnsr.data import preprocess, sources  # 2 s that few rows need

    build = repository / "build" / params.data
    output = arrays_folder(row, params, repository)
    settings = changed_by(find(row), params.source).preprocess
    index = build / "arrays" / "index.csv"
    if preprocess.is_made_with(output, params, settings) and (
        index.read_bytes() == (output / "index.csv").read_bytes()
    ):
        return
    preprocess.preprocess(
        sources.read_manifest(build / "manifest.csv"),
        sources.provide(params, repository),
        output,
        params,
        settings,
        repository / "build" / "scratch" / "preprocess",
    )


@lru_cache(maxsize=2)
def _load(arrays: Path, changed_ns: int) -> Clips:
    """Kept by a worker from run to run, until the arrays change."""
    return load_clips(arrays)
