"""What one run attends to in the sound and the face: figures of notebook 04 and of own clips.

A sentence stands where a system has no such map. A map that lies on pixels is in multiples of a
uniform map: 1 is no preference.

On data other than the control no figure shows a person: faces are a schematic one, sound is the
mean over clips. `overlays` is the exception, and its result stays out of the repository.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from cfnsr.attention.maps import rollout, uniform_rollout
from cfnsr.attention.survey import Located, Look, Study, cams
from cfnsr.data import audio
from cfnsr.data.drawing import STROKES
from cfnsr.data.synthetic import design, faces
from cfnsr.data.synthetic.design import takes_of
from cfnsr.evaluation import tables
from cfnsr.figures.examples import draw_mfcc, film_strips, mark_z, spread
from cfnsr.figures.style import BLUE, GREY, STYLE, drawn, entitle, nothing

_MAP_COLOURS = "RdBu_r"  # told apart by colour-blind readers, white at 1
_OPACITY = 0.35  # the face below is what a reader wants to recognise
_N_CLIPS = 4
_MOST_FRAMES = 8
_GIF_DPI = 90
_N_MOMENTS = 1000
_MOST_STRENGTH = 16.0  # times uniform; more is not told apart
_APART = 1.1  # a tick is left out that is less than so many times the end of its colour bar
_NO_SELF_ATTENTION = "{} has no self-attention over the sound."


def setting(study: Study, look: Look) -> str:
    """What stands below every title: system and seed, data, protocol, fold."""
    info = look.trained.info
    where = tables.setting(study.settings, [info["fold"]])
    return f"{look.trained.row.label}, seed {info['seed']}, {where}"


def shown_clips(look: Look) -> list[int]:
    """Clips of as different actors and emotions as can be; not chosen by what the network says."""
    return spread(look.index, _N_CLIPS)


@drawn
def timeline(study: Study, look: Look, media: Path | None, title: str) -> Figure:
    """What the last audio token, the one that asks, attends to, below the sound it heard.

    Args:
        media: of the clip to show, the first of `shown_clips`; None shows the mean over clips.
    """
    title = f"{title}\n{setting(study, look)}"
    attention = look.maps.self_attention
    if attention is None:
        return nothing(_NO_SELF_ATTENTION.format(look.trained.row.label), title)
    _, n_layers, n_heads, _, n_tokens = attention.shape
    settings, times_s = look.trained.preprocess, look.token_times_s
    chosen = np.arange(len(look.index)) if media is None else np.array(shown_clips(look)[:1])
    mfcc = look.trained.scaling["mfcc"](look.arrays["mfcc"][chosen]).mean(axis=0)
    strength = attention[chosen, :, :, -1].mean(axis=0) * n_tokens  # layer head token
    norm = _strength(strength)
    heights = [1] * (media is not None) + [1.2, *[0.14 * n_heads] * n_layers, 1.2]
    figure, axes = plt.subplots(
        len(heights),
        1,
        figsize=(8, 1.1 * sum(heights) + 1.2),
        sharex=True,
        height_ratios=heights,
    )
    start_s = settings.offset_s
    above, axes = axes, axes[-n_layers - 2 :]
    if media is None:
        title = f"{title}; mean of {len(chosen)} clips"
    else:
        title = f"{title}; {_label(look, chosen[0], ', ')}"
        waveform = audio.read_window(media, settings)
        # A sample a line would be megabytes of it: what is seen is how far each moment reaches.
        pieces = np.array_split(waveform, min(len(waveform), _N_MOMENTS))
        ends_s = np.cumsum([len(piece) for piece in pieces]) / settings.sample_rate_hz
        low, high = ([reach(piece) for piece in pieces] for reach in (np.min, np.max))
        above[0].fill_between(start_s + ends_s, low, high, color=GREY, linewidth=0)
        above[0].set_ylabel("amplitude,\nfull scale 1")
    image = draw_mfcc(axes[0], mfcc, settings)
    axes[0].set_ylabel("MFCC")
    mark_z(figure.colorbar(image, ax=axes[0], label="sd from\nthe mean", pad=0.01))
    step_s = float(np.diff(times_s).mean())
    for layer, axis in enumerate(axes[1:-1]):
        axis.imshow(
            strength[layer],
            _MAP_COLOURS,
            norm=norm,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(times_s[0] - step_s / 2, times_s[-1] + step_s / 2, 0.5, n_heads + 0.5),
        )
        axis.set_ylabel(f"layer {layer + 1}\nhead")
    _strength_bar(figure, axes[1:-1], norm, pad=0.01)
    rolled = rollout(attention[chosen])[:, -1].mean(axis=0)
    uniform = uniform_rollout(n_layers, n_tokens)[-1]
    axes[-1].plot(times_s, rolled, ".-", color=BLUE, label="rollout of the last token")
    axes[-1].plot(times_s, uniform, ":", color=GREY, label="if all were attended alike")
    axes[-1].set(ylabel="share", xlabel="time in the clip, s", ylim=(0, None))
    if media is not None and study.settings.drawn is not None:
        (take,) = takes_of(look.index["clip"].iloc[chosen], study.settings.drawn)
        cue = design.cue(take, study.settings.drawn)
        for axis in above:
            for end_s in (cue.voice_start_s, cue.voice_end_s):
                axis.axvline(end_s, color="black", linewidth=1.2, linestyle="--")
        axes[-1].plot([], [], "--", color="black", label="where the voice shows its emotion")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    entitle(figure, title)
    return figure


@drawn
def heads(study: Study, look: Look, title: str) -> Figure:
    """Every layer's and head's whole map, mean over clips: from which moment (down) to which.

    A token asks itself and those before it; uniform is one over their number.
    """
    title = f"{title}\n{setting(study, look)}"
    attention = look.maps.self_attention
    if attention is None:
        return nothing(_NO_SELF_ATTENTION.format(look.trained.row.label), title)
    n_clips, n_layers, n_heads, n_tokens, _ = attention.shape
    may_ask = np.tri(n_tokens, dtype=bool)
    times_uniform = attention.mean(axis=0) * np.arange(1, n_tokens + 1)[:, None]
    strength = np.where(may_ask, times_uniform, np.nan)
    norm = _strength(np.nan_to_num(strength))
    figure, axes = plt.subplots(
        n_layers,
        n_heads,
        figsize=(1.05 * n_heads + 1.4, 1.0 * n_layers + 1.1),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    times_s = look.token_times_s
    step_s = float(np.diff(times_s).mean())
    low, high = times_s[0] - step_s / 2, times_s[-1] + step_s / 2
    for layer in range(n_layers):
        for head in range(n_heads):
            axes[layer, head].imshow(
                strength[layer, head],
                _MAP_COLOURS,
                norm=norm,
                interpolation="nearest",
                extent=(low, high, high, low),
            )
            axes[0, head].set_title(f"head {head + 1}")
        axes[layer, 0].set_ylabel(f"layer {layer + 1}\nfrom, s")
    figure.supxlabel("to, s in the clip", fontsize=9)
    _strength_bar(figure, axes, norm, pad=0.01)
    entitle(figure, f"{title}; {n_clips} clips")
    return figure


def face(study: Study, look: Look, title: str, overlays: bool = False) -> Figure:
    """The face's map over the frames of some clips.

    Args:
        overlays: on the clips' own frames, whoever they show.
    """
    map_ = look.of_face
    if map_ is None:
        return _no_face(study, look, title)
    clips = shown_clips(look)
    labels = [_label(look, clip) for clip in clips]
    title = f"{title}: {map_.name}{_still(map_)}\n{setting(study, look)}"
    pictures = _pictures(study, look, clips, overlays)
    return on_frames(pictures, on_pixels(map_.values, map_.regions)[clips], labels, title)


def animation(study: Study, look: Look, title: str, path: Path, overlays: bool = False) -> None:
    """The first of the clips of `face` as a GIF, as long as its analysed part, beside its map.

    Where no person may be shown, the map alone on a schematic face. Equal input gives equal bytes.
    """
    shots: list[Image.Image] = []
    with plt.rc_context(STYLE):
        for figure in _animated(study, look, title, overlays):
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=_GIF_DPI, metadata={"Software": None})
            plt.close(figure)
            shot = Image.open(buffer).convert("RGB")
            shots.append(shot.quantize(256, dither=Image.Dither.NONE))
    settings = look.trained.preprocess
    length_ms = 1000 * (settings.offset_s + settings.duration_s)
    shots[0].save(
        path,
        save_all=True,
        append_images=shots[1:],
        duration=round(length_ms / len(shots)),
        loop=0,
    )


def _animated(study: Study, look: Look, title: str, overlays: bool) -> Iterator[Figure]:
    map_ = look.of_face
    if map_ is None:
        yield _no_face(study, look, title)
        return
    clip, *_ = shown_clips(look)
    (maps,) = on_pixels(map_.values[[clip]], map_.regions)
    pictures = _pictures(study, look, clip, overlays)
    norm = _strength(maps)
    title = f"{title}: {map_.name}{_still(map_)}\n{setting(study, look)}"
    for frame in range(len(maps)):
        n_panels, size = (1, (4.2, 3.6)) if pictures is None else (2, (6, 3.1))
        figure, axes = plt.subplots(1, n_panels, figsize=size, squeeze=False)
        picture = None if pictures is None else pictures[frame]
        if picture is not None:
            _overlay(axes[0, 0], picture, None, norm)
        _overlay(axes[0, -1], picture, maps[frame], norm)
        _strength_bar(figure, axes[:, -1:], norm)
        label = f"{_label(look, clip, ', ')}; frame {frame + 1} of {len(maps)}"
        entitle(figure, f"{title}\n{label}")
        yield figure


@drawn
def by_emotion(study: Study, look: Look, title: str) -> Figure:
    """The face's map, mean over the test clips of each emotion and over time."""
    map_ = look.of_face
    if map_ is None:
        return _no_face(study, look, title)
    emotion = look.index["emotion"].to_numpy()
    over_time = on_pixels(map_.values, map_.regions).mean(axis=1)
    means = {}
    for name in study.settings.corpus.emotions:
        shows = emotion == name
        if shows.any():
            means[f"{name}, {np.count_nonzero(shows)} clips"] = over_time[shows].mean(axis=0)
    return _in_panels(means, f"{title}: {map_.name}\n{setting(study, look)}")


@drawn
def gradcam(study: Study, look: Look, title: str) -> Figure:
    """Grad-CAM of every row that sees, mean over the run's test clips and over time."""
    where = tables.setting(study.settings, [look.trained.info["fold"]])
    title = f"{title}\nmean of {len(look.index)} clips, {where}"
    means = {
        label: on_pixels(cam.values, cam.regions).mean(axis=(0, 1))
        for label, cam in cams(study, look).items()
    }
    if not means:
        sentence = "No row that sees a picture was trained: params.yaml leaves them out."
        return nothing(sentence, title)
    return _in_panels(means, title)


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
    figure, axes, shown = film_strips(labels, maps.shape[1], _MOST_FRAMES, (0.95, 1.05), (2.2, 0.9))
    norm = _strength(maps)
    for clip, line in enumerate(axes):
        for axis, frame in zip(line, shown, strict=True):
            picture = None if pictures is None else pictures[clip, frame]
            _overlay(axis, picture, maps[clip, frame], norm)
    _strength_bar(figure, axes, norm)
    entitle(figure, title)
    return figure


def on_pixels(maps: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Give each pixel the weight of its position, in multiples of uniform.

    Args:
        maps: (clip, ...), summing to one over a clip; regions: int (frame, S, S).

    Returns:
        (clip, frame, S, S).
    """
    flat = maps.reshape(len(maps), -1)
    return flat[:, regions] * flat.shape[1]


def _in_panels(maps: Mapping[str, np.ndarray], title: str) -> Figure:
    """One map each on a schematic face, by emotion or by system, in lines of four.

    Args:
        maps: (S, S) each, multiples of uniform, by label.
    """
    n_columns = min(4, len(maps))
    n_lines = -(-len(maps) // n_columns)
    size = (1.75 * n_columns + 1.2, 1.85 * n_lines + 0.7)
    figure, axes = plt.subplots(n_lines, n_columns, figsize=size, squeeze=False)
    norm = _strength(np.stack(list(maps.values())))
    for axis in axes.flat[len(maps) :]:
        axis.axis("off")
    for axis, (label, map_) in zip(axes.flat, maps.items(), strict=False):
        _overlay(axis, None, map_, norm)
        axis.set_title(fill(label, 26), fontsize=8)
    _strength_bar(figure, axes, norm)
    entitle(figure, title)
    return figure


def _no_face(study: Study, look: Look, title: str) -> Figure:
    return nothing(
        f"{look.trained.row.label} sees no picture, so there is no map of the face.",
        f"{title}\n{setting(study, look)}",
    )


def _pictures(
    study: Study, look: Look, clips: int | list[int], overlays: bool
) -> np.ndarray | None:
    """The clips' own frames where they show nobody, or all the same."""
    return look.arrays["frames"][clips] if overlays or study.settings.drawn is not None else None


def _still(map_: Located) -> str:
    """Why a map does not move where it has a single time slice."""
    moves = (map_.regions != map_.regions[0]).any()
    return "" if moves else " (one map for all frames)"


def _label(look: Look, clip: int, separator: str = "\n") -> str:
    line = look.index.iloc[clip]
    says = look.trained.corpus.emotions[look.maps.predicted[clip]]
    return f"{line['emotion']}, actor {line['actor']}{separator}taken for {says}"


def _strength(maps: np.ndarray) -> LogNorm:
    """Logarithmic, the same distance to both sides of 1."""
    largest = min(max(float(maps.max()), 1.25), _MOST_STRENGTH)
    return LogNorm(1 / largest, largest, clip=True)


def _strength_bar(figure: Figure, axes: np.ndarray, norm: LogNorm, pad: float = 0.02) -> None:
    scale = plt.cm.ScalarMappable(norm, _MAP_COLOURS)
    bar = figure.colorbar(scale, ax=axes.ravel().tolist(), pad=pad, extend="both")
    bar.set_label("times uniform")
    low, high = scale.get_clim()
    between = [
        tick
        for tick in (1 / 8, 1 / 4, 1 / 2, 1 / 1.5, 1, 1.5, 2, 4, 8)
        if low * _APART <= tick <= high / _APART
    ]
    # What is beyond an end has its colour.
    labels = [f"≤ {low:.2g}", *[f"{tick:.2g}" for tick in between], f"≥ {high:.2g}"]
    bar.set_ticks([low, *between, high], labels=labels)
    bar.minorticks_off()


def _overlay(
    axis: Axes, picture: np.ndarray | None, map_: np.ndarray | None, norm: LogNorm
) -> None:
    """A picture, a map on a picture in grey, or a map on a schematic face."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if picture is not None and map_ is None:
        axis.imshow(picture, "gray", vmin=0, vmax=255)
    elif picture is not None:
        # Grey, so that colour is the map's alone; light, so that colours stay readable.
        axis.imshow(picture.mean(axis=-1), "gray", vmin=-255, vmax=255)
    if map_ is not None:
        opacity = 1 if picture is None else _OPACITY
        axis.imshow(map_, _MAP_COLOURS, norm=norm, alpha=opacity, interpolation="nearest")
        if picture is None:
            _schematic_face(axis, len(map_))


def _schematic_face(axis: Axes, size: int) -> None:
    """A neutral face that is nobody's, its box filling the picture as every crop's does."""
    nobody = faces.Look(np.random.default_rng(0), long_hair=False)
    rest = faces.Expression(*(np.array([value]) for value in faces.EXPRESSIONS["neutral"]))
    points = faces.landmarks(nobody, rest)[0]
    low, high = points.min(axis=0), points.max(axis=0)
    halo = [withStroke(linewidth=2.5, foreground="white")]  # seen on every colour
    x, y = ((points - low) / (high - low) * size - 0.5).T
    for first, last, closed in STROKES:
        stroke = [*range(first, last + 1), *([first] if closed else [])]
        axis.plot(x[stroke], y[stroke], color="black", linewidth=1, path_effects=halo)
    axis.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
