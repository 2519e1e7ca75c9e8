"""Files that are whole or not there, and folders that one process at a time works in."""

import os
import platform
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cfnsr.errors import writing


@contextmanager
def replacing(path: Path, n_bytes: int | None = None) -> Iterator[Path]:
    """A path to write to, beside `path`, which takes its place when all is written.

    Args:
        n_bytes: how much is written, if that is known.

    Raises:
        InputError: the disk is full or read-only.
    """
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.part")
    with writing(path, n_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a zip file, as NumPy and torch write them, is there and all its checksums fit.

    A power cut may leave one that is empty, cut or full of zeros.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # of as many kinds as there are ways to damage a file
        return False


@contextmanager
def turn(folder: Path) -> Iterator[Path]:
    """Make a folder that one process at a time works in; others say that they wait.

    The lock beside it is the operating system's, so it ends with the process that holds it.

    Raises:
        InputError: the disk is full or read-only.
    """
    lock = FileLock(f"{folder}.lock")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            print(f"waiting for another process that works in {folder}", file=sys.stderr)
            held = lock.acquire()
    with held:
        with writing(folder):
            folder.mkdir(exist_ok=True)
        yield folder
