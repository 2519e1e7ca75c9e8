"""An epoch of two small rows: `python one_epoch.py ARRAYS OUTPUT`."""

import sys
from pathlib import Path

from test_train import run, settings

from cfnsr.data.clips import load_clips
from cfnsr.params import Schedule

if __name__ == "__main__":
    arrays, output = map(Path, sys.argv[1:])
    brief = Schedule(n_epochs=1, batch_size=32)
    params = settings(video=brief, audio=brief)
    clips = load_clips(arrays)
    for row in ("audio", "video"):
        run(clips, output, row, params=params)
