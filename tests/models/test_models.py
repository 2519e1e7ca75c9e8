import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from cfnsr import InputError
from cfnsr.__main__ import main
from cfnsr.data.audio import N_MELS
from cfnsr.data.motion import N_TRACKS
from cfnsr.models import motion_voice, registry
from cfnsr.models.base import FULL_SIZE, Sizes
from cfnsr.models.cross_modal import CrossModalAttention
from cfnsr.models.early_fusion import MCBP, CircularConvolution, CompactBilinear, signed_sqrt
from cfnsr.models.encoder import SelfAttention, sinusoidal_positions
from cfnsr.models.erann import ERANN
from cfnsr.models.late_fusion import Averaging, Multiplication, Multiplicative
from cfnsr.models.linear import STRENGTHS
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.mmtm import TransferModule
from cfnsr.models.msaf import SplitAttention
from cfnsr.models.registry import EXTRA, HYBRID, ROWS, SWITCHES, TABLE_1, TABLE_2
from cfnsr.models.resnext import Conv3d, FirstConv3d, ResNeXt, average_pool
from cfnsr.params import Model

RELEASE = Path(__file__).parent / "data/release_logits.json"

SMALL = Sizes(Model(stem_channels=8, cardinality=4, n_blocks=(1, 1, 1, 1), n_encoder_layers=2))
N_CLIPS = 4

N_PARAMETERS = {
    "video": 25_882_056,
    "audio": 34_024,
    "averaging": 25_916_080,
    "multiplicative": 25_916_080,
    "multiplication": 25_916_080,
    "concat_fc": 26_870_824,
    "mcbp": 26_014_376,
    "mmtm": 31_496_512,
    "msaf": 25_940_724,
    "erann": 24_021_576,
    "cfn_sr": 26_301_417,
    "no_cross_modal": 25_916_072,
    "video_to_audio": 26_301_417,
    "audio_to_video": 26_301_417,
    "no_self_attention": 26_051_369,
    "no_residual": 26_301_417,
    "motion_voice": 365_296,
    "motion_voice_averaged": 3 * 365_296,
    "motion_voice_spliced": 365_288,  # one bias less than two heads
    "motion_voice_concat_fc": 494_696,
    "motion_voice_msaf": 369_632,
    "motion_voice_cross_modal": 1_381_737,
    "linear": 3_856,  # 8 x (416 of landmarks + 65 of MFCCs + 1)
    "cfn_sr_released": 26_301_417,
    "multiplicative_through_weights": 25_916_080,
    "averaging_joint": 25_916_080,
    "multiplication_joint": 25_916_080,
}
COUNT_NOT_REPRODUCED = {"mcbp", "mmtm", "video_to_audio"}

# Gradients that are zero whatever the data: a shift of all scores leaves a softmax as it is, and
# batch normalisation takes away what was added before it.
NO_GRADIENT = {
    "attention.score.bias",
    "middle_attention.squeeze.bias",
    "top_attention.squeeze.bias",
}

SYSTEMS = TABLE_1 | TABLE_2 | EXTRA
every_row = pytest.mark.parametrize("name", SYSTEMS)


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name):
    return ROWS[name].build(SMALL)


def batch(name, n_clips=N_CLIPS):
    """Frames of 64 pixels: two by two positions are left at the end, so that maps can differ."""
    return [
        torch.randn(n_clips, *((3, 8, 64, 64) if array == "frames" else SMALL.shape(array)))
        for array in ROWS[name].inputs
    ]


# Every row


def test_rows_are_those_of_the_papers_tables_and_the_release():
    assert list(registry.TABLE_1) == [
        "video",
        "audio",
        "averaging",
        "multiplicative",
        "multiplication",
        "concat_fc",
        "mcbp",
        "mmtm",
        "msaf",
        "erann",
        "cfn_sr",
    ]
    assert list(registry.TABLE_2) == [
        "cfn_sr",
        "no_cross_modal",
        "video_to_audio",
        "audio_to_video",
        "no_self_attention",
        "no_residual",
    ]
    assert list(registry.EXTRA) == [
        "linear",
        "motion_voice",
        "motion_voice_averaged",
        "motion_voice_spliced",
        "motion_voice_concat_fc",
        "motion_voice_msaf",
        "motion_voice_cross_modal",
        "cfn_sr_released",
        "multiplicative_through_weights",
        "averaging_joint",
        "multiplication_joint",
    ]
    assert ROWS == SYSTEMS | HYBRID | SWITCHES
    assert not SYSTEMS.keys() & SWITCHES.keys()


def test_an_unknown_row_is_an_error_that_lists_all():
    with pytest.raises(InputError, match=r"video, audio, .*cfn_sr_released, .*; found cfnsr"):
        registry.find("cfnsr")
    assert registry.find("cfn_sr") is ROWS["cfn_sr"]


@pytest.mark.parametrize("form", [[], ["--csv"]])
def test_the_command_lists_every_row(form, monkeypatch, capsys):
    monkeypatch.setattr(registry.Row, "n_parameters", lambda row, sizes: len(row.label))
    assert main(["rows", *form]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS)
    for line, (name, row) in zip(lines, ROWS.items(), strict=True):
        assert line.startswith(name)
        assert row.label in line


@every_row
def test_the_parameter_count_at_full_size_is_exact(name):
    assert ROWS[name].n_parameters(FULL_SIZE) == N_PARAMETERS[name]


@every_row
def test_the_papers_rounded_count_is_met_where_it_can_be(name):
    millions = ROWS[name].paper_params_millions
    if name in COUNT_NOT_REPRODUCED:
        assert f"{millions} M" in ROWS[name].note
        assert round(N_PARAMETERS[name] / 1e6, 2) != millions
    elif millions is not None:
        assert round(N_PARAMETERS[name] / 1e6, 2) == millions


@every_row
def test_logits_are_finite_and_every_parameter_learns(name):
    model = build(name)
    loss, logits = model.loss(torch.arange(N_CLIPS), *batch(name))
    loss.backward()
    assert logits.shape == (N_CLIPS, FULL_SIZE.n_emotions)
    assert logits.isfinite().all()
    assert loss.isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter_name in NO_GRADIENT:
            assert parameter.grad.abs().max() < 1e-6, parameter_name
        else:
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "cfn_sr_released"])
def test_a_clips_logits_do_not_depend_on_its_neighbours(name):
    model = build(name).eval()
    inputs, others = batch(name), batch(name)
    with torch.no_grad():
        together = model(*inputs)
        alone = model(*(array[:1] for array in inputs))
        elsewhere = model(*(torch.cat([b[1:], a[:1]]) for a, b in zip(inputs, others, strict=True)))
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(elsewhere[-1], together[0], atol=1e-5, rtol=1e-5)


def test_in_the_release_every_copy_of_a_clip_in_its_batch_adds_its_map_once_more():
    model = build("cfn_sr_released").eval()
    frames, mfcc = batch("cfn_sr_released", n_clips=1)
    with torch.no_grad():
        once, twice, thrice = (
            model(frames.repeat(n, 1, 1, 1, 1), mfcc.repeat(n, 1, 1))[0] for n in (1, 2, 3)
        )
        x_v = model.video.features(frames)
        summary = model.encoder(model.audio.features(mfcc))[:, -1]
        attended = average_pool(model.attention(x_v, summary)[:, None] * x_v)[0]
        one_map = model.head.weight[:, : len(attended)] @ attended
    assert one_map.abs().max() > 0.01
    torch.testing.assert_close(twice - once, one_map, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(thrice - once, 2 * one_map, atol=1e-5, rtol=1e-5)


def is_additive(scores):
    """Of two faces with each of two voices, (clip, emotion): do faces differ alike by both?"""
    by_voice = (scores - scores.mean(dim=1, keepdim=True)).unflatten(0, (2, 2))
    change = by_voice[:, 1] - by_voice[:, 0]
    return ((change[1] - change[0]).abs().max() / change.abs().max()).item() < 1e-4


@pytest.mark.parametrize(
    "name",
    [name for name, row in SYSTEMS.items() if row.starts_from and name != "cfn_sr_released"],
)
def test_a_row_is_additive_where_the_face_changes_its_scores_alike_for_every_voice(name):
    model = build(name).eval()
    face, voice = batch(name, 2)
    with torch.no_grad():
        # Untrained, a voice hardly changes what is attended to.
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        scores = model(torch.cat([face, face]), voice.repeat_interleave(2, dim=0))
    if name.startswith("averaging"):
        scores = scores.exp()  # the mean of probabilities, not of their logarithms
    assert is_additive(scores) == SYSTEMS[name].additive


# Encoders


@given(n_frames=st.integers(12, 300))
@settings(max_examples=20, deadline=None)
def test_the_audio_encoder_knows_its_number_of_tokens(n_frames):
    encoder = MFCCNet(Sizes(SMALL.model, n_mfcc_frames=n_frames)).eval()
    features = encoder.features(torch.zeros(1, SMALL.n_mfcc, n_frames))
    assert features.shape == (1, encoder.n_channels, encoder.n_tokens)
    assert encoder.flatten(features).shape == (1, encoder.n_features)


@given(n_frames=st.integers(1, 20), size=st.integers(16, 40), stem_channels=st.sampled_from([4, 8]))
@settings(max_examples=20, deadline=None)
def test_the_video_encoder_halves_time_four_times_and_space_five_times(
    n_frames, size, stem_channels
):
    model = Model(stem_channels=stem_channels, cardinality=4, n_blocks=(1, 1, 1, 1))
    encoder = ResNeXt(Sizes(model)).eval()
    x_v = encoder.features(torch.zeros(1, 3, n_frames, size, size))
    n_slices, n_positions = math.ceil(n_frames / 16), math.ceil(size / 32)
    assert x_v.shape == (1, 32 * stem_channels, n_slices, n_positions, n_positions)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 7, "stride": (1, 2, 2), "padding": 3, "bias": False},
        {"kernel_size": 3, "padding": 1},
    ],
)
def test_grey_frames_are_colours_that_are_all_the_same(settings):
    convolution = FirstConv3d(3, 8, dtype=torch.float64, **settings)
    grey = torch.randn(2, 1, 8, 24, 24, dtype=torch.float64)
    weighting = None
    gradients = []
    for frames in (grey, grey.expand(-1, 3, -1, -1, -1)):
        found = convolution(frames)
        assert found.is_contiguous(memory_format=torch.channels_last_3d) or frames.shape[1] == 3
        weighting = torch.randn_like(found) if weighting is None else weighting
        (found * weighting).sum().backward()
        gradients.append(convolution.weight.grad)
        convolution.weight.grad = None
    torch.testing.assert_close(convolution(grey), convolution(grey.expand(-1, 3, -1, -1, -1)))
    torch.testing.assert_close(*gradients)


def test_self_attention_is_that_of_torch_with_a_causal_mask():
    ours = SelfAttention(16, 4, dropout=0.0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(ours.in_proj.bias)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.in_proj.weight)
        theirs.in_proj_bias.copy_(ours.in_proj.bias)
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    tokens = torch.randn(3, 6, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    expected, expected_weights = theirs(
        tokens, tokens, tokens, attn_mask=mask, average_attn_weights=False
    )
    attended, weights = ours(tokens)
    torch.testing.assert_close(attended, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=1e-5)


def test_channels_that_cannot_be_split_over_the_heads_are_an_error():
    with pytest.raises(ValueError, match="10 channels cannot be split over 4 heads"):
        SelfAttention(10, 4, dropout=0.0)


def test_positions_are_sines_then_cosines_counted_from_one():
    n_tokens, n_channels = 5, 8
    expected = np.empty((n_tokens, n_channels))
    for token in range(n_tokens):
        for i in range(n_channels // 2):
            angle = (token + 1) / 10_000 ** (i / (n_channels // 2 - 1))
            expected[token, i] = math.sin(angle)
            expected[token, n_channels // 2 + i] = math.cos(angle)
    positions = sinusoidal_positions(n_tokens, n_channels).numpy()
    np.testing.assert_allclose(positions, expected, atol=1e-6)


@given(
    n_clips=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
)
@settings(max_examples=20, deadline=None)
def test_an_attention_map_sums_to_one_over_what_competes(n_clips, shape):
    features, summary = torch.randn(n_clips, 6, *shape), torch.randn(n_clips, 5)
    by_slice = CrossModalAttention(6, 5, k=4)(features, summary)
    assert by_slice.shape == (n_clips, *shape)
    torch.testing.assert_close(by_slice.sum(dim=(2, 3)), torch.ones(n_clips, shape[0]))
    by_clip = CrossModalAttention(6, 5, k=4, softmax_over="clip")(features, summary)
    assert by_clip.shape == (n_clips, *shape)
    torch.testing.assert_close(by_clip.sum(dim=(1, 2, 3)), torch.ones(n_clips))


# Late fusion


def deciding(rule, *probabilities):
    """A late fusion whose two modalities give these probabilities for one clip."""

    class Decided(rule):
        def __init__(self):
            nn.Module.__init__(self)
            self.gradient_through_weights = False
            self.log_p = torch.tensor(probabilities)[:, None].log().requires_grad_()

        def log_probabilities(self, frames, mfcc):
            return self.log_p

    return Decided()


def test_averaging_takes_the_mean_of_probabilities():
    logits = deciding(Averaging, [0.7, 0.2, 0.1], [0.1, 0.6, 0.3])(None, None)
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.4, 0.4, 0.2]]))


def test_multiplication_takes_the_normalised_product():
    logits = deciding(Multiplication, [0.5, 0.3, 0.2], [0.2, 0.4, 0.4])(None, None)
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.10, 0.12, 0.08]]) / 0.30)


def test_multiplicative_weights_a_modality_by_what_the_other_leaves_over():
    p_video, p_audio = [0.7, 0.2, 0.1], [0.5, 0.25, 0.25]
    model = deciding(Multiplicative, p_video, p_audio)
    weights = model.weights(torch.tensor([p_video, p_audio])[:, None].log())
    torch.testing.assert_close(weights[0, 0], torch.tensor([0.5, 0.75, 0.75]) ** 0.3)
    torch.testing.assert_close(weights[1, 0], torch.tensor([0.3, 0.8, 0.9]) ** 0.3)

    loss, logits = model.loss(torch.tensor([1]), None, None)
    expected = -(0.75**0.3) * math.log(0.2) - 0.8**0.3 * math.log(0.25)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits[0, 1].item() == pytest.approx(-expected, rel=1e-6)
    assert logits.argmax() == 0


def test_the_gradient_of_multiplicative_stops_at_its_weights_unless_it_is_asked_to_go_on():
    model = deciding(Multiplicative, [0.7, 0.2, 0.1], [0.5, 0.25, 0.25])
    gradients = []
    for model.gradient_through_weights in (False, True):
        loss, _ = model.loss(torch.tensor([1]), None, None)
        gradients.append(torch.autograd.grad(loss, model.log_p)[0][:, 0])
    stopped, whole = gradients
    expected = torch.zeros(2, 3)
    expected[:, 1] = -torch.tensor([0.75**0.3, 0.8**0.3])
    torch.testing.assert_close(stopped, expected)
    torch.testing.assert_close(whole[:, 1], expected[:, 1])
    assert (whole[:, [0, 2]] > 0).all()


def test_multiplicative_stays_finite_when_a_modality_is_certain():
    logits = torch.tensor([[[1e4, 0.0, 0.0]], [[0.0, 1e4, 0.0]]], requires_grad=True)
    log_p = logits.log_softmax(dim=-1)
    scores = (deciding(Multiplicative).weights(log_p) * log_p).sum(dim=0)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert logits.grad.isfinite().all()


# Early fusion


def test_compact_bilinear_pooling_is_the_sketch_of_the_outer_product():
    pooling = CompactBilinear(6, 5, n_sketch=7)
    video, audio = torch.randn(2, 6), torch.randn(2, 5)
    expected = torch.zeros(2, 7)
    for i in range(6):
        for j in range(5):
            sum_index = (pooling.video_hash[i] + pooling.audio_hash[j]) % 7
            sign = pooling.video_sign[i] * pooling.audio_sign[j]
            expected[:, sum_index] += sign * video[:, i] * audio[:, j]
    torch.testing.assert_close(pooling(video, audio), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [7, 8])
def test_the_gradient_of_a_circular_convolution_is_that_of_finite_differences(n):
    x, y = (torch.randn(3, n, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(CircularConvolution.apply, (x, y))


def test_a_circular_convolution_agrees_with_torchs_fft_at_full_length():
    x, y = (torch.randn(2, 16_000, requires_grad=True) for _ in range(2))
    g = torch.randn(2, 16_000)
    ours = CircularConvolution.apply(x, y)
    theirs = torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(y), n=16_000)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-5)
    for found, expected in zip(
        torch.autograd.grad(ours, (x, y), g), torch.autograd.grad(theirs, (x, y), g), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)


def test_the_hashes_are_the_same_in_every_model_and_are_saved_with_it():
    first = CompactBilinear(2048, 1664, n_sketch=16_000)
    torch.manual_seed(1)
    second = CompactBilinear(2048, 1664, n_sketch=16_000)
    assert set(first.state_dict()) == {"video_hash", "video_sign", "audio_hash", "audio_sign"}
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert set(first.video_sign.tolist()) == {-1, 1}
    # Balls into bins: 16,000 (1 - exp(-2048 / 16,000)) = 1922 are hit on average.
    assert 1880 < len(first.video_hash.unique()) < 1965
    assert first.video_hash[:3].tolist() == [6330, 11255, 13027]


def test_mixed_precision_does_not_reach_the_fft():
    pooling = CompactBilinear(6, 5, n_sketch=7)
    video, audio = torch.randn(2, 6).bfloat16(), torch.randn(2, 5).bfloat16()
    expected = pooling(video.float(), audio.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pooling(video, audio), expected)
        model = MCBP(SMALL)
        loss, _ = model.loss(torch.arange(N_CLIPS), *batch("mcbp"))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_signed_square_root_has_a_finite_slope_at_zero():
    x = torch.tensor([-9.0, 0.0, 1e-12, 16.0], requires_grad=True)
    roots = signed_sqrt(x)
    torch.testing.assert_close(roots, torch.tensor([-3.0, 0.0, 0.0, 4.0]), atol=0.01, rtol=0)
    roots.sum().backward()
    assert x.grad.isfinite().all()


# Fusion in the middle


def test_a_transfer_module_agrees_with_a_case_worked_by_hand():
    module = TransferModule(2, 2)
    assert module.squeeze.out_features == 2
    with torch.no_grad():
        module.squeeze.weight.copy_(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, -1]]))
        module.squeeze.bias.zero_()
        module.excite_video.weight.copy_(torch.tensor([[0.25, 9], [-0.5, 9]]))
        module.excite_video.bias.copy_(torch.tensor([0.0, 1.0]))
        module.excite_audio.weight.zero_()
        module.excite_audio.bias.copy_(torch.tensor([0.0, math.log(3)]))
    video = torch.tensor([[0.0, 2.0], [1.0, 3.0]]).view(1, 2, 1, 1, 2)  # means 1 and 2
    audio = torch.tensor([[3.0, 2.0, 4.0], [5.0, 5.0, 5.0]])[None]  # means 3 and 5
    # z = ReLU(1 + 3, 2 - 5) = (4, 0): gates sigmoid(1), sigmoid(-1); sigmoid(0), sigmoid(log 3)
    new_video, new_audio = module(video, audio)
    gates = torch.tensor([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    torch.testing.assert_close(new_video, video * gates.view(1, 2, 1, 1, 1))
    torch.testing.assert_close(new_audio, audio * torch.tensor([0.5, 0.75]).view(1, 2, 1))


def test_split_attention_agrees_with_a_loop_over_clips_blocks_and_channels():
    n_block, features = 3, [torch.randn(2, 7, 2, 3, 3), torch.randn(2, 5, 4)]  # 3 and 2 blocks
    module = SplitAttention(7, 5, n_block).eval()
    nn.init.normal_(module.norm.running_mean)
    nn.init.uniform_(module.norm.running_var, 0.5, 2)
    with torch.no_grad():
        outputs = module(*features)
        for clip in range(2):
            blocks = []  # (modality, first channel, mean of each channel)
            for modality, x in enumerate(features):
                for first in range(0, x.shape[1], n_block):
                    means = torch.zeros(n_block)
                    for c in range(min(n_block, x.shape[1] - first)):
                        means[c] = x[clip, first + c].mean()
                    blocks.append((modality, first, means))
            joint = sum(means for _, _, means in blocks)
            z = torch.relu(module.norm(module.squeeze(joint)[None]))[0]
            scores = torch.stack(
                [
                    module.excite.weight[i * n_block : (i + 1) * n_block] @ z
                    + module.excite.bias[i * n_block : (i + 1) * n_block]
                    for i in range(len(blocks))
                ]
            )
            for i, (modality, first, _) in enumerate(blocks):
                x, y = features[modality][clip], outputs[modality][clip]
                for c in range(min(n_block, len(x) - first)):
                    gate = scores[i, c].exp() / scores[:, c].exp().sum()
                    torch.testing.assert_close(y[first + c], gate * x[first + c])


def test_block_dropout_drops_whole_blocks_in_training_only():
    module = SplitAttention(64, 32, 8, dropout=0.5)
    video, audio = torch.ones(8, 64, 1, 2, 2), torch.ones(8, 32, 4)
    new_video, new_audio = module(video, audio)
    gates = torch.cat([new_video[:, :, 0, 0, 0], new_audio[:, :, 0]], dim=1)
    dropped = gates.view(8, 12, 8) == 0  # clip block channel
    assert (dropped.all(dim=2) == dropped.any(dim=2)).all()
    assert 0.3 < dropped.float().mean() < 0.7
    assert (module.eval()(video, audio)[0] > 0).all()


def test_erann_takes_log_mel_and_shrinks_with_the_video_network():
    assert ROWS["erann"].inputs == ("log_mel",)
    model = ERANN(SMALL).eval()
    assert len(model.blocks) == 5 * SMALL.model.n_blocks[0]
    x = model.blocks(torch.zeros(1, 1, N_MELS, SMALL.n_mfcc_frames))
    assert x.shape == (1, 16 * SMALL.model.stem_channels // 2, N_MELS // 16, 14)  # 212 / 16


# Weights of the release (github.com/skeletonNN/CFN-SR)

# Its encoders have the names that ours have; those of its whole network, MSAFNet, begin otherwise.
VIDEO_LAYERS = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
AUDIO_LAYERS = {0: "conv1", 2: "bn1", 3: "conv2", 6: "bn2", 8: "conv3", 10: "bn3"}
FUSED_PREFIXES = {
    **{f"video_model_blocks.0.{i}.": f"video.{name}." for i, name in enumerate(VIDEO_LAYERS)},
    **{f"audio_model_blocks.0.{i}.": f"audio.{name}." for i, name in AUDIO_LAYERS.items()},
    "msaf.0.channel_affine.": "attention.position_affine.",
    "msaf.0.y_affine.": "attention.summary_affine.",
    "msaf.0.attn_weight_affine.": "attention.score.",
    "msaf.0.audio_attention.layer_norm.": "encoder.norm.",
    "msaf.0.audio_attention.layers.": "encoder.layers.",
    "fc.": "head.",
}
ENCODER_PARTS = {
    ".self_attn.in_proj_": ".attention.in_proj.",
    ".self_attn.": ".attention.",
    ".layer_norms.0.": ".attention_norm.",
    ".layer_norms.1.": ".feedforward_norm.",
    ".fc1.": ".expand.",
    ".fc2.": ".contract.",
}


def named_as_ours(key):
    """The name here of a tensor of the release's MSAFNet."""
    (theirs,) = (prefix for prefix in FUSED_PREFIXES if key.startswith(prefix))
    key = FUSED_PREFIXES[theirs] + key.removeprefix(theirs)
    if key.startswith("encoder."):
        for theirs, ours in ENCODER_PARTS.items():
            key = key.replace(theirs, ours)
    return key


def filled(shapes, seed):
    """Numbers for every tensor, in the order of their names; the release was run with the same."""
    draws = np.random.RandomState(seed)
    state = {}
    for key in sorted(shapes):
        shape = shapes[key]
        if key.endswith(("num_batches_tracked", "version", "_float_tensor")):
            state[key] = torch.zeros(shape)
            continue
        if len(shape) >= 2:
            values = draws.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
        elif key.endswith(("running_var", "weight")):
            values = draws.uniform(0.3, 1.0, shape)
        else:
            values = draws.uniform(-0.5, 0.5, shape)
        state[key] = torch.from_numpy(values.astype(np.float32))
    return state


def release(name):
    """Recorded from the release's own classes (its commit 2443494) at full width, in eval mode."""
    record = json.loads(RELEASE.read_text())[name]
    draws = np.random.RandomState(7)
    frames = torch.from_numpy(draws.standard_normal((3, 3, 8, 64, 64)).astype(np.float32))
    mfcc = torch.from_numpy(draws.standard_normal((3, 13, 212)).astype(np.float32))
    return record, filled(record["shapes"], record["seed"]), frames, mfcc


@pytest.mark.parametrize(("name", "encoder"), [("resnet50", ResNeXt), ("MFCCNet", MFCCNet)])
def test_an_encoder_of_the_release_gives_the_logits_that_it_gave_there(name, encoder):
    record, state, frames, mfcc = release(name)
    ours = encoder(FULL_SIZE).eval()
    ours.load_state_dict(state)
    with torch.no_grad():
        logits = ours(frames if encoder is ResNeXt else mfcc)
    torch.testing.assert_close(logits, torch.tensor(record["logits"]), atol=1e-5, rtol=1e-5)


def test_cfn_sr_of_the_release_gives_the_logits_that_it_gave_there():
    record, state, frames, mfcc = release("MSAFNet")
    ours = ROWS["cfn_sr_released"].build(FULL_SIZE).eval()
    constants = (".version", "._float_tensor")
    ours.load_state_dict(
        {named_as_ours(key): state[key] for key in state if not key.endswith(constants)}
    )
    alone, together = (torch.tensor(record[f"logits_{when}"]) for when in ("alone", "together"))
    with torch.no_grad():
        torch.testing.assert_close(ours(frames, mfcc), together, atol=1e-5, rtol=1e-5)
        ours.batch_summed_attention = False
        torch.testing.assert_close(ours(frames, mfcc), alone, atol=1e-5, rtol=1e-5)


# The linear yardstick


def test_the_linear_yardstick_is_scikit_learns_logistic_regression():
    rng = np.random.default_rng(0)
    model = build("linear")
    of_landmarks, of_mfcc = (
        rng.normal(size=(96, *array.shape[1:])).astype(np.float32) for array in batch("linear")
    )
    emotion = np.arange(96) % 8
    actor = np.arange(96) // 8
    of_landmarks[:, 0] += emotion
    model.fit(emotion, actor, of_landmarks, of_mfcc)
    with torch.no_grad():
        logits = model(torch.from_numpy(of_landmarks), torch.from_numpy(of_mfcc))
    statistics = np.concatenate([of_landmarks, of_mfcc], axis=1)
    theirs = [
        LogisticRegression(C=c, max_iter=2000).fit(statistics, emotion).predict_proba(statistics)
        for c in STRENGTHS
    ]
    ours = logits.softmax(dim=1).numpy()
    assert min(np.abs(ours - each).max() for each in theirs) < 1e-4


def test_the_linear_yardstick_of_two_emotions_is_scikit_learns_too():
    model = build("linear")
    inputs = [array.numpy() for array in batch("linear", 96)]
    emotion, actor = np.array([2, 5] * 48), np.arange(96) // 8
    inputs[0][:, 0] += emotion
    model.fit(emotion, actor, *inputs)
    with torch.no_grad():
        logits = model(*map(torch.from_numpy, inputs)).numpy()
    x = np.concatenate(inputs, axis=1)
    theirs = [
        LogisticRegression(C=c, max_iter=2000).fit(x, emotion).decision_function(x)
        for c in STRENGTHS
    ]
    assert min(np.abs(logits[:, 5] - logits[:, 2] - each).max() for each in theirs) < 1e-3
    assert set(logits.argmax(axis=1)) == {2, 5}


@pytest.mark.parametrize(
    ("emotion", "actor"),
    [
        (np.tile([2, 5], 10), np.zeros(20)),
        (np.full(20, 3), np.arange(20)),
        (np.repeat([2, 5], 10), np.repeat([1, 2], 10)),
        (np.array([2] * 19 + [5]), np.arange(20)),
    ],
    ids=["one actor", "one emotion", "an emotion each", "one actor of the other"],
)
def test_the_linear_yardstick_refuses_what_it_cannot_validate_on(emotion, actor):
    inputs = [array.numpy() for array in batch("linear", 20)]
    with pytest.raises(InputError, match="expected several who show several emotions, found"):
        build("linear").fit(emotion, actor, *inputs)


def test_the_linear_yardstick_never_answers_an_emotion_that_nobody_showed_it():
    model = build("linear")
    inputs = [array.numpy() for array in batch("linear", 40)]
    model.fit(np.arange(40) % 5, np.arange(40) // 4, *inputs)
    with torch.no_grad():
        logits = model(*(10 * torch.from_numpy(array) for array in inputs))
    assert int(logits.argmax(dim=1).max()) < 5


@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride"),
    [((2, 8, 8), 3, 1), ((2, 7, 7), 3, 1), ((6, 16, 16), 7, (1, 2, 2)), ((4, 1, 1), 3, 2)],
    ids=lambda value: str(value),
)
def test_bfloat16_gradients_are_right_where_frames_are_few(shape, kernel_size, stride):
    """Without the detour through float32 they are wrong by more than 50 % on some CPUs."""
    torch.manual_seed(0)
    conv = Conv3d(
        32, 32, kernel_size, stride=stride, padding=kernel_size // 2, groups=8, bias=False
    ).to(memory_format=torch.channels_last_3d)
    clips = torch.randn(8, 32, *shape).contiguous(memory_format=torch.channels_last_3d)

    def gradients(enabled):
        conv.weight.grad, inputs = None, clips.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            conv(inputs).float().square().sum().backward()
        return conv.weight.grad, inputs.grad

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()


# Motion and voice


def test_the_logits_of_motion_and_voice_are_the_sum_of_both_networks_log_odds():
    model = build("motion_voice").eval()
    motion, voice = batch("motion_voice")
    expected = model.motion(motion).log_softmax(dim=1) + model.voice(voice).log_softmax(dim=1)
    torch.testing.assert_close(model(motion, voice), expected)


def test_each_of_the_two_networks_is_trained_by_its_own_loss():
    torch.manual_seed(0)
    model = build("motion_voice")
    motion, voice = batch("motion_voice")
    emotion = torch.arange(N_CLIPS) % FULL_SIZE.n_emotions
    torch.manual_seed(1)
    model.loss(emotion, motion, voice)[0].backward()
    together = model.motion.head[1].weight.grad.clone()
    model.zero_grad()
    torch.manual_seed(1)
    cross_entropy = torch.nn.functional.cross_entropy
    cross_entropy(model.motion(motion), emotion, label_smoothing=0.1).backward()
    torch.testing.assert_close(model.motion.head[1].weight.grad, together)


def test_a_face_mirrored_twice_is_itself_and_about_half_are_mirrored():
    net = build("motion_voice").motion
    tracks = torch.randn(400, N_TRACKS, 2)
    mirrored = net.mirror(tracks)
    changed = (mirrored != tracks).any(dim=(1, 2))
    assert 150 < changed.sum() < 250
    once = tracks[changed][:, net.mirrored] * net.sign
    torch.testing.assert_close(mirrored[changed], once)
    torch.testing.assert_close(once[:, net.mirrored] * net.sign, tracks[changed])


def test_a_warp_of_a_ramp_is_a_ramp_over_a_part_of_at_least_seven_tenths():
    ramp = torch.linspace(0, 1, 53).expand(200, 3, 53)
    warped = motion_voice.warp(ramp)
    steps = warped.diff(dim=2)
    torch.testing.assert_close(steps, steps[:, :, :1].expand_as(steps), atol=1e-4, rtol=0)
    length = warped[:, 0, -1] - warped[:, 0, 0]
    assert (length >= 0.7 - 1e-4).all()
    assert (length <= 1 + 1e-4).all()
    assert length.min() < 0.75
    assert length.max() > 0.95


@pytest.mark.parametrize("dim", [1, 2])
def test_two_stretches_at_most_are_hidden_of_each_clip_for_itself(dim):
    shown = torch.ones(300, 64, 53)
    hidden = motion_voice.hide(shown, dim).eq(0)
    lines = hidden.all(dim=3 - dim)
    assert (lines == hidden.any(dim=3 - dim)).all()  # whole bands, or whole moments
    n_hidden = lines.sum(dim=1)
    assert 5 < n_hidden.float().mean() < 2 * motion_voice.MASK / 2 + 1
    assert n_hidden.max() <= 2 * (motion_voice.MASK + 1)
    assert (lines.int().diff(dim=1) == 1).sum(dim=1).max() <= 2
    assert len(set(map(tuple, lines.tolist()))) > 250
