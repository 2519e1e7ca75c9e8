"""With the settings below a training gives the same bits on every x86-64 processor with AVX2.

Without them nothing is promised. QEMU computes as other processors do, by what they say they are
able to; it has no AVX-512, so a processor with it is one by its name alone.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from two_steps import TRAINED

from cfnsr.cluster import environment

HARNESS = Path(__file__).with_name("two_steps.py")
SETTINGS = environment(same_bits=True) | {"PYTHONPATH": str(REPOSITORY)}
QEMU = shutil.which("qemu-x86_64")

#: Enough to see that the harness runs at all.
IN_SHORT = ("audio", "mcbp", "linear")
emulated = pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64: install Debian's qemu-user")


def digests(*rows, processor=None):
    """The sha256 of what each row learnt, here or on an emulated processor."""
    command = [sys.executable, str(HARNESS), *rows]
    if processor is not None:
        command = [QEMU, "-cpu", processor, *command]
    done = subprocess.run(command, env=os.environ | SETTINGS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def here():
    return digests()


def test_three_rows_learn_the_same_bits_in_two_processes():
    assert digests(*IN_SHORT) == digests(*IN_SHORT)


@emulated
@pytest.mark.slow
def test_in_short_three_rows_learn_the_same_bits_on_an_intel_haswell():
    assert digests(*IN_SHORT, processor="Haswell") == digests(*IN_SHORT)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("processor", ["EPYC-Milan", "Haswell", "Skylake-Server"])
def test_every_row_learns_the_same_bits_on_every_processor(here, processor):
    assert set(here) == set(TRAINED)
    assert digests(processor=processor) == here
