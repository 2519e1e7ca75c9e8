"""Files that are whole or not there, folders of one process at a time, and what a disk refuses."""

import errno
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cfnsr import InputError

#: What a file system answers that is full, read-only, another one or not the user's.
REFUSALS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EISDIR,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.EXDEV,
}


@contextmanager
def writing(path: Path, n_bytes: int | None = None) -> Iterator[None]:
    """Around whatever writes a file or into a folder.

    Args:
        n_bytes: how much is written, if that is known.

    Raises:
        InputError: the disk is full or read-only, or the path is not the user's to write.
    """
    try:
        yield
    except OSError as error:
        # NumPy's own "5 requested and 3 written" has no number.
        number = errno.ENOSPC if str(error).endswith(" written") else error.errno
        if number not in REFUSALS:
            raise
        # What is renamed has two names, and the second is the one to be written.
        refused = Path(error.filename2 or error.filename or path)
        there = next((each for each in refused.absolute().parents if each.is_dir()), Path())
        needed = "" if n_bytes is None else f"{n_bytes / 1e6:.1f} MB needed, "
        raise InputError(
            f"{refused} cannot be written: {os.strerror(number)} ({needed}"
            f"{shutil.disk_usage(there).free / 1e6:.1f} MB free); free some space, correct the "
            "permissions or choose another folder"
        ) from error


@contextmanager
def replacing(path: Path, n_bytes: int | None = None) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written; see `writing`."""
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
