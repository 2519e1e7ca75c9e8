"""The one exception that reaches a user as a single line instead of a traceback."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

Arguments = ParamSpec("Arguments")

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


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was expected, what was found and what to do. Command lines print it
    alone and exit with status 1; anything else that is raised is a bug and keeps its traceback.
    """


def command_line(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Status 1 after an `InputError`, which is one line on stderr, or where nobody reads stdout."""

    @wraps(main)
    def status(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
        try:
            try:
                return main(*arguments, **named)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # Else Python itself writes what is left, and fails, as it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1

    return status


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
