"""Tests of `cfnsr.evaluation.switches` on random clips."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY
from pooch import file_hash
from test_results import is_cut

from cfnsr.data import preprocess
from cfnsr.data.clips import Clips, load_clips
from cfnsr.errors import InputError
from cfnsr.evaluation import switches
from cfnsr.evaluation.switches import SWITCHES, Switch
from cfnsr.figures.switches import forest
from cfnsr.models.base import Sizes
from cfnsr.models.registry import REFERENCE
from cfnsr.params import Drawing, Model, Params, Schedule, SyntheticParams, Training
from cfnsr.training import train
from cfnsr.training.experiment import Experiment
from cfnsr.training.runs import Predictions, read_run, write_predictions

BRIEF = Schedule(n_epochs=1, batch_size=16)
SOURCE = SyntheticParams(
    model=Model(stem_channels=4, cardinality=2, n_blocks=(1, 1, 1, 1), n_encoder_layers=1),
    training=Training(video=BRIEF, audio=BRIEF, fusion=BRIEF, precision="32-true", n_threads=1),
)
PARAMS = Params(fold=2, seeds=(5,), synthetic=SOURCE)


@pytest.fixture(scope="module")
def repository(random_arrays, tmp_path_factory):
    """Arrays, and both encoders of fold 2."""
    folder = tmp_path_factory.mktemp("repository")
    arrays = shutil.copytree(random_arrays, folder / "build/synthetic/arrays")
    clips = load_clips(arrays, Drawing())
    runs = folder / "runs" / "synthetic" / "paper"
    for row in ("video", "audio"):
        output = runs / row / "fold_2"
        train.run_fold(row, 2, PARAMS, clips, runs, output, folder / "scratch")
    return folder


@pytest.fixture
def experiments(monkeypatch):
    """What would be trained, in that order."""
    trained = []
    monkeypatch.setattr(switches, "train", lambda experiment, *folders: trained.append(experiment))
    return trained


def run_of(repository, switch, row, seed=5):
    return repository / f"runs/synthetic/switches/paper/{switch}/{row}/fold_2/seed_{seed}"


def test_a_switched_run_tells_its_switch_and_starts_from_the_encoder_that_has_it(repository):
    switches.train_switched("no_stem_relu", PARAMS, repository)
    fused = read_run(run_of(repository, "no_stem_relu", "cfn_sr"))
    video = run_of(repository, "no_stem_relu", "video")
    assert fused.info["model"]["stem_relu"] is False
    assert read_run(video).info["model"]["stem_relu"] is False
    hashes = fused.info["starts_from_sha256"]
    assert hashes["video"] == file_hash(video / "weights.pt")
    audio = repository / "runs/synthetic/paper/audio/fold_2/seed_5/weights.pt"
    assert hashes["audio"] == file_hash(audio)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_trains_cfn_sr_and_the_encoder_that_it_concerns(
    repository, experiments, monkeypatch, name
):
    made = []

    def arrays_already_there(manifest, root, output, source, settings, scratch):
        made.append(settings)

    monkeypatch.setattr(switches.sources, "provide", lambda params, repository: repository)
    monkeypatch.setattr(switches.sources, "read_manifest", lambda path: None)
    monkeypatch.setattr(preprocess, "preprocess", arrays_already_there)
    monkeypatch.setattr(
        switches.dataset,
        "load",
        lambda folder, drawing: Clips(pd.DataFrame(), *[np.empty(0)] * 5, sha256=str(folder)),
    )
    switches.train_switched(name, PARAMS, repository)
    switch = SWITCHES[name]
    assert [e.row for e in experiments] == [row for row in (switch.encoder, "cfn_sr") if row]
    assert {e.fold for e in experiments} == {2}
    assert [bool(e.starts_from) for e in experiments] == [e.row == "cfn_sr" for e in experiments]
    assert [dict(s) for s in (switch.preprocess,) if s] == [
        {key: getattr(settings, key) for key in switch.preprocess} for settings in made
    ]
    for experiment in experiments:
        changed, before = experiment.params.source, PARAMS.source
        differing = {
            key for key, value in changed.training if value != getattr(before.training, key)
        }
        assert differing == set(switch.training)
        assert experiment.seed == 5 + switch.seed_step
        assert experiment.clips.sha256.endswith(
            f"switches/{name}/arrays" if switch.preprocess else "synthetic/arrays"
        )


def test_every_option_of_a_switch_is_one_that_the_networks_have_and_changes_them(repository):
    for switch in SWITCHES.values():
        models = [
            Experiment(REFERENCE, 2, 5, PARAMS, None, options=options).system
            for options in ({}, switch.options)
        ]
        torch.manual_seed(0)
        assert all(system.build(Sizes.of(SOURCE)) for system in models)
        assert (models[0].options == models[1].options) == (not switch.options)


def test_a_switch_that_is_set_already_leaves_nothing(repository, experiments):
    source = SOURCE.model_copy(
        update={"training": SOURCE.training.model_copy(update={"augment_per_frame": True})}
    )
    params = PARAMS.model_copy(update={"synthetic": source})
    switches.train_switched("augment_per_frame", params, repository)
    assert experiments == []
    folder = repository / "runs/synthetic/switches/paper/augment_per_frame"
    assert list(folder.iterdir()) == []


def test_no_drawn_face_is_cropped():
    drawn = Params(data="ravdess_landmarks")
    assert not switches.applies(SWITCHES["squashed_first"], drawn)
    assert switches.applies(SWITCHES["consecutive_frames"], drawn)
    assert switches.applies(SWITCHES["squashed_first"], Params(data="ravdess"))


def test_an_unknown_switch_and_missing_encoders_say_what_there_is(repository):
    with pytest.raises(InputError, match=r"expected one of another_seed, .*; found stem"):
        switches.train_switched("stem", PARAMS, repository)
    with pytest.raises(InputError, match=r"run `dvc repro encoders@video-3` first"):
        switches.train_switched("no_stem_relu", PARAMS.model_copy(update={"fold": 3}), repository)


def test_other_arrays_without_a_video_encoder_of_their_own_are_a_mistake():
    with pytest.raises(ValueError, match="video encoder"):
        Switch("frames", preprocess={"frame_choice": "consecutive"})


def test_an_effect_is_the_paired_difference_from_cfn_sr_without_the_switch(tmp_path):
    rng = np.random.default_rng(1)
    actors = np.repeat([5, 6, 7, 8], 10)
    clips = pd.DataFrame({"clip": np.arange(40).astype(str), "actor": actors, "emotion": 3})
    right = {"": rng.random(40) < 0.8, "another_seed": rng.random(40) < 0.8}
    right["no_stem_relu"] = right[""] & (actors != 6)
    for name, of_clip in right.items():
        folder = tmp_path / "runs/synthetic" / (f"switches/paper/{name}" if name else "paper")
        folder = folder / "cfn_sr/fold_2/seed_5"
        folder.mkdir(parents=True)
        predicted = np.where(of_clip, 3, 0)
        logits = np.eye(8, dtype=np.float32)[predicted][None]
        write_predictions(folder, "test", Predictions(logits, clips))
        (folder / "run.json").write_text(json.dumps({"row": "cfn_sr", "fold": 2, "seed": 5}))
        (folder / "epochs.csv").write_text("epoch,train_loss,train_accuracy_pct\n1,1,50\n")
    effects = switches.effects(PARAMS, tmp_path, "last epoch").set_index("switch")
    assert effects.index.tolist() == ["another_seed", "no_stem_relu"]
    found = effects.loc["no_stem_relu"]
    lost = -100 * right[""][actors == 6].sum() / 40
    assert found["difference_pct"] == pytest.approx(lost)
    assert found["ci_low_pct"] < lost < found["ci_high_pct"] == pytest.approx(0)
    assert found["p_holm"] == found["p_value"]  # the other seed is no switch to correct for
    assert np.isnan(effects.loc["another_seed", "p_holm"])

    figure = forest(effects.reset_index(), 80.0, "A title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        SWITCHES[name].label for name in effects.index
    ]
    assert "Holm" in figure.axes[0].get_title("right")
    assert not is_cut(figure)


def test_the_change_and_its_p_value_stand_beside_every_switch():
    lines = [
        ("another_seed", "seed", 0.5, -1.0, 2.0, np.nan),
        ("no_stem_relu", "no ReLU", -3.0, -5.0, -1.0, 0.01),
        ("unscaled_mfcc", "unscaled", -0.04, -2.0, 2.0, 1.0),
    ]
    names = ["switch", "label", "difference_pct", "ci_low_pct", "ci_high_pct", "p_holm"]
    effects = pd.DataFrame(lines, columns=names)
    ticks = forest(effects, 80.0, "title").axes[0].child_axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == [
        "+0.5",
        "\N{MINUS SIGN}3.0, p = 0.01",
        "+0.0, p = 1.00",
    ]


def test_the_second_pipeline_trains_every_switch_and_lists_modules_that_exist():
    stages = yaml.safe_load((REPOSITORY / "switches" / "dvc.yaml").read_text())["stages"]
    assert stages["switched"]["matrix"]["switch"] == list(SWITCHES)
    for stage in stages.values():
        modules = [path for path in stage["deps"] if path.startswith("cfnsr/")]
        assert modules
        assert all((REPOSITORY / path).is_file() for path in modules)
