"""What the measurements share: counts, readers that may die, commands, processes that are left."""

import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from uuid import uuid4

import pandas as pd
import psutil
import pytest
from conftest import REPOSITORY

from cfnsr import InputError

#: What one file may take: time, and memory beyond the libraries'.
FILE_S, FILE_BYTES = 60, 1 << 30
#: After so many files a reader is replaced, so that nothing adds up.
N_FILES = 100
#: What a command may take to refuse something.
COMMAND_S = 300
#: What a command started should end so long after it; a loaded machine may need the second.
LEFT_S = 10, 60
MARK = "CFNSR_SURVIVAL"
#: Downloads the archive of actor 5 into a folder from an address, as `python -m cfnsr` would.
FETCH = """
import sys
from pathlib import Path
from cfnsr.data.download import CLIPS_RECORD, Archive, fetch
from cfnsr import InputError
try:
    archive = Archive("Video_Speech_Actor_05.zip", CLIPS_RECORD, (5,), 1, ".mp4")
    fetch([archive], Path(sys.argv[1]), base_url=sys.argv[2])
except InputError as error:
    sys.exit(f"error: {error}")
"""


class Counts:
    """How often what came out, by subject and kind: kept with the report of a test."""

    def __init__(self, record):
        self.record = record

    def add(self, subject, kind, outcome, n=1):
        self.record("counted", (subject, kind, outcome, int(n)))


def write_counts(reports, write_line):
    """What tests have counted, as a table for each subject, and as build/survival.csv."""
    counted = [
        each for report in reports for name, each in report.user_properties if name == "counted"
    ]
    if not counted:
        return
    table = pd.DataFrame(counted, columns=["subject", "kind", "outcome", "n"])
    table = table.groupby(["subject", "kind", "outcome"], sort=False, as_index=False).sum()
    (REPOSITORY / "build").mkdir(exist_ok=True)
    table.to_csv(REPOSITORY / "build/survival.csv", index=False, lineterminator="\n")
    for subject, part in table.groupby("subject", sort=False):
        wide = part.pivot(index="kind", columns="outcome", values="n").fillna(0).astype(int)
        wide = wide.loc[part["kind"].unique(), part["outcome"].unique()]
        if len(wide) > 1:
            wide.loc["all"] = wide.sum()
        shown = wide.rename_axis(None).rename_axis(None, axis=1).to_string()
        write_line(f"\n{subject}\n{shown}")


def _serve(pipe, function, warm):
    """Answer each arguments of a function with what came of it, in a process of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say
    function(*warm)
    limit = psutil.Process().memory_info().vms + FILE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    for arguments in iter(pipe.recv, None):
        try:
            answer = "used", function(*arguments)
        except InputError as error:
            answer = "traceback" if "\n" in str(error) else "rejected", str(error)
        except BaseException:
            answer = "traceback", traceback.format_exc()
        pipe.send(answer)


class Reader:
    """A process that calls a function; another takes its place when it dies, hangs or is old."""

    def __init__(self, *served):
        self.served, self.process, self.n_left = served, None, 0

    def __call__(self, arguments):
        """`used`, `rejected`, `traceback`, `crashed` or `hung`; and what it gave or said."""
        if self.n_left == 0:
            self.end()
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, *self.served), daemon=True)
            self.process.start()
            theirs.close()
            assert self.pipe.poll(COMMAND_S), "a reader does not start"
            self.pipe.recv()
            self.n_left = N_FILES
        self.n_left -= 1
        try:
            self.pipe.send(arguments)
            if self.pipe.poll(FILE_S):
                return self.pipe.recv()
            outcome = "hung"
        except (EOFError, OSError):
            outcome = "crashed"
        self.n_left = 0
        return outcome, arguments

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()


def read_all(function, jobs, warm, n_readers=2):
    """What came of each job, (outcome, what it gave or said), in order."""
    free, readers = SimpleQueue(), [Reader(function, warm) for _ in range(n_readers)]
    for reader in readers:
        free.put(reader)

    def read(job):
        reader = free.get()
        try:
            return reader(job)
        finally:
            free.put(reader)

    try:
        with ThreadPoolExecutor(n_readers) as pool:
            yield from pool.map(read, jobs)
    finally:
        for reader in readers:
            reader.end()


class Command:
    """A command of the project in a process of its own, whose descendants carry a mark."""

    def __init__(self, *words, cwd=REPOSITORY, **environment):
        self.mark = uuid4().hex
        self.output = tempfile.NamedTemporaryFile()  # noqa: SIM115  lives as long
        self.process = subprocess.Popen(
            [str(word) for word in words],
            cwd=cwd,
            env=os.environ
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            | {"PYTHONPATH": str(REPOSITORY), MARK: self.mark}
            | environment,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    @property
    def printed(self):
        return Path(self.output.name).read_text(errors="replace")

    def has_ended(self, within_s):
        """Whether it ends by itself within some time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        return self.process.returncode is not None

    def wait_for(self, text):
        """Wait until it has printed something, or has ended."""
        deadline = time.monotonic() + COMMAND_S
        while text not in self.printed and not self.has_ended(0.05):
            if time.monotonic() > deadline:
                self.left()
                pytest.fail(f"not under way after {COMMAND_S} s: {self.printed}")

    def left(self):
        """Kill it; how many that it started are left after each of `LEFT_S`. These are killed."""
        self.process.kill()
        self.process.wait()
        killed_s, n_left = time.monotonic(), []
        for limit_s in LEFT_S:
            while (found := self._descendants()) and time.monotonic() < killed_s + limit_s:
                time.sleep(0.2)
            n_left.append(len(found))
        for process in found:
            process.kill()
        return n_left

    def _descendants(self):
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ended = process.status() == psutil.STATUS_ZOMBIE
                if not ended and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found


def files_under(folder):
    """The content of every file but what tells times, by its path below the folder."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


def refusal(*words, **options):
    """How a command refuses: `one line`, or `done`, `several lines`, `traceback`, `hung`.

    Progress and warnings may stand before the line. What it printed is returned, too.
    """
    command = Command(*words, **options)
    has_ended = command.has_ended(COMMAND_S)
    n_left, printed = command.left(), command.printed
    if not has_ended:
        return "hung", printed
    if "Traceback" in printed or command.process.returncode < 0:
        return "traceback", printed
    n_lines = len(re.findall(r"^error: ", printed, re.MULTILINE))
    last = printed.rstrip().splitlines()[-1] if printed.strip() else ""
    if command.process.returncode == 0:
        return "done", printed
    if n_lines != 1 or not last.startswith("error: ") or n_left[-1]:
        return "several lines", printed
    return "one line", last


@contextmanager
def running(zenodo):
    """A server that imitates Zenodo, until the end."""
    try:
        yield zenodo
    finally:
        zenodo.server.shutdown()
        zenodo.server.server_close()
