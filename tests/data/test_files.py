"""Tests of `cfnsr.data.files`: what is written, by whom, and what a disk refuses."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY

from cfnsr import InputError
from cfnsr.data import files
from cfnsr.data.files import writing
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


def write(path, content, error=None):
    with files.replacing(path, len(content)) as partial:
        partial.write_bytes(content)
        if error is not None:
            raise error


def test_a_file_keeps_its_content_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "below" / "file"
    write(path, b"first")
    with pytest.raises(KeyError):
        write(path, b"half of the sec", KeyError())
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_takes_no_file_is_one_line_and_has_no_half_of_it(bad_disk):
    folder, answer = bad_disk
    with pytest.raises(InputError, match=rf"^{folder}/\S+ cannot be written: {answer} \(0\.1 MB"):
        write(folder / "file", bytes(100_000))
    assert not list(folder.iterdir())


TURN = """
import sys, time
from pathlib import Path
from cfnsr.data import files
with files.turn(Path(sys.argv[1])) as folder:
    print("mine", flush=True)
    time.sleep(600)
"""


def test_a_second_process_waits_for_the_first_and_says_so_and_goes_on_when_that_is_killed(tmp_path):
    def start():
        command = [sys.executable, "-c", TURN, tmp_path / "below" / "folder"]
        paths = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            command, env=paths, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    first = start()
    try:
        assert first.stdout.readline() == "mine\n"
        second = start()
        said = second.stderr.readline()
        assert said == f"waiting for another process that works in {tmp_path}/below/folder\n"
        first.kill()
        assert second.stdout.readline() == "mine\n"
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    with files.turn(tmp_path / "below" / "folder"):  # what was killed holds nothing
        pass
