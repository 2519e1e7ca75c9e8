"""Tests of `cfnsr.training.trained` on tiny runs that `cfnsr.training.train` left."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import train_row
from pooch import file_hash
from test_train import settings, without_actors

from cfnsr import InputError
from cfnsr.data.clips import load_clips
from cfnsr.models.base import Sizes
from cfnsr.models.registry import find
from cfnsr.params import Schedule
from cfnsr.training import trained
from cfnsr.training.experiment import read_tensors, start_from
from cfnsr.training.runs import read_run, run_folder

ONE_EPOCH = Schedule(n_epochs=1, batch_size=16)
ROWS = (
    "video",
    "audio",
    "erann",
    "linear",
    "motion_voice",
    "motion_voice_averaged",
    "motion_voice_spliced",
    "cfn_sr",
    "no_residual",
    "cfn_sr_released",
)


@pytest.fixture(scope="module")
def clips(random_arrays):
    """Of the four actors who test fold 1 and of four who train."""
    return without_actors(load_clips(random_arrays), *range(9, 25))


@pytest.fixture(scope="module")
def runs(clips, tmp_path_factory):
    """Trained runs of each of `ROWS`, on fold 1: of three seeds where another row averages them."""
    root = tmp_path_factory.mktemp("runs")
    schedules = dict.fromkeys(("video", "audio", "erann", "fusion", "ours"), ONE_EPOCH)
    params = settings(**schedules)
    for row in ROWS:
        seeds = (1, 2, 3) if row.startswith("motion_voice") else (1,)
        wanted = params.model_copy(update={"seeds": seeds})
        train_row(row, 1, wanted, clips, root)
    return root


@pytest.mark.parametrize("row", ROWS)
def test_a_loaded_model_gives_the_logits_that_its_run_kept(row, runs, clips):
    folder = run_folder(runs, row, 1, find(row).seeds((1,))[0])
    found = trained.load_trained(folder)
    test = found.test_positions(clips)
    logits = found.logits(found.arrays(clips, test))
    kept = read_run(folder).test
    assert kept.clips["clip"].tolist() == clips.index["clip"].iloc[test].tolist()
    np.testing.assert_array_equal(logits.astype(np.float16), kept.logits[-1].astype(np.float16))
    assert not found.model.training


def test_the_switches_of_the_run_are_kept_and_not_those_of_today(runs):
    assert trained.load_trained(run_folder(runs, "no_residual", 1, 1)).model.residual is False
    assert trained.load_trained(run_folder(runs, "cfn_sr", 1, 1)).model.residual is True
    assert trained.load_trained(
        run_folder(runs, "cfn_sr_released", 1, 1)
    ).model.batch_summed_attention


def test_other_clips_than_those_it_was_trained_on_are_refused(runs, clips):
    found = trained.load_trained(run_folder(runs, "audio", 1, 1))
    with pytest.raises(InputError, match="trained on other clips"):
        found.test_positions(replace(clips, sha256="others"))


def test_silence_is_the_mean_of_all_test_clips_in_the_clips_own_types(runs, clips):
    test = clips.index["actor"].isin([1, 2, 3, 4]).to_numpy()
    for row in ("cfn_sr", "erann"):
        silence = trained.load_trained(run_folder(runs, row, 1, 1)).silence(clips)
        assert tuple(silence) == find(row).inputs
        for name, found in silence.items():
            own = np.asarray(getattr(clips, name))[test]
            mean = own.astype(np.float64).mean(axis=0)
            expected = mean.round() if name == "frames" else mean
            np.testing.assert_array_equal(found, expected.astype(own.dtype))
            assert found.dtype == own.dtype


def spoil_json(folder):
    (folder / "run.json").write_text("{")


def change(name, value):
    """A function that changes run.json in a folder."""

    def changed(folder):
        info = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(info | {name: value}))

    return changed


def retell(folder):
    """Let run.json tell the sha256 of the weights that are there."""
    change("weights_sha256", file_hash(folder / "weights.pt"))(folder)


def cut_weights(folder):
    content = (folder / "weights.pt").read_bytes()
    (folder / "weights.pt").write_bytes(content[: len(content) // 2])


def no_weights(folder):
    (folder / "weights.pt").unlink()


def folder_for_weights(folder):
    (folder / "weights.pt").unlink()
    (folder / "weights.pt").mkdir()


def other_weights(folder):
    torch.save({"audio.conv1.weight": torch.zeros(3)}, folder / "weights.pt")
    retell(folder)


def weights_of_nan(folder):
    torch.save({"audio.conv1.weight": torch.tensor([1, torch.nan])}, folder / "weights.pt")
    retell(folder)


def code_in_weights(folder):
    torch.save({"audio": pytest.raises}, folder / "weights.pt")
    retell(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_json, "is damaged; remove it"),
        (change("scaling", None), "is damaged; remove it"),
        (change("schedule", {"batch_size": []}), "run.json is damaged.*`dvc repro train@1`"),
        (change("preprocess", {"n_frames": "many"}), "run.json is damaged"),
        (change("preprocess", {"sample_rate_hz": 1}), "run.json is damaged"),
        (change("preprocess", {"duration_s": 1e308}), "run.json is damaged"),
        (change("model", {}), "run.json is damaged"),
        (change("model", {"class": "os.system"}), "run.json is damaged"),
        (change("model", {"class": "mfcc_cnn.AudioOnly", "n_ears": 2}), "run.json is damaged"),
        (change("model", {"class": "mfcc_cnn.AudioOnly", "n_heads": []}), "run.json is damaged"),
        (change("row", "soprano"), "^row: expected .* found soprano"),
        (change("weights_sha256", None), "is damaged; remove it"),
        (cut_weights, "not what its training left.*`dvc repro train@1`"),
        (no_weights, "holds no weights.pt"),
        (folder_for_weights, "holds no weights.pt"),
        (other_weights, "do not fit mfcc_cnn.AudioOnly"),
        (weights_of_nan, "audio.conv1.weight is not finite"),
        (code_in_weights, "is no checkpoint, or holds objects that are not safe"),
    ],
)
def test_a_damaged_run_is_refused_with_one_message(spoil, message, runs, tmp_path):
    folder = tmp_path / "seed_1"
    shutil.copytree(run_folder(runs, "audio", 1, 1), folder)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        trained.load_trained(folder)


def test_weights_with_any_bit_flipped_are_refused(runs, tmp_path):
    folder = tmp_path / "seed_1"
    shutil.copytree(run_folder(runs, "audio", 1, 1), folder)
    content = (folder / "weights.pt").read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / "weights.pt").write_bytes(flipped)
        with pytest.raises(InputError, match="train it again with `dvc repro train@1`"):
            trained.load_trained(folder)
        with pytest.raises(InputError, match="train it again with `dvc repro train@1`"):
            start_from(trained.find("audio").build(Sizes()).audio, "audio", folder / "weights.pt")


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_the_same(runs, tmp_path):
    path = tmp_path / "checkpoint.pt"
    content = (run_folder(runs, "audio", 1, 1) / "weights.pt").read_bytes()
    path.write_bytes(content)
    whole = read_tensors(path)
    rng, n_refused = random.Random(0), 0
    for _ in range(50):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_tensors(path)
        except InputError:
            n_refused += 1
        else:
            torch.testing.assert_close(found, whole, rtol=0, atol=0)
    assert n_refused > 30


def test_a_network_is_published_as_safetensors(runs, clips, tmp_path):
    torch_ = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    folder = run_folder(runs, "audio", 1, 1)
    found = trained.load_trained(folder)
    torch_.save_file(found.model.state_dict(), tmp_path / "weights.safetensors")
    sha256 = file_hash(tmp_path / "weights.safetensors")
    (tmp_path / "run.json").write_text(json.dumps(found.info | {"weights_sha256": sha256}))
    arrays = found.arrays(clips, found.test_positions(clips))
    published = trained.load_trained(tmp_path)
    np.testing.assert_array_equal(published.logits(arrays), found.logits(arrays))
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        read_tensors(tmp_path / "cut.safetensors")


def test_a_folder_without_a_run_is_refused_and_the_right_one_is_named(runs, tmp_path):
    with pytest.raises(InputError, match=r"holds no run\.json.*did you mean .*seed_1\?"):
        trained.load_trained(run_folder(runs, "audio", 1, 1).parent)
    with pytest.raises(InputError, match=r"holds no run\.json; expected a trained run"):
        trained.load_trained(tmp_path / "nowhere")


def test_an_untrained_copy_is_what_the_training_began_with_every_time(runs):
    found = trained.load_trained(run_folder(runs, "video", 1, 1))
    before = found.model.video.conv1.weight.clone()
    first, second = (found.untrained().model.video.conv1.weight for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, before)
    torch.manual_seed(1)
    as_trained = found.row.build(trained._sizes(found.info, found.preprocess))
    torch.testing.assert_close(first, as_trained.video.conv1.weight, rtol=0, atol=0)
    torch.testing.assert_close(found.model.video.conv1.weight, before, rtol=0, atol=0)
