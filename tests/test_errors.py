"""Tests of `cfnsr.errors`: what a disk refuses is one line that names the folder."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY

from cfnsr.errors import InputError, writing
from cfnsr.training.experiment import save_tensors

N = 100_000
WRITERS = {
    "tensors": lambda path: save_tensors({"a": torch.zeros(N)}, path),
    "array": lambda path: np.save(path, np.zeros(N)),
    "arrays": lambda path: np.savez(path, np.zeros(N)),
    "table": lambda path: pd.DataFrame({"a": range(N)}).to_csv(path),
    "text": lambda path: path.write_text("a" * N),
    "bytes": lambda path: path.write_bytes(bytes(N)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_is_full_or_read_only_is_one_line_with_what_was_needed(write, bad_disk):
    folder, answer = bad_disk
    with pytest.raises(InputError) as caught, writing(folder / "file.npy", 8 * N):
        write(folder / "file.npy")
    message = str(caught.value)
    assert message.startswith(f"{folder}/file.npy")
    assert f" cannot be written: {answer} (0.8 MB needed, " in message
    assert "\n" not in message


def test_what_is_moved_to_such_a_disk_names_the_place_there(bad_disk, tmp_path):
    folder, _ = bad_disk
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^{folder}/moved cannot be written"), writing(tmp_path):
        (tmp_path / "file").rename(folder / "moved")


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(InputError, match="file/below cannot be written: Not a directory")
    with refused, writing(tmp_path):
        (tmp_path / "file" / "below").mkdir()


def test_what_is_no_refusal_of_the_disk_keeps_its_traceback(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "nothing").read_text()


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
