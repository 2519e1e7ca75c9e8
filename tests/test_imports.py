import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def test_the_arrows_between_modules_point_to_the_left_only():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is not installed beside this Python; run `make env`"
    checked = subprocess.run(
        [program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def loaded(*modules):
    """The top-level packages that importing these modules loads."""
    program = (
        "import sys\nfrom importlib import import_module\n"
        "for name in sys.argv[1:]: import_module(name)\n"
        "print(*(name for name in sys.modules if '.' not in name))"
    )
    printed = subprocess.check_output([sys.executable, "-c", program, *modules], text=True)
    return set(printed.split())


def test_torch_is_not_loaded_for_what_needs_no_model():
    found = loaded(
        "cfnsr.data.preprocess",
        "cfnsr.data.sources",
        "cfnsr.figures.style",
        "cfnsr.evaluation.tables",
    )
    assert "pandas" in found
    assert "torch" not in found


def test_the_commands_and_the_runner_of_notebooks_load_no_heavy_library():
    found = loaded("cfnsr.__main__", "cfnsr.notebook")
    assert not found & {"torch", "pandas", "scipy", "cv2", "av", "librosa"}


def test_a_fold_whose_runs_are_there_loads_no_library_of_training():
    assert not loaded("cfnsr.training.grid") & {"torchvision", "lightning_fabric", "librosa"}


@pytest.mark.skipif(find_spec("ipywidgets") is not None, reason="ipywidgets is installed")
def test_no_library_asks_for_ipywidgets_in_a_notebook():
    def printed(*modules):
        program = "\n".join(f"import {name}" for name in ("ipykernel.zmqshell", *modules))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "IProgress not found" in printed("pooch")  # as librosa and captum, by tqdm.auto
    assert printed("cfnsr.data.sources", "pooch") == ""
