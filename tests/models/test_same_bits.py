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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64: install Debian's qemu-user"),
]


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


def test_in_short_three_rows_learn_the_same_bits_on_an_intel_haswell():
    rows = ("audio", "mcbp", "linear")
    assert digests(*rows, processor="Haswell") == digests(*rows)


def test_in_short_a_sound_becomes_the_same_bits_on_an_intel_haswell():
    """Which has no AVX-512: NumPy chooses its kernels by that."""
    code = (
        "import hashlib, numpy as np;"
        "from cfnsr.data.preprocess import sound_arrays; from cfnsr.params import Preprocess;"
        "settings = Preprocess();"
        "n = round(settings.duration_s * settings.sample_rate_hz);"
        "window = np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32);"
        "found = sound_arrays(window, settings);"
        "print({name: hashlib.sha256(array).hexdigest() for name, array in found.items()})"
    )
    command = [sys.executable, "-c", code]
    here, there = (
        subprocess.run(each, env=os.environ | SETTINGS, capture_output=True, check=True).stdout
        for each in (command, [QEMU, "-cpu", "Haswell", *command])
    )
    assert here == there


@pytest.mark.parametrize("processor", ["EPYC-Milan", "Haswell", "Skylake-Server"])
def test_every_row_learns_the_same_bits_on_every_processor(here, processor):
    assert set(here) == set(TRAINED)
    assert digests(processor=processor) == here
