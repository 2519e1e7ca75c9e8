"""Clips shared by the tests: a tiny synthetic data set, and real RAVDESS where it is at hand."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from cfnsr import cluster

# As workers have it, so that equal work gives equal bytes here; before numpy is loaded.
os.environ.update(cluster.environment(same_bits=True))

import av
import numpy as np
import pandas as pd
import pytest

from cfnsr.data import audio, media
from cfnsr.data.corpora.ravdess import EMOTIONS, stem
from cfnsr.data.motion import N_TRACKS
from cfnsr.data.summary import N_LANDMARK_STATISTICS
from cfnsr.data.synthetic import recording
from cfnsr.data.synthetic.design import takes
from cfnsr.params import Clips, Preprocess

# The tests compare bytes and expect the processor; CUDA_VISIBLE_DEVICES=0 shows them a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

REPOSITORY = Path(__file__).parents[1]
#: What `make repro` leaves beside what is in git.
REPRODUCED = ("runs/synthetic", "build/synthetic", "data/synthetic")
#: Quick to make; nothing equals the paper's sizes, so that nothing can be hard-coded.
SMALL = Preprocess(n_frames=5, frame_size=24)
TAKES = [take for take in takes(Clips()) if take.actor in (1, 2)][::4]


@contextmanager
def alone():
    """What would be sent to workers is packed as for them and done in this process, in order."""

    def finished(work, jobs):
        return enumerate(map(work, pickle.loads(pickle.dumps(jobs))))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cluster, "finished", finished)
        yield


def read_waveform(path):
    """The sound of a file, and its rate in Hz."""
    with media.opened(path) as clip:
        return audio.decode(clip)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory):
    """Eight clips of actors 1 and 2 in RAVDESS's layout. Read only; see `clips_root`."""
    root = tmp_path_factory.mktemp("synthetic")
    for take in TAKES:
        recording.write_clip(root, take, Clips())
    return root


@pytest.fixture(scope="session")
def sixty_clips(tmp_path_factory):
    """All clips of actor 1, as many as RAVDESS has of each. Read only."""
    root = tmp_path_factory.mktemp("sixty")
    clips = Clips(n_repetitions=2, n_statements=2)
    for take in takes(clips):
        if take.actor == 1:
            recording.write_clip(root, take, clips)
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
    name = stem(TAKES[0])
    return synthetic_root / "Actor_01" / f"{name}.mp4", synthetic_root / "landmarks" / f"{name}.csv"


def turned(points, degrees, scale, shift):
    """Points turned about the origin, then scaled, then moved."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ rotation * scale + shift


@pytest.fixture
def face():
    """20 frames of a moving face whose eyes are 100 pixels apart, roughly level."""
    rng = np.random.default_rng(0)
    still = rng.uniform(0, 300, (68, 2))
    still[36:42] = np.array([100, 100]) + rng.uniform(-5, 5, (6, 2))
    still[42:48] = np.array([200, 105]) + rng.uniform(-5, 5, (6, 2))
    return still + rng.normal(0, 2, (20, 68, 2))


@pytest.fixture(scope="session")
def random_arrays(tmp_path_factory):
    """What preprocessing leaves, of 96 random clips: 24 actors in 4 emotions. Read only."""
    folder = tmp_path_factory.mktemp("random_arrays")
    rng = np.random.default_rng(0)
    index = pd.DataFrame(
        [
            {"clip": f"{emotion}-{actor:02d}", "actor": actor, "emotion": emotion}
            for actor in range(1, 25)
            for emotion in EMOTIONS[:4]
        ]
    )
    n = len(index)
    index.to_csv(folder / "index.csv", index=False)
    (folder / "settings.json").write_text(json.dumps({"frame_size": 32}))
    np.save(folder / "frames.npy", rng.integers(0, 256, (n, 4, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "mfcc.npy", rng.normal(10, 5, (n, 13, 212)).astype(np.float32))
    np.save(folder / "log_mel.npy", rng.normal(size=(n, 128, 212)).astype(np.float16))
    statistics = rng.normal(size=(n, N_LANDMARK_STATISTICS)).astype(np.float32)
    np.save(folder / "landmark_statistics.npy", statistics)
    np.save(folder / "motion.npy", rng.normal(size=(n, N_TRACKS, 53)).astype(np.float32))
    return folder


def train_row(row, fold, params, clips, runs):
    """Train a row on a fold in this process, once per seed, from what lies in `runs`."""
    # Not at the top: workers that look a test's function up need no torch.
    from cfnsr.models.registry import find
    from cfnsr.training.experiment import Experiment, starting_weights
    from cfnsr.training.runs import read_run, run_folder
    from cfnsr.training.train import train

    found = []
    for seed in find(row).seeds(params.seeds):
        weights = starting_weights(row, fold, seed, params, runs)
        folder = run_folder(runs, row, fold, seed)
        train(Experiment(row, fold, seed, params, clips, weights), folder, runs / "scratch")
        found.append(read_run(folder))
    return found


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


def mount(options, folder):
    """Mount a disk in memory, or mount it anew; skip the test where only root may."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")


@pytest.fixture
def small_disk(tmp_path):
    """An empty folder on a disk of 64 MB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount("size=64m", folder)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(params=["full", "read-only"])
def bad_disk(request, tmp_path):
    """A folder on a disk that takes 16 kB, or nothing, and what that disk answers."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options, answer = {
        "full": ("size=16k", "No space left on device"),
        "read-only": ("ro", "Read-only file system"),
    }[request.param]
    mount(options, folder)
    yield folder, answer
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def counts(record_property):
    """What the measurements of tests/survival count; printed as tables at the end."""
    from harness import Counts

    return Counts(record_property)


def pytest_terminal_summary(terminalreporter):
    """In the process that prints, wherever the tests have run."""
    from harness import write_counts

    reports = [each for of_kind in terminalreporter.stats.values() for each in of_kind]
    write_counts(
        [report for report in reports if getattr(report, "when", None) == "call"],
        terminalreporter.write_line,
    )


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="run `make test-browser`")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("no Chromium: `apt-get install chromium` or the like")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    """The files that git has, as they are here, and what a reproduction left."""
    folder = tmp_path_factory.mktemp("copy") / "cfnsr"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    for name in REPRODUCED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name)
    return folder


def write_film(path, pictures=(), shown_s=(), sounds=(), rate_hz=16_000, codecs=("libx264", "aac")):
    """Write RGB pictures, each at its time, and mono sounds, (start in s, samples) each."""
    with av.open(path, "w") as container:
        packets = []
        if len(pictures):
            film = container.add_stream(codecs[0], rate=30)
            film.height, film.width = pictures[0].shape[:2]
            film.pix_fmt, film.codec_context.time_base = "yuv420p", Fraction(1, 30)
            for picture, time_s in zip(pictures, shown_s, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = round(30 * time_s), Fraction(1, 30)
                packets += film.encode(frame)
            packets += film.encode()
        if sounds:
            voice = container.add_stream(codecs[1], rate=rate_hz, layout="mono")
            to_codec = av.AudioResampler(format=voice.format, layout="mono", rate=rate_hz)
            size = voice.codec_context.frame_size or 1024
            for start_s, samples in sounds:
                for i in range(0, len(samples), size):
                    part = samples[None, i : i + size].astype(np.float32)
                    block = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                    block.sample_rate, block.time_base = rate_hz, Fraction(1, rate_hz)
                    block.pts = round(start_s * rate_hz) + i
                    for converted in to_codec.resample(block):
                        packets += voice.encode(converted)
            packets += voice.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def remux(source, target, *, only=None, index_first=True, form="mp4", flags=None):
    """Copy an mp4's streams (`only` "video" or "audio") without coding them anew.

    With the index at the start, as official clips have it, a cut file can still be opened.
    """
    if flags is None:
        flags = {"movflags": "faststart"} if index_first else {}
    with av.open(source) as old, av.open(target, "w", format=form, options=flags) as new:
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
