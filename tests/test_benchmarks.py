"""The benchmarks run, on sizes that say nothing about speed."""

import contextlib
import os
import shutil
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY

pytestmark = pytest.mark.slow  # five minutes in all; CI runs them

BENCHMARKS = REPOSITORY / "benchmarks"

#: A release of our own making, with the names that the benchmarks import and nothing of its code.
RELEASE = {
    "dataset_prep.py": """
from pathlib import Path
def preprocess_video(folder):
    for clip in Path(folder).glob("Actor_*/*.mp4"):
        csv = Path(folder, "landmarks", f"{clip.stem}.csv")
        line = csv.read_text().splitlines()[0].split(",")
        assert (line[297], line[364], line[365], line[432]) == ("x_0", "x_67", "y_0", "y_67")
        Path(folder, "preprocessed", clip.stem).mkdir(parents=True)
def mfcc_features(folder):
    assert list(Path(folder, "preprocessed").iterdir())
""",
    "ravdess.py": """
import cv2, glob, torch
class RAVDESSDataset:
    def __init__(self, folders, transform):
        self.clips = sorted(glob.glob(folders[0] + "/*.mp4"))
        self.transform = transform["image_transform"]
    def __len__(self):
        return len(self.clips)
    def __getitem__(self, i):
        frames = sorted(glob.glob(self.clips[i] + "/frames/*.jpg"))
        return torch.stack([self.transform(cv2.imread(frame)) for frame in frames])
""",
    "main_utils.py": """
def train(inputs, interval, model, device, loader, optimizer, loss, topk, epoch):
    assert len(loader.dataset)
    for sample in loader:
        x, n = inputs(device, sample)
        assert n == len(sample["emotion"])
        value = loss(model(x), sample["emotion"])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
""",
    "networks.py": """
from torch import nn
import MSAF
class MFCCNet(nn.Linear):
    def __init__(self):
        super().__init__(212, 8)
class MSAFNet(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.video, self.audio = parts["video"]["model"], parts["audio"]["model"]
        self.msaf = nn.ModuleList([nn.Module()])
    def forward(self, both):
        assert self.msaf[0].audio_attention is not None
        return self.video(both[0].cuda()) + self.audio(both[1]).mean(dim=1)
def resnet50(num_classes, **options):
    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, num_classes))
""",
    "modules/transformer.py": """
from torch import nn
class TransformerEncoder(nn.Linear):
    def __init__(self, embed_dim, **options):
        super().__init__(embed_dim, embed_dim)
""",
}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    for name, code in RELEASE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    return folder


def run(script, output, *arguments):
    """What a benchmark printed, and its csv files by name."""
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    tables = {path.stem: pd.read_csv(path) for path in output.glob("*.csv")}
    for table in tables.values():
        assert table["machine"].str.contains("core").all()
        assert table["versions"].str.contains("python 3").all()
    return done.stdout, tables


def test_a_case_too_fast_for_the_digits_that_are_printed_is_no_division_by_zero(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report

    assert report.spread([0.004, 0.001, 0.002]) == {"median": 0.002, "min": 0.001, "max": 0.004}


def test_preprocessing_takes_turns_with_decoding_and_the_release(synthetic_root, release, tmp_path):
    sizes = ["--clips", 9, 12, "--repetitions", 2, "--once-from", 12, "--release-up-to", 9]
    printed, tables = run("preprocess", tmp_path, synthetic_root, *sizes, "--reference", release)
    table = tables["preprocess"].set_index(["case", "n_clips"])
    assert list(table.index) == [
        ("cfnsr", 9),
        ("decode", 9),
        ("release", 9),
        ("cfnsr", 12),
        ("decode", 12),
    ]
    assert table["n_runs"].tolist() == [2, 2, 2, 1, 1]
    assert (table["clips_per_s"] > 0).all()
    assert (table["command_s"] >= table["seconds"]).all()
    assert (table["peak_rss_mib"] > 10).all()
    assert table.loc[("decode", 9), "time_over_decode"] == 1
    assert "release / cfnsr" in printed


def test_without_a_reference_its_columns_are_left_out_and_that_is_said(synthetic_root, tmp_path):
    printed, tables = run("preprocess", tmp_path, synthetic_root, "--clips", 2, "--repetitions", 1)
    assert "release: skipped, no --reference given" in printed
    assert tables["preprocess"]["case"].tolist() == ["cfnsr", "decode"]


def test_loading_is_compared_with_a_copy_and_the_release(release, tmp_path):
    sizes = ["--clips", 5, "--frames", 3, "--size", 32, "--batch-size", 2, "--repetitions", 1]
    printed, tables = run("loader", tmp_path, *sizes, "--reference", release)
    table = tables["loader"].set_index("case")
    assert list(table.index) == [
        "copy",
        "gather",
        "device",
        "loader",
        "release",
        "release, 4 workers",
    ]
    assert table.loc["copy", "over_copy"] == 1
    assert table.loc["release", "over_copy"] > 1
    assert set(table["frames"]) == {"3x32x32x3"}
    assert "GPU" in printed


def test_the_share_of_waiting_is_measured_in_a_training(tmp_path):
    sizes = ["--clips", 4, "--frames", 16, "--size", 32, "--batch-size", 2, "--repetitions", 1]
    small = ["--utilisation", "--steps", 2, "--stem-channels", 32]
    _, tables = run("loader", tmp_path, *sizes, *small)
    (line,) = tables["loader_gpu"].to_dict("records")
    assert line["clips_per_s"] > 0
    assert line["clips_per_s_without_loader"] > 0
    assert line["waiting_pct"] < 100
    assert line["batch_size"] == 2


def test_loading_takes_frames_that_are_there(tmp_path):
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "frames.npy", np.zeros((3, 2, 16, 16, 3), np.uint8))
    sizes = ["--clips", 4, "--batch-size", 2, "--repetitions", 1]
    _, tables = run("loader", tmp_path / "out", "--arrays", tmp_path / "arrays", *sizes)
    assert set(tables["loader"]["frames"]) == {"2x16x16x3"}


SMALL_STEP = ["--frames", 16, "--size", 32, "--batch-size", 2, "--repetitions", 1]
SMALL_STEP += ["--stem-channels", 32]


def test_a_training_step_is_compared_with_the_releases(release, tmp_path):
    printed, tables = run("train_step", tmp_path, *SMALL_STEP, "--reference", release)
    table = tables["train_step"]
    expected = ["release", "fp32", "fp32 + channels last"]
    if torch.cpu.get_capabilities().get("avx512_bf16", False):
        expected += ["bf16", "bf16 + channels last", "bf16 + channels last + fused"]
    assert table["case"].tolist() == expected or "cuDNN off" in table["case"][0]
    assert (table["s_a_clip"] > 0).all()
    profile = tables["train_step_profile"]
    assert profile["share_pct"].is_monotonic_decreasing
    assert profile["operation"].str.contains("conv").any()
    assert "not run, no GPU" in printed or "cuDNN off" in table["case"][0]


def test_a_case_that_fails_is_said_and_the_others_are_timed(release, tmp_path):
    networks = (release / "networks.py").read_text()
    broken = networks.replace("return nn.Sequential(", "raise RuntimeError('no engine')\n    (")
    folder = tmp_path / "release"
    shutil.copytree(release, folder)
    (folder / "networks.py").write_text(broken)
    chosen = ["--cases", "release", "fp32", "--reference", folder]
    printed, tables = run("train_step", tmp_path / "out", *SMALL_STEP, *chosen)
    assert tables["train_step"]["case"].tolist() == ["fp32"]
    assert tables["train_step"]["times_fp32"].tolist() == [1]
    assert "release, a batch of 2: failed: no engine" in printed


def test_a_graphs_replay_keeps_what_it_works_on(monkeypatch):
    """A stand-in for CUDA: whoever holds the replay holds the step's tensors."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import train_step

    class Graph:
        def replay(self):
            pass

    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_in = SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda chosen: contextlib.nullcontext(),
        graph=lambda graph: contextlib.nullcontext(),
        CUDAGraph=Graph,
    )
    monkeypatch.setattr(train_step.torch, "cuda", stand_in)

    class Step:
        def __call__(self):
            pass

    step = Step()
    kept = weakref.ref(step)
    replay = train_step.captured(step)
    del step
    replay()
    assert kept() is not None


def test_the_step_of_another_row_and_of_chosen_cases_is_timed(release, tmp_path):
    chosen = ["--row", "video", "--cases", "release", "fp32", "--reference", release]
    _, tables = run("train_step", tmp_path, *SMALL_STEP, *chosen)
    table = tables["train_step"]
    assert set(table["row"]) == {"video"}
    assert "fp32" in table["case"].tolist()


def test_the_cost_of_the_same_bits_is_that_of_a_step_in_a_process_of_its_own(tmp_path):
    sizes = ["--rows", "audio", "motion_voice", "--repetitions", 1, "--steps", 1]
    _, tables = run("same_bits", tmp_path, *sizes)
    table = tables["same_bits"].set_index("row")
    assert list(table.index) == ["audio", "motion_voice"]
    ratio = table["same_bits_median_ms"] / table["default_median_ms"]
    np.testing.assert_allclose(table["cost_pct"], 100 * (ratio - 1), atol=5)


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pipeline

    return pipeline


def test_stages_are_timed_by_what_dvc_prints(pipeline):
    lines = [
        (0.5, "'plan' didn't change, skipping\n"),
        (1.0, "Running stage 'dataset':\n"),
        (1.1, "> python -m cfnsr dataset\n"),
        (3.0, "Running stage 'train@1':\n"),
        (9.0, "Running stage 'train@2':\n"),
    ]
    stages = pipeline.stage_seconds(lines, 12.5)
    assert stages == [("dataset", 2.0), ("train@1", 6.0), ("train@2", 3.5)]
    assert pipeline.stage_seconds(lines[:1], 2.0) == []


def test_stages_of_a_kind_are_added_up(pipeline):
    stages = [
        {"n_workers": 2, "case": "from nothing", "stage": "dataset", "seconds": 2.0},
        {"n_workers": 2, "case": "from nothing", "stage": "train@1", "seconds": 6.0},
        {"n_workers": 2, "case": "from nothing", "stage": "train@2", "seconds": 5.0},
        {"n_workers": 2, "case": "once more", "stage": "train@2", "seconds": 50.0},
    ]
    dataset, train = pipeline.by_kind(stages)
    assert (dataset["kind"], dataset["n"], dataset["seconds"]) == ("dataset", 1, 2.0)
    assert (train["kind"], train["n"], train["seconds"]) == ("train", 2, 11.0)


def test_a_clone_is_timed_from_nothing_and_once_more(tmp_path):
    program = tmp_path / "bin" / "dvc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n[ -e ran ] || echo \"Running stage 'dataset':\"\ntouch ran\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, str(BENCHMARKS / "pipeline.py"), "--output", str(tmp_path)]
    command += ["--workers", "1"]
    subprocess.run(command, check=True, env=os.environ | {"PATH": path}, capture_output=True)
    table = pd.read_csv(tmp_path / "pipeline.csv").set_index("case")
    assert table["n_stages_run"].to_dict() == {
        "from nothing": 1,
        "once more": 0,
        "fold=4 after it": 0,
        "fold=4, row=mmtm": 1,
    }
    assert pd.read_csv(tmp_path / "pipeline_stages.csv")["kind"].tolist() == ["dataset"]
