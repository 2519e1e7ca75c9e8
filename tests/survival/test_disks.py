"""A project on a disk that is full after some bytes, or read-only: one line names the place."""

import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, TAKES, mount
from harness import FETCH, refusal, running
from test_download import VIDEO, Zenodo, build_zip
from test_pipeline import change

from cfnsr.data.synthetic import recording
from cfnsr.params import Clips

pytestmark = pytest.mark.slow
#: What is free on each, in bytes.
DISKS = {"read-only": 1 << 20, "full": 0, "64 kB free": 64 << 10}
COMMANDS = {
    "writing clips": ("-m", "cfnsr", "dataset"),
    "preprocessing": (
        *("-m", "cfnsr.notebook"),
        *("build/notebooks/01_preprocess.ipynb", "build/synthetic/01_preprocess.ipynb"),
    ),
    "training": ("-m", "cfnsr", "train", "1"),
    "predictions": ("-m", "cfnsr", "predictions"),
    "downloading": ("-c", FETCH, "data"),
}


@pytest.fixture(scope="module")
def project(random_arrays, tmp_path_factory):
    """A project with a few clips, random arrays and one run of its row audio."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["synthetic"]["training"]["audio"]["n_epochs"] = 2
    params["synthetic"]["root"] = "own"
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"row": "audio", "fold": 1}))
    for take in TAKES:
        recording.write_clip(folder / "own", take, Clips())
    shutil.copytree(random_arrays, folder / "build/synthetic/arrays")
    for words in (("-m", "cfnsr", "notebooks"), ("-m", "cfnsr", "dataset"), COMMANDS["training"]):
        subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def zenodo():
    with running(Zenodo()) as server:
        server.publish(VIDEO, build_zip(VIDEO))
        yield server


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("work", COMMANDS)
def test_a_disk_that_refuses(work, disk, project, small_disk, zenodo, counts):
    here = small_disk / "project"
    shutil.copytree(project, here)
    if work == "training":
        shutil.rmtree(here / "runs")
    if work == "writing clips":
        change(here, synthetic={})
    if disk == "read-only":
        mount("remount,ro", small_disk)
    else:
        n_filled = shutil.disk_usage(small_disk).free - DISKS[disk]
        (small_disk / "filler").write_bytes(bytes(n_filled))
    more = (zenodo.url,) if work == "downloading" else ()
    outcome, said = refusal(sys.executable, *COMMANDS[work], *more, cwd=here, NO_PROXY="127.0.0.1")
    counts.add("disks", f"{work}, {disk}", "tried")
    counts.add("disks", f"{work}, {disk}", outcome)
    # What is kept of a few clips may fit.
    assert outcome == "one line" or (outcome == "done" and disk == "64 kB free"), said
    names_it = str(here) in said or any(
        name in said for name in ("in data", ": data", ": runs", ": build")
    )
    assert outcome == "done" or names_it, said
