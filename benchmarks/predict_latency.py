"""Seconds from a clip to its answer on a processor.

    python benchmarks/predict_latency.py CLIP [--run FOLDER] [--landmarks CSV] [--repetitions 5]

* `cold`: the whole command `python -m cfnsr predict`, start of Python and imports included;
* `warm`: the same in a process that has done it once: the network is loaded, the face is found,
  the clip classified, `prediction.csv` and the figures are written.

The two take turns. GPUs are hidden from both.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import report

from cfnsr.own_clip import PUBLISHED, predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--run", type=Path, help="default: the network that comes with the package")
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    options = parser.parse_args()

    run = options.run or PUBLISHED
    idle_pct = report.idle_pct()
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "cfnsr", "predict", options.clip, "--run", run]
        command += ["--output", Path(scratch) / "cold"]
        if options.landmarks:
            command += ["--landmarks", options.landmarks]

        def cold() -> None:
            subprocess.run(command, check=True, capture_output=True)

        def warm() -> predict.Prediction:
            prediction = predict.predict(options.clip, run, options.landmarks)
            predict.write(prediction, Path(scratch) / "warm")
            return prediction

        prediction = warm()
        seconds = report.interleaved({"cold": cold, "warm": warm}, options.repetitions, 1)
    rows = [
        {
            "case": case,
            "network": prediction.network,
            "clip_s": round(prediction.windows[-1].end_s, 2),
            "n_windows": len(prediction.windows),
            "face": "landmarks" if options.landmarks else "detected",
            "n": options.repetitions,
            **{f"{name}_s": round(value, 2) for name, value in report.spread(taken).items()},
            "idle_before_pct": idle_pct,
        }
        for case, taken in seconds.items()
    ]
    report.write("predict_latency", rows, ("torch", "av", "scikit-image"), options.output)


if __name__ == "__main__":
    main()
