"""On clips that are drawn: do maps lie where the cue is? The generator knows.

A map's lift is how much of the map lies on the cue, over how much of it would by chance: 1 is
chance, 2 twice as much. Where the voice names a part of the face, that part is the cue, and a map
hits if it prefers that part to the other: half of the maps do by chance.
"""

from collections.abc import Sequence
from math import isnan

import cv2
import numpy as np
import pandas as pd

from cfnsr import InputError
from cfnsr.data.corpora import Take
from cfnsr.data.synthetic import design
from cfnsr.data.synthetic.design import Part
from cfnsr.data.synthetic.faces import CUE_LANDMARKS, FRAME_HEIGHT, FRAME_WIDTH
from cfnsr.data.video import choose_frames
from cfnsr.evaluation.uncertainty import ratio
from cfnsr.params import DrawnClips, Preprocess

#: What is drawn of each part of a face that can show an emotion, each as its own hull.
_HULLS: dict[Part, list[np.ndarray]] = {
    "upper": [
        *np.reshape(CUE_LANDMARKS["brows"], (2, -1)),
        *np.reshape(CUE_LANDMARKS["eyes"], (2, -1)),
    ],
    "lower": [np.array(CUE_LANDMARKS["mouth"])],
}
_MARGIN = 0.02  # of the picture's width: a stroke reaches beyond its points


def face_cues(landmarks: np.ndarray, settings: Preprocess) -> dict[Part, np.ndarray]:
    """Where brows and eyes, and where the mouth are in a clip's crops: bool (n_frames, S, S) each.

    Args:
        landmarks: (frame, 68, 2), pixels of the full frame, of the whole clip.
    """
    size = settings.frame_size
    chosen = landmarks[choose_frames(len(landmarks), settings)]
    masks = {part: np.zeros((len(chosen), size, size), np.uint8) for part in _HULLS}
    margin_px = 2 * max(1, round(_MARGIN * size)) + 1
    for i, points in enumerate(chosen):
        low = np.maximum(np.floor(points.min(axis=0)), 0)
        high = np.minimum(np.ceil(points.max(axis=0)), (FRAME_WIDTH, FRAME_HEIGHT))
        in_crop = np.round((points - low) * size / (high - low) - 0.5).astype(np.int32)
        for part, hulls in _HULLS.items():
            for hull in hulls:
                cv2.fillConvexPoly(masks[part][i], cv2.convexHull(in_crop[hull]), 1)
            cv2.dilate(masks[part][i], np.ones((margin_px, margin_px), np.uint8), masks[part][i])
    return {part: mask.astype(bool) for part, mask in masks.items()}


def voice_cues(
    takes: Sequence[Take], clips: DrawnClips, token_times_s: np.ndarray, step_s: float
) -> np.ndarray:
    """How much of each token's own `step_s` lies in the clip's emotional stretch: (clip, token)."""
    cues = [design.cue(take, clips) for take in takes]
    start_s = np.array([cue.voice_start_s for cue in cues])[:, None]
    end_s = np.array([cue.voice_end_s for cue in cues])[:, None]
    low = np.maximum(token_times_s - step_s / 2, start_s)
    high = np.minimum(token_times_s + step_s / 2, end_s)
    return np.clip(high - low, 0, None) / step_s


def face_overlap(maps: np.ndarray, cues: np.ndarray, regions: np.ndarray) -> pd.DataFrame:
    """How much of each map lies on the face's cue, and of a uniform one: found, by_chance.

    A position's weight is spread over the pixels that are nearest to it.

    Args:
        maps: (clip, position), at least 0.
        cues: bool (clip, frame, height, width).
        regions: int (frame, height, width), the position of each pixel.
    """
    n_positions = maps.shape[1]
    n_pixels = np.bincount(regions.ravel(), minlength=n_positions)
    cue_share = np.stack(
        [np.bincount(regions[cue], minlength=n_positions) / np.maximum(n_pixels, 1) for cue in cues]
    )
    found = (maps * cue_share).sum(axis=1) / maps.sum(axis=1)
    return pd.DataFrame({"found": found, "by_chance": cue_share.mean(axis=1)})


def voice_overlap(maps: np.ndarray, cues: np.ndarray) -> pd.DataFrame:
    """How much of each map lies in the voice's stretch, and in the other clips' stretches.

    So a liking for the clip's middle, where most stretches are, earns nothing.

    Args:
        maps: (clip, token), at least 0; cues: (clip, token), see `voice_cues`.

    Raises:
        InputError: a single clip, which has no others.
    """
    if len(maps) < 2:
        raise InputError("a voice's cue needs a second clip's to compare with; found one clip")
    found = maps / maps.sum(axis=1, keepdims=True) @ cues.T  # clip, clip whose stretch it is
    own = np.diag(found)
    by_chance = (found.sum(axis=1) - own) / (len(found) - 1)
    return pd.DataFrame({"found": own, "by_chance": by_chance})


def hits(named: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Whether each clip's map prefers the part that the voice names to the other, bool (clip,).

    Each part's share of the map counts by what a uniform map would have there.
    """
    return named["found"] / named["by_chance"] > other["found"] / other["by_chance"]


def hit_rate(clips: pd.DataFrame) -> dict[str, float]:
    """How many clips (hit, actor) are hit, in percent, with its 95 % interval over actors."""
    rate, low, high = ratio(clips["hit"], np.ones(len(clips)), clips["actor"])
    return {"hit_pct": 100 * rate, "ci_low_pct": 100 * low, "ci_high_pct": 100 * high}


def lift(clips: pd.DataFrame) -> dict[str, float | str]:
    """The lift of clips (found, by_chance, actor), its 95 % interval over actors, and a verdict.

    Of one actor there is neither.
    """
    value, low, high = ratio(clips["found"], clips["by_chance"], clips["actor"])
    verdict = "" if isnan(low) else "above" if low > 1 else "below" if high < 1 else "at"
    return {"lift": value, "ci_low": low, "ci_high": high, "against_chance": verdict}
