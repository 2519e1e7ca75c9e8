"""Tests of `cfnsr.files`: what is written, and by whom."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from cfnsr import files
from cfnsr.errors import InputError


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
from cfnsr import files
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
