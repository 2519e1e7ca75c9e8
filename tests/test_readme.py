"""What README.md tells a reader to type is something that can be typed, and can be read."""

import re
import shlex

import pytest
import yaml
from conftest import REPOSITORY

from cfnsr import __main__, params

README = (REPOSITORY / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
COMMANDS = [*LINES, *(" ".join(words.split()) for words in re.findall(r"`([^`]+)`", PROSE))]
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
#: So many fit into a code block of 830 pixels, as wide as GitHub shows a README.
MAX_CHARACTERS = 88


def commands(start):
    """The README's commands that start with these words, each as its further words."""
    words = [shlex.split(line, comments=True) for line in COMMANDS if line.startswith(start)]
    n = len(start.split())
    found = [each[n:] for each in words if each[:n] == start.split()]
    assert found
    return found


def settings(words):
    """What `dvc exp run -S` is told, one dictionary of parameters by path for each experiment."""
    told = [words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-S"]
    n_experiments = max((value.count(",") + 1 for _, value in told), default=1)
    for k in range(n_experiments):
        yield {path: value.split(",")[k if "," in value else 0] for path, value in told}


EXPERIMENTS = [each for words in commands("dvc exp run") for each in settings(words)]


@pytest.mark.parametrize("told", EXPERIMENTS, ids=lambda told: " ".join(told.values()))
def test_params_yaml_takes_what_an_experiment_sets(told, tmp_path):
    everything = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for path, value in told.items():
        *sections, name = path.removeprefix("+").split(".")
        section = everything
        for each in sections:
            section = section[each]
        assert (name in section) != path.startswith("+"), f"{path}: as dvc demands"
        section[name] = yaml.safe_load(value)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(everything))
    assert params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("words", commands("python -m cfnsr"), ids=" ".join)
def test_the_command_line_knows_the_command(words, monkeypatch):
    asked = []
    for name in vars(__main__):
        if re.fullmatch("_[a-z]+", name):
            run = lambda options, name=name: asked.append(name)  # noqa: E731
            run.__name__ = name
            monkeypatch.setattr(__main__, name, run)
    assert __main__.main(words) == 0
    assert asked == [f"_{words[0]}"]


def test_make_has_the_targets():
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    assert {target for words in commands("make") for target in words} <= set(targets)


def test_the_pipeline_has_the_stages():
    for words in commands("dvc repro"):
        assert {word for word in words if word != "-s"} <= set(STAGES)


def test_every_link_and_picture_within_the_repository_is_there():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    inside = [target for target in targets if "://" not in target]
    assert len(inside) > 3
    assert all((REPOSITORY / target).is_file() for target in inside)


def test_no_line_of_code_is_cut_where_github_shows_it():
    code = [line for block in README.split("```")[1::2] for line in block.splitlines()]
    assert [line for line in code if len(line) > MAX_CHARACTERS] == []


def test_the_first_screen_says_what_was_found_and_has_the_two_commands():
    first_screen = README.split("\n## ")[0].split("![")[0]
    assert "**What was found:**" in first_screen
    assert [line.split("#")[0].split() for line in BLOCKS[0].splitlines()] == [
        ["make", "repro"],
        ["make", "test"],
    ]
    assert BLOCKS[0] in first_screen
    assert len(README.split()) <= 1500
