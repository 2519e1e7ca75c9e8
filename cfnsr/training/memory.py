"""What a process does with memory that it has freed."""

import ctypes
import platform


def keep_freed() -> None:
    """Let this process use freed memory again, instead of giving it back to the kernel.

    By default glibc returns each large block when it is freed, and the kernel clears every page of
    the next one: at the paper's size a fifth of a training step on a processor. Where the C library
    is another one, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, -1)
