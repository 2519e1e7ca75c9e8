"""What a built network consists of: its modules' shapes and parameters, read off one forward pass.

Nothing is allocated and nothing computed: the pass runs on torch's `meta` device.
`cfnsr.figures.architecture` draws what this reads.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cfnsr.models.base import Sizes
from cfnsr.models.encoder import Encoder
from cfnsr.models.registry import find
from cfnsr.models.resnext import Bottleneck
from cfnsr.params import SourceParams

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One module as the pass found it; shapes are without the clip axis."""

    words: str  # what it computes, from its own settings
    n_parameters: int  # trainable ones, of all that it contains
    output_shape: Shape | None  # None if its forward is not called, only its parts
    #: Shapes of what functions, which are no modules, returned in its own forward, by their name.
    functions: dict[str, list[Shape]] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A network by the dotted names of its modules; the whole of it is `""`."""

    row: str
    frames_shape: Shape  # channel frame height width
    sound_shape: Shape  # coefficient time
    blocks: dict[str, Block]

    def __getitem__(self, name: str) -> Block:
        return self.blocks[name]

    @property
    def n_parameters(self) -> int:
        return self[""].n_parameters

    def output_shape(self, name: str) -> Shape:
        """What the module of that name gave."""
        shape = self[name].output_shape
        if shape is None:
            raise KeyError(f"{name} is never called as a whole")
        return shape


def read(row: str, source: SourceParams) -> Architecture:
    """Build a row at a data source's sizes and follow one clip through it.

    Raises:
        InputError: there is no such row.
    """
    sizes, settings = Sizes.of(source), source.preprocess
    with torch.device("meta"):
        model = find(row).build(sizes).to("meta").eval()  # also what NumPy made
        frames = torch.empty(1, 3, settings.n_frames, settings.frame_size, settings.frame_size)
        sound = torch.empty(1, *model.sound_shape(sizes))
    pass_ = _Pass()
    hooks = [hook for name, module in model.named_modules() for hook in pass_.watch(name, module)]
    with pass_, torch.no_grad():
        model(frames, sound)
    for hook in hooks:
        hook.remove()
    blocks = {
        name: Block(
            describe(module),
            sum(p.numel() for p in module.parameters() if p.requires_grad),
            pass_.shapes.get(name),
            pass_.functions[name],
        )
        for name, module in model.named_modules()
    }
    return Architecture(row, _without_clip(frames), _without_clip(sound), blocks)


def describe(module: nn.Module) -> str:
    """What a module computes in a few words, from its own settings.

    >>> describe(nn.Conv1d(13, 32, kernel_size=7))
    'convolution 7'
    """
    part: Any
    match module:
        case nn.Conv1d() | nn.Conv3d():
            return f"convolution {_sizes(module.kernel_size)}{_stride(module.stride)}"
        case nn.MaxPool1d() | nn.MaxPool3d():
            return f"max-pool {_sizes(_tuple(module.kernel_size))}"
        case nn.BatchNorm1d() | nn.BatchNorm3d():
            return "batch norm"
        case nn.Linear():
            bias = "" if module.bias is not None else ", no bias"
            return f"linear {module.in_features} → {module.out_features}{bias}"
        case nn.Dropout():
            return f"dropout {module.p}"
        case nn.ReLU():
            return "ReLU"
        case nn.Sequential() if all(isinstance(each, Bottleneck) for each in module):
            part = module[0].conv2
            blocks = "bottleneck" if len(module) == 1 else "bottlenecks"
            return f"{len(module)} {blocks} of {part.out_channels} in {part.groups} groups"
        case Encoder():
            part = module.layers[0].attention
            layers = "layer" if len(module.layers) == 1 else "layers"
            return f"{len(module.layers)} {layers}, {part.n_heads} heads"
    return type(module).__name__


class _Pass(TorchFunctionMode):
    """Notes every module's shapes, and which functions it calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, Shape] = {}
        self.functions: dict[str, dict[str, list[Shape]]] = defaultdict(dict)
        self._running: list[str] = []

    def watch(self, name: str, module: nn.Module) -> Iterator[Any]:
        def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._running.append(name)

        def leave(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            self._running.pop()
            result = result[0] if isinstance(result, tuple) else result
            self.shapes[name] = _without_clip(result)

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and self._running:
            name = getattr(func, "__name__", "").strip("_")
            found = self.functions[self._running[-1]].setdefault(name, [])
            found.append(_without_clip(result))
        return result


def _without_clip(tensor: Tensor) -> Shape:
    return tuple(tensor.shape[1:])


def _tuple(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,)


def _sizes(size: tuple[int, ...]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, size))


def _stride(stride: tuple[int, ...]) -> str:
    return "" if set(stride) == {1} else f", stride {', '.join(map(str, stride))}"
