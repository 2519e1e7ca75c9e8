"""What a trained network attends to: maps read by forward hooks, their rollout, and Grad-CAM.

Nothing here changes a model or its logits.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from cfnsr.attention.receptive_field import Axis, receptive_axis
from cfnsr.data.audio import HOP
from cfnsr.data.clips import Arrays
from cfnsr.models.cross_modal import CrossModalAttention, VideoToAudio
from cfnsr.models.encoder import SelfAttention
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.mmtm import TransferModule
from cfnsr.models.msaf import SplitAttention
from cfnsr.models.resnext import ResNeXt
from cfnsr.params import Preprocess
from cfnsr.training.trained import Trained, Viewed

Modality = Literal["video", "audio"]
#: Of a gated network; that of the face may be its motion, not video.
Stream = Literal["face", "voice"]
_STREAMS: tuple[Stream, ...] = get_args(Stream)


@dataclass(frozen=True, eq=False)
class Gate:
    """By how much the channels of one stream are rescaled at one place of a network.

    `values` is (clip, channel). `neutral` is a gate that expresses no preference: 1/2 of a
    sigmoid, one over the number of blocks that compete in a softmax.
    """

    place: str
    stream: Stream
    values: np.ndarray
    neutral: float


@dataclass(frozen=True, eq=False)
class Maps:
    """What a network attended to; None or empty where it has no such thing.

    Attributes:
        logits: (clip, emotion).
        self_attention: (clip, layer, head, query token, key token), before dropout; sums to one
            over the last axis.
        cross_modal: (clip, S, H, W) over the positions of X_V. Sums to one over a time slice or
            over the clip (`softmax_over`). Of `cfn_sr_released`, before the sum over the batch.
        cross_modal_audio: (clip, token), where the video asks and the sound is attended to.
        gates: of MMTM and MSAF.
    """

    logits: np.ndarray
    self_attention: np.ndarray | None = None
    cross_modal: np.ndarray | None = None
    cross_modal_audio: np.ndarray | None = None
    gates: tuple[Gate, ...] = ()

    @property
    def predicted(self) -> np.ndarray:
        """The most likely emotion, (clip,)."""
        return self.logits.argmax(axis=1)


@torch.no_grad()
def read_maps(view: Viewed, arrays: Arrays) -> Maps:
    """What a trained model, in evaluation mode, attends to on any number of clips.

    Args:
        view: the clips, from `Trained.view`.
        arrays: what the model is given with them, unscaled.
    """
    model = view.trained.model
    assert not model.training, "dropout would hide a part of the attention; call model.eval()"
    places = {module: name.split("_")[0] for name, module in model.named_modules()}
    attention: dict[nn.Module, list[Tensor]] = defaultdict(list)
    cross_modal: list[Tensor] = []
    gates: dict[tuple[str, Stream, float], list[Tensor]] = defaultdict(list)
    scores: dict[nn.Module, Tensor] = {}  # of the linear layers, in this batch

    def listen(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        """Looks only: it returns nothing."""
        match module:
            case SelfAttention():
                attention[module].append(output[1])
            case CrossModalAttention():
                cross_modal.append(output)
            case nn.Linear():
                scores[module] = output
            case TransferModule():
                excites = module.excite_video, module.excite_audio
                for stream, excite in zip(_STREAMS, excites, strict=True):
                    gates[places[module], stream, 0.5].append(scores[excite].sigmoid())
            case SplitAttention():
                n_blocks = sum(module.n_blocks)
                blocks = scores[module.excite].unflatten(1, (n_blocks, module.n_block_channels))
                of_stream = blocks.softmax(dim=1).split(module.n_blocks, dim=1)
                for stream, gate, features in zip(_STREAMS, of_stream, inputs, strict=True):
                    # The last block may be filled up with zeros; their gates act on nothing.
                    used = gate.flatten(1)[:, : features.shape[1]]
                    gates[places[module], stream, 1 / n_blocks].append(used)

    handles = [module.register_forward_hook(listen) for module in model.modules()]
    try:
        logits = [model(*inputs) for inputs in view.batches(arrays)]
    finally:
        for handle in handles:
            handle.remove()
    layers = [torch.cat(layer) for layer in attention.values()]
    over = _numpy(torch.cat(cross_modal)) if cross_modal else None
    of_sound = None
    if over is not None and isinstance(model, VideoToAudio):
        of_sound, over = over.reshape(len(over), -1), None
    return Maps(
        _numpy(torch.cat(logits)),
        _numpy(torch.stack(layers, dim=1)) if layers else None,
        over,
        of_sound,
        tuple(
            Gate(place, stream, _numpy(torch.cat(found)), neutral)
            for (place, stream, neutral), found in gates.items()
        ),
    )


def rollout(self_attention: np.ndarray) -> np.ndarray:
    r"""How much each encoded token draws from each input token, through all layers.

    .. math:: \tilde A_l = \tfrac12 (\bar A_l + I)\, \tilde A_{l-1}

    with the mean over heads; the identity stands for the residual connection, which keeps half.
    Source: Abnar & Zuidema 2020, section 3. Under a causal mask even uniform attention drifts to
    the first tokens with every layer, so compare with `uniform_rollout`, not with 1 / n.

    Args:
        self_attention: (..., layer, head, query, key).

    Returns:
        (..., query, key); sums to one over the last axis.
    """
    mean = self_attention.mean(axis=-3)  # ... layer query key
    n_layers, n_tokens = mean.shape[-3], mean.shape[-1]
    mixed = (mean + np.eye(n_tokens)) / 2
    mixed = mixed / mixed.sum(axis=-1, keepdims=True)
    total = mixed[..., 0, :, :]
    for layer in range(1, n_layers):
        total = mixed[..., layer, :, :] @ total
    return total


def uniform_rollout(n_layers: int, n_tokens: int) -> np.ndarray:
    """The rollout of a causal encoder that attends to all it may see alike: (query, key)."""
    seen = np.tri(n_tokens)
    return rollout(np.tile(seen / seen.sum(axis=1, keepdims=True), (n_layers, 1, 1, 1)))


def grad_cam(view: Viewed, arrays: Arrays, modality: Modality, target: np.ndarray) -> np.ndarray:
    r"""Grad-CAM, the yardstick that every encoder of a modality has.

    .. math:: \mathrm{ReLU}\Big(\sum_c \overline{\partial y / \partial A_c}\; A_c\Big)

    with y the target's logit, A the last stage's channels, X_V or X_A, and the bar the mean over
    its positions. Source: Selvaraju et al. 2017; captum's implementation.

    Args:
        target: the emotion to explain, class index (clip,); mostly the predicted one.

    Returns:
        (clip, S, H, W) of `video`, (clip, token) of `audio`; at least 0, in the logit's unit.
    """
    from captum.attr import LayerGradCam  # 0.7 s that other uses need not pay

    model: Any = view.trained.model
    explained = LayerGradCam(model, model.video.layer4 if modality == "video" else model.audio.bn3)
    emotions = iter(torch.from_numpy(target))
    found = []
    for inputs in view.batches(arrays):
        map_ = explained.attribute(
            tuple(each.requires_grad_() for each in inputs),
            target=torch.stack([next(emotions) for _ in inputs[0]]).to(inputs[0].device),
            relu_attributions=True,
        )
        found.append(map_.squeeze(1).detach())
    return _numpy(torch.cat(found))


def normalised(map_: np.ndarray) -> np.ndarray:
    """Scale each clip's map (clip, ...) to a sum of one; one that is 0 everywhere says nothing,
    and becomes uniform."""
    flat = map_.reshape(len(map_), -1).astype(np.float64)
    total = flat.sum(axis=1, keepdims=True)
    uniform = np.full_like(flat, 1 / flat.shape[1])
    return np.where(total > 0, flat / np.where(total > 0, total, 1), uniform).reshape(map_.shape)


def audio_axis(audio: MFCCNet) -> Axis:
    """Tokens of X_A along the MFCC vectors."""
    layers = (m for m in audio.modules() if isinstance(m, nn.Conv1d | nn.MaxPool1d))
    return receptive_axis(layers)


def video_axes(video: ResNeXt) -> tuple[Axis, Axis, Axis]:
    """Positions of X_V along frames, height and width."""
    layers = [
        module
        for name, module in video.named_modules()
        if isinstance(module, nn.Conv3d | nn.MaxPool3d) and "downsample" not in name
    ]
    time, height, width = (receptive_axis(layers, axis) for axis in range(3))
    return time, height, width


def token_times_s(axis: Axis, n_tokens: int, settings: Preprocess) -> np.ndarray:
    """The middle of what each token hears, seconds from the clip's start, (token,)."""
    return settings.offset_s + axis.centres(n_tokens) * HOP / settings.sample_rate_hz


def video_regions(trained: Trained, n_positions: tuple[int, ...]) -> np.ndarray:
    """Which position of X_V is nearest to each pixel: int (frame, S, S), positions flattened.

    Args:
        n_positions: S, H and W.
    """
    model: Any = trained.model
    settings = trained.preprocess
    n_samples = (settings.n_frames, settings.frame_size, settings.frame_size)
    slices, lines, columns = (
        axis.nearest(n, n_in)
        for axis, n, n_in in zip(video_axes(model.video), n_positions, n_samples, strict=True)
    )
    _, n_lines, n_columns = n_positions
    return (slices[:, None, None] * n_lines + lines[:, None]) * n_columns + columns


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
