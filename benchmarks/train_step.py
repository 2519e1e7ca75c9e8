"""A training step: forward, backward, Adam, on clips that are already on the device.

    python benchmarks/train_step.py [--reference DIR] [--row cfn_sr] [--frames 30] [--size 224]

The cases take turns, each with a model and an optimiser of its own:

* `fp32` or `bf16`: this project's network, float32 or bfloat16 by autocast, contiguous tensors;
* `+ channels last`: weights and frames in that layout, as in this project's trainings;
* `+ fused`: Adam in one kernel instead of one for each of its operations and tensors, likewise;
* GPU only: `+ deterministic`: kernels that give equal sums, likewise; `+ autotuned`: cuDNN tries
  its kernels first; `+ graph`: the whole step as one CUDA graph; `+ compiled`: torch.compile;
* `release`: the release's network (for `cfn_sr` its CFN-SR) and its loop in main_utils.py,
  float32; on a GPU as shipped with cuDNN off, and with cuDNN on.

What is changed of the release, at run time: its CFN-SR imports a module that was not released and
calls an encoder that is commented out, so an empty module stands in and the encoder is made as the
comment has it; `.cuda()`, which it calls on a tensor, does nothing where there is no GPU.

With --keep-memory all cases run with memory that glibc keeps, as this project's trainings do: it is
a setting of the whole process.

On a GPU the batch is doubled until memory is full. A case that fails says so and is left out. The
share of the peak counts three forward passes a step (`EmotionModel.forward_gflops`) against the
dense peak that a card's maker names, and on a processor against the fastest product of two large
matrices that is measured here.
`train_step_profile.csv` says where the time of the last case goes.
"""

import argparse
import contextlib
import gc
import io
import os
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import report
import torch
from torch import Tensor, nn

from cfnsr.cluster import ENVIRONMENT
from cfnsr.models.base import FULL_SIZE, Sizes
from cfnsr.models.registry import find
from cfnsr.params import Model

#: Dense TFLOP/s of bfloat16, of TF32, in which cuDNN convolves float32 by default, of float32.
PEAK_TFLOPS = {"H100": (989, 495, 67), "H200": (989, 495, 67), "A100": (312, 156, 19.5)}
#: Rows and columns of the matrices whose product measures a processor.
N_MATRIX = 2048
FASTEST = "bf16 + channels last"
MFCC_SHAPE = (13, 212)

Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, help="a checkout of the release")
    parser.add_argument("--row", choices=["cfn_sr", "video"], default="cfn_sr")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, help="default: 16 on a GPU, 4 on a processor")
    parser.add_argument("--repetitions", type=int, help="default: 20 on a GPU, 3 on a processor")
    parser.add_argument("--stem-channels", type=int, default=64, help="64 is the paper's network")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="on a processor: freed memory stays the process's",
    )
    parser.add_argument("--threads", type=int, help="of a processor; default: one a core")
    parser.add_argument("--cases", nargs="+", help="only these, instead of all that the device can")
    parser.add_argument("--largest-batch", type=int, default=256, help="of a GPU")
    parser.add_argument("--name", default="train_step", help="of the csv files")
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.keep_memory and not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    on_gpu = device.type == "cuda"
    batch_size = arguments.batch_size or (16 if on_gpu else 4)
    n_repetitions = arguments.repetitions or (20 if on_gpu else 3)
    chosen = cases_for(device, arguments.reference is not None)
    if arguments.cases:
        chosen = [case for case in chosen if case in arguments.cases]
    if not on_gpu:
        print("compiled, CUDA graphs, cuDNN and memory: not run, no GPU")
    if arguments.reference is None:
        print("release: skipped, no --reference given")

    rows = side_by_side(chosen, arguments, device, batch_size, n_repetitions)
    report.write(arguments.name, rows, ("torch",), arguments.output)
    if on_gpu:
        rows += larger_batches(rows, arguments, device, batch_size, n_repetitions)
        report.write(arguments.name, rows, ("torch",), arguments.output)
    done = {row["case"] for row in rows}
    own = [case for case in chosen if case in done and not ("release" in case or "graph" in case)]
    if own:
        profile = profiled(own[-1], arguments, device, batch_size)
        report.write(f"{arguments.name}_profile", profile, ("torch",), arguments.output)


def cases_for(device: torch.device, has_reference: bool) -> list[str]:
    own = ["fp32", "fp32 + channels last"]
    # Without instructions of its own a processor takes minutes for a step in bfloat16.
    if device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False):
        own += ["bf16", FASTEST, f"{FASTEST} + fused"]
    if device.type == "cuda":
        # Grouped convolutions may be slower in that layout on a GPU: each with and without.
        own += [
            f"{layout} + fused{more}"
            for layout in ("bf16", FASTEST)
            for more in ("", " + deterministic", " + autotuned", " + graph", " + compiled")
            if f"{layout} + fused{more}" not in own
        ]
    release = ["release"] if device.type == "cpu" else ["release, cuDNN off", "release, cuDNN on"]
    return (release if has_reference else []) + own


def side_by_side(
    cases: list[str],
    arguments: argparse.Namespace,
    device: torch.device,
    batch_size: int,
    n_repetitions: int,
) -> list[dict[str, Any]]:
    """Seconds of a step of each case that runs; on a GPU with the memory that it takes."""
    idle_pct = report.idle_pct()
    steps, memory = {}, {}
    for case in cases:
        used = allocated_gib(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            step = make_step(case, arguments, device, batch_size)
            timed(step, device)
        # Not only OutOfMemoryError: cuDNN without memory finds no engine.
        except RuntimeError as error:
            print(f"{case}, a batch of {batch_size}: failed: {str(error).splitlines()[0]}")
            release_memory(device)
            continue
        steps[case] = step
        if device.type == "cuda":
            memory[case] = torch.cuda.max_memory_allocated() / 2**30 - used
    if not steps:
        return []
    seconds = report.interleaved(
        {case: lambda step=step: timed(step, device) for case, step in steps.items()},
        n_repetitions,
        n_warm_up=3 if device.type == "cuda" else 0,
    )
    forward = forward_gflops(arguments)
    first = next(iter(seconds))
    first_s = report.spread(seconds[first])["median"]
    rows = []
    for case, taken in seconds.items():
        step_s = report.spread(taken)
        row = {
            "case": case,
            "row": arguments.row,
            "frames": f"{arguments.frames}x{arguments.size}x{arguments.size}",
            "batch_size": batch_size,
            "keeps_memory": arguments.keep_memory,
            "s_a_clip": round(step_s["median"] / batch_size, 5),
            "min_s": round(step_s["min"] / batch_size, 5),
            "max_s": round(step_s["max"] / batch_size, 5),
            "clips_per_s": round(batch_size / step_s["median"], 2),
            f"times_{first.replace(', ', '_').replace(' ', '_')}": round(
                first_s / step_s["median"], 2
            ),
            "idle_before_pct": idle_pct,
        }
        if device.type == "cuda":
            row["peak_gib"] = round(memory[case], 2)
        kind = "bf16" if "bf16" in case else "fp32" if "cuDNN off" in case else "tf32"
        peak = peak_gflops(kind, device)
        if peak is not None:
            row["gflops_per_s"] = round(3 * forward * batch_size / step_s["median"], 1)
            row["share_of_peak_pct"] = round(100 * row["gflops_per_s"] / peak, 1)
        rows.append(row)
    return rows


@cache
def peak_gflops(kind: str, device: torch.device) -> float | None:
    """The most 10^9 operations a second that the device can do; None for an unknown card.

    `kind` is bf16, tf32 or fp32; the last two are one on a processor.
    """
    if device.type == "cuda":
        known = [tflops for card, tflops in PEAK_TFLOPS.items() if card in report.machine()]
        return 1000.0 * known[0][("bf16", "tf32", "fp32").index(kind)] if known else None
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    matrix = torch.randn(N_MATRIX, N_MATRIX, dtype=dtype)
    seconds = report.interleaved({"product": lambda: matrix @ matrix}, 10, n_warm_up=2)
    return 2 * N_MATRIX**3 / min(seconds["product"]) / 1e9


def larger_batches(
    rows: list[dict[str, Any]],
    arguments: argparse.Namespace,
    device: torch.device,
    batch_size: int,
    n_repetitions: int,
) -> list[dict[str, Any]]:
    """The fastest case with doubled batches, until they do not fit."""
    found: list[dict[str, Any]] = []
    if not rows:
        return found
    fastest = min(rows, key=lambda row: row["s_a_clip"])["case"]
    while (batch_size := 2 * batch_size) <= arguments.largest_batch:
        release_memory(device)
        larger = side_by_side([fastest], arguments, device, batch_size, n_repetitions)
        if not larger:
            break
        found += larger
    release_memory(device)
    return found


def make_step(
    case: str, arguments: argparse.Namespace, device: torch.device, batch_size: int
) -> Step:
    frames = torch.randn(
        batch_size, 3, arguments.frames, arguments.size, arguments.size, device=device
    )
    sound = torch.randn(batch_size, *MFCC_SHAPE, device=device)
    emotion = torch.randint(0, FULL_SIZE.n_emotions, (batch_size,), device=device)
    if case.startswith("release"):
        return release_step(case, arguments, frames, sound, emotion)
    return own_step(case, arguments, frames, sound, emotion)


def own_step(
    case: str, arguments: argparse.Namespace, frames: Tensor, sound: Tensor, emotion: Tensor
) -> Step:
    device = frames.device
    layout = torch.channels_last_3d if "channels last" in case else torch.contiguous_format
    model = find(arguments.row).build(sizes(arguments)).to(device).train()
    convert(model, layout)
    given = {"frames": frames.contiguous(memory_format=layout), "mfcc": sound}
    inputs = [given[name] for name in find(arguments.row).inputs]
    in_graph = "graph" in case
    # None is torch's choice: one kernel for each operation, of all tensors where there is a GPU.
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-3, capturable=in_graph, fused="fused" in case or None
    )
    compute: Callable[..., Any] = model.loss
    if "compiled" in case:
        torch._dynamo.reset()  # else a second batch size compiles for all sizes, and slower code
        compute = torch.compile(model.loss, dynamic=False)

    def step() -> None:
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = "autotuned" in case
            torch.use_deterministic_algorithms("deterministic" in case, warn_only=True)
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in case):
            loss, _ = compute(emotion, *inputs)
        optimizer.zero_grad(set_to_none=not in_graph)
        loss.backward()
        optimizer.step()

    return captured(step) if in_graph else step


def convert(model: nn.Module, layout: torch.memory_format) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=layout)


def captured(step: Step) -> Step:
    """The same step as one CUDA graph, on the same clips and in the memory that `step` holds."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is chosen and allocated once must not be captured
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(_kept: Step = step) -> None:
        graph.replay()

    return replay


def release_step(
    case: str, arguments: argparse.Namespace, frames: Tensor, sound: Tensor, emotion: Tensor
) -> Step:
    """The release's network and training loop on one batch, laid out as its Dataset gives it."""
    device = frames.device
    if str(arguments.reference.resolve()) not in sys.path:
        sys.path.insert(0, str(arguments.reference.resolve()))
    unreleased = types.ModuleType("MSAF")
    unreleased.MSAF = None  # type: ignore[attr-defined]
    sys.modules["MSAF"] = unreleased
    from main_utils import train  # the release's
    from networks import MFCCNet, MSAFNet, resnet50

    model: nn.Module = resnet50(
        num_classes=FULL_SIZE.n_emotions,
        shortcut_type="B",
        cardinality=32,
        sample_size=arguments.size,
        sample_duration=arguments.frames,
    )
    # Its pooling window follows from the size that it is built for.
    if arguments.row == "cfn_sr":
        model = released_cfn_sr(model, MFCCNet(), MSAFNet)
    model = model.to(device)
    if device.type == "cpu":
        torch.Tensor.cuda = lambda tensor, *_: tensor  # type: ignore[method-assign, assignment]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sample = {"images": frames.transpose(1, 2).contiguous(), "mfcc": sound, "emotion": emotion}

    class OneBatch(list[Any]):
        dataset = range(len(emotion))

    def inputs(device: torch.device, sample: dict[str, Tensor]) -> tuple[Any, int]:
        images = sample["images"].to(device).permute(0, 2, 1, 3, 4)
        both = [images, sample["mfcc"].to(device)]
        return (both if arguments.row == "cfn_sr" else images), len(images)

    loss = nn.CrossEntropyLoss()

    def step() -> None:
        torch.backends.cudnn.enabled = "cuDNN off" not in case
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                train(inputs, 10, model, device, OneBatch([sample]), optimizer, loss, (1,), 0)
        finally:
            torch.backends.cudnn.enabled = True

    return step


def released_cfn_sr(video: nn.Module, audio: nn.Module, build: Any) -> nn.Module:
    from modules.transformer import TransformerEncoder  # the release's

    model: nn.Module = build(
        {"video": {"model": video, "id": 0}, "audio": {"model": audio, "id": 1}}
    )
    model.msaf[0].audio_attention = TransformerEncoder(
        embed_dim=64,
        num_heads=8,
        layers=5,
        attn_dropout=0.1,
        relu_dropout=0.1,
        res_dropout=0.1,
        embed_dropout=0.3,
        attn_mask=True,
    )
    return model


def sizes(arguments: argparse.Namespace) -> Sizes:
    return Sizes(Model(stem_channels=arguments.stem_channels))


def forward_gflops(arguments: argparse.Namespace) -> float:
    shapes = {"frames": (3, arguments.frames, arguments.size, arguments.size), "mfcc": MFCC_SHAPE}
    row = find(arguments.row)
    return row.build(sizes(arguments)).forward_gflops(*(shapes[name] for name in row.inputs))


def timed(step: Step, device: torch.device) -> None:
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def release_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def allocated_gib(device: torch.device) -> float:
    return torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def profiled(
    case: str, arguments: argparse.Namespace, device: torch.device, batch_size: int
) -> list[dict[str, Any]]:
    """The operations that take most of a step's time, by their own time."""
    step = make_step(case, arguments, device, batch_size)
    timed(step, device)
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CUDA] if device.type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        timed(step, device)
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, own))
    total = sum(getattr(event, own) for event in events)
    return [
        {
            "case": case,
            "operation": event.key[:80],
            "share_pct": round(100 * getattr(event, own) / total, 1),
            "ms": round(getattr(event, own) / 1000, 2),
            "calls": event.count,
        }
        for event in events[:15]
    ]


if __name__ == "__main__":
    main()
