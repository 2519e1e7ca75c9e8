"""Tests of the hybrid deep model: its networks, its levels of fusion, and who has a say in them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from conftest import train_row
from test_models import is_additive
from torch import nn

from cfnsr import InputError
from cfnsr.data.clips import load_clips
from cfnsr.models import registry
from cfnsr.models.base import FULL_SIZE, Sizes
from cfnsr.models.hybrid import MeanSVM, ModelLevel, Product, ScoreLevel, side_by_side
from cfnsr.models.registry import HYBRID, REFERENCE, ROWS
from cfnsr.models.segment_networks import C3D, AlexNet
from cfnsr.params import Hybrid, Params, Schedule, SyntheticParams, Training
from cfnsr.training.experiment import start_from
from cfnsr.training.runs import run_folder

WIDTH = 1 / 128
SETTINGS = Hybrid(
    n_frames=4,
    frame_size=16,
    picture_size=63,
    width=WIDTH,
    n_hidden=(12, 6),
    n_rbm_epochs=2,
    n_fine_tuning_epochs=2,
)
SMALL = Sizes(hybrid=SETTINGS)
N_CLIPS = 4
NETWORKS = ("hybrid_video", "hybrid_audio")


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def batch(name, n_clips=N_CLIPS):
    frames = (3, SMALL.n_segments * SETTINGS.n_frames, 16, 16)
    return [
        torch.randn(n_clips, *(frames if array == "frames" else SMALL.shape(array)))
        for array in ROWS[name].inputs
    ]


# The networks


def test_alexnet_is_torchvision_s():
    theirs = torchvision.models.alexnet(num_classes=FULL_SIZE.n_emotions).eval()
    ours = AlexNet(Hybrid(), FULL_SIZE.n_emotions).eval()
    ours.load_state_dict(theirs.state_dict())
    pictures = torch.randn(1, 3, 227, 227)
    with torch.no_grad():
        found = ours.classify(ours.embed(pictures))
        torch.testing.assert_close(found, theirs(pictures), atol=1e-5, rtol=1e-5)
        assert ours.embed(pictures).shape == (1, 4096)


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_networks_have_their_published_parameters_at_full_size():
    with torch.device("meta"):
        alexnet, c3d = AlexNet(Hybrid(), 1000), C3D(Hybrid(), 487)
    assert n_parameters(alexnet) == 61_100_840
    channels = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    trunk = sum(27 * a * b + b for a, b in pairwise(channels))
    linear = sum(a * b + b for a, b in ((8192, 4096), (4096, 4096), (4096, 487)))
    assert n_parameters(c3d) == trunk + linear == 79_991_015
    assert c3d.fc6.in_features == 512 * 1 * 4 * 4
    assert list(dict(c3d.named_children())) == [
        *("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"),
        *("pool1", "pool", "pool5", "fc6", "fc7", "fc8", "dropout"),
    ]


@pytest.mark.slow
def test_c3d_computes_at_full_size():
    network = C3D(Hybrid(), FULL_SIZE.n_emotions).eval()
    with torch.no_grad():
        fc7 = network.embed(torch.randn(1, 3, 16, 112, 112))
    assert fc7.shape == (1, 4096)
    assert network.classify(fc7).isfinite().all()


@pytest.mark.parametrize(("n_frames", "size"), [(16, 112), (8, 32), (16, 48), (5, 17), (1, 40)])
def test_c3d_knows_what_its_convolutions_leave(n_frames, size):
    network = C3D(Hybrid(width=WIDTH, n_frames=n_frames, frame_size=size), 8)
    assert network.embed(torch.randn(2, 3, n_frames, size, size)).shape == (2, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_drops_the_share_of_units_that_is_asked_for(name):
    model = ROWS[name].build(Sizes(hybrid=SETTINGS.model_copy(update={"dropout": 0.25})))
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_a_network_learns_from_segments(name):
    wide = SETTINGS.model_copy(update={"width": 1 / 16, "frame_size": 32, "dropout": 0.0})
    model = ROWS[name].build(Sizes(hybrid=wide))
    inputs = [torch.randn(64, 3, 24, 32, 32)] if name == "hybrid_video" else batch(name, 64)
    loss, logits = model.loss(torch.arange(64) % 8, *inputs)
    loss.backward()
    assert logits.shape == (64, FULL_SIZE.n_emotions)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", HYBRID)
def test_a_clip_s_logits_do_not_depend_on_its_neighbours(name):
    model = ROWS[name].build(SMALL).eval()
    inputs = batch(name)
    with torch.no_grad():
        together, alone = model(*inputs), model(*(array[:1] for array in inputs))
    assert together.shape == (N_CLIPS, FULL_SIZE.n_emotions)
    assert together.isfinite().all()
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-5)


def test_a_segment_s_frames_and_channels_are_its_own():
    seen, heard = (ROWS[name].build(SMALL) for name in NETWORKS)
    (frames,), (mel,) = batch("hybrid_video"), batch("hybrid_audio")
    for i in range(6):
        torch.testing.assert_close(seen.segments(frames)[:, i], frames[:, :, 4 * i : 4 * i + 4])
        delta = heard.segments(mel)[:, i, 1]  # clip band moment
        torch.testing.assert_close(delta, mel[:, 64:128, i])


def test_a_clip_is_what_most_segments_vote_for_and_a_tie_goes_to_the_surer_side():
    model = ROWS["hybrid_audio"].build(SMALL).eval()
    said = torch.full((2, 6, 8), -9.0)
    for i, emotion in enumerate((3, 3, 3, 5, 5, 1)):
        said[0, i, emotion] = 0.0 if emotion == 3 else 9.0
    for i, emotion in enumerate((3, 3, 3, 5, 5, 5)):
        said[1, i, emotion] = -8.0 if emotion == 3 else 9.0
    model.fc7 = lambda clips: said.transpose(1, 2)
    model.audio.classify = lambda fc7: fc7
    logits = model(None)
    assert logits.argmax(dim=1).tolist() == [3, 5]
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(2), atol=1e-5, rtol=0)
    assert logits[0].exp()[3] == pytest.approx(3.5 / 7, abs=0.01)


@pytest.mark.parametrize(
    ("name", "module", "other"), [("audio", AlexNet, C3D), ("video", C3D, AlexNet)]
)
def test_public_weights_go_in_without_their_head_and_those_of_another_network_do_not(
    tmp_path, name, module, other
):
    path = tmp_path / "weights.pt"
    public, ours = (module(SETTINGS, FULL_SIZE.n_emotions) for _ in range(2))
    head = "classifier.6" if name == "audio" else "fc8"
    state = public.state_dict() | {f"{head}.weight": torch.ones(487, 32)}
    torch.save(state | {f"{head}.bias": torch.ones(487)}, path)
    start_from(ours, name, path)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, public.state_dict()[key]) != key.startswith(f"{head}.w"), key
    torch.save(other(SETTINGS, FULL_SIZE.n_emotions).state_dict(), path)
    with pytest.raises(InputError, match=rf"does not fit the {name} encoder: expected a") as caught:
        start_from(ours, name, path)
    assert "\n" not in str(caught.value)


# The levels


def features(n_clips=48, seed=0):
    """fc7 of two networks that each know something of the emotion, of twelve actors."""
    rng = np.random.default_rng(seed)
    emotion, actor = np.arange(n_clips) % 4, np.arange(n_clips) // 4
    fc7 = rng.normal(size=(2, n_clips, *SMALL.shape("video_fc7"))).astype(np.float32)
    for part in fc7:
        part[np.arange(n_clips), emotion] += 4
    return emotion, actor, *fc7


@pytest.mark.parametrize(
    "name", [name for name, row in HYBRID.items() if row.schedule == "none" and not row.combines]
)
def test_a_level_finds_what_the_features_say_and_never_names_what_nobody_showed_it(name):
    emotion, actor, *fc7 = features()
    chosen = fc7[: len(ROWS[name].inputs)]
    patient = {"n_hidden": (32, 16), "rbm_learning_rate": 0.05, "n_fine_tuning_epochs": 200}
    model = ROWS[name].build(Sizes(hybrid=SETTINGS.model_copy(update=patient)))
    model.fit(emotion, actor, *chosen)
    with torch.no_grad():
        said = model(*map(torch.from_numpy, chosen)).argmax(dim=1).numpy()
    # Reconstruction, which knows no emotion, keeps it among units of noise as far as it can.
    assert (said == emotion).mean() > (0.4 if name == "hybrid_autoencoder" else 0.9)
    assert said.max() < 4


@pytest.mark.parametrize("name", [name for name, row in HYBRID.items() if len(row.inputs) == 2])
def test_a_row_is_additive_where_the_face_changes_its_scores_alike_for_every_voice(name):
    model = ROWS[name].build(SMALL).eval()
    video, audio = batch(name, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        scores = model(video.repeat(2, 1, 1), audio.repeat_interleave(2, dim=0))
    if name == "hybrid_sum":
        scores = scores.exp()
    assert is_additive(scores) == ROWS[name].additive


def test_decisions_are_joined_by_their_rule():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])[:, None].log()
    joined = {
        name: ROWS[f"hybrid_{name}"].build(SMALL).combine(p)[0].exp()
        for name in ("maximum", "minimum", "sum", "product")
    }
    torch.testing.assert_close(joined["maximum"], torch.tensor([0.7, 0.5, 0.4]))
    torch.testing.assert_close(joined["minimum"], torch.tensor([0.1, 0.2, 0.1]))
    torch.testing.assert_close(joined["sum"], torch.tensor([0.8, 0.7, 0.5]) / 2)
    torch.testing.assert_close(joined["product"], torch.tensor([0.07, 0.1, 0.04]) / 0.21)


def test_the_score_level_leans_on_the_network_that_knows_more():
    emotion, actor, video, audio = features()
    model = ScoreLevel(SMALL)
    model.fit(emotion, actor, video, np.zeros_like(audio))
    assert model.video_weight > 0.5
    model.fit(emotion, actor, np.zeros_like(video), audio)
    assert model.video_weight < 0.5


def test_units_that_hardly_ever_answered_in_training_do_not_shout():
    fc7 = torch.tensor([[[1e6, -1e6, 0.5]]])
    torch.testing.assert_close(side_by_side(fc7, fc7)[:, 0], torch.tensor([4.0, -4.0, 0.5]))


# In the pipeline


def settings(protocol="paper"):
    one = Schedule(n_epochs=1, batch_size=16)
    training = Training(hybrid_video=one, hybrid_audio=one, precision="32-true")
    return Params(
        protocol=protocol,
        seeds=(1,),
        synthetic=SyntheticParams(training=training, hybrid=SETTINGS),
    )


@pytest.fixture(scope="module")
def clips(random_arrays):
    given, rng = load_clips(random_arrays), np.random.default_rng(0)
    n = len(given.index)
    return replace(
        given,
        frames=rng.integers(0, 256, (n, 24, 16, 16, 1), dtype=np.uint8),
        segment_mel=rng.normal(size=(n, 192, 6, 64)).astype(np.float16),
    )


def trained(clips, folder):
    return {row: train_row(row, 1, settings(), clips, folder)[0] for row in HYBRID}


@pytest.fixture(scope="module")
def runs(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, trained(clips, folder)


def test_all_rows_train_one_after_another(runs):
    folder, found = runs
    for row, run in found.items():
        assert run.test.logits.shape == (1, 16, 8), row
        assert np.isfinite(run.test.logits).all(), row
        assert run.info["model"]["hybrid"]["width"] == WIDTH
        assert "alexnet" not in run.info["model"]["hybrid"]
    fc7 = np.load(run_folder(folder, "hybrid_video", 1, 1) / "fc7.npy")
    assert fc7.shape == (96, *SMALL.shape("video_fc7"))
    assert found["hybrid_dbn"].info["preprocess"]["frame_choice"] == "segments"
    assert found["hybrid_dbn"].info["preprocess"]["n_frames"] == 4


def test_decisions_are_those_of_the_trained_model_of_the_same_row(runs):
    folder, found = runs
    weights = torch.load(run_folder(folder, "hybrid_product", 1, 1) / "weights.pt")
    model = Product(SMALL)
    model.load_state_dict(weights)
    info = found["hybrid_product"].info["scaling"]
    inputs = []
    for modality in ("video", "audio"):
        fc7 = np.load(run_folder(folder, f"hybrid_{modality}", 1, 1) / "fc7.npy")[:16]
        mean, sd = (np.array(info[f"{modality}_fc7"][key])[:, None] for key in ("mean", "sd"))
        inputs.append(torch.from_numpy(((fc7 - mean) / sd).astype(np.float32)))
    with torch.no_grad():
        said = model(*inputs).numpy()
    np.testing.assert_allclose(found["hybrid_product"].test.logits[0], said, atol=0.02)


def test_no_test_clip_has_a_say_in_what_is_fitted(clips, runs, tmp_path):
    rng = np.random.default_rng(1)
    test = clips.of_actors((1, 2, 3, 4))
    frames, mel = np.array(clips.frames), np.array(clips.segment_mel)
    frames[test] = rng.integers(0, 256, frames[test].shape, dtype=np.uint8)
    mel[test] = 5 * rng.normal(size=mel[test].shape)
    others = replace(clips, frames=frames, segment_mel=mel)
    folder, found = runs
    again = trained(others, tmp_path)
    for row in HYBRID:
        before, after = (
            torch.load(run_folder(where, row, 1, 1) / "weights.pt") for where in (folder, tmp_path)
        )
        assert all(torch.equal(before[key], after[key]) for key in before), row
        assert found[row].info["scaling"] == again[row].info["scaling"], row
    said = [each["hybrid_dbn"].test.logits for each in (found, again)]
    assert not np.array_equal(*said)


def test_the_group_is_asked_for_by_its_name_and_keeps_out_of_all():
    every = registry.asked_for("all", [1])
    assert not HYBRID.keys() & set(every)
    asked = registry.asked_for("hybrid", [1])
    assert HYBRID.keys() <= set(asked)
    assert REFERENCE in asked
    assert registry.asked_for("hybrid_dbn", [1]) == [*NETWORKS, "hybrid_dbn"]
    for row in ("hybrid", "hybrid_dbn"):
        assert registry.reported(row, [1]) == every


def test_full_size_rows_have_the_parameters_that_their_parts_have():
    units, hidden = 4096, FULL_SIZE.hybrid.n_hidden
    svm = 8 * units + 8
    dbn = 2 * units * hidden[0] + 2 * units + 2 * hidden[0] + hidden[0] * hidden[1] + hidden[1]
    expected = {
        "hybrid_audio": 57_036_616,
        "hybrid_video": 79_991_015 - 4097 * (487 - 8),
        "hybrid_video_svm": svm,
        "hybrid_features": 2 * svm - 8,
        "hybrid_scores": 2 * svm,
        "hybrid_dbn": dbn + 8 * hidden[1] + 8,
    }
    for name, n in expected.items():
        assert ROWS[name].n_parameters(FULL_SIZE) == n, name
    assert isinstance(ROWS["hybrid_dbn"].build(SMALL), ModelLevel)
    assert isinstance(ROWS["hybrid_features"].build(SMALL), MeanSVM)
