"""The figures of notebook 04, each of one run or of all; a sentence where a system has no such map.

On data other than the control no figure shows a person: faces are a schematic one, sound is the
mean over clips. `overlays` is the exception, and its result stays out of the repository.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cfnsr.attention.maps import rollout, uniform_rollout, video_regions
from cfnsr.attention.survey import Effect, Located, Look, Study, Survey, cams
from cfnsr.data import audio
from cfnsr.data.synthetic import design
from cfnsr.data.synthetic.cues import takes_of
from cfnsr.evaluation import tables
from cfnsr.figures import attention_effects, attention_maps
from cfnsr.figures.examples import spread
from cfnsr.models.registry import find

_N_CLIPS = 4
_NO_FACE_MAP = "{} sees no picture, so there is no map of the face."
_NO_SELF_ATTENTION = "{} has no self-attention over the sound."


def setting(study: Study, look: Look | None = None) -> str:
    """What stands below every title: system and seed, data, protocol, folds."""
    if look is None:
        return tables.setting(study.settings)
    seed = look.trained.info["seed"]
    where = tables.setting(study.settings, [look.trained.info["fold"]])
    return f"{look.trained.row.label}, seed {seed}, {where}"


def timeline(study: Study, look: Look, media: Path | None, title: str) -> Figure:
    """The self-attention of the last token over the sound, see `figures.audio_timeline`.

    Args:
        media: of the clip to show, the first of `shown_clips`; None shows the mean over clips.
    """
    title = f"{title}\n{setting(study, look)}"
    weights = look.maps.self_attention
    if weights is None:
        return _nothing(_NO_SELF_ATTENTION, look, title)
    settings = look.trained.preprocess
    clip = shown_clips(look)[0] if media is not None else slice(None)
    chosen = np.atleast_1d(np.arange(len(look.index))[clip])
    mfcc = look.trained.scaling["mfcc"](look.arrays["mfcc"][chosen]).mean(axis=0)
    rolled = rollout(weights[chosen])[:, -1].mean(axis=0)
    uniform = uniform_rollout(weights.shape[1], weights.shape[-1])[-1]
    waveform = stretch_s = None
    if media is not None:
        waveform = audio.read_window(media, settings)
        title = f"{title}; {_label(look, chosen[0], ', ')}"
        if study.settings.drawn is not None:
            (take,) = takes_of(look.index["clip"].iloc[chosen], study.settings.drawn)
            cue = design.cue(take, study.settings.drawn)
            stretch_s = cue.voice_start_s, cue.voice_end_s
    else:
        title = f"{title}; mean of {len(chosen)} clips"
    return attention_maps.audio_timeline(
        waveform,
        mfcc,
        weights[chosen, :, :, -1].mean(axis=0),
        rolled,
        uniform,
        look.token_times_s,
        settings,
        stretch_s,
        title,
    )


def heads(study: Study, look: Look, title: str) -> Figure:
    """Whole self-attention maps, mean over the run's test clips."""
    title = f"{title}\n{setting(study, look)}"
    weights = look.maps.self_attention
    if weights is None:
        return _nothing(_NO_SELF_ATTENTION, look, title)
    mean = weights.mean(axis=0)
    return attention_maps.heads(mean, look.token_times_s, f"{title}; {len(weights)} clips")


def face(study: Study, look: Look, title: str, overlays: bool = False) -> Figure:
    """The face's map over the frames of some clips.

    Args:
        overlays: on the clips' own frames, whoever they show.
    """
    map_ = look.of_face
    if map_ is None:
        return _nothing(_NO_FACE_MAP, look, f"{title}\n{setting(study, look)}")
    clips = shown_clips(look)
    labels = [_label(look, clip) for clip in clips]
    shows = look.pictures[clips] if overlays or _is_nobody(study) else None
    title = f"{title}: {map_.name}{_still(map_)}\n{setting(study, look)}"
    return attention_maps.on_frames(shows, _on_pixels(look, map_)[clips], labels, title)


def animation(study: Study, look: Look, title: str, path: Path, overlays: bool = False) -> None:
    """The first of the clips of `face` as a GIF, as long as its analysed part."""
    map_ = look.of_face
    if map_ is None:
        nothing = _nothing(_NO_FACE_MAP, look, f"{title}\n{setting(study, look)}")
        attention_maps.still(nothing, path)
        return
    clip = shown_clips(look)[0]
    settings = look.trained.preprocess
    seconds = settings.offset_s + settings.duration_s
    shows = look.pictures[clip] if overlays or _is_nobody(study) else None
    label = (
        f"{title}: {map_.name}{_still(map_)}\n{setting(study, look)}\n{_label(look, clip, ', ')}"
    )
    attention_maps.animate(shows, _on_pixels(look, map_)[clip], seconds, label, path)


def by_emotion(study: Study, look: Look, title: str) -> Figure:
    """The face's map, mean over the test clips of each emotion and over time."""
    map_ = look.of_face
    if map_ is None:
        return _nothing(_NO_FACE_MAP, look, f"{title}\n{setting(study, look)}")
    emotion = look.index["emotion"].to_numpy()
    present = [name for name in study.settings.corpus.emotions if name in set(emotion)]
    over_time = _on_pixels(look, map_).mean(axis=1)
    means = np.stack([over_time[emotion == name].mean(axis=0) for name in present])
    labels = [f"{name}, {np.count_nonzero(emotion == name)} clips" for name in present]
    title = f"{title}: {map_.name}\n{setting(study, look)}"
    return attention_maps.in_panels(means, labels, title)


def gradcam(study: Study, look: Look, title: str) -> Figure:
    """Grad-CAM of every row that sees, mean over the run's test clips and over time."""
    title = f"{title}\n{_same_fold(study, look)}"
    found = cams(study, look.folder, look.positions)
    if not found:
        sentence = "No row that sees a picture was trained: params.yaml leaves them out."
        return attention_effects.nothing(sentence, title)
    means = np.stack([attention_maps.on_pixels(*cam).mean(axis=(0, 1)) for cam in found.values()])
    return attention_maps.in_panels(means, list(found), title)


def gates(study: Study, survey: Survey, title: str) -> Figure:
    """Channel gates of MMTM and MSAF on their first runs: of two trainings, no channels match."""
    if not survey.gates:
        sentence = "Neither MMTM nor MSAF was trained: params.yaml leaves them out."
        return attention_effects.nothing(sentence, f"{title}\n{setting(study)}")
    n_clips = max(len(found[0].values) for found in survey.gates.values())
    where = tables.setting(study.settings, survey.gate_folds)
    return attention_effects.gates(survey.gates, f"{title}\n{where}; {n_clips} test clips")


def deletion(study: Study, look: Look, effect: Effect, title: str) -> Figure:
    """Deletion curves and areas of the run's row, over all of its runs."""
    title = f"{title}\n{look.trained.row.label}, {setting(study)}"
    if not effect.curves:
        return _nothing("{} has no map that says where.", look, title)
    title = f"{title}; {study.extent}"
    return attention_effects.deletion(effect.curves, effect.gains, effect.hidden, title)


def localisation(study: Study, survey: Survey, title: str) -> Figure:
    """Lifts over chance of every map of every row."""
    title = f"{title}\n{setting(study)}"
    if survey.localisation.empty:
        sentence = (
            "Where the cue is, only the control's generator knows."
            if study.settings.drawn is None
            else "No row with a map that says where was trained: params.yaml leaves them out."
        )
        return attention_effects.nothing(sentence, title)
    return attention_effects.localisation(survey.localisation, f"{title}; {study.extent}")


def reliance(study: Study, look: Look, survey: Survey, title: str) -> Figure:
    """Accuracy of every row under every condition."""
    row = look.trained.info["row"]
    highlighted = list(dict.fromkeys([row, "video", "audio"]))
    title = f"{title}\n{setting(study)}; {study.extent}"
    return attention_effects.reliance(survey.reliance, highlighted, title)


def write_tables(survey: Survey, effect: Effect, folder: Path) -> None:
    """`modality_reliance.csv`, `localisation.csv`, `deletion.csv`, and `pointing.csv` if any."""
    found: Mapping[str, pd.DataFrame] = {
        "modality_reliance": survey.reliance,
        "localisation": survey.localisation,
        "deletion": effect.gains,
    }
    if not survey.pointing.empty:
        found = {**found, "pointing": survey.pointing}
    for name, table in found.items():
        path = folder / f"{name}.csv"
        table.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


def shown_clips(look: Look) -> list[int]:
    """Clips of as different actors and emotions as can be; not chosen by what the network says."""
    return spread(look.index, _N_CLIPS)


def _on_pixels(look: Look, map_: Located) -> np.ndarray:
    regions = video_regions(look.trained, map_.values.shape[1:])
    return attention_maps.on_pixels(map_.values, regions)


def _still(map_: Located) -> str:
    """Why a map does not move where it has a single time slice, (clip, 1, H, W)."""
    return "" if map_.values.shape[1] > 1 else " (one map for all frames)"


def _is_nobody(study: Study) -> bool:
    return study.settings.drawn is not None


def _same_fold(study: Study, look: Look) -> str:
    where = tables.setting(study.settings, [look.trained.info["fold"]])
    return f"mean of {len(look.index)} clips, {where}"


def _label(look: Look, clip: int, separator: str = "\n") -> str:
    line = look.index.iloc[clip]
    says = look.trained.corpus.emotions[look.maps.predicted[clip]]
    return f"{line['emotion']}, actor {line['actor']}{separator}taken for {says}"


def _nothing(sentence: str, look: Look, title: str) -> Figure:
    label = find(look.trained.info["row"]).label
    return attention_effects.nothing(sentence.format(label), title)
