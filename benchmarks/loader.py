"""Augmented clips into training, against the release's Dataset and DataLoader.

    python benchmarks/loader.py [--arrays build/ravdess/arrays] [--reference DIR]

Milliseconds a clip of 30 frames of 224 x 224, one after the other in one thread, taken in turn:

* `copy`: its uint8 frames from the memory-mapped array into memory that is already there;
* `gather`: the host's part of a batch (`Loader.gather`), all that a GPU's host does for frames;
* `device`: crop, flip and normalise on the device; where there is no GPU, on the processor;
* `loader`: whole batches of `cfnsr.data.clips.Loader`;
* `release`: its RAVDESSDataset with its transforms in a DataLoader, in this process and in
  as many worker processes as it asks for (4).

Without --arrays the frames are random, and smooth as faces are, so that JPEG compresses them.
The release reads JPEG files, which are written first, into a temporary folder.

On a GPU it also trains `cfn_sr` from the loader, and from one batch that stays there and is
augmented again and again: the share of the time that the GPU waits for clips, and the share in
which it is busy at all. With --utilisation it does so on a processor, too.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import report
import torch
from torchvision import transforms

from cfnsr.data.clips import Clips, Loader, augmentation, normalise
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.models.base import Sizes
from cfnsr.models.registry import find
from cfnsr.params import Model

RELEASE_WORKERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arrays", type=Path, help="a folder that holds frames.npy")
    parser.add_argument("--reference", type=Path, help="a checkout of the release")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, default=224, help="pixels; the release knows only 224")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--utilisation", action="store_true", help="even without a GPU")
    parser.add_argument("--steps", type=int, default=30, help="of training from the loader")
    parser.add_argument("--stem-channels", type=int, default=64, help="64 is the paper's network")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(1)
    idle_pct = report.idle_pct()
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(arguments, Path(folder))
        loader = Loader(
            {"frames": clips.frames, "mfcc": clips.mfcc},
            clips.emotion,
            augmentation(arguments.size),
            torch.device(arguments.device),
        )
        cases = own_cases(loader, arguments.batch_size)
        if arguments.reference is None:
            print("release: skipped, no --reference given")
        else:
            write_release_files(clips, Path(folder) / "preprocessed")
            cases |= release_cases(arguments, Path(folder) / "preprocessed")
        seconds = report.interleaved(cases, arguments.repetitions, n_warm_up=1)
    per_clip = {
        name: [1000 * second / arguments.clips for second in taken]
        for name, taken in seconds.items()
    }
    copy_ms, gather_ms = (report.spread(per_clip[name])["median"] for name in ("copy", "gather"))
    rows = []
    for name, taken in per_clip.items():
        ms = report.spread(taken)
        rows.append(
            {
                "case": name,
                "device": arguments.device if name in ("device", "loader") else "host",
                "ms_a_clip": round(ms["median"], 3),
                "min_ms": round(ms["min"], 3),
                "max_ms": round(ms["max"], 3),
                "clips_per_s": round(1000 / ms["median"], 1),
                "over_copy": round(ms["median"] / copy_ms, 2),
                "over_gather": round(ms["median"] / gather_ms, 1),
                "frames": "x".join(map(str, clips.frames.shape[1:])),
                "idle_before_pct": idle_pct,
            }
        )
    packages = ("torch", "torchvision", "numpy", "opencv-python-headless")
    report.write("loader", rows, packages, arguments.output)
    if loader.device.type == "cuda" or arguments.utilisation:
        waiting = utilisation(loader, arguments)
        report.write("loader_gpu", [waiting], packages, arguments.output)
    else:
        print("GPU utilisation: not run, there is no GPU")


def make_clips(arguments: argparse.Namespace, folder: Path) -> Clips:
    """As many clips as asked for, on disk, memory-mapped; repeated if `--arrays` has fewer."""
    n, size = arguments.clips, arguments.size
    shape = (n, arguments.frames, size, size, 3)
    if arguments.arrays:
        source = np.load(arguments.arrays / "frames.npy", mmap_mode="r")
        shape = (n, *source.shape[1:])
        arguments.frames, arguments.size = shape[1:3]
    else:
        rng = np.random.default_rng(1)
        coarse = rng.integers(0, 256, (8, arguments.frames, 12, 12, 3), np.uint8)
        source = np.stack(
            [
                [cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC) for frame in clip]
                for clip in coarse
            ]
        )
    path = folder / "frames.npy"
    frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for i in range(n):
        frames[i] = source[i % len(source)]
    frames.flush()
    mfcc = np.zeros((n, 13, 212), np.float32)
    index = pd.DataFrame({"emotion": [EMOTIONS[i % 8] for i in range(n)], "actor": 1})
    return Clips(index, np.load(path, mmap_mode="r"), mfcc, mfcc, mfcc[:, 0], mfcc, "")


def own_cases(loader: Loader, batch_size: int) -> dict[str, Callable[[], None]]:
    frames = loader.arrays["frames"]
    order = np.random.default_rng(1).permutation(len(frames))
    parts = np.array_split(order, -(-len(order) // batch_size))
    into = np.empty((batch_size, *frames.shape[1:]), np.uint8)
    pictures = loader.gather(parts[0])[0].to(loader.device).movedim(-1, 2)

    def copy() -> None:
        for position, row in zip(order, np.arange(len(order)) % batch_size, strict=True):
            np.copyto(into[row], frames[position])

    def gather() -> None:
        for part in parts:
            loader.gather(part)

    def device() -> None:
        for _ in parts:
            normalise(loader.augment(pictures))
        synchronise(loader.device)

    def whole() -> None:
        for _ in loader.batches(order, batch_size, augmented=True):
            pass
        synchronise(loader.device)

    return {"copy": copy, "gather": gather, "device": device, "loader": whole}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def write_release_files(clips: Clips, folder: Path) -> None:
    """What the release's preprocessing leaves of each clip: 30 JPEGs and the MFCCs."""
    for i, frames in enumerate(clips.frames):
        name = f"01-01-{1 + i % 8:02d}-01-01-01-01-{i}.mp4"
        clip = folder / "Actor_01" / name
        (clip / "frames").mkdir(parents=True)
        (clip / "audios").mkdir()
        for k, frame in enumerate(frames):
            cv2.imwrite(str(clip / "frames" / f"frame_{k / 10:.2f}.jpg"), frame[..., ::-1])
        np.save(clip / "audios" / "featuresMFCC.npy", clips.mfcc[i])


def release_cases(arguments: argparse.Namespace, folder: Path) -> dict[str, Callable[[], None]]:
    sys.path.insert(0, str(arguments.reference.resolve()))
    from ravdess import RAVDESSDataset  # the release's

    # The training transforms of its main_msaf.py, which cannot be imported without running it.
    of_images = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomResizedCrop(size=(224, 224), scale=(0.8, 1.4)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    transform = {"image_transform": of_images, "audio_transform": None}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how many it found
        dataset = RAVDESSDataset([str(folder / "Actor_01")], transform=transform)
    assert len(dataset) == arguments.clips

    def run(n_workers: int) -> None:
        batches: Any = torch.utils.data.DataLoader(
            dataset, batch_size=arguments.batch_size, shuffle=True, num_workers=n_workers
        )
        for _ in batches:
            pass

    return {
        "release": lambda: run(0),
        f"release, {RELEASE_WORKERS} workers": lambda: run(RELEASE_WORKERS),
    }


def utilisation(loader: Loader, arguments: argparse.Namespace) -> dict[str, Any]:
    """The share of a training that the GPU waits for clips: against one batch that stays there."""
    model = find("cfn_sr").build(Sizes(Model(stem_channels=arguments.stem_channels)))
    model = model.to(loader.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    positions = np.arange(arguments.clips)

    def from_loader() -> Iterator[Any]:
        while True:
            yield from loader.batches(positions, arguments.batch_size, augmented=True)

    kept = positions[: arguments.batch_size]
    (_, *others), emotion = next(loader.batches(kept, arguments.batch_size))
    pictures = loader.gather(kept)[0].to(loader.device).movedim(-1, 2)

    def train(batches: Iterator[Any]) -> None:
        for _ in range(arguments.steps):
            inputs, emotion = next(batches)
            with torch.autocast(loader.device.type, torch.bfloat16):
                loss, _ = model.loss(emotion, *inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronise(loader.device)

    def stays() -> Iterator[Any]:
        while True:
            frames = normalise(loader.augment(pictures))
            yield (frames, *others), emotion

    seconds = report.interleaved(
        {"loader": lambda: train(from_loader()), "stays": lambda: train(stays())}, 3, n_warm_up=1
    )
    loader_s, stays_s = (report.spread(seconds[name])["median"] for name in ("loader", "stays"))
    activity = torch.profiler.ProfilerActivity
    on_gpu = loader.device.type == "cuda"
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profile:
        profiled = report.interleaved({"loader": lambda: train(from_loader())}, 1)["loader"][0]
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    busy_s = sum(getattr(event, own) for event in profile.key_averages()) / 1e6
    n_clips = arguments.steps * arguments.batch_size
    return {
        "clips_per_s": round(n_clips / loader_s, 1),
        "clips_per_s_without_loader": round(n_clips / stays_s, 1),
        "waiting_pct": round(100 * (1 - stays_s / loader_s), 1),
        "busy_pct": round(100 * busy_s / profiled, 1),
        "batch_size": arguments.batch_size,
    }


if __name__ == "__main__":
    main()
