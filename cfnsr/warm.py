"""Notebooks that start in a moment: forks of a process that has imported the libraries.

Importing torch, its optimisers and papermill takes longer than training a fold of the synthetic
control, and the pipeline runs a process a stage. So the first notebook of a reproduction starts a
small server that imports them once; each later notebook, and each notebook's kernel, is a fork
of it. It imports libraries only, never this package, so edited code is always read anew, and
leaves after two idle minutes. It is not used where there is an NVIDIA GPU, whose driver does not
survive a fork and whose runs are long, nor with `CFNSR_WARM=0`.
"""

import contextlib
import hashlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

LIBRARIES = (
    "ipykernel.kernelapp",
    "lightning_fabric",
    "papermill",
    "pandas",
    "seaborn",
    "torch._dynamo",
    "torchvision.transforms.v2",
)
IDLE_S = 120.0
START_S = 120.0
DIED = -signal.SIGKILL


class Process:
    """A fork of the server that calls `module:function(arguments)` and exits with what it returns.

    It inherits this process's standard streams, environment and working directory, and ends when
    this process does.

    Raises:
        OSError: there is no server, or its fork died before it answered.
    """

    def __init__(self, target: str, arguments: list[str], environment: dict[str, str]) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(_address()))
        request = {
            "target": target,
            "arguments": arguments,
            "environment": environment,
            "folder": str(Path.cwd()),
        }
        payload = json.dumps(request).encode() + b"\n"
        socket.send_fds(self._connection, [payload[:1]], [0, 1, 2])
        self._connection.sendall(payload[1:])
        self._replies = self._connection.makefile("rb")
        answer = self._replies.readline()
        if not answer:
            raise ConnectionError("the fork died before it answered")
        self.pid = int(answer)
        self.returncode: int | None = None

    def wait(self) -> int:
        """The exit status, when it has ended."""
        if self.returncode is None:
            self._connection.setblocking(True)
            self.returncode = int(self._replies.readline() or DIED)
        return self.returncode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None:
            self._connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                # At its end or death there is something to read, if only the end of the stream.
                self._connection.recv(1, socket.MSG_PEEK)
                self.wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    stdin = stdout = stderr = None  # as of a subprocess.Popen without pipes


def is_possible() -> bool:
    """Whether forks are safe here and wanted."""
    return (
        hasattr(os, "fork")
        and sys.platform == "linux"
        and not any(Path("/dev").glob("nvidia[0-9]*"))
        and os.environ.get("CFNSR_WARM") != "0"
    )


def start(target: str, arguments: list[str]) -> Process:
    """Run a function in a fork of the server, which is started if there is none.

    Raises:
        OSError: the server does not start, or its fork died before it answered.
    """
    environment = dict(os.environ)
    try:
        return Process(target, arguments, environment)
    except OSError:
        _start_server()
        return Process(target, arguments, environment)


def _address() -> Path:
    """The server's socket, one for each user, environment and set of thread settings."""
    settings = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("OMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTHON", "LD_"))
    }
    library = Path(json.__file__).parents[1] / "site-packages"
    installed = [
        path.stat().st_mtime_ns for path in (library, Path(sys.prefix) / "lib") if path.exists()
    ]
    identity = json.dumps([sys.prefix, installed, settings]).encode()
    folder = Path(tempfile.gettempdir()) / f"cfnsr-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to somebody else")
    return folder / f"{hashlib.sha256(identity).hexdigest()[:16]}.sock"


def _start_server() -> None:
    address = _address()
    address.unlink(missing_ok=True)
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, str(address)],  # as a script: it is no part of a package
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    deadline = time.monotonic() + START_S
    while not address.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise OSError("the server did not start")
        time.sleep(0.02)


def serve(address: Path) -> None:
    """Import the libraries, then fork for each request until none has come for a while."""
    # A kernel would set it before matplotlib is imported; here that comes first.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    for name in LIBRARIES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    unfinished = address.with_suffix(f".{os.getpid()}")
    listener.bind(str(unfinished))
    listener.listen()
    listener.settimeout(IDLE_S)
    unfinished.rename(address)  # only now is there anyone to connect to
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries our children
    with contextlib.suppress(TimeoutError):
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _become(connection)
            connection.close()
    address.unlink(missing_ok=True)


def _become(connection: socket.socket) -> None:
    """Turn this fork into the process that was asked for; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        first, streams, _, _ = socket.recv_fds(connection, 1, 3)
        # Before anything can fail: else the status would be taken for the process id.
        connection.sendall(f"{os.getpid()}\n".encode())
        request = json.loads(first + connection.makefile("rb").readline())
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        sys.path.insert(0, request["folder"])  # as `python -m` does
        os.environ.clear()
        os.environ.update(request["environment"])
        threading.Thread(target=_die_with, args=[connection], daemon=True).start()
        status = _call(request)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            connection.sendall(f"{status}\n".encode())
        os._exit(status)


def _call(request: dict[str, Any]) -> int:
    module, _, name = request["target"].partition(":")
    function = getattr(importlib.import_module(module), name)
    return function(request["arguments"]) or 0


def _die_with(connection: socket.socket) -> None:
    """End at once when whoever asked for this process is gone."""
    connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
