"""What a trained network says of one clip of the user's own (`python -m cfnsr predict`).

The clip is preprocessed and scaled as the run's training clips were, so a clip of the training's
format gets the logits that the training stored for it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import special
from tqdm import tqdm

from cfnsr import InputError
from cfnsr.attention.maps import Maps, grad_cam, normalised, read_maps, video_regions
from cfnsr.data import motion, summary
from cfnsr.data.clips import Arrays
from cfnsr.data.files import writing
from cfnsr.evaluation import tables
from cfnsr.figures.attention_maps import on_frames, on_pixels
from cfnsr.figures.own_clip import timeline
from cfnsr.figures.style import save
from cfnsr.own_clip import PUBLISHED
from cfnsr.own_clip.reading import PATIENCE_S, Needs, OwnClip, Window, open_clip
from cfnsr.params import DRAWN, draws_landmarks
from cfnsr.training.runs import read_run
from cfnsr.training.trained import Trained, Viewed, load_trained

#: A sound whose tenths differ by less, in standard deviations of the training clips, is no voice.
#: By RAVDESS's those of its own takes differ by 0.35 or more, of the control's drawn voices by 0.14
#: or more, of noise, tones and silence by 0.07 at most.
STEADY_SD = 0.1


@dataclass(frozen=True, eq=False)
class Overlay:
    """Where a network looked in one window.

    `pictures` uint8 (frame, S, S, channel); `map` (frame, S, S) in multiples of a uniform map;
    `what` kind of map it is.
    """

    window: Window
    pictures: np.ndarray
    map: np.ndarray
    what: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """Logits (window, emotion) of a clip's windows, and where the network looked in the surest."""

    clip: Path
    network: str
    emotions: tuple[str, ...]
    windows: list[Window]
    logits: np.ndarray
    overlay: Overlay | None
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the figures say above themselves."""
        return f"{self.clip.name}\n{self.network}"

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, (window, emotion)."""
        return special.softmax(self.logits.astype(float), axis=-1)

    @property
    def mean(self) -> pd.Series:
        """Each emotion's mean probability over the windows, the most probable first."""
        return pd.Series(self.probabilities.mean(axis=0), self.emotions).sort_values(
            ascending=False, kind="stable"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One line a window and emotion: start_s, end_s, emotion, probability."""
        return pd.DataFrame(
            [
                (window.start_s, window.end_s, emotion, probability)
                for window, line in zip(self.windows, self.probabilities, strict=True)
                for emotion, probability in zip(self.emotions, line, strict=True)
            ],
            columns=["start_s", "end_s", "emotion", "probability"],
        )


def predict(clip: Path, run: Path, landmarks: Path | None) -> Prediction:
    """Classify a clip, window by window.

    Args:
        clip: a video with sound, of any length.
        run: `runs/<data>/<protocol>/<group>/fold_<k>/<row>/seed_<s>`, or `PUBLISHED`.
        landmarks: OpenFace's csv of the clip's 68 points; without it the face is looked for.

    Raises:
        InputError: the clip, its landmarks or the run cannot be used.
    """
    trained = load_trained(run)
    if trained.row.group == "hybrid":
        raise InputError(
            f"{run} is of the hybrid deep model, which takes clips of the corpus alone; choose "
            "another row"
        )
    needs = Needs(
        trained.sees_frames,
        bool(trained.row.of_voice),
        draws_landmarks=draws_landmarks(trained.info["data"]),
        tracks=bool({"landmark_statistics", "motion"} & set(trained.row.inputs)),
    )
    opened = open_clip(clip, landmarks, trained.preprocess, needs)
    logits, surest, largest = [], None, 0.0
    unlike: Counter[tuple[str, str]] = Counter()
    # One at a time, so that no clip's length fills the memory.
    inputs = tqdm(
        _inputs(opened, trained),
        total=len(opened.windows),
        unit="window",
        delay=PATIENCE_S,
    )
    for window, arrays in zip(opened.windows, inputs, strict=True):
        unlike.update(_unlike(trained, arrays))
        view = trained.view(arrays)
        maps = read_maps(view, arrays)
        if not np.isfinite(maps.logits).all():
            raise InputError(
                f"{clip.name}: what is seen and heard from {window.start_s:.1f} s on is so extreme "
                "that the network's answer is no number; look at the clip and its landmarks"
            )
        logits.append(maps.logits[0])
        probability = float(special.softmax(maps.logits.astype(float), axis=-1).max())
        if probability > largest:
            largest, surest = probability, (window, arrays, view, maps)
    overlay = _overlay(*surest) if surest and trained.sees_frames else None
    return Prediction(
        clip,
        _name(trained),
        trained.corpus.emotions,
        opened.windows,
        np.stack(logits),
        overlay,
        (*_warnings(clip, trained, unlike), *opened.warnings),
    )


def write(prediction: Prediction, folder: Path) -> list[Path]:
    """Write `prediction.csv`, the overlay if there is one, and the timeline of several windows.

    Returns:
        What was written.

    Raises:
        InputError: the folder cannot be written.
    """
    table = prediction.table.round({"start_s": 3, "end_s": 3, "probability": 6})
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / "prediction.csv", index=False, lineterminator="\n")
        for name in ("attention", "timeline"):
            for suffix in ("svg", "png"):
                # An earlier clip's must not be taken for this one's.
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    drawn = figures(prediction)
    for name, figure in drawn.items():
        save(figure, folder / name)
    return [folder / "prediction.csv", *(folder / f"{name}.png" for name in drawn)]


def figures(prediction: Prediction) -> dict[str, Figure]:
    """`attention` of a network that sees, `timeline` of a clip of several windows."""
    found = {}
    shown = prediction.overlay
    if shown is not None:
        stretch = f"{shown.window.start_s:.1f} to {shown.window.end_s:.1f} s"
        found["attention"] = on_frames(
            shown.pictures[None],
            shown.map[None],
            [stretch],
            f"{shown.what}: {prediction.title}",
        )
    if len(prediction.windows) > 1:
        found["timeline"] = timeline(prediction.table, prediction.title)
    return found


def report(prediction: Prediction) -> str:
    """The prediction as a small table."""
    lines = [f"{prediction.clip.name}, by {prediction.network}"]
    mean = prediction.mean
    width = max(map(len, prediction.emotions)) + 2
    if len(prediction.windows) > 1:
        lines.append("start, s  end, s  most probable")
        for window, probabilities in zip(prediction.windows, prediction.probabilities, strict=True):
            best = prediction.emotions[probabilities.argmax()]
            lines.append(
                f"{window.start_s:8.1f} {window.end_s:7.1f}  {best:{width}}"
                f"{probabilities.max():.3f}"
            )
        lines.append(f"mean of {len(prediction.windows)} windows")
    lines += [f"  {emotion:{width}}{probability:.3f}" for emotion, probability in mean.items()]
    return "\n".join(lines)


def track_record(run: Path, prediction: Prediction) -> str:
    """How often the network was right on actors whom it had not been trained on, as a sentence."""
    if run == PUBLISHED:
        surest = float(prediction.mean.iloc[0])
        table = pd.read_csv(run / "confidence.csv")
        row = table[surest >= table["low"]].iloc[-1]
        verdict = "unsure: " if row["accuracy_pct"] < 50 else ""
        return (
            f"{verdict}of the {row['n_clips']:.0f} clips of unseen actors of which it was as sure "
            f"({row['low']} to {row['high']}) it classified {row['accuracy_pct']:.0f} % rightly"
        )
    try:
        accuracy_pct = read_run(run).test.accuracy_pct[-1]
    except InputError:
        return "how often it is right is not known: there are weights alone"
    return f"{accuracy_pct:.1f} % of its own test actors' clips were classified rightly"


def _unlike(trained: Trained, arrays: Arrays) -> Iterator[tuple[str, str]]:
    """What of a window is not as in the training clips, and how it differs."""
    for name, scaling in trained.scaling.items():
        is_face = name in trained.row.of_face
        if not scaling.typical[0] <= scaling.sizes(arrays[name])[0] <= scaling.typical[1]:
            what = "face" if is_face else "voice"
            yield what, "is unlike that of any clip that this network was trained on"
        elif not is_face and arrays[name].ndim == 3:  # clip band time
            tenths = np.array_split(scaling(arrays[name]), 10, axis=2)
            if np.sqrt(np.var([part.mean(axis=2) for part in tenths], axis=0).mean()) < STEADY_SD:
                yield "sound", "hardly changes, as that of noise or a tone"


def _inputs(opened: OwnClip, trained: Trained) -> Iterator[Arrays]:
    """What the network is given of each window, unscaled, as of one clip."""
    for arrays in opened.arrays():
        found = {name: array[None] for name, array in arrays.items()}
        if "mfcc" in found:
            found["mfcc_statistics"] = summary.mfcc_statistics(found["mfcc"])
            found["coarse_log_mel"] = motion.coarse(found["log_mel"])
        yield {name: found[name] for name in trained.row.inputs}


def _overlay(window: Window, arrays: Arrays, view: Viewed, maps: Maps) -> Overlay:
    over, what = maps.cross_modal, "cross-modal attention"
    if over is None:
        over = grad_cam(view, arrays, "video", maps.predicted)
        emotion = view.trained.corpus.emotions[maps.predicted[0]]
        what = f"Grad-CAM of {emotion} (this network has no cross-modal map of the face)"
    map_ = on_pixels(normalised(over), video_regions(view.trained, over.shape[1:]))
    return Overlay(window, arrays["frames"][0], map_[0], what)


def _name(trained: Trained) -> str:
    info = trained.info
    if not info["actors"]["test"]:
        n_actors = len(info["actors"]["training"])
        return f"{trained.row.label} (trained on all {n_actors} actors of {trained.corpus.name})"
    return (
        f"{trained.row.label} ({tables.DATA_LABELS[info['data']]}, protocol {info['protocol']}, "
        f"fold {info['fold']}, seed {info['seed']})"
    )


def _warnings(clip: Path, trained: Trained, unlike: Counter[tuple[str, str]]) -> Iterator[str]:
    info = trained.info
    for (what, how), n_windows in unlike.items():
        yield f"the {what} of {n_windows} windows {how}; do not rely on what the network says"
    if trained.row.options.get("batch_summed_attention"):
        yield (
            "the logits of this network depend on which clips share its batch; here each window "
            "has a batch of its own"
        )
    if info["data"] in DRAWN:
        yield (
            f"this network was trained on the {tables.DATA_LABELS[info['data']]}: it knows only "
            "drawn faces"
        )
        return  # its actors have the names of a corpus's
    try:
        actor = trained.corpus.read(clip).actor
    except InputError:
        return
    if actor in info["actors"]["training"]:
        # A drawn clip has such a name, too.
        yield (
            f"this clip is named like one of {trained.corpus.name}'s actor {actor}; if it is, the "
            "network was trained on that actor, and is right more often than of others"
        )
