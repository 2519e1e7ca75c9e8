"""Tests of the whole pipeline in clones of this repository; `make slow` runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from cfnsr.models.registry import asked_for

REPOSITORY = Path(__file__).parents[1]
TRAINED = re.compile(r"runs/synthetic/paper/\w+/fold_(\d)/(\w+)/")


def run(folder, *command, succeeds=True):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as on most machines: no stage may mind it
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert (done.returncode == 0) == succeeds, done.stdout[-3000:]
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    """A clone whose trainings take an epoch or two: what runs matters here, not how well."""
    folder = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(REPOSITORY), str(folder))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for schedule in params["synthetic"]["training"].values():
        if isinstance(schedule, dict):
            schedule["n_epochs"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run(folder, "git", "config", "user.name", "A test")
    run(folder, "git", "config", "user.email", "test@example.org")
    run(folder, "git", "commit", "--quiet", "--all", "--message", "Short trainings")
    return folder


def trained(folder):
    """Rows and folds that have a finished run."""
    return {
        (match[2], match[1])
        for path in folder.glob("runs/synthetic/paper/*/fold_*/*/seed_*/run.json")
        if (match := TRAINED.search(str(path)))
    }


def n_trained(output):
    """How many runs were trained."""
    return sum(map(int, re.findall(r"(\d+) of \d+ runs to train", output)))


def change(folder, **values):
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | values))


def stages(output):
    return set(re.findall(r"Running stage '(.*)'", output))


@pytest.mark.slow
def test_one_row_on_one_fold_of_a_fresh_clone_makes_exactly_three_runs(clone):
    output = run(clone, "dvc", "exp", "run", "-S", "fold=4", "-S", "row=mmtm")
    assert n_trained(output) == 3
    assert trained(clone) == {("video", "4"), ("audio", "4"), ("mmtm", "4")}
    metrics = json.loads((clone / "figures/synthetic/tables/metrics.json").read_text())
    assert metrics["system"] == "mmtm"
    shown = run(clone, "dvc", "exp", "show", "--json")
    assert '"fold": 4' in shown
    assert '"last_epoch": ' in shown


@pytest.mark.slow
def test_what_has_been_trained_is_never_trained_again(clone):
    change(clone, row="no_cross_modal")
    assert n_trained(run(clone, "dvc", "repro")) == 15
    assert stages(run(clone, "dvc", "repro")) == set()

    output = run(clone, "dvc", "exp", "run", "-S", "fold=4")
    assert n_trained(output) == 0
    assert {fold for _, fold in trained(clone)} == set("12345")  # the others are left alone

    run(clone, "git", "checkout", "--", "params.yaml")
    change(clone, row="no_cross_modal")
    assert n_trained(run(clone, "dvc", "repro")) == 0

    edit(clone / "cfnsr/figures/style.py")
    edit(clone / "cfnsr/models/msaf.py")
    notebook = clone / "notebooks/02_train.ipynb"
    content = json.loads(notebook.read_text())
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["execution_count"] = 1
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["saved\n"]}]
    notebook.write_text(json.dumps(content))
    output = run(clone, "dvc", "repro")
    assert n_trained(output) == 0
    assert {"notebooks", "train@1", "tables"} <= stages(output)


def edit(path):
    with path.open("a") as file:
        file.write("\n# a comment\n")


@pytest.mark.slow
def test_an_edit_of_one_model_retrains_that_model_alone(clone):
    change(clone, fold=1)
    everything = n_trained(run(clone, "dvc", "repro", "train@1"))
    assert everything == len(asked_for("all", seeds=[1234]))
    edit(clone / "cfnsr/models/mmtm.py")
    assert n_trained(run(clone, "dvc", "repro", "train@1")) == 1
    (run_json,) = clone.glob("runs/synthetic/paper/systems/fold_1/mmtm/seed_*/run.json")
    assert json.loads(run_json.read_text())["row"] == "mmtm"


TOY = """
from torch import Tensor

from cfnsr.models.cross_modal import NoCrossModal


class Toy(NoCrossModal):
    pass
"""


@pytest.mark.slow
def test_a_row_is_added_by_a_class_and_a_line_of_the_registry(clone):
    (clone / "cfnsr/models/toy.py").write_text(TOY)
    registry = clone / "cfnsr/models/registry.py"
    line = '    "toy": Row("Toy", "Model", "toy.Toy", starts_from=ENCODERS),\n'
    text = registry.read_text()
    registry.write_text(text.replace('    "linear": Row(', line + '    "linear": Row(', 1))
    output = run(clone, "dvc", "exp", "run", "-S", "row=toy", "-S", "fold=1")
    assert n_trained(output) == 3
    assert "Toy" in (clone / "figures/synthetic/tables/table1.csv").read_text()


@pytest.mark.slow
def test_a_killed_reproduction_leaves_no_process_and_goes_on_to_the_same_bytes(clone):
    change(clone, row="cfn_sr", fold=2)
    run(clone, "dvc", "repro", "train@2")
    lock = (clone / "dvc.lock").read_bytes()
    shutil.rmtree(clone / "runs")
    shutil.rmtree(clone / ".dvc/cache")
    process = subprocess.Popen(
        ["dvc", "repro", "-f", "-s", "train@2"],
        cwd=clone,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(clone.glob("runs/**/run.json")):
        assert process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    run(clone, "dvc", "repro", "-f", "-s", "train@2")
    assert (clone / "dvc.lock").read_bytes() == lock


@pytest.mark.slow
def test_a_queued_sweep_reads_clips_though_their_stage_comes_from_the_run_cache(clone):
    change(clone, row="audio", fold=4)
    run(clone, "dvc", "repro")
    run(clone, "git", "commit", "--quiet", "--all", "--message", "One run")
    for value in (
        "training.audio.learning_rate=0.0003",  # stage attention reads clips
        "preprocess.n_frames=5",  # and stage preprocess
    ):
        run(clone, "dvc", "exp", "run", "--queue", "-S", f"synthetic.{value}")
    assert "gone" not in run(clone, "dvc", "exp", "run", "--run-all")
    shown = json.loads(run(clone, "dvc", "exp", "show", "--json"))
    (experiments,) = (line["experiments"] for line in shown if line["experiments"])
    found = [experiment["revs"][0]["data"] for experiment in experiments]
    assert len(found) == 2
    assert all(each["metrics"]["figures/synthetic/tables/metrics.json"]["data"] for each in found)
    settings = [each["params"]["params.yaml"]["data"]["synthetic"] for each in found]
    assert {each["training"]["audio"]["learning_rate"] for each in settings} == {0.0003, 0.001}
    assert {each["preprocess"]["n_frames"] for each in settings} == {5, 6}


@pytest.mark.slow
def test_the_nested_protocol_tests_fold_6_and_lets_other_actors_choose(clone):
    run(clone, "dvc", "exp", "run", "-S", "protocol=nested", "-S", "row=audio", "-S", "fold=6")
    (folder,) = clone.glob("runs/synthetic/nested/*/fold_*/*/seed_*")
    assert folder.parts[-3:-1] == ("fold_6", "audio")
    table = (clone / "figures/synthetic/tables/table1.csv").read_text().splitlines()
    assert [line.split(",")[6] for line in table[1:]] == [
        "best test epoch",
        "last epoch",
        "chosen on validation actors",
    ]


@pytest.mark.slow
def test_two_reproductions_from_scratch_have_equal_hashes(clone):
    change(clone, row="cfn_sr", fold=2)
    locks = []
    for _ in range(2):
        run(clone, "dvc", "repro")
        locks.append((clone / "dvc.lock").read_bytes())
        run(clone, "git", "clean", "-fdxq", "--exclude=.dvc/config")
        run(clone, "git", "checkout", "--", "dvc.lock", "figures")
    assert locks[0] == locks[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change_to", "message"),
    [
        ({"fold": 9}, "fold: expected all or 1 to 5 under protocol paper, found 9"),
        ({"row": "cfnsr"}, "row: expected all, hybrid, switches or one of video"),
        ({"epochs": 3}, "unknown parameter epochs"),
    ],
)
def test_a_wrong_parameter_stops_the_pipeline_with_one_line(clone, change_to, message):
    change(clone, **change_to)
    output = run(clone, "dvc", "repro", succeeds=False)
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in output
