"""Tests of `cfnsr.attention.maps` on tiny networks with random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cfnsr.attention.maps import (
    audio_axis,
    grad_cam,
    normalised,
    read_maps,
    rollout,
    token_times_s,
    uniform_rollout,
    video_axes,
    video_regions,
)
from cfnsr.attention.receptive_field import Axis, receptive_axis
from cfnsr.data.clips import Scaling
from cfnsr.models.base import Sizes
from cfnsr.models.cross_modal import CrossModalAttention
from cfnsr.models.encoder import SelfAttention
from cfnsr.models.mmtm import TransferModule
from cfnsr.models.msaf import SplitAttention
from cfnsr.models.registry import ROWS, find
from cfnsr.params import Model, Preprocess
from cfnsr.training.trained import Trained

SETTINGS = Preprocess(n_frames=10, frame_size=72)
SIZES = Sizes(
    Model(
        stem_channels=4,
        cardinality=2,
        n_blocks=(1, 1, 1, 1),
        audio_channels=16,
        n_encoder_layers=3,
        n_heads=2,
    )
)
N_CLIPS = 5
WITH_MAPS = ("cfn_sr", "no_self_attention", "no_residual", "video_to_audio", "mmtm", "msaf")
SEEING = [
    name
    for name, row in ROWS.items()
    if "frames" in row.inputs and row.alias is None and row.group == "systems"
]


def made(row, seed=0, batch_size=3):
    """A network with random weights, and with batch statistics of no batch in particular."""
    torch.manual_seed(seed)
    model = find(row).build(SIZES).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    scaling = {"mfcc": Scaling(np.full(13, 2.0), np.full(13, 3.0))}
    return Trained(model, find(row), {"seed": seed}, SETTINGS, scaling, batch_size)


@pytest.fixture(scope="module")
def clips():
    """The arrays of a few made-up clips."""
    rng = np.random.default_rng(0)
    size = SETTINGS.frame_size
    pictures = rng.integers(0, 256, (N_CLIPS, SETTINGS.n_frames, size, size, 3), dtype=np.uint8)
    return {"frames": pictures, "mfcc": rng.normal(2, 3, (N_CLIPS, 13, 212)).astype(np.float32)}


def some(clips, chosen):
    return {name: array[chosen] for name, array in clips.items()}


def tensors(trained, clips):
    """As the model takes them."""
    return [
        trained.frames(clips[name]) if name == "frames" else trained.scaled(name, clips[name])
        for name in trained.row.inputs
    ]


def modules(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def arrays(maps):
    """Everything in a `Maps`, by name."""
    found = {
        name: getattr(maps, name)
        for name in ("logits", "self_attention", "cross_modal", "cross_modal_audio")
        if getattr(maps, name) is not None
    }
    return found | {f"{gate.place} {gate.stream}": gate.values for gate in maps.gates}


@pytest.mark.parametrize("row", WITH_MAPS)
def test_listening_leaves_the_logits_bit_for_bit_and_no_hook_behind(row, clips):
    trained = made(row, batch_size=N_CLIPS)
    inputs = tensors(trained, clips)
    with torch.no_grad():
        before = trained.model(*inputs).numpy()
    maps = read_maps(trained.view(clips), clips)
    with torch.no_grad():
        after = trained.model(*inputs).numpy()
    np.testing.assert_array_equal(maps.logits, before)
    np.testing.assert_array_equal(after, before)
    assert len(arrays(maps)) > 1
    assert not any(module._forward_hooks for module in trained.model.modules())


def test_a_network_in_training_is_refused_since_dropout_would_hide_some(clips):
    trained = made("cfn_sr")
    view = trained.view(clips)
    trained.model.train()
    with pytest.raises(AssertionError, match="eval"):
        read_maps(view, clips)


def test_self_attention_sums_to_one_and_no_token_hears_the_future(clips):
    trained = made("cfn_sr")
    weights = read_maps(trained.view(clips), clips).self_attention
    assert weights.shape == (N_CLIPS, 3, 2, 26, 26)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert weights.min() >= 0
    assert not weights[..., ~np.tri(26, dtype=bool)].any()
    assert np.ptp(weights[..., -1, :]) > 1e-3  # not merely uniform


def test_the_recorded_weights_give_the_layer_its_output():
    torch.manual_seed(0)
    layer = SelfAttention(16, 4, dropout=0.1).eval()
    tokens = torch.randn(2, 7, 16)
    output, weights = layer(tokens)
    values = (tokens @ layer.in_proj.weight.T + layer.in_proj.bias)[..., 32:]
    heads = [weights[:, h] @ values[..., 4 * h : 4 * h + 4] for h in range(4)]
    again = torch.cat(heads, dim=-1) @ layer.out_proj.weight.T + layer.out_proj.bias
    torch.testing.assert_close(again, output)


def test_cross_modal_maps_sum_to_one_over_a_slice_and_are_the_modules_own(clips):
    trained = made("cfn_sr")
    (module,) = modules(trained.model, CrossModalAttention)
    heard = []
    handle = module.register_forward_hook(lambda _, inputs, output: heard.append(output))
    maps = read_maps(trained.view(clips), clips).cross_modal
    handle.remove()
    assert maps.shape == (N_CLIPS, 1, 3, 3)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)
    np.testing.assert_array_equal(maps, torch.cat(heard).numpy())
    of_sound = read_maps(made("video_to_audio").view(clips), clips)
    assert of_sound.cross_modal is None
    assert of_sound.cross_modal_audio.shape == (N_CLIPS, 26)
    np.testing.assert_allclose(of_sound.cross_modal_audio.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("row", "kind"), [("mmtm", TransferModule), ("msaf", SplitAttention)])
def test_gates_times_features_are_what_leaves_the_module(row, kind, clips):
    trained = made(row, batch_size=N_CLIPS)
    passed = []
    handles = [
        module.register_forward_hook(lambda _, inputs, outputs: passed.append((inputs, outputs)))
        for module in modules(trained.model, kind)
    ]
    gates = read_maps(trained.view(clips), clips).gates
    for handle in handles:
        handle.remove()
    assert [(gate.place, gate.stream) for gate in gates] == [
        (place, stream) for place in ("middle", "top") for stream in ("face", "voice")
    ]
    pairs = [pair for inputs, outputs in passed for pair in zip(inputs, outputs, strict=True)]
    for gate, (before, after) in zip(gates, pairs, strict=True):
        factor = torch.from_numpy(gate.values)[(...,) + (None,) * (before.ndim - 2)]
        torch.testing.assert_close(before * factor, after)
        assert 0 < gate.neutral < 1


@pytest.mark.parametrize("row", WITH_MAPS)
def test_neighbours_in_the_batch_change_no_map(row, clips):
    together = made(row, batch_size=N_CLIPS)
    alone = replace(together, batch_size=1)
    all_at_once = arrays(read_maps(together.view(clips), clips))
    for clip in range(N_CLIPS):
        one = slice(clip, clip + 1)
        single = arrays(read_maps(alone.view(some(clips, one)), some(clips, one)))
        assert single.keys() == all_at_once.keys()
        for name, values in single.items():
            np.testing.assert_allclose(values[0], all_at_once[name][clip], atol=1e-5, err_msg=name)


def test_rollout_of_two_layers_worked_by_hand():
    first = np.array([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.1, 0.9]]])  # two heads: mean 0.3
    second = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.6, 0.4]]])  # 0.8
    # (A + I) / 2: [[1, 0], [0.15, 0.85]], then [[1, 0], [0.4, 0.6]]; the later layer comes left
    by_hand = [[1, 0], [0.4 + 0.6 * 0.15, 0.6 * 0.85]]
    np.testing.assert_allclose(rollout(np.stack([first, second])), by_hand)


def test_rollout_sums_to_one_and_that_of_uniform_attention_drifts_to_the_start(clips):
    weights = read_maps(made("cfn_sr").view(clips), clips).self_attention
    rolled = rollout(weights)
    assert rolled.shape == (N_CLIPS, 26, 26)
    np.testing.assert_allclose(rolled.sum(axis=-1), 1, rtol=1e-5)
    one_layer, five = (uniform_rollout(n, 26)[-1] for n in (1, 5))
    np.testing.assert_allclose(one_layer[:-1], 0.5 / 26)
    assert five[0] > 3 * five[12] > 0


def test_grad_cam_of_the_video_network_is_the_class_activation_map(clips):
    """Behind an average pool and one linear layer, the gradient is known in closed form."""
    trained = made("video")
    view, target = trained.view(clips), np.array([0, 3, 7, 2, 2])
    found = grad_cam(view, clips, "video", target)
    video = trained.model.video
    with torch.no_grad():
        x_v = video.features(trained.frames(clips["frames"]))
    n_positions = x_v[0, 0].numel()
    weight = video.fc.weight.detach()[torch.from_numpy(target)]
    by_hand = torch.einsum("nc,ncshw->nshw", weight, x_v).relu() / n_positions
    assert found.shape == by_hand.shape == (N_CLIPS, 1, 3, 3)
    assert (found > 0).any()
    np.testing.assert_allclose(found, by_hand.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("row", SEEING)
def test_every_row_that_sees_has_a_grad_cam_and_keeps_its_logits(row, clips):
    trained = made(row)
    view = trained.view(clips)
    before = view.logits(clips)
    found = grad_cam(view, clips, "video", before.argmax(axis=1))
    assert found.shape == (N_CLIPS, 1, 3, 3)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    np.testing.assert_array_equal(view.logits(clips), before)
    assert all(parameter.grad is None for parameter in trained.model.parameters())


def test_grad_cam_of_the_sound_has_a_value_a_token(clips):
    trained = made("audio")
    view = trained.view(clips)
    found = grad_cam(view, clips, "audio", np.zeros(N_CLIPS, int))
    assert found.shape == (N_CLIPS, 26)
    assert (found > 0).any()


def test_a_map_of_zeros_becomes_uniform_and_others_sum_to_one():
    found = normalised(np.array([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [2.0, 1.0]]]))
    np.testing.assert_allclose(found, [[[0.25, 0.25], [0.25, 0.25]], [[0.25, 0], [0.5, 0.25]]])


def test_token_times_of_the_full_size_network_worked_by_hand():
    """Two convolutions of 7 without their full padding shift by 2 vectors, a pool of 8 by 3.5."""
    audio = find("audio").build(Sizes()).audio
    axis = audio_axis(audio)
    assert axis == Axis(5.5, 8, 1 + 6 + 6 + 7 + 4 * 8)
    times_s = token_times_s(axis, 26, Preprocess())
    assert times_s[0] == pytest.approx(0.5 + 5.5 * 512 / 44_100)
    assert np.diff(times_s) == pytest.approx(8 * 512 / 44_100)
    assert times_s[-1] < 0.5 + 2.45


def test_a_token_hears_exactly_what_its_axis_says():
    audio = made("audio").model.audio
    axis, token = audio_axis(audio), 13
    heard = []
    for seed in range(20):  # a maximum passes the gradient of one vector of eight at a time
        mfcc = torch.randn(1, 13, 212, generator=torch.Generator().manual_seed(seed))
        mfcc.requires_grad_()
        audio.features(mfcc)[0, :, token].sum().backward()
        heard.append(mfcc.grad[0].abs().sum(dim=0).numpy() > 0)
    touched = np.flatnonzero(np.any(heard, axis=0))
    centre = axis.centres(26)[token]
    assert (touched[0] + touched[-1]) / 2 == pytest.approx(centre)
    assert touched[-1] - touched[0] + 1 == axis.width


def test_a_position_of_the_face_sees_exactly_what_its_axes_say():
    video = made("video").model.video
    frames = torch.randn(1, 3, 49, 112, 112, requires_grad=True)
    features = video.features(frames)
    assert features.shape[2:] == (4, 4, 4)
    features[0, :, 2, 2, 1].sum().backward()
    seen = frames.grad[0].abs().sum(dim=0) > 0
    for axis, along, position in zip(video_axes(video), range(3), (2, 2, 1), strict=True):
        others = tuple(other for other in range(3) if other != along)
        touched = np.flatnonzero(seen.any(dim=others[1]).any(dim=others[0]).numpy())
        centre, reach = axis.centres(4)[position], (axis.width - 1) / 2
        n = seen.shape[along]
        assert touched[0] == max(centre - reach, 0)
        assert touched[-1] == min(centre + reach, n - 1)


def test_receptive_axes_follow_kernel_stride_padding_and_dilation():
    layers = [nn.Conv1d(1, 1, 3, stride=2, dilation=2), nn.MaxPool1d(2)]
    # reach 4 from a first centre of 2, then pairs of every second sample
    assert receptive_axis(layers) == Axis(3.0, 4, 7)


def test_each_pixel_belongs_to_the_position_whose_centre_is_nearest():
    regions = video_regions(made("video"), (1, 3, 3))
    assert regions.shape == (10, 72, 72)
    # centres at 0, 32 and 64
    expected = np.repeat([0, 1, 2], [17, 32, 23])
    np.testing.assert_array_equal(regions[0, 0], expected)
    np.testing.assert_array_equal(regions[3, :, 40], 3 * expected + 1)


@pytest.mark.parametrize("row", ["video", "audio", "cfn_sr", "mmtm", "msaf", "averaging"])
def test_a_view_gives_the_logits_of_the_whole_network_and_leaves_it_as_it_was(row, clips):
    trained = made(row)
    view = trained.view(clips)
    found = view.logits(clips)
    with torch.no_grad():
        parts = [
            trained.model(*tensors(trained, some(clips, chosen)))
            for chosen in trained.batches(N_CLIPS)
        ]
    np.testing.assert_array_equal(found, torch.cat(parts).numpy())
    repeated = view.at(np.array([3, 3, 0])).logits(some(clips, [3, 3, 0]))
    np.testing.assert_allclose(repeated, found[[3, 3, 0]], atol=1e-5)
    assert "middle" not in vars(getattr(trained.model, "video", nn.Module()))
