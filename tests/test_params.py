import re

import pytest
from conftest import REPOSITORY
from pydantic import ValidationError

from cfnsr import InputError, params
from cfnsr.__main__ import main
from cfnsr.params import Params, Preprocess


def bomb(line, first="[a, a]"):
    """Ten lines of aliases that stand for 2 x 9^9 values."""
    lines = [f"a0: &a0 {first}"]
    for i in range(1, 10):
        lines.append(f"a{i}: &a{i} " + line.format(", ".join([f"*a{i - 1}"] * 9)))
    return "\n".join(lines)


@pytest.fixture
def written(tmp_path):
    """A function that writes params.yaml and gives its path."""

    def write(text):
        path = tmp_path / "params.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_repositorys_params_yaml_is_valid():
    assert params.load(REPOSITORY / "params.yaml").data == "synthetic"


def test_the_defaults_are_the_papers_but_for_the_annealed_rate(written):
    found = params.load(written("data: ravdess")).source
    assert (found.preprocess.n_frames, found.preprocess.frame_size) == (30, 224)
    assert (found.preprocess.offset_s, found.preprocess.duration_s) == (0.5, 2.45)
    assert found.model.n_blocks == (3, 4, 6, 3)
    assert found.training.fusion.model_dump() == {
        "n_epochs": 70,
        "batch_size": 16,
        "learning_rate": 0.001,
        "anneal": True,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour: red", "unknown parameter colour"),
        ("ravdess: {preprocess: {n_frame: 3}}", "unknown parameter ravdess.preprocess.n_frame"),
        ("ravdess: {training: {video: {n_epochs: ten}}}", "ravdess.training.video.n_epochs: .*'t"),
        ("ravdess: {preprocess: {frame_size: 4}}", "ravdess.preprocess.frame_size: .*16, found 4"),
        ("ravdess: {preprocess: {n_mfcc: 200}}", "ravdess.preprocess.n_mfcc: .*128, found 200"),
        ("ravdess: {preprocess: {sample_rate_hz: 1}}", "sample_rate_hz: .*1000, found 1"),
        ("ravdess: {preprocess: {duration_s: 1.0e+308}}", "duration_s: .*3600, found 1e.308"),
        ("ravdess: {preprocess: }", "ravdess.preprocess: .*found None"),
        (
            "ravdess: {preprocess: {drawing: {line_width_px: 9}}}",
            "drawing.line_width_px: .*found 9",
        ),
        ("synthetic: {clips: {face_reliability: 1.5}}", "synthetic.clips.face_reliability: .*1.5"),
        ("ravdess: {training: {audio: {learning_rate: .nan}}}", "learning_rate: .*finite.*nan"),
        ("ravdess: {training: {audio: {batch_size: 1}}}", "batch_size: .*2, found 1"),
        ("ravdess: {preprocess: {rejected: ignore}}", "rejected: .*'stop' or 'skip'.*'ignore'"),
        ("data: crema_d", "data: expected one of synthetic, .*, cremad, .*, found 'crema_d'"),
        ("cremad: {rot: /films}", "unknown parameter cremad.rot"),
        ("cremad: /films", "cremad: .*dictionary.*found '/films'"),
        ("data: rml", r"fold_stages: RML has folds 1 to 8, .* -S 'fold_stages=\[1,2,.*,7,8\]'"),
        ("protocol: loso", "protocol: .*'nested'.*'loso'"),
        ("fold: six", r"params\.yaml: fold: expected all or a whole number, found 'six'$"),
        ("fold: 2.5", r"params\.yaml: fold: expected all or a whole number, found 2\.5$"),
        (
            "ravdess: {training: {precision: 8}}",
            r"precision: expected 32-true, .* or auto, found 8$",
        ),
        ("seeds: [1, 2, 1]", r"seeds: expected different seeds, found \[1, 2, 1\]"),
        ("seeds: [0]", r"seeds.0: .*1, found 0"),
        ("fold: 9", "fold: expected all or 1 to 5 under protocol paper, found 9"),
        ("fold: 6", r"fold: .*found 6 \(protocol nested has fold 6\)"),
        ("fold: 0", "fold: expected all or 1 to 5"),
        ("protocol: nested\nfold: 7", "expected all or 1 to 6 under protocol nested, found 7"),
        ("seeds: []", "seeds: .*at least 1"),
        ("- data\n- fold", "the whole file: .*dictionary"),
        ("data: [ravdess", "not valid YAML"),
        ("\tdata: ravdess", "not valid YAML"),
        (b"data: \xff\xfe", "not valid YAML"),
        (b"data: \x00", "not valid YAML"),
        ("data: " + 5000 * "[" + 5000 * "]", "nested too deeply"),
        ("fold: " + 5000 * "9", "at most 10000 values of 1000 characters"),
        ("fold: 0x" + 5000 * "f", "at most 10000 values of 1000 characters"),
        ("fold: 2001-13-45", "not valid YAML: month must be in 1..12"),
        ("&a [*a]", "at most 10000 values"),
        (bomb("[{}]"), "at most 10000 values"),
        (bomb("{{<<: [{}]}}", "{x: 1}"), "at most 10000 values"),
        ("synthetic: {root: ~nosuchuser}", "synthetic.root: .*no such user, found '~nosuchuser'"),
        ("ravdess: {training: {pretrained: ~nosuchuser/a}}", "pretrained: .*no such user"),
        ("ravdess: {model: {cardinality: 3}}", "cardinality: .*divisor of 128 channels, found 3"),
        ("ravdess: {model: {stem_channels: 8}}", "cardinality: .*of 16 channels, found 32"),
        ("ravdess: {model: {n_heads: 7}}", "model.n_heads: .*divisor of 64 channels, found 7"),
        ("ravdess: {model: {audio_channels: 7, n_heads: 7}}", "audio_channels: .*multiple of 2"),
    ],
)
def test_a_mistake_in_params_yaml_is_one_line_that_names_it(written, text, expected):
    with pytest.raises(InputError, match=expected) as caught:
        params.load(written(text))
    assert "\n" not in str(caught.value)
    assert re.match(r"params\.yaml\b|fold: expected|fold_stages: ", str(caught.value))


def test_aliases_as_people_use_them_are_read(written):
    found = params.load(
        written("synthetic: &s {model: {stem_channels: 16}}\nmixture: *s\npointing: {<<: *s}")
    )
    assert found.mixture.model == found.pointing.model == found.synthetic.model
    assert found.pointing.model.stem_channels == 16


def test_what_is_found_is_shown_in_brief(written):
    with pytest.raises(InputError) as caught:
        params.load(written("fold: [" + "abcdef, " * 1000 + "]"))
    assert len(str(caught.value)) < 200


def test_all_mistakes_are_reported_at_once(written):
    with pytest.raises(
        InputError, match=r"unknown parameter colour; .*; ravdess\.preprocess\.n_frames: "
    ):
        params.load(written("colour: red\nravdess: {preprocess: {n_frames: many}}"))


def test_a_command_prints_the_line_alone_and_exits_with_1(written, monkeypatch, capsys):
    monkeypatch.chdir(written("colour: red").parent)
    assert main(["predictions"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: params.yaml: unknown parameter colour")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_missing_params_yaml_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no params.yaml in .*run this from inside"):
        params.load()
    with pytest.raises(InputError, match="does not exist"):
        params.load(tmp_path / "params.yaml")


def test_an_empty_params_yaml_means_the_defaults(written):
    assert params.load(written("")) == Params()


def test_the_repository_is_found_from_a_folder_below(written, monkeypatch):
    root = written("").parent
    (root / "notebooks" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(root / "notebooks" / "deeper")
    assert params.repository_root() == root.resolve()


def test_parameters_cannot_be_changed_after_they_were_read():
    with pytest.raises(ValidationError, match="frozen"):
        Preprocess().n_frames = 3


@pytest.mark.parametrize(
    ("protocol", "fold", "folds"),
    [("paper", "all", (1, 2, 3, 4, 5)), ("nested", "all", (1, 2, 3, 4, 5, 6)), ("nested", 6, (6,))],
)
def test_the_folds_follow_from_protocol_and_fold(protocol, fold, folds):
    assert Params(protocol=protocol, fold=fold).folds == folds


def test_a_corpus_of_more_folds_than_stages_runs_when_these_are_asked_for():
    assert Params(data="rml", fold=3).folds == (3,)
    assert Params(data="rml", fold_stages=range(1, 9)).folds == tuple(range(1, 9))


def test_a_checkpoint_is_looked_for_below_the_users_checkout(written, monkeypatch):
    path = written("synthetic: {training: {pretrained: weights/resnext.pth}}")
    workspace = path.parent / ".dvc/tmp/exps/tmp1"
    workspace.mkdir(parents=True)
    (workspace / "params.yaml").write_text(path.read_text())
    monkeypatch.chdir(workspace)
    settings = params.load()
    with pytest.raises(
        InputError, match=r"synthetic\.training\.pretrained: .*resnext.pth is no file"
    ):
        settings.checkpoint("video")
    (path.parent / "weights").mkdir()
    (path.parent / "weights/resnext.pth").touch()
    assert settings.checkpoint("video") == path.parent / "weights/resnext.pth"
