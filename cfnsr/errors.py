"""The one exception that reaches a user as a single line instead of a traceback."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
