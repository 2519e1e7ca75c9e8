"""The paper's Figure 1, drawn from what `cfnsr.figures.network` read off the built CFN-SR.

The arrows are drawn here; every shape, size and count is the network's own.
"""

import textwrap
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cfnsr.evaluation.tables import DATA_LABELS
from cfnsr.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, drawn, entitle
from cfnsr.params import Source

if TYPE_CHECKING:  # reading needs torch, drawing does not
    from cfnsr.figures.network import Network

# In the units of `sheet`.
_WIDTH, _COLUMN = 104.0, 22.0
_LINE, _PADDING, _GAP = 1.75, 0.85, 2.9
_TITLE_INCHES = 0.65
_SMALL = 7
_CHARACTER = 0.53  # of small text, on average
_STAGES = tuple(f"video.layer{i}" for i in range(1, 5))
#: The modules of each box, in the order in which they are called.
_STEM = ("video.conv1", "video.bn1", "video.relu", "video.maxpool")
_SOUND = (
    ("audio.conv1", "audio.relu", "audio.bn1"),
    ("audio.conv2", "audio.relu", "audio.maxpool", "audio.bn2", "audio.dropout1"),
    ("audio.conv3", "audio.relu", "audio.bn3"),
)
PARTS = {
    "video": ("video encoder", BLUE),
    "audio": ("audio encoder", ORANGE),
    "encoder": ("self-attention", GREEN),
    "attention": ("cross-modal attention", PURPLE),
    "head": ("classifier", VERMILLION),
}


def title(network: "Network", data: Source | None) -> str:
    """What is drawn, at which sizes; `data` is None for the paper's own."""
    _, n_frames, *size = network[_STEM[0]].input_shape
    mfccs = network[_SOUND[0][0]].input_shape
    where = "at the paper's size" if data is None else f"as built ({DATA_LABELS[data]})"
    return (
        f"CFN-SR {where}: {n_frames} frames of {text_of(size)}, {text_of(mfccs)} MFCCs\n"
        "in a box, right: its trainable parameters; beside an arrow: the shape for one clip"
    )


@drawn
def architecture(network: "Network", title: str) -> Figure:
    """The whole of CFN-SR on the left, its cross-modal blocks on the right, counts below."""
    figure, axis = sheet()
    bottom = min(_whole_network(axis, network), _cross_modal_blocks(axis, network))
    trim(figure, _WIDTH, _counts(axis, network, bottom), title)
    return figure


def sheet() -> tuple[Figure, Axes]:
    """A figure to put columns of boxes on; a unit is a tenth of an inch, and y falls from 0."""
    figure = plt.figure(layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    return figure, axis


def trim(figure: Figure, width: float, bottom: float, title: str) -> None:
    """Cut a `sheet` to what is drawn on it, and put the title above."""
    (axis,) = figure.axes
    axis.set(xlim=(0, width), ylim=(bottom, 0))
    height = -bottom / 10 + _TITLE_INCHES
    figure.set_size_inches(width / 10, height)
    axis.set_position((0, 0, 1, 1 - _TITLE_INCHES / height))
    entitle(figure, title)


def _whole_network(axis: Axes, network: "Network") -> float:
    axis.text(1, -1.2, "a   the network", fontweight="bold", va="center")
    picture, sound = Column(axis, 1, _COLUMN, -3), Column(axis, 27, _COLUMN, -3)

    frames, mfccs = network[_STEM[0]].input_shape, network[_SOUND[0][0]].input_shape
    n_colours, n_frames, *size = frames
    colours = "in grey" if n_colours == 1 else f"{n_colours} colours"
    picture.box("face", f"{n_frames} frames of {text_of(size)}, {colours}", GREY)
    picture.arrow(frames)
    picture.modules(network, "stem", _STEM, BLUE)
    for i, stage in enumerate(_STAGES, start=1):
        picture.arrow(network[stage].input_shape)
        picture.modules(network, f"stage {i}", [stage], BLUE)
    x_v = network[_STAGES[-1]].output_shape
    picture.arrow(x_v, r"$\hat X_V$, eq. 4")

    sound.box("voice", f"{mfccs[0]} MFCCs at {mfccs[1]} times", GREY)
    for i, modules in enumerate(_SOUND, start=1):
        sound.arrow(network[modules[0]].input_shape)
        sound.modules(network, f"convolution, eq. {i}", modules, ORANGE)
    crossing = picture.y
    x_a = network[_SOUND[-1][-1]].output_shape
    sound.arrow(x_a, r"$\hat X_A$", until=crossing)

    n_parameters = network["encoder"].n_parameters + network["attention"].n_parameters
    blocks = Column(axis, 1, 41, crossing)
    blocks.box("cross-modal blocks, eqs. 5 to 8", "drawn on the right", PURPLE, n_parameters)
    picture.y = blocks.y
    picture.arrow(x_v, r"$\hat X_o$")
    picture.box("average pool", "", GREY)
    picture.arrow(x_v[:1])
    # The flattened X_A passes the blocks by.
    x, branch = 45.5, crossing + 1.3
    axis.plot([sound.middle, x, x], [branch, branch, crossing], color=ORANGE, lw=1.2)
    _arrow(axis, (x, crossing), (x, picture.y), ORANGE)
    _label(axis, x - 1, picture.y + _GAP / 2, f"flattened  {prod(x_a)}", "right")

    both = Column(axis, 1, 48, picture.y)
    both.box("splice", "", GREY)
    both.arrow(network["head"].input_shape)
    both.modules(network, "classifier, eq. 9", ["head"], VERMILLION)
    both.arrow(network["head"].output_shape, "emotions")
    return both.y


def _cross_modal_blocks(axis: Axes, network: "Network") -> float:
    axis.text(54, -1.2, "b   the cross-modal blocks", fontweight="bold", va="center")
    picture, sound = Column(axis, 57, _COLUMN, -3), Column(axis, 81, _COLUMN, -3)
    position, summary, score = (
        network[f"attention.{name}"] for name in ("position_affine", "summary_affine", "score")
    )
    x_v, x_a = network[_STAGES[-1]].output_shape, network[_SOUND[-1][-1]].output_shape

    sound.box(r"$\hat X_A$", text_of(x_a), ORANGE)
    sound.arrow()
    sound.modules(network, "self-attention, eqs. 5, 6", ["encoder"], GREEN)
    sound.arrow(network["encoder"].output_shape)
    sound.box("last token", "", GREY)
    sound.arrow(summary.input_shape)
    beside = sound.y
    sound.modules(network, r"$W_a$", ["attention.summary_affine"], PURPLE)
    sound.arrow(summary.output_shape)

    picture.box(r"$\hat X_V$", text_of(x_v), BLUE)
    start = picture.y / 2 - 1.5
    picture.arrow(until=beside)
    picture.modules(network, r"$W_v,\ b_v$", ["attention.position_affine"], PURPLE)
    picture.arrow(position.output_shape, until=sound.y)

    both = Column(axis, 57, 46, sound.y)
    both.box("add, tanh, eq. 7", "", PURPLE)
    both.arrow(score.input_shape, r"$\hat X_q$")
    both.modules(network, "score", ["attention.score"], PURPLE)
    both.arrow(score.output_shape)
    n_slices, *positions = network["attention"].output_shape
    slices = "time slice" if n_slices == 1 else "time slices"
    both.box("softmax", f"over {prod(positions)} positions in each of {n_slices} {slices}", PURPLE)
    both.arrow(network["attention"].output_shape, "the map")
    heights = []
    for name, result in (
        (r"times $\hat X_V$, eq. 8", ""),
        (r"plus $\hat X_V$, eq. 8: the residual structure", r"$\hat X_o$"),
    ):
        above = both.y
        both.box(name, "", PURPLE)
        heights.append((above + both.y) / 2)
        both.arrow(x_v, result)
    axis.plot([57, 54.5, 54.5], [start, start, heights[-1]], color=BLUE, lw=1.2)
    for y in heights:
        _arrow(axis, (54.5, y), (57, y), BLUE)
    return both.y


def _counts(axis: Axes, network: "Network", top: float) -> float:
    """Parameters by part, as a bar and in words; where it ends."""
    y = top - 4.5
    total = network[""].n_parameters
    axis.text(1, y + 1.6, f"{total:,} parameters", fontweight="bold", va="bottom")
    left, whole = 1.0, _WIDTH - 2
    for i, (part, (label, colour)) in enumerate(PARTS.items()):
        n = network[part].n_parameters
        length = whole * n / total
        axis.barh(y, length, 1.6, left, color=colour)
        left += length
        x = 1 + i * whole / len(PARTS)
        axis.plot(x + 0.7, y - 2.9, "s", color=colour, markersize=6)
        axis.text(x + 2, y - 2.9, f"{label}\n{n:,}", fontsize=_SMALL + 0.5, va="center")
    return y - 5


class Column:
    """Boxes below each other; `y` is where the next thing starts."""

    def __init__(self, axis: Axes, x: float, width: float, y: float) -> None:
        self.axis, self.x, self.width, self.y = axis, x, width, y

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    def box(self, name: str, text: str, colour: str, n_parameters: int | None = None) -> None:
        lines = textwrap.wrap(
            text,
            int((self.width - 2) / _CHARACTER),
            break_long_words=False,
            break_on_hyphens=False,
        )
        height = 2 * _PADDING + _LINE * (1 + len(lines))
        patch = FancyBboxPatch(
            (self.x + 0.3, self.y - height + 0.3),
            self.width - 0.6,
            height - 0.6,
            boxstyle="round,pad=0.3",
            facecolor=to_rgba(colour, 0.12),
            edgecolor=colour,
        )
        self.axis.add_patch(patch)
        y = self.y - _PADDING - _LINE / 2
        self.axis.text(self.x + 1, y, name, va="center", fontsize=_SMALL + 1, fontweight="bold")
        if n_parameters is not None:
            right = self.x + self.width - 1
            self.axis.text(right, y, f"{n_parameters:,}", va="center", ha="right", fontsize=_SMALL)
        for i, line in enumerate(lines, start=1):
            self.axis.text(self.x + 1, y - i * _LINE, line, va="center", fontsize=_SMALL)
        self.y -= height

    def modules(self, network: "Network", name: str, modules: Sequence[str], colour: str) -> None:
        """A box of modules: what each computes, and their parameters together."""
        # Lines break between modules only, after the point.
        words = [network[module].words.replace(" ", "\u00a0") for module in modules]
        n_parameters = sum(network[module].n_parameters for module in modules)
        self.box(name, "\u00a0· ".join(words), colour, n_parameters)

    def arrow(self, shape: Sequence[int] = (), name: str = "", until: float | None = None) -> None:
        """An arrow down with what flows along it."""
        end = self.y - _GAP if until is None else until
        _arrow(self.axis, (self.middle, self.y), (self.middle, end), GREY)
        _label(self.axis, self.middle + 1, (self.y + end) / 2, f"{name}  {text_of(shape)}".strip())
        self.y = end


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=style)


def _label(axis: Axes, x: float, y: float, text: str, ha: str = "left") -> None:
    axis.text(x, y, text, va="center", ha=ha, fontsize=_SMALL, color=GREY)


def text_of(shape: Iterable[int]) -> str:
    """A shape as one writes it."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape))
