import os
import platform
import signal
import subprocess
import sys
import time

import dask
import psutil
import pytest
from conftest import REPOSITORY
from distributed import KilledWorker
from jobs import environment, process_id, square, square_or_die
from numpy._core._multiarray_umath import __cpu_dispatch__

from cfnsr import InputError, cluster


@pytest.fixture(scope="module")
def workers():
    with cluster.local_cluster(True, gpus=[], n_workers=2) as started:
        yield started


@pytest.fixture
def connected(workers, monkeypatch):
    monkeypatch.setenv(cluster.ADDRESS, workers.scheduler_address)


def test_each_job_has_its_result_or_its_own_error(connected):
    found = dict(cluster.finished(square, range(6)))
    assert str(found.pop(3)) == "three is refused"
    assert found == {0: 0, 1: 1, 2: 4, 4: 16, 5: 25}


def test_jobs_are_spread_over_all_workers(connected):
    assert len({result for _, result in cluster.finished(process_id, range(8))}) == 2


def test_a_job_that_kills_its_workers_is_told_and_costs_no_other(connected, workers, monkeypatch):
    monkeypatch.setattr(workers.scheduler, "allowed_failures", 1)  # one worker less that ends
    found = dict(cluster.finished(square_or_die, range(8)))
    assert isinstance(found.pop(5), KilledWorker)
    assert found == {number: number**2 for number in range(8) if number != 5}
    # It is all that is left when the work is started again, and must not end this process.
    ((_, error),) = cluster.finished(square_or_die, [5])
    assert isinstance(error, KilledWorker)


def test_a_worker_has_one_thread_and_its_environment_before_any_library_is_loaded(connected):
    with cluster.connect() as client:
        assert set(client.nthreads().values()) == {1}
        for name, value in cluster.environment(same_bits=True).items():
            assert set(client.run(environment, name).values()) == {value}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86-64 processor")
def test_every_kernel_that_numpy_has_beyond_avx2_is_switched_off():
    """Under its own name: a version of NumPy that calls it otherwise would use it again."""
    switched_off = set(cluster.SAME_BITS["NPY_DISABLE_CPU_FEATURES"].split())
    assert switched_off == set(__cpu_dispatch__) - {"X86_V3"}
    code = (
        "from numpy._core._multiarray_umath import __cpu_features__ as found;"
        f"print(any(found[name] for name in {sorted(switched_off)}))"
    )
    environment = os.environ | cluster.SAME_BITS
    assert subprocess.check_output([sys.executable, "-c", code], env=environment) == b"False\n"


def test_a_worker_that_has_imported_older_code_is_started_anew(connected, monkeypatch):
    with cluster.connect() as client:
        before = set(client.run(os.getpid).values())
    with cluster.connect() as client:
        assert set(client.run(os.getpid).values()) == before
    monkeypatch.setattr(cluster, "code_sha256", lambda: "edited")
    with cluster.connect() as client:
        assert not set(client.run(os.getpid).values()) & before


def test_dask_s_settings_hold_as_long_as_the_cluster(workers):
    # By default workers that start anew for longer than 15 s would be given up one by one.
    assert {name: dask.config.get(name) for name in cluster.SETTINGS} == cluster.SETTINGS


def test_a_cluster_that_is_left_without_workers_is_one_line(monkeypatch):
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.no-workers-timeout", "1 s")
    with cluster.local_cluster(True, gpus=[], n_workers=1) as started:
        monkeypatch.setenv(cluster.ADDRESS, started.scheduler_address)
        found = cluster.finished(process_id, range(100))
        next(found)
        started.scale(0)
        with pytest.raises(InputError, match="was left without workers"):
            list(found)


def test_a_scheduler_that_is_gone_is_one_line_and_no_fault_of_a_job(monkeypatch):
    with cluster.local_cluster(True, gpus=[], n_workers=1) as started:
        monkeypatch.setenv(cluster.ADDRESS, started.scheduler_address)
        found = cluster.finished(process_id, range(100))
        next(found)
        started.close()
        with pytest.raises(InputError, match="scheduler does not answer any more"):
            list(found)


def test_each_of_eight_gpus_has_a_worker_that_sees_no_other():
    gpus = [str(i) for i in range(8)]
    with cluster.local_cluster(False, gpus) as started, started.get_client() as client:
        client.wait_for_workers(8)
        assert sorted(client.run(environment, "CUDA_VISIBLE_DEVICES").values()) == gpus


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert cluster.visible_gpus() == ["1", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cluster.visible_gpus() == []


def test_an_address_without_a_scheduler_is_one_line(monkeypatch):
    monkeypatch.setenv(cluster.ADDRESS, "tcp://127.0.0.1:9")
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    with pytest.raises(InputError, match="no scheduler answers there; start one with"):
        cluster.connect().__enter__()


def started(*command):
    program = [sys.executable, "-m", "cfnsr", "cluster", "--workers", "1", *command]
    pipe = subprocess.PIPE
    return subprocess.Popen(program, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)


def test_a_command_is_given_the_address_and_its_status_is_returned():
    asks = f"import os, sys; print(os.environ['{cluster.ADDRESS}']); sys.exit(3)"
    process = started("--", sys.executable, "-c", asks)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert printed.startswith("tcp://127.0.0.1:")


def test_a_terminated_cluster_ends_its_command_and_its_workers():
    process = started("--", sys.executable, "-c", "print('on', flush=True); input()")
    assert process.stdout.readline() == "on\n"
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(timeout=20) == -signal.SIGTERM % 256
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def kill_and_see_all_end(process):
    """SIGKILL for a process; whatever it has started must end within ten seconds."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    return children


def kill_at_work(code, arguments, is_under_way):
    """Kill a program that works on a cluster of its own, once it is under way."""
    program = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(program, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_under_way() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(kill_and_see_all_end(process)) >= 2


def test_workers_end_with_the_process_that_started_them():
    process = started()
    assert process.stdout.readline().startswith(f"export {cluster.ADDRESS}=tcp://127.0.0.1:")
    assert kill_and_see_all_end(process)
