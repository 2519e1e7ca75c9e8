import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import grimp
import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cfnsr.data.corpora.ravdess import CORPUS
from cfnsr.models.registry import ROWS, asked_for
from cfnsr.training.runs import trained_by

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCK = (REPOSITORY / "requirements.lock").read_text()
ENVIRONMENT = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
FOLD_STAGES = tuple(yaml.safe_load((REPOSITORY / "params.yaml").read_text())["fold_stages"])


def locked():
    """The requirement and the hashes of each entry of the lock."""
    entries = LOCK.replace("\\\n", " ").splitlines()
    return [
        (Requirement(requirement.strip()), hashes)
        for requirement, *hashes in (entry.split("--hash=") for entry in entries)
    ]


@pytest.mark.parametrize(
    "wanted", [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
)
def test_every_dependency_of_the_project_is_locked_for_every_platform(wanted):
    wanted = Requirement(wanted)
    found = [
        entry
        for entry, _ in locked()
        if canonicalize_name(entry.name) == canonicalize_name(wanted.name)
    ]
    assert len(found) == 1
    assert found[0].marker is None
    (pin,) = found[0].specifier
    assert pin.version in wanted.specifier


def test_the_lock_has_one_version_of_each_package_for_every_python():
    names = [canonicalize_name(entry.name) for entry, _ in locked()]
    assert len(names) == len(set(names)) > 100
    for entry, _ in locked():
        assert [pin.operator for pin in entry.specifier] == ["=="]


def test_every_locked_package_has_a_hash():
    for entry, hashes in locked():
        assert hashes, entry
        for found in hashes:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", found.strip())


def test_the_lock_names_no_address():
    assert "://" not in LOCK
    assert not re.search(r"index-url|find-links|trusted-host| @ ", LOCK)


def test_conda_users_get_the_locked_packages_with_hashes_and_a_python_that_is_allowed():
    pip = next(part["pip"] for part in ENVIRONMENT["dependencies"] if isinstance(part, dict))
    assert pip == ["--require-hashes", "-r requirements.lock"]
    python = next(part for part in ENVIRONMENT["dependencies"] if str(part).startswith("python="))
    assert python.partition("=")[2] in SpecifierSet(PYPROJECT["project"]["requires-python"])


@pytest.fixture
def make(tmp_path):
    """A function that runs the Makefile in a folder without an environment."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)

    def run(*arguments):
        # Whoever runs the tests by make must not have its settings passed on.
        environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
        return subprocess.run(
            ["make", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_what_is_no_python_gets_one_line_of_ours(make, python):
    done = make("env", f"PYTHON={python}")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "make: ***" not in line]
    assert done.returncode != 0
    assert lines == [
        f"error: {python} is no Python >= 3.11; name one that is: make env PYTHON=python3.12"
    ]


def test_too_old_a_python_is_told_its_version(make, tmp_path):
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.9.1;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make("env", f"PYTHON={old}")
    assert f"error: {old} is Python 3.9.1, no Python >= 3.11; name" in done.stdout + done.stderr


def test_jupyterlab_gets_the_options_that_make_is_given(make):
    printed = make("--dry-run", "lab", "LAB=--no-browser --allow-root").stdout
    assert "jupyter lab --no-browser --allow-root" in printed.splitlines()
    assert "jupyter lab" in map(str.strip, make("--dry-run", "lab").stdout.splitlines())


def test_dvc_sends_no_statistics_and_stages_its_own_files():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".dvc" / "config")
    assert config["core"].getboolean("analytics") is False
    assert config["core"].getboolean("autostage") is True


def test_one_stage_a_fold_trains_every_system():
    stage = STAGES["train"]
    assert stage["matrix"] == {"fold": "${fold_stages}"}
    assert CORPUS.folds("nested") == FOLD_STAGES
    (output,) = stage["outs"]
    (folder,) = output
    assert folder == "runs/${data}/${protocol}/systems/fold_${item.fold}"
    assert stage["cmd"] == "python -m cfnsr train ${item.fold}"


def test_a_row_starts_from_systems_or_from_rows_of_its_own_group():
    for row in ROWS.values():
        assert {ROWS[name].group for name in row.predecessors} <= {"systems", row.group}


@pytest.mark.parametrize("row", ROWS)
def test_what_trains_a_run_anew_is_a_stage_or_a_group_that_can_be_asked_for(row):
    named = trained_by({"row": row, "fold": 3}).strip("`")
    stage = re.fullmatch(r"dvc repro (\w+)@3", named)
    asked = re.fullmatch(r"dvc exp run -S row=(\w+)", named)
    assert row in asked_for(asked[1], [1, 2, 3]) if asked else stage[1] in STAGES


#: The package's parameters, how notebooks run and where work runs: a result depends on them only by
#: what they pass on.
NO_RESULT = {
    "cfnsr",
    "cfnsr.params",
    "cfnsr.cluster",
    "cfnsr.notebook",
}
#: Pictures in notebooks that git does not keep may be older than their code: preprocessing and
#: training look again at all they have done before they draw.
PICTURES = ("cfnsr.figures", "cfnsr.evaluation")


@pytest.fixture(scope="module")
def graph():
    """Which module imports which."""
    return grimp.build_graph("cfnsr", cache_dir=None, exclude_type_checking_imports=True)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(name, graph):
    stage = STAGES[name]
    given = [Path(path) for path in stage["deps"] if path.startswith("cfnsr")]
    passed_over = PICTURES if name in ("preprocess", "train") else ()
    todo, needed = imported_by(stage), set()
    while todo:
        module = todo.pop()
        if module not in needed | NO_RESULT and not module.startswith(passed_over):
            needed.add(module)
            todo |= graph.find_modules_directly_imported_by(module)
    for module in needed:
        file = Path(*module.split("."))
        files = (file.with_suffix(".py"), file / "__init__.py")
        assert any(dep in (each, *each.parents) for each in files for dep in given), module


def imported_by(stage):
    """The modules of this package that a stage's notebook or command imports."""
    by_command = re.search(r"cfnsr (\w+)", stage["cmd"])
    path = re.search(r"notebooks/(\w+\.ipynb)", f"{stage['cmd']} {' '.join(stage['deps'])}")
    if path:
        cells = json.loads((REPOSITORY / "notebooks" / path[1]).read_text())["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    else:
        main = ast.parse((REPOSITORY / "cfnsr/__main__.py").read_text())
        functions = {node.name: node for node in main.body if isinstance(node, ast.FunctionDef)}
        code = ast.unparse(functions[f"_{by_command[1]}"])
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cfnsr"):
            modules |= {
                below if is_module(below := f"{node.module}.{alias.name}") else node.module
                for alias in node.names
            }
    return modules


def is_module(name):
    file = REPOSITORY / Path(*name.split("."))
    return file.with_suffix(".py").exists() or (file / "__init__.py").exists()


def test_the_pipeline_is_short_enough_to_be_read():
    assert len((REPOSITORY / "dvc.yaml").read_text().splitlines()) <= 160
    assert len((REPOSITORY / "dvc.lock").read_text().splitlines()) <= 700


def test_the_lock_of_the_pipeline_has_its_stages_and_no_other():
    expected = set()
    for name, stage in STAGES.items():
        expected |= {f"{name}@{fold}" for fold in FOLD_STAGES} if "matrix" in stage else {name}
    assert set(yaml.safe_load((REPOSITORY / "dvc.lock").read_text())["stages"]) == expected


@pytest.mark.parametrize("name", STAGES)
def test_every_module_that_a_stage_depends_on_exists(name):
    stage = STAGES[name]
    for path in stage.get("deps", []):
        if path.startswith("cfnsr"):
            assert (REPOSITORY / path).exists(), path


def test_no_tracked_file_names_a_package_registry():
    # Whoever clones this may use a mirror; pip, uv and conda know where to look.
    hosts = re.compile(
        r"py[p]i\.org|python[h]osted\.org|anaconda\.[o]rg|download\.py[t]orch\.org", re.IGNORECASE
    )
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git repository")
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        if not path.is_file() or b"\0" in path.read_bytes():
            continue
        assert not hosts.search(path.read_text(errors="replace")), name
