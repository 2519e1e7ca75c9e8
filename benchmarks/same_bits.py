"""What it costs that a training gives the same bits on every x86-64 processor with AVX2.

    python benchmarks/same_bits.py [--rows ROW ...] [--repetitions 3]

A training step of the control in float32 and one thread: forward, backward, Adam, with the
kernels that PyTorch chooses for this processor, and with those of `cfnsr.cluster.SAME_BITS`, which
it reads when it starts. So each of the two is a process of its own, which times all rows; they
take turns.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import report
import torch

from cfnsr import params
from cfnsr.cluster import SAME_BITS
from cfnsr.data import corpora
from cfnsr.models.base import Sizes
from cfnsr.models.registry import ROWS

BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    trained = [
        name
        for name, row in ROWS.items()
        if row.group == "systems" and row.schedule != "none" and row.alias is None
    ]
    parser.add_argument("--rows", nargs="+", choices=trained, default=trained)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="of each row in each process")
    parser.add_argument("--in-this-process", action="store_true", help="print seconds as json")
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    if options.in_this_process:
        print(json.dumps({row: step_s(row, options.steps) for row in options.rows}))
        return

    chosen_here = {name: value for name, value in os.environ.items() if name not in SAME_BITS}
    environments = {
        "default": chosen_here | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        "same_bits": chosen_here | SAME_BITS | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    }
    command = [sys.executable, __file__, "--in-this-process", "--steps", str(options.steps)]
    command += ["--rows", *options.rows]
    idle_pct = report.idle_pct()
    seconds: dict[str, dict[str, list[float]]] = {
        row: {case: [] for case in environments} for row in options.rows
    }
    for _ in range(options.repetitions):
        for case, environment in environments.items():
            printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            for row, taken in json.loads(printed.stdout).items():
                seconds[row][case] += taken
    rows = []
    for row, cases in seconds.items():
        ms = {case: report.spread([1000 * each for each in taken]) for case, taken in cases.items()}
        line: dict[str, object] = {"row": row}
        for case, spread in ms.items():
            line |= {f"{case}_{name}_ms": round(value, 1) for name, value in spread.items()}
        cost = ms["same_bits"]["median"] / ms["default"]["median"] - 1
        rows.append(line | {"cost_pct": round(100 * cost, 1), "idle_before_pct": idle_pct})
    report.write("same_bits", rows, ("torch",), options.output)


def step_s(row: str, n_steps: int) -> list[float]:
    """Seconds of each training step, after two to warm up."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    source = params.load(Path(__file__).parents[1] / "params.yaml").synthetic
    sizes, settings = Sizes.of(source, corpora.find()), source.preprocess
    model = ROWS[row].build(sizes)
    frames = torch.rand(
        BATCH_SIZE, 3, settings.n_frames, settings.frame_size, settings.frame_size
    ).contiguous(memory_format=torch.channels_last_3d)
    inputs = [
        frames if name == "frames" else torch.rand(BATCH_SIZE, *sizes.shape(name))
        for name in ROWS[row].inputs
    ]
    emotion = torch.arange(BATCH_SIZE) % sizes.n_emotions
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss, _ = model.loss(emotion, *inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return report.interleaved({row: step}, n_steps, n_warm_up=2)[row]


if __name__ == "__main__":
    main()
