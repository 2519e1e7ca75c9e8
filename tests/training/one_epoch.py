"""An epoch of two small rows: `python one_epoch.py ARRAYS OUTPUT`."""

import sys
from pathlib import Path

from test_train import one_epoch

if __name__ == "__main__":
    one_epoch(*map(Path, sys.argv[1:]))
