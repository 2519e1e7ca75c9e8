import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import REPOSITORY


def test_the_arrows_between_modules_point_to_the_left_only():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is not installed beside this Python; run `make env`"
    checked = subprocess.run(
        [program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


PROGRAM = """
import sys
for step in sys.argv[1:]:
    exec(step)
    print(*(name for name in sys.modules if "." not in name))
"""
COMMANDS = "import cfnsr.__main__, cfnsr.notebook"
NO_MODEL = """
import cfnsr.data.preprocess, cfnsr.data.sources, cfnsr.data.synthetic.recording
import cfnsr.evaluation.scores, cfnsr.evaluation.typeset, cfnsr.models.registry
import cfnsr.figures.results, cfnsr.figures.style
from cfnsr.evaluation import tables
from cfnsr.params import Params, SyntheticParams
tables.ceilings(Params(synthetic=SyntheticParams()))
"""
TRAINING = "import cfnsr.training.grid"


@pytest.fixture(scope="module")
def loaded():
    """The top-level packages that each of these steps has loaded, one after the other."""
    steps = (COMMANDS, NO_MODEL, TRAINING)
    printed = subprocess.check_output([sys.executable, "-c", PROGRAM, *steps], text=True)
    return {step: set(line.split()) for step, line in zip(steps, printed.splitlines(), strict=True)}


def test_the_commands_and_the_runner_of_notebooks_load_no_heavy_library(loaded):
    assert "argparse" in loaded[COMMANDS]
    assert not loaded[COMMANDS] & {"torch", "pandas", "scipy", "cv2", "av", "librosa"}


def test_torch_is_not_loaded_for_what_needs_no_model(loaded):
    assert {"pandas", "matplotlib"} <= loaded[NO_MODEL]
    assert "torch" not in loaded[NO_MODEL]


def test_a_fold_whose_runs_are_there_loads_no_library_of_training(loaded):
    assert "torch" in loaded[TRAINING]
    assert not loaded[TRAINING] & {"torchvision", "lightning_fabric", "librosa"}


@pytest.mark.skipif(find_spec("ipywidgets") is not None, reason="ipywidgets is installed")
def test_no_library_asks_for_ipywidgets_in_a_notebook():
    def printed(*modules):
        program = "\n".join(f"import {name}" for name in ("ipykernel.zmqshell", *modules))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "IProgress not found" in printed("pooch")  # as librosa and captum, by tqdm.auto
    assert printed("cfnsr.data.sources", "pooch") == ""
