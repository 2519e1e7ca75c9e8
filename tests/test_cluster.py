"""Tests of `cfnsr.cluster`, and that its users leave no process behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cfnsr import cluster
from cfnsr.errors import InputError


def children(pid):
    """The process ids of all descendants."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *children(child)]
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_at_work(code, arguments, is_under_way):
    """Kill a program once its two workers have begun; whatever it has started must end too."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux's /proc")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: is_under_way() or process.poll() is not None)
    started = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(started) >= 4  # two, the server that forks them, the tracker of what they share
    wait_until(lambda: not any(map(is_running, started)), 20)


WRITE = """
import sys
from pathlib import Path
from cfnsr import synthetic
from cfnsr.params import Clips
synthetic.write_dataset(Path(sys.argv[1]), Clips(), 2)
"""


def test_writing_the_control_that_is_killed_leaves_no_process(tmp_path):
    kill_at_work(WRITE, [tmp_path], lambda: len(list(tmp_path.glob("Actor_*/*.mp4"))) >= 2)
    assert len(list(tmp_path.glob("Actor_*/*.mp4"))) < 360


def halve(number):
    return number / 2


def die_of_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def who_works(number):
    return os.getpid()


@pytest.mark.parametrize("n_processes", [1, 2])
def test_each_job_is_done_once_and_named_by_its_position(n_processes):
    found = list(cluster.finished(halve, [8, 6, 4, 2], n_processes))
    assert sorted(found) == [(0, 4), (1, 3), (2, 2), (3, 1)]


def test_one_process_or_one_job_stays_here():
    assert dict(cluster.finished(who_works, [1, 2], 1)) == dict.fromkeys((0, 1), os.getpid())
    assert dict(cluster.finished(who_works, [1], 2)) == {0: os.getpid()}
    assert os.getpid() not in dict(cluster.finished(who_works, [1, 2], 2)).values()
    assert list(cluster.finished(who_works, [])) == []


def test_a_worker_that_dies_is_one_clear_line():
    with pytest.raises(InputError, match=r"^one of 2 worker processes died, .*memory; .*again$"):
        list(cluster.finished(die_of_three, range(8), 2))


def test_an_interrupted_run_does_not_work_through_the_rest_first(monkeypatch):
    def interrupted(futures):
        raise KeyboardInterrupt

    done = []

    def work_slowly(number):
        time.sleep(0.2)
        done.append(number)

    monkeypatch.setattr(cluster, "as_completed", interrupted)
    # Threads start sooner than processes and are told to stop in the same way.
    monkeypatch.setattr(
        cluster, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(max_workers=n)
    )
    with pytest.raises(KeyboardInterrupt):
        list(cluster.finished(work_slowly, range(8), 2))
    assert len(done) <= 2


def test_cores_are_those_that_may_be_used_or_all_where_nobody_knows(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert cluster.n_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cluster.n_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cluster.n_cores() == 1
