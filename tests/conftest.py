"""Clips shared by the tests: a tiny synthetic data set, and real RAVDESS where it is at hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

from cfnsr import synthetic
from cfnsr.params import Clips, Preprocess

REPOSITORY = Path(__file__).parents[1]
#: Quick to make; nothing equals the paper's sizes, so that nothing can be hard-coded.
SMALL = Preprocess(n_frames=5, frame_size=24)
TAKES = [take for take in synthetic.takes(Clips()) if take.actor in (1, 2)][::4]


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory):
    """Eight clips of actors 1 and 2 in RAVDESS's layout. Read only; see `clips_root`."""
    root = tmp_path_factory.mktemp("synthetic")
    for take in TAKES:
        synthetic.write_clip(root, take, Clips())
    return root


@pytest.fixture
def clips_root(synthetic_root, tmp_path):
    """A copy of the eight clips that a test may spoil."""
    root = tmp_path / "clips"
    shutil.copytree(synthetic_root, root)
    return root


@pytest.fixture(scope="session")
def one_clip(synthetic_root):
    """The mp4 and the landmark csv of one synthetic clip."""
    stem = TAKES[0].stem()
    return synthetic_root / "Actor_01" / f"{stem}.mp4", synthetic_root / "landmarks" / f"{stem}.csv"


@pytest.fixture(scope="session")
def ravdess_shared():
    """The folder of real RAVDESS data beside the repository."""
    folder = REPOSITORY.parent / "shared" / "ravdess"
    if not (folder / "unpack").is_file():
        pytest.skip(f"no real RAVDESS data: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def ravdess_actor_1(ravdess_shared, tmp_path_factory):
    """Actor 1 as the official downloads lay it out: 60 wav and csv files, 3 mp4 files."""
    root = tmp_path_factory.mktemp("ravdess")
    unpack = [sys.executable, str(ravdess_shared / "unpack"), str(root), "--actors", "1"]
    subprocess.run(unpack, check=True, capture_output=True)
    return root


def remux(source, target, *, only=None, index_first=True):
    """Copy an mp4's streams (`only` "video" or "audio") without coding them anew.

    With the index at the start, as official clips have it, a cut file can still be opened.
    """
    flags = {"movflags": "faststart"} if index_first else {}
    with av.open(source) as old, av.open(target, "w", format="mp4", options=flags) as new:
        kept = [stream for stream in old.streams if only in (None, stream.type)]
        streams = {stream.index: new.add_stream_from_template(stream) for stream in kept}
        for packet in old.demux(kept):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)


def cut(path, share):
    """Keep the first `share` of a file's bytes, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
