"""Where work runs: Dask workers on this machine's cores or GPUs, or on a cluster that is there.

Nothing needs to be set. `connect` starts one single-threaded worker per core, or one per GPU, which
end with the process that started them. Where DASK_SCHEDULER_ADDRESS names a scheduler, as
`python -m cfnsr cluster` prints it, its workers are used; they must share this file system.
"""

import hashlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cfnsr import InputError

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.deploy.spec import SpecCluster

Job = TypeVar("Job")
Result = TypeVar("Result")

ADDRESS = "DASK_SCHEDULER_ADDRESS"
TERMINAL = "CFNSR_TERMINAL"
#: How long a cluster may be without any worker.
PATIENCE_S = 600
#: Of each worker. One thread each: several would wait for each other. glibc returns each freed
#: block to the kernel, which clears its pages anew: at the paper's size a fifth of a training step.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
}
#: With these, set before torch and numpy are first used, arrays and a training in float32 have the
#: same bits on every x86-64 processor with AVX2: else each library chooses its kernels by itself.
SAME_BITS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    # Its own AVX-512 kernels change a spectrogram; the names are those of NumPy 2.4.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
#: How long a scheduler may take to answer.
ANSWER_S = 20.0
#: Of Dask. A worker that dies may take others' tasks with it, and these are tried again.
SETTINGS = {
    "distributed.worker.daemon": True,
    "distributed.scheduler.allowed-failures": 3,
    # Else a worker that takes longer than 15 s to be started again is given up, and no other comes.
    "distributed.deploy.lost-worker-timeout": "30 days",
    "distributed.scheduler.no-workers-timeout": f"{PATIENCE_S} s",
    # A host that is cut off is noticed by this; a busy worker answers it, but may not show itself
    # to the scheduler for long.
    "distributed.comm.timeouts.tcp": "15 s",
    "distributed.scheduler.worker-ttl": "5 minutes",
    # Whoever waits for a task has its error; a worker that prints it too would print a traceback.
    "logging.distributed": "critical",
    "distributed.admin.large-graph-warning-threshold": "100 MB",
}


def environment(same_bits: bool) -> dict[str, str]:
    """The environment of a process that trains, see `SAME_BITS`."""
    return ENVIRONMENT | (SAME_BITS if same_bits else {})


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def local_cluster(
    same_bits: bool,
    gpus: Sequence[str] | None = None,
    n_workers: int | None = None,
    host: str = "127.0.0.1",
) -> "SpecCluster":
    """Workers of this machine: one per GPU, which sees no other, or one per core.

    Args:
        same_bits: whether they have `SAME_BITS`.
        gpus: as CUDA_VISIBLE_DEVICES names them; None are those that there are.
        n_workers: where there is no GPU; None is one per core.
        host: where scheduler, workers and dashboard listen.
    """
    import dask
    from dask.system import cpu_count
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    gpus = visible_gpus() if gpus is None else gpus
    own: list[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    own = own or [{} for _ in range(n_workers or cpu_count())]
    common = {
        "nthreads": 1,
        "memory_limit": 0,
        "host": host,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
    }
    inherited = environment(same_bits)
    # For good: some are read only when a worker dies.
    dask.config.set(SETTINGS | {"distributed.nanny.pre-spawn-environ": inherited})
    return SpecCluster(
        scheduler={
            "cls": Scheduler,
            "options": {"host": host, "port": 0, "dashboard_address": f"{host}:0"},
        },
        workers={
            i: {"cls": Nanny, "options": common | {"env": inherited | of_one}}
            for i, of_one in enumerate(own)
        },
        silence_logs=logging.CRITICAL,
    )


def slurm_cluster(same_bits: bool, n_workers: int | None = None) -> Any:
    """Workers as jobs of SLURM, one single-threaded process each.

    Partition, time, memory and what else a site asks for are set as dask-jobqueue documents it, in
    its file jobqueue.yaml.

    Raises:
        InputError: dask-jobqueue is not installed.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise InputError("SLURM needs dask-jobqueue: pip install cfnsr[slurm]") from None
    finally:
        signal.signal(signal.SIGINT, interrupt)  # which dask-jobqueue replaces
    import dask

    exports = [f"export {name}={value}" for name, value in environment(same_bits).items()]
    dask.config.set(SETTINGS)
    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=dask.config.get("jobqueue.slurm.memory") or "4 GB",
        walltime=dask.config.get("jobqueue.slurm.walltime") or "24:00:00",
        job_script_prologue=exports,
    )
    # Not `scale`: a job that ends is replaced.
    cluster.adapt(minimum_jobs=n_workers or 1, maximum_jobs=n_workers or 1)
    return cluster


@contextmanager
def connect(same_bits: bool = True) -> Iterator["Client"]:
    """A client of the cluster that DASK_SCHEDULER_ADDRESS names, or of one of this machine's own.

    Workers that have imported an older state of this package are restarted.

    Args:
        same_bits: whether workers of its own have `SAME_BITS`.

    Raises:
        InputError: nobody answers at that address, or it has no workers.
    """
    from distributed import Client

    address = os.environ.get(ADDRESS)
    if address is None:
        with local_cluster(same_bits) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(address, timeout=ANSWER_S)
    except (OSError, TimeoutError, ValueError):
        raise InputError(
            f"{ADDRESS} is {address}, but no scheduler answers there; start one with "
            "`python -m cfnsr cluster`, or unset it to use this machine alone"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except TimeoutError:
            raise InputError(f"the cluster at {address} has no workers; start some") from None
        if set(client.run(loaded_code).values()) != {code_sha256()}:
            client.restart()
        yield client


def finished(
    work: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[tuple[int, Result | Exception]]:
    """Each job's position and what `work` returns for it, or the error that it raises.

    They come as they finish, spread over the workers of `connect`. A job whose workers die is tried
    again alone, since a worker has several; if that worker dies too, its error is a
    `distributed.KilledWorker`.

    Args:
        work: a function of a module, since workers find it by its name.

    Raises:
        InputError: the cluster was left without workers, or its scheduler does not answer.
    """
    if not jobs:  # no cluster is needed
        return
    from distributed import KilledWorker, as_completed

    with connect() as client:
        position = {client.submit(work, job, pure=False): i for i, job in enumerate(jobs)}
        suspects = []
        for future in as_completed(position):
            found = outcome(future)
            if isinstance(found, KilledWorker):
                suspects.append(position[future])
            else:
                yield position[future], found
        for i in suspects:
            yield i, outcome(client.submit(work, jobs[i], pure=False))


def outcome(future: "Future[Result]") -> Result | Exception:
    """What a task returns, or the error that it raises.

    Raises:
        InputError: the cluster was left without workers, or its scheduler does not answer.
    """
    from distributed.scheduler import NoWorkerError

    try:
        return future.result()
    except NoWorkerError:
        raise InputError(
            "the cluster was left without workers; what is done is kept, so start this again"
        ) from None
    except CancelledError:  # no fault of the task
        raise InputError(
            "the scheduler does not answer any more, as on a machine that has far too much to do; "
            "what is done is kept, so start this again"
        ) from None
    except Exception as error:
        return error


def serve(cluster: Any, command: Sequence[str]) -> int:
    """Let a command use a cluster, and close that when the command ends; its exit status.

    Without a command the address is printed, and the cluster serves until it is interrupted.
    """
    address = cluster.scheduler_address
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without closing the cluster
    if command:
        with subprocess.Popen(command, env=os.environ | {ADDRESS: address}) as process:
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            with suppress(KeyboardInterrupt):  # the command has it, too
                process.wait()
        return process.returncode
    print(f"export {ADDRESS}={shlex.quote(address)}", flush=True)
    print(f"dashboard: {cluster.dashboard_link}", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    return 0


@cache
def end_with_dvc() -> None:
    """End when the DVC that runs this command is gone: killed, it does not take its children along.

    A kernel and the workers below it would notice by themselves, but on a busy machine not within
    ten seconds.

    Raises:
        InputError: it is gone already.
    """
    if "DVC_ROOT" not in os.environ:
        return
    import psutil

    def watch(dvc: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        for started in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                started.kill()
        os._exit(1)

    above = psutil.Process().parents()
    for process in above:
        if any("dvc" in Path(word).name for word in process.cmdline()[:4]):
            threading.Thread(target=watch, args=[process], daemon=True).start()
            return
    if len(above) < 3:  # nobody between init and the shell in which DVC runs a command
        raise InputError("the DVC that ran this command was killed")


def on_a_terminal() -> bool:
    """Whether a line of progress may move; the notebook's runner answers for its kernel."""
    return os.environ.get(TERMINAL) == "1" or sys.stderr.isatty()


def code_sha256() -> str:
    """Of this package's modules as they are on disk now."""
    root = Path(__file__).parent
    sources = [path.read_bytes() for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


#: As they were when this process imported the first of them.
_LOADED = code_sha256()


def loaded_code() -> str:
    """`code_sha256` of the state that this process has imported."""
    return _LOADED
