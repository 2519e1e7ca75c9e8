"""Tests of `cfnsr.training.grid` on random clips: what is trained, where, and what is not."""

import os
import shutil
import signal
import time
from threading import Thread

import pytest
from test_train import settings

from cfnsr import InputError, cluster
from cfnsr.models.registry import SWITCHES, asked_for, find
from cfnsr.params import Schedule
from cfnsr.training import grid

ROWS = ("video", "audio", "averaging", "mmtm")


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The file into which the worker prints."""
    return tmp_path_factory.mktemp("worker") / "printed.txt"


@pytest.fixture(scope="module")
def workers(printed):
    """One, since each loads torch; test_cluster.py has two. A killed one is started again."""
    own = os.dup(2)
    with printed.open("wb") as file:
        os.dup2(file.fileno(), 2)
    with cluster.local_cluster(True, gpus=[], n_workers=1) as started:
        os.dup2(own, 2)
        os.close(own)
        yield started


@pytest.fixture
def repository(random_arrays, tmp_path, workers, monkeypatch):
    """A project with arrays, and a cluster at hand."""
    monkeypatch.setenv(cluster.ADDRESS, workers.scheduler_address)
    shutil.copytree(random_arrays, tmp_path / "build" / "synthetic" / "arrays")
    return tmp_path


def contents(repository):
    return {
        str(path.relative_to(repository)): path.read_bytes()
        for path in repository.glob("runs/**/*")
        if path.is_file() and path.name != "timing.json"
    }


def trained(repository):
    return {path.parts[-3] for path in repository.glob("runs/**/seed_*/run.json")}


def brief(row, **changes):
    one = dict.fromkeys(("video", "audio", "fusion"), Schedule(n_epochs=1, batch_size=32))
    return settings(**one | changes).model_copy(update={"row": row})


def test_one_row_brings_its_encoders_and_is_there_the_next_time(repository, monkeypatch, capsys):
    runs = grid.train_group("systems", [2], brief("mmtm"), repository)
    assert list(runs) == ["video", "audio", "mmtm"]
    assert trained(repository) == {"video", "audio", "mmtm"}
    assert "fold 2: 3 of 3 runs to train" in capsys.readouterr().err
    before = contents(repository)

    def fail(same_bits):
        raise AssertionError("no cluster is needed")

    monkeypatch.setattr(cluster, "connect", fail)
    grid.train_group("systems", [2], brief("mmtm"), repository)
    assert contents(repository) == before
    assert capsys.readouterr().err == ""


def test_what_is_missing_is_one_error_and_no_worker_prints_its_own(
    workers, printed, tmp_path, monkeypatch
):
    monkeypatch.setenv(cluster.ADDRESS, workers.scheduler_address)
    with pytest.raises(InputError, match="holds no preprocessed clips"):
        grid.train_group("systems", [1], brief("audio"), tmp_path)
    assert "Traceback" not in printed.read_text()


@pytest.mark.parametrize(
    ("group", "fold", "message"),
    [
        ("systems", 0, "fold: expected all or 1 to 5 under protocol paper, found 0"),
        ("systems", 6, "fold: expected .* found 6 "),
        ("hybrid", 1, "asks for no row of group hybrid"),
        ("nonsense", 1, "asks for no row of group nonsense"),
    ],
)
def test_a_fold_or_group_that_is_not_there_is_one_line(tmp_path, group, fold, message):
    with pytest.raises(InputError, match=message):
        grid.train_group(group, [fold], brief("audio"), tmp_path)


def test_what_one_row_asks_for_leaves_the_others_alone(repository):
    grid.train_group("systems", [1], brief("audio"), repository)
    grid.train_group("systems", [1], brief("averaging"), repository)
    assert trained(repository) == {"audio", "video", "averaging"}


def test_runs_of_other_rows_and_seeds_go_where_all_are_asked_for(repository, monkeypatch):
    params = brief("audio").model_copy(update={"seeds": (1, 2)})
    grid.train_group("systems", [1], params, repository)
    monkeypatch.setattr(grid, "asked_for", lambda row, seeds: ["audio"])
    grid.train_group("systems", [1], brief("all"), repository)
    assert [path.name for path in repository.glob("runs/**/seed_*")] == ["seed_1"]


def test_another_schedule_of_the_encoder_trains_what_starts_from_it_too(repository, capsys):
    grid.train_group("systems", [1], brief("averaging"), repository)
    capsys.readouterr()
    longer = Schedule(n_epochs=4, batch_size=32)
    grid.train_group("systems", [1], brief("averaging", audio=longer), repository)
    assert "2 of 3 runs to train" in capsys.readouterr().err


def test_an_ablation_starts_from_the_encoders_of_its_fold(repository):
    runs = grid.train_group("systems", [1], brief("no_residual"), repository)
    assert list(runs) == ["video", "audio", "no_residual"]


def kill_worker_of(run, client):
    """Kill the worker that trains a run, once it has begun."""
    while True:
        for worker, tasks in client.processing().items():
            if any(task.startswith(run) for task in tasks):
                pid = client.run(os.getpid, workers=[worker])[worker]
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)


def test_a_killed_worker_s_training_is_taken_over_and_ends_as_if_undisturbed(
    repository, workers, tmp_path
):
    longer = Schedule(n_epochs=20, batch_size=32)
    params = brief("audio", audio=longer)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(repository / "build", undisturbed / "build")
    grid.train_group("systems", [1], params, undisturbed)
    with workers.get_client() as client:
        killer = Thread(target=kill_worker_of, args=["audio, fold 1", client])
        killer.start()
        grid.train_group("systems", [1], params, repository)
        killer.join()
    assert contents(undisturbed) == contents(repository)


def test_two_trainings_of_a_fold_take_turns_and_of_two_folds_do_not(tmp_path, monkeypatch):
    seen = []

    def slowly(wanted):
        seen.append(wanted[0].fold)
        time.sleep(1)
        seen.append(wanted[0].fold)

    monkeypatch.setattr(grid, "run_all", slowly)
    monkeypatch.setattr(grid, "read_run", lambda folder: folder)
    for folds in ((1, 1), (1, 2)):
        seen.clear()
        threads = [
            Thread(target=grid.train_group, args=("systems", [fold], brief("audio"), tmp_path))
            for fold in folds
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (seen[:2] == [1, 1]) == (folds == (1, 1))


def test_a_switch_that_is_set_already_or_has_no_subject_is_not_trained(repository):
    params = settings(augment_per_frame=True)
    assert not grid.tasks(["augment_per_frame"], 1, params, repository)
    assert grid.tasks(["unscaled_mfcc"], 1, params, repository)
    drawn = params.model_copy(update={"data": "ravdess_landmarks"})
    assert not grid.tasks(["squashed_first"], 1, drawn, repository)


def test_a_switch_starts_from_the_encoder_that_has_it_and_from_the_fold_s_other(repository):
    for row, system in SWITCHES.items():
        if system.schedule == "fusion":
            encoders = [find(name) for name in system.starts_from.values()]
            assert [encoder.schedule for encoder in encoders] == ["video", "audio"]
            changed = [encoder for encoder in encoders if encoder.group == "switches"]
            needs_one = bool(system.training or system.preprocess or system.seed_step)
            assert len(changed) == needs_one, row


def test_the_longest_trainings_start_first(repository):
    tasks = grid.tasks(ROWS, 1, brief("mmtm"), repository)
    order = sorted(tasks, key=grid._cost, reverse=True)
    assert [task.row for task in order] == ["video", "mmtm", "audio", "averaging"]


def test_a_row_with_members_takes_as_many_seeds():
    with pytest.raises(InputError, match="takes 3 seeds, but seeds is \\[4, 5\\]; add others"):
        asked_for("motion_voice_averaged", [4, 5])
