"""Tests of `cfnsr.training.memory` in processes of their own, whose allocator it changes."""

import platform
import subprocess
import sys

import pytest

from cfnsr.training import memory

PAGE_FAULTS = """
import resource, sys
import numpy as np
from cfnsr import memory

if sys.argv[1] == "keep":
    memory.keep_freed()
np.ones(2**23)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how):
    return int(subprocess.check_output([sys.executable, "-c", PAGE_FAULTS, how]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc's allocator")
def test_freed_memory_is_used_again_without_asking_the_kernel():
    by_default = page_faults("by default")
    assert by_default >= 10 * 32  # huge pages are of 2 MiB
    assert page_faults("keep") < by_default / 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.keep_freed()
