"""Tests of `cfnsr.training.train` on random clips: the bookkeeping, not the accuracy."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import train_row
from scipy.special import softmax

from cfnsr import InputError
from cfnsr.data import corpora
from cfnsr.data.clips import Clips, Loader, load_clips
from cfnsr.models.base import Sizes
from cfnsr.models.registry import find
from cfnsr.params import Model, Params, Schedule, SyntheticParams, Training
from cfnsr.training import train
from cfnsr.training.experiment import Experiment
from cfnsr.training.runs import read_run, run_folder

SCHEDULE = Schedule(n_epochs=3, batch_size=32)


def settings(protocol="paper", **training_changes):
    source = SyntheticParams(
        model=Model(stem_channels=4, cardinality=2, n_blocks=(1, 1, 1, 1), n_encoder_layers=1),
        training=Training(
            **{"video": SCHEDULE, "audio": SCHEDULE, "fusion": SCHEDULE, "precision": "32-true"}
            | training_changes
        ),
    )
    return Params(protocol=protocol, seeds=(1,), synthetic=source)


@pytest.fixture(scope="module")
def clips(random_arrays):
    return load_clips(random_arrays)


def run(clips, folder: Path, row="audio", fold=1, params=None):
    return train_row(row, fold, params or settings(), clips, folder)[0]


@pytest.fixture(scope="module")
def encoders(clips, tmp_path_factory):
    """Trained encoders of fold 1. Read only; what is trained beside a copy of them finds them."""
    folder = tmp_path_factory.mktemp("encoders")
    for row in ("video", "audio"):
        run(clips, folder, row)
    return folder


@pytest.fixture
def beside_encoders(encoders, tmp_path):
    return shutil.copytree(encoders, tmp_path / "beside_encoders")


def without_actors(clips, *actors):
    kept = np.flatnonzero(~clips.index["actor"].isin(actors))
    arrays = (clips.frames, clips.mfcc, clips.log_mel, clips.landmark_statistics, clips.motion)
    return Clips(clips.index.iloc[kept], *(array[kept] for array in arrays), "few")


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timing.json"}


def test_a_run_leaves_what_the_contract_lists(clips, tmp_path):
    trained = run(clips, tmp_path)
    assert trained.test.logits.shape == (3, 16, 8)
    assert set(trained.test.clips["actor"]) == {1, 2, 3, 4}
    assert trained.validation is None
    assert trained.epochs["epoch"].tolist() == [1, 2, 3]
    assert trained.info["device"] == "cpu"
    assert trained.info["n_parameters"] == find("audio").n_parameters(
        Sizes.of(settings().source, corpora.find())
    )
    assert trained.info["versions"]["torch"] == torch.__version__.split("+")[0]
    timing = json.loads((run_folder(tmp_path, "audio", 1, 1) / "timing.json").read_text())
    assert set(timing) == {"seconds", "finished", "host", "git_commit", "git_dirty"}
    assert not list(tmp_path.glob("scratch/*"))


def test_a_run_says_what_one_clip_costs(clips, tmp_path):
    info = run(clips, tmp_path).info
    sound = torch.empty(1, 13, 212)
    model = find("audio").build(Sizes.of(settings().source, corpora.find())).eval()
    operations = 0

    def count(module, arguments, output):
        nonlocal operations
        n_inputs = module.weight[0].numel()  # multiplied and added up for each number put out
        operations += 2 * n_inputs * output.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Linear):
            module.register_forward_hook(count)
    model(sound)
    assert info["forward_gflops"] == pytest.approx(operations / 1e9)


@pytest.mark.parametrize(
    ("row", "capable", "expected"),
    [
        ("cfn_sr", True, "bf16-mixed"),
        ("cfn_sr", False, "32-true"),
        ("audio", True, "32-true"),
        ("linear", True, "32-true"),
    ],
)
def test_auto_precision_is_bfloat16_where_it_is_native_and_pays(
    clips, monkeypatch, row, capable, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    auto = Experiment(row, 1, 1, settings(precision="auto"), clips)
    assert auto.describe()["training"]["precision"] == expected
    fixed = Experiment(row, 1, 1, settings(precision="16-mixed"), clips)
    assert fixed.precision == "16-mixed"


def test_bfloat16_and_float32_train_to_nearly_the_same_loss(clips, encoders, tmp_path):
    float32 = read_run(run_folder(encoders, "video", 1, 1))
    bfloat16 = run(clips, tmp_path, "video", params=settings(precision="bf16-mixed"))
    losses = [of.epochs["train_loss"] for of in (float32, bfloat16)]
    assert float32.info["training"]["precision"] == "32-true"
    assert not losses[0].equals(losses[1])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)


def test_a_row_that_changes_its_settings_tells_them_and_trains_with_them(clips, tmp_path):
    run(clips, tmp_path, "audio")
    unscaled = run(clips, tmp_path, "unscaled_mfcc_audio")
    assert unscaled.info["training"]["standardise_mfcc"] is False
    assert set(unscaled.info["scaling"]["mfcc"]["sd"]) == {1.0}


def test_late_fusion_joins_the_kept_decisions_of_its_fold_and_trains_nothing(
    clips, beside_encoders
):
    parts = [run(clips, beside_encoders, row).test.logits[-1] for row in ("video", "audio")]
    probabilities = np.stack([softmax(logits.astype(float), axis=1) for logits in parts])
    product = probabilities.prod(axis=0)
    for row, expected in {
        "averaging": probabilities.mean(axis=0),
        "multiplication": product / product.sum(axis=1, keepdims=True),
    }.items():
        found = run(clips, beside_encoders, row)
        np.testing.assert_allclose(softmax(found.test.logits[0], axis=1), expected, atol=1e-3)
        np.testing.assert_array_equal(found.test.predicted[0], expected.argmax(axis=1))
        assert found.epochs["train_loss"].isna().all()


def test_a_run_that_is_there_as_asked_for_is_not_trained_again(clips, tmp_path, monkeypatch):
    before = run(clips, tmp_path)

    def fail(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "_fit", fail)
    assert run(clips, tmp_path).info == before.info
    with pytest.raises(AssertionError, match="trained again"):
        run(clips, tmp_path, params=settings(audio=Schedule(n_epochs=1, batch_size=32)))
    monkeypatch.setattr(train.provenance, "code_sha256", lambda model: "edited")
    with pytest.raises(AssertionError, match="trained again"):
        run(clips, tmp_path)


def test_a_pretrained_video_encoder_is_where_the_training_starts(clips, encoders, tmp_path):
    folder = run_folder(encoders, "video", 1, 1)
    first = read_run(folder)
    path = folder / "weights.pt"
    again = run(clips, tmp_path, "video", params=settings(pretrained=path))
    assert again.epochs["train_loss"].iloc[0] < first.epochs["train_loss"].iloc[0]


def test_the_averaged_row_is_the_mean_probability_of_its_members(clips, tmp_path):
    brief = Schedule(n_epochs=1, batch_size=32)
    params = settings(ours=brief).model_copy(update={"seeds": (1, 2, 3)})
    few = without_actors(clips, *range(9, 25))
    members = train_row("motion_voice", 1, params, few, tmp_path)
    (averaged,) = train_row("motion_voice_averaged", 1, params, few, tmp_path)
    mean = np.mean([softmax(run.test.logits[0], axis=1) for run in members], axis=0)
    np.testing.assert_allclose(softmax(averaged.test.logits[0], axis=1), mean, atol=1e-3)
    assert averaged.seed == 0
    assert averaged.n_epochs == 1


def test_equal_trainings_leave_equal_bytes(clips, encoders, tmp_path):
    run(clips, tmp_path, row="video")
    one, two = (contents(run_folder(folder, "video", 1, 1)) for folder in (encoders, tmp_path))
    assert one == two


def one_epoch(arrays, output):
    """Train two rows briefly, in one_epoch.py too."""
    brief = Schedule(n_epochs=1, batch_size=32)
    for row in ("audio", "video"):
        run(load_clips(arrays), output, row, params=settings(video=brief, audio=brief))


def test_no_byte_depends_on_the_surroundings(random_arrays, tmp_path):
    odd = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "TZ": "Asia/Kolkata"}
    odd |= {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}
    one_epoch(random_arrays, tmp_path / "plain")
    subprocess.run(
        [sys.executable, Path(__file__).with_name("one_epoch.py"), random_arrays, tmp_path / "odd"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), **odd},
        preexec_fn=partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:1]),
        check=True,
    )
    plain, odd = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "timing.json"
        }
        for folder in (tmp_path / "plain", tmp_path / "odd")
    )
    assert {path.parts[2] for path in plain} == {"audio", "video"}
    assert plain == odd


def test_another_seed_gives_other_logits(clips, tmp_path):
    one = run(clips, tmp_path)
    two = run(clips, tmp_path, params=settings().model_copy(update={"seeds": (2,)}))
    assert not np.array_equal(one.test.logits, two.test.logits)


def die_in_the_third_epoch(monkeypatch):
    """Once; the state is saved after each epoch. Returns a list that grows by one an epoch."""
    monkeypatch.setattr(train, "SAVE_EVERY_S", -1.0)
    predict, n_calls = train.predict, []

    def predict_or_die(*arguments):
        n_calls.append(1)
        if len(n_calls) == 3:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(train, "predict", predict_or_die)
    return n_calls


def die(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("row", ["audio", "cfn_sr"])
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been_killed(
    clips, encoders, tmp_path, monkeypatch, row
):
    for name in ("whole", "killed"):
        if row == "cfn_sr":
            shutil.copytree(encoders, tmp_path / name)
    run(clips, tmp_path / "whole", row=row)

    n_calls = die_in_the_third_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path / "killed", row=row)
    run(clips, tmp_path / "killed", row=row)

    assert len(n_calls) == 4  # two epochs, the one that died, and that one again
    whole, killed = (
        contents(run_folder(tmp_path / name, row, 1, 1)) for name in ("whole", "killed")
    )
    assert whole == killed


def test_a_changed_training_does_not_go_on_from_an_old_state(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY_S", -1.0)
    predict = train.predict
    monkeypatch.setattr(train, "predict", die)
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path)
    monkeypatch.setattr(train, "predict", predict)
    changed = settings(audio=Schedule(n_epochs=2, batch_size=32))
    assert run(clips, tmp_path, params=changed).n_epochs == 2


def test_each_epoch_has_the_rate_of_its_schedule(clips, tmp_path, monkeypatch):
    seen = []
    step = torch.optim.Adam.step

    def watched(self, *arguments, **options):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    schedule = Schedule(n_epochs=3, batch_size=32, learning_rate=0.01, anneal=True)
    run(clips, tmp_path, params=settings(audio=schedule))
    expected = [train.learning_rate(schedule, epoch) for epoch in range(3)]
    assert seen == sorted(expected * (len(seen) // 3), reverse=True)
    assert len(set(expected)) == 3


def test_an_annealed_rate_falls_from_the_whole_over_the_half_towards_nothing():
    schedule = Schedule(n_epochs=10, learning_rate=0.01, anneal=True)
    rates = [train.learning_rate(schedule, epoch) for epoch in range(10)]
    assert rates[0] == 0.01
    assert rates[5] == pytest.approx(0.005)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.0005
    constant = Schedule(learning_rate=0.01, anneal=False)
    assert train.learning_rate(constant, 69) == 0.01


def test_saved_weights_reproduce_the_last_logits(clips, encoders):
    trained = read_run(run_folder(encoders, "video", 1, 1))
    model = find("video").build(Sizes.of(settings().source, corpora.find()))
    weights = run_folder(encoders, "video", 1, 1) / "weights.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    loader = Loader(
        {"frames": clips.frames}, clips.emotion, torch.nn.Identity(), torch.device("cpu")
    )
    logits = train.predict(model, loader, clips.of_actors([1, 2, 3, 4]), 32)
    np.testing.assert_array_equal(logits.astype(np.float32), trained.test.logits[-1])


def test_fusion_starts_from_the_encoders_of_its_fold(clips, beside_encoders):
    frozen = settings(fusion=Schedule(n_epochs=1, batch_size=32, learning_rate=1e-12))
    run(clips, beside_encoders, row="cfn_sr", params=frozen)
    weights = {
        row: torch.load(run_folder(beside_encoders, row, 1, 1) / "weights.pt", weights_only=True)
        for row in ("video", "audio", "cfn_sr")
    }
    for key in ("video.layer4.0.conv2.weight", "audio.conv3.weight"):
        torch.testing.assert_close(weights["cfn_sr"][key], weights[key.split(".")[0]][key])


def test_fusion_without_encoders_says_which_stage_to_run(clips, tmp_path):
    with pytest.raises(InputError, match=r"dvc repro train@2"):
        run(clips, tmp_path, row="cfn_sr", fold=2)


@pytest.mark.parametrize("fold", range(1, 7))
def test_nested_never_lets_test_actors_train_scale_or_choose(clips, tmp_path, monkeypatch, fold):
    seen = {True: set(), False: set()}  # by whether the batch was augmented, that is trained on
    batches = Loader.batches

    def spy(self, positions, batch_size, augmented=False):
        seen[augmented] |= set(clips.index["actor"].iloc[positions])
        return batches(self, positions, batch_size, augmented)

    monkeypatch.setattr(Loader, "batches", spy)
    trained = run(clips, tmp_path, fold=fold, params=settings("nested"))

    actors = {name: set(who) for name, who in trained.info["actors"].items()}
    assert actors["test"] == {4 * fold - 3, 4 * fold - 2, 4 * fold - 1, 4 * fold}
    assert actors["test"].isdisjoint(actors["training"] | actors["validation"])
    assert actors["training"].isdisjoint(actors["validation"])
    assert len(actors["validation"]) == 4
    assert sum(actor % 2 for actor in actors["validation"]) == 2
    assert seen[True] == actors["training"]
    assert seen[False] == actors["test"] | actors["validation"]
    assert set(trained.validation.clips["actor"]) == actors["validation"]
    mine = clips.mfcc[clips.index["actor"].isin(actors["training"])]
    np.testing.assert_allclose(
        trained.info["scaling"]["mfcc"]["mean"], mine.mean(axis=(0, 2), dtype=float), rtol=1e-6
    )


def test_a_fold_whose_actors_are_missing_says_so(clips, tmp_path):
    with pytest.raises(InputError, match="no test clips: none of the actors 1, 2, 3, 4"):
        run(without_actors(clips, 1, 2, 3, 4), tmp_path)


@pytest.mark.parametrize("protocol", ["paper", "nested"])
def test_a_run_names_the_actors_whose_clips_it_used(clips, tmp_path, protocol):
    few = without_actors(clips, 2, 6, 23, 24)
    trained = run(few, tmp_path, params=settings(protocol))
    validation = [5, 7, 8] if protocol == "nested" else []
    rest = [actor for actor in (5, 7, *range(8, 23)) if actor not in validation]
    assert trained.info["actors"] == {
        "training": rest,
        "validation": validation,
        "test": [1, 3, 4],
    }
    assert set(trained.test.clips["actor"]) == {1, 3, 4}


def test_a_diverged_training_says_what_to_do(clips, tmp_path):
    wild = settings(audio=Schedule(n_epochs=3, batch_size=32, learning_rate=1e30))
    with pytest.raises(InputError, match="lower the learning rate"):
        run(clips, tmp_path, params=wild)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_logits_beyond_float16_stop_the_run_with_epoch_set_and_clips(
    clips, tmp_path, monkeypatch, part
):
    """Standing for a learning rate of 100, which makes many logits so large, but not surely."""
    actor = vars(corpora.find().split(1, "nested"))[part][0]
    loud = clips.of_actors([actor])[1]
    forward, n_calls = Loader.batches, []

    def shout(self, positions, batch_size, augmented=False):
        n_calls.append(1)
        for batch in forward(self, positions, batch_size, augmented):
            if not augmented and loud in positions and len(n_calls) > 3:
                at = np.flatnonzero(positions == loud)[0]
                batch[0][0][at] *= 1e9
            yield batch

    monkeypatch.setattr(Loader, "batches", shout)
    named = (
        rf"^audio, fold 1: in epoch 2 the logits .* of {part} clips .* \(calm-{actor:02d}\); lower"
    )
    with warnings.catch_warnings(action="error"), pytest.raises(InputError, match=named):
        run(clips, tmp_path, params=settings("nested"))
    assert not run_folder(tmp_path, "audio", 1, 1).exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "text", "one bit"])
def test_a_state_that_cannot_be_read_is_said_and_the_training_starts_anew(
    clips, tmp_path, monkeypatch, capsys, damage
):
    run(clips, tmp_path / "whole")
    n_calls = die_in_the_third_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path)
    (state,) = tmp_path.glob("scratch/*/state.pt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(
        {
            "empty": b"",
            "cut": content[: len(content) // 2],
            "zeros": bytes(len(content)),
            "text": b"no state",
            "one bit": content,
        }[damage]
    )
    run(clips, tmp_path)
    assert capsys.readouterr().err == f"{state} cannot be read, so this training starts anew\n"
    assert len(n_calls) == 3 + 3
    folders = (run_folder(folder, "audio", 1, 1) for folder in (tmp_path / "whole", tmp_path))
    whole, anew = map(contents, folders)
    assert whole == anew


def test_a_disk_that_takes_no_state_is_one_line(clips, bad_disk, tmp_path, monkeypatch):
    folder, answer = bad_disk
    monkeypatch.setattr(train, "SAVE_EVERY_S", -1.0)
    experiment = Experiment("audio", 1, 1, settings(), clips)
    refused = rf"^{folder}/.* cannot be written: {answer} \(0\.\d MB needed, .* MB free\);"
    with pytest.raises(InputError, match=refused):
        train.train(experiment, tmp_path / "run", folder / "scratch")


def test_a_disk_that_takes_no_run_is_one_line(clips, bad_disk, tmp_path):
    folder, answer = bad_disk
    experiment = Experiment("audio", 1, 1, settings(), clips)
    with pytest.raises(InputError, match=f"^{folder}/.* cannot be written: {answer}"):
        train.train(experiment, folder / "run", folder / "scratch")
    with pytest.raises(InputError, match=r"cannot be written: .*cross-device"):
        train.train(experiment, folder / "run", tmp_path)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("spoil", ["weights", "no sha256"])
def test_a_run_whose_weights_are_not_its_own_is_not_there(clips, tmp_path, spoil):
    run(clips, tmp_path)
    folder = run_folder(tmp_path, "audio", 1, 1)
    before = contents(folder)
    if spoil == "weights":
        content = bytearray(before["weights.pt"])
        content[-1] ^= 1
        (folder / "weights.pt").write_bytes(content)
    else:
        info = json.loads(before["run.json"])
        del info["weights_sha256"]
        (folder / "run.json").write_text(json.dumps(info))
    run(clips, tmp_path)
    assert contents(folder) == before


def test_a_run_folder_is_complete_or_absent(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_write_json", die)
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path)
    with pytest.raises(InputError, match=r"no run\.json"):
        read_run(run_folder(tmp_path, "audio", 1, 1))
