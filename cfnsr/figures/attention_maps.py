"""Attention maps over the sound and the face, in the project's style; never imports torch.

A map that lies on pixels is in multiples of a uniform map: 1 is no preference.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from cfnsr.data.audio import HOP
from cfnsr.data.drawing import STROKES
from cfnsr.data.synthetic.faces import EXPRESSIONS, Expression, Look, landmarks
from cfnsr.figures.examples import LARGEST_Z, Z_LABELS
from cfnsr.figures.style import BLUE, GREY, STYLE, drawn, entitle
from cfnsr.params import Preprocess

_MAP_COLOURS = "RdBu_r"  # told apart by colour-blind readers, white at 1
_OPACITY = 0.35  # the face below is what a reader wants to recognise
_MOST_FRAMES = 8
_GIF_DPI = 90
_N_MOMENTS = 1000
_MOST_STRENGTH = 16.0  # times uniform; more is not told apart
_APART = 1.1  # a tick is left out that is less than so many times the end of its colour bar


@drawn
def audio_timeline(
    waveform: np.ndarray | None,
    mfcc: np.ndarray,
    last_token: np.ndarray,
    rolled: np.ndarray,
    uniform: np.ndarray,
    token_times_s: np.ndarray,
    settings: Preprocess,
    stretch_s: tuple[float, float] | None,
    title: str,
) -> Figure:
    """What the last audio token, the one that asks, attends to, below the sound it heard.

    Args:
        waveform: (sample,) of the analysed window; None where it must not be shown.
        mfcc: (coefficient, time), standardised.
        last_token: its attention (layer, head, token); sums to one over tokens.
        rolled: its rollout (token,).
        uniform: the rollout (token,) of a network that attends to all alike.
        token_times_s: the middle of each token, seconds of the clip.
        stretch_s: when the voice shows its emotion, where that is known.
    """
    n_layers, n_heads, n_tokens = last_token.shape
    strength = last_token * n_tokens
    norm = _strength(strength)
    heights = [1] * (waveform is not None) + [1.2, *[0.14 * n_heads] * n_layers, 1.2]
    figure, axes = plt.subplots(
        len(heights),
        1,
        figsize=(8, 1.1 * sum(heights) + 1.2),
        sharex=True,
        height_ratios=heights,
        layout="constrained",
    )
    start_s = settings.offset_s
    above, axes = axes, axes[-n_layers - 2 :]
    if waveform is not None:
        # A sample a line would be megabytes of it: what is seen is how far each moment reaches.
        pieces = np.array_split(waveform, min(len(waveform), _N_MOMENTS))
        ends_s = np.cumsum([len(piece) for piece in pieces]) / settings.sample_rate_hz
        low, high = ([reach(piece) for piece in pieces] for reach in (np.min, np.max))
        above[0].fill_between(start_s + ends_s, low, high, color=GREY, linewidth=0)
        above[0].set_ylabel("amplitude,\nfull scale 1")
    hop_s = HOP / settings.sample_rate_hz
    image = axes[0].imshow(
        mfcc,
        "RdBu_r",
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        vmin=-LARGEST_Z,
        vmax=LARGEST_Z,
        extent=_extent(start_s, hop_s, mfcc.shape[1], len(mfcc)),
    )
    axes[0].set_ylabel("MFCC")
    bar = figure.colorbar(image, ax=axes[0], label="sd from\nthe mean", pad=0.01)
    bar.set_ticks([-LARGEST_Z, 0, LARGEST_Z], labels=Z_LABELS)
    step_s = float(np.diff(token_times_s).mean())
    for layer, axis in enumerate(axes[1:-1]):
        axis.imshow(
            strength[layer],
            _MAP_COLOURS,
            norm=norm,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=_extent(token_times_s[0], step_s, n_tokens, n_heads),
        )
        axis.set_ylabel(f"layer {layer + 1}\nhead")
    _strength_bar(figure, axes[1:-1], norm, pad=0.01)
    axes[-1].plot(token_times_s, rolled, ".-", color=BLUE, label="rollout of the last token")
    axes[-1].plot(token_times_s, uniform, ":", color=GREY, label="if all were attended alike")
    axes[-1].set(ylabel="share", xlabel="time in the clip, s", ylim=(0, None))
    if stretch_s is not None:
        for axis in above:
            for end_s in stretch_s:
                axis.axvline(end_s, color="black", linewidth=1.2, linestyle="--")
        axes[-1].plot([], [], "--", color="black", label="where the voice shows its emotion")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    entitle(figure, title)
    return figure


@drawn
def heads(self_attention: np.ndarray, token_times_s: np.ndarray, title: str) -> Figure:
    """Every layer's and head's whole map, mean over clips: who asks (down), who is asked (across).

    A token asks itself and those before it; uniform is one over their number.

    Args:
        self_attention: (layer, head, query, key).
    """
    n_layers, n_heads, n_tokens, _ = self_attention.shape
    may_ask = np.tri(n_tokens, dtype=bool)
    strength = np.where(may_ask, self_attention * np.arange(1, n_tokens + 1)[:, None], np.nan)
    norm = _strength(np.nan_to_num(strength))
    figure, axes = plt.subplots(
        n_layers,
        n_heads,
        figsize=(1.05 * n_heads + 1.4, 1.15 * n_layers + 1.2),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    step_s = float(np.diff(token_times_s).mean())
    low, high = token_times_s[0] - step_s / 2, token_times_s[-1] + step_s / 2
    for layer in range(n_layers):
        for head in range(n_heads):
            axes[layer, head].imshow(
                np.maximum(strength[layer, head], _limits(norm)[0]),
                _MAP_COLOURS,
                norm=norm,
                interpolation="nearest",
                extent=(low, high, high, low),
            )
            axes[0, head].set_title(f"head {head + 1}")
        axes[layer, 0].set_ylabel(f"layer {layer + 1}\nasking, s")
    figure.supxlabel("asked, s in the clip", fontsize=9)
    _strength_bar(figure, axes, norm, pad=0.01)
    entitle(figure, title)
    return figure


@drawn
def on_frames(
    pictures: np.ndarray | None, maps: np.ndarray, labels: Sequence[str], title: str
) -> Figure:
    """Maps over the frames of some clips, one clip a line.

    Args:
        pictures: uint8 (clip, frame, S, S, channel), or None for a schematic face that is nobody's.
        maps: (clip, frame, S, S), multiples of uniform.
        labels: of the clips.
    """
    n_clips, n_frames = maps.shape[:2]
    shown = np.unique(np.linspace(0, n_frames - 1, min(n_frames, _MOST_FRAMES)).round().astype(int))
    figure, axes = plt.subplots(
        n_clips,
        len(shown),
        figsize=(0.95 * len(shown) + 2.2, 1.05 * n_clips + 0.9),
        squeeze=False,
        layout="constrained",
    )
    norm = _strength(maps)
    for clip, line in enumerate(axes):
        for axis, frame in zip(line, shown, strict=True):
            _overlay(
                axis, None if pictures is None else pictures[clip, frame], maps[clip, frame], norm
            )
        line[0].set_ylabel(labels[clip], rotation=0, ha="right", va="center")
    for axis, frame in zip(axes[-1], shown, strict=True):
        axis.set_xlabel(f"{frame + 1}")
    figure.supxlabel(f"frame, of {n_frames} spaced over the clip", fontsize=8)
    _strength_bar(figure, axes, norm)
    entitle(figure, title)
    return figure


@drawn
def in_panels(maps: np.ndarray, labels: Sequence[str], title: str) -> Figure:
    """One map each on a schematic face, by emotion or by system, in lines of four.

    Args:
        maps: (panel, S, S), multiples of uniform.
    """
    n_columns = min(4, len(maps))
    n_lines = -(-len(maps) // n_columns)
    figure, axes = plt.subplots(
        n_lines,
        n_columns,
        figsize=(1.75 * n_columns + 1.2, 1.85 * n_lines + 0.7),
        squeeze=False,
        layout="constrained",
    )
    norm = _strength(maps)
    for axis in axes.ravel()[len(maps) :]:
        axis.axis("off")
    for axis, map_, label in zip(axes.ravel()[: len(maps)], maps, labels, strict=True):
        _overlay(axis, None, map_, norm)
        axis.set_title(fill(label, 26), fontsize=8)
    _strength_bar(figure, axes, norm)
    entitle(figure, title)
    return figure


def animate(
    pictures: np.ndarray | None, maps: np.ndarray, seconds: float, label: str, path: Path
) -> None:
    """A GIF of one clip beside its map, as long as the clip; equal input gives equal bytes.

    Without pictures, of the map alone, on a schematic face.

    Args:
        pictures: uint8 (frame, S, S, channel), or None; maps: (frame, S, S), multiples of uniform.
        seconds: the clip's length.
    """
    norm = _strength(maps)
    shots = []
    for frame in range(len(maps)):
        with plt.rc_context(STYLE):
            n_panels, size = (1, (4.2, 3.6)) if pictures is None else (2, (6, 3.1))
            figure, axes = plt.subplots(
                1, n_panels, figsize=size, squeeze=False, layout="constrained"
            )
            picture = None
            if pictures is not None:
                picture = pictures[frame]
                _overlay(axes[0, 0], picture, None, norm)
            _overlay(axes[0, -1], picture, maps[frame], norm)
            _strength_bar(figure, axes[:, -1:], norm)
            entitle(figure, f"{label}; frame {frame + 1} of {len(maps)}")
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=_GIF_DPI, metadata={"Software": None})
            plt.close(figure)
        shot = Image.open(buffer).convert("RGB")
        shots.append(shot.quantize(256, dither=Image.Dither.NONE))
    _write_gif(shots, seconds, path)


def still(figure: Figure, path: Path) -> None:
    """A figure as a GIF of one frame."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_GIF_DPI, metadata={"Software": None})
    _write_gif([Image.open(buffer).convert("RGB").quantize(16)], 1, path)


def _write_gif(shots: Sequence[Image.Image], seconds: float, path: Path) -> None:
    shots[0].save(
        path,
        save_all=True,
        append_images=shots[1:],
        duration=round(1000 * seconds / len(shots)),
        loop=0,
    )


def on_pixels(maps: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Give each pixel the weight of its position, in multiples of uniform.

    Args:
        maps: (clip, ...), summing to one over a clip; regions: int (frame, S, S).

    Returns:
        (clip, frame, S, S).
    """
    flat = maps.reshape(len(maps), -1)
    return flat[:, regions] * flat.shape[1]


def _extent(start_s: float, step_s: float, n_steps: int, n_lines: int) -> tuple[float, ...]:
    """A column stands in the middle of its time, a line in the middle of its number."""
    return (start_s - step_s / 2, start_s + (n_steps - 0.5) * step_s, 0.5, n_lines + 0.5)


def _strength(maps: np.ndarray) -> LogNorm:
    """Logarithmic, the same distance to both sides of 1."""
    largest = min(max(float(maps.max()), 1.25), _MOST_STRENGTH)
    return LogNorm(1 / largest, largest)


def _strength_bar(figure: Figure, axes: np.ndarray, norm: LogNorm, pad: float = 0.02) -> None:
    scale = plt.cm.ScalarMappable(norm, _MAP_COLOURS)
    bar = figure.colorbar(scale, ax=axes.ravel().tolist(), pad=pad, extend="both")
    bar.set_label("times uniform")
    low, high = _limits(norm)
    between = [
        tick
        for tick in (1 / 8, 1 / 4, 1 / 2, 1 / 1.5, 1, 1.5, 2, 4, 8)
        if low * _APART <= tick <= high / _APART
    ]
    # What is beyond an end has its colour.
    labels = [f"≤ {low:.2g}", *[f"{tick:.2g}" for tick in between], f"≥ {high:.2g}"]
    bar.set_ticks([low, *between, high], labels=labels)
    bar.minorticks_off()


def _limits(norm: LogNorm) -> tuple[float, float]:
    assert norm.vmin is not None
    assert norm.vmax is not None
    return norm.vmin, norm.vmax


def _overlay(
    axis: Axes, picture: np.ndarray | None, map_: np.ndarray | None, norm: LogNorm
) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    size = None if map_ is None else len(map_)
    if picture is not None:
        size = len(picture)
        strokes = picture.shape[-1] == 1
        # Grey, so that colour is the map's alone.
        grey = picture[..., 0] if strokes else picture.mean(axis=-1)
        if map_ is None:
            axis.imshow(grey if strokes else picture, "gray", vmin=0, vmax=255)
        else:
            axis.imshow(grey, "gray", vmin=-255, vmax=255)  # light, so that colours stay readable
    if map_ is not None:
        opacity = 1 if picture is None else _OPACITY
        axis.imshow(
            np.maximum(map_, _limits(norm)[0]),
            _MAP_COLOURS,
            norm=norm,
            alpha=opacity,
            interpolation="nearest",
        )
    if picture is None and size is not None:
        _schematic_face(axis, size)


def _schematic_face(axis: Axes, size: int) -> None:
    """A neutral face that is nobody's, its box filling the picture as every crop's does."""
    look = Look.draw_lots(np.random.default_rng(0), long_hair=False)
    rest = Expression(*(np.array([value]) for value in EXPRESSIONS["neutral"]))
    points = landmarks(look, rest)[0]
    low, high = points.min(axis=0), points.max(axis=0)
    halo = [withStroke(linewidth=2.5, foreground="white")]  # seen on every colour
    x, y = ((points - low) / (high - low) * size - 0.5).T
    for first, last, closed in STROKES:
        stroke = [*range(first, last + 1), *([first] if closed else [])]
        axis.plot(x[stroke], y[stroke], color="black", linewidth=1, path_effects=halo)
    axis.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
