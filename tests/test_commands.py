"""Tests of `python -m cfnsr` as a program among others."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

ROWS = """
import sys
from cfnsr import __main__ as commands
def _rows(options):
    print("a row\\n" * int(sys.argv[1]))
commands._rows = _rows  # without a network of each
sys.exit(commands.main(["rows"]))
"""


# A short output fails when it is flushed in the end, a long one while it is printed.
@pytest.mark.parametrize("n_rows", [1, 10_000])
def test_a_command_whose_reader_has_left_ends_without_a_traceback(n_rows):
    unread, written = os.pipe()
    os.close(unread)
    program = [sys.executable, "-c", ROWS, str(n_rows)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        program, cwd=REPOSITORY, env=environment, stdout=written, stderr=subprocess.PIPE
    )
    os.close(written)
    assert (done.returncode, done.stderr) == (1, b"")
