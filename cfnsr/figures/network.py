"""The modules of a built network: shapes and parameters, read by hooks of one forward pass.

Nothing is allocated and nothing computed: the pass runs on torch's `meta` device.
`cfnsr.figures.architecture` and `cfnsr.figures.hybrid` draw what this reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cfnsr.data import corpora
from cfnsr.figures.architecture import text_of
from cfnsr.models.base import Sizes
from cfnsr.models.encoder import Encoder
from cfnsr.models.rbm import RBM
from cfnsr.models.registry import REFERENCE, find
from cfnsr.models.resnext import Bottleneck
from cfnsr.params import SourceParams

Shape = tuple[int, ...]


@dataclass
class Block:
    """One module; shapes are of its first argument and result, for one clip.

    They are empty if its forward is not called, only its parts.
    """

    words: str  # what it computes, from its own settings
    n_parameters: int  # trainable ones, of all that it contains
    input_shape: Shape = ()
    output_shape: Shape = ()


#: Modules by their dotted names; the whole network is `""`.
Network = Mapping[str, Block]


def read(
    source: SourceParams,
    corpus: corpora.Corpus = corpora.CORPORA[corpora.DEFAULT],
    n_channels: int = 3,
) -> Network:
    """Build CFN-SR at a data source's sizes and follow one clip through it.

    `n_channels` are those of a picture.
    """
    settings = source.preprocess
    frames = (n_channels, settings.n_frames, settings.frame_size, settings.frame_size)
    return _follow(REFERENCE, Sizes.of(source, corpus), frames)


def read_hybrid(
    source: SourceParams,
    corpus: corpora.Corpus = corpora.CORPORA[corpora.DEFAULT],
    n_channels: int = 3,
) -> Network:
    """Build the hybrid deep model likewise: `video`, `audio`, `dbn` and its SVM, `linear`.

    Of both networks shapes are of one segment.
    """
    sizes, hybrid = Sizes.of(source, corpus), source.hybrid
    n_frames = hybrid.n_frames * sizes.n_segments
    frames = (n_channels, n_frames, hybrid.frame_size, hybrid.frame_size)
    found: dict[str, Block] = {}
    for row in ("hybrid_video", "hybrid_audio", "hybrid_dbn"):
        found |= _follow(row, sizes, frames)
    del found[""]  # there is no whole: the parts are three rows'
    return found


def _follow(row: str, sizes: Sizes, frames: Shape) -> Network:
    """Build a row and send one clip through it; `frames` is the shape of its frames."""
    with torch.device("meta"):
        model = find(row).build(sizes).to("meta").eval()  # also what NumPy made
        inputs = [
            torch.empty(1, *(frames if name == "frames" else sizes.shape(name)))
            for name in find(row).inputs
        ]
    network = {}
    for name, module in model.named_modules():
        n_parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        network[name] = Block(describe(module), n_parameters)
        module.register_forward_hook(partial(_note, network[name]))
    with torch.no_grad():
        model(*inputs)
    return network


def _note(block: Block, _: nn.Module, given: tuple[Tensor, ...], result: Any) -> None:
    block.input_shape = tuple(given[0].shape[1:])
    block.output_shape = tuple((result[0] if isinstance(result, tuple) else result).shape[1:])


def describe(module: nn.Module) -> str:
    """What a module computes in a few words, from its own settings.

    >>> describe(nn.Conv1d(13, 32, kernel_size=7))
    'convolution 7'
    """
    part: Any
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            stride = ", stride " + ", ".join(map(str, module.stride))
            is_one = set(module.stride) == {1}
            return f"convolution {text_of(module.kernel_size)}{'' if is_one else stride}"
        case nn.MaxPool1d() | nn.MaxPool3d():
            return f"max-pool {module.kernel_size}"
        case nn.BatchNorm1d() | nn.BatchNorm3d():
            return "batch norm"
        case nn.Linear():
            bias = "" if module.bias is not None else ", no bias"
            return f"linear {module.in_features} → {module.out_features}{bias}"
        case nn.Dropout():
            return f"dropout {module.p}"
        case nn.Sequential() if all(isinstance(each, Bottleneck) for each in module):
            part = module[0].conv2
            blocks = "bottleneck" if len(module) == 1 else "bottlenecks"
            return f"{len(module)} {blocks} of {part.out_channels} in {part.groups} groups"
        case RBM():
            n_visible, n_hidden = module.weight.shape
            return f"{'Gaussian' if module.is_gaussian else 'binary'} {n_visible} → {n_hidden}"
        case Encoder():
            layers = "layer" if len(module.layers) == 1 else "layers"
            part = module.layers[0].attention
            return f"{len(module.layers)} {layers}, {part.n_heads} heads"
    return type(module).__name__
