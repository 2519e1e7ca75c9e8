"""On clips that are drawn: do maps lie where the cue is? The generator knows.

A map's lift is how much of the map lies on the cue, over how much of it would by chance: 1 is
chance, 2 twice as much. Where the voice names a part of the face, that part is the cue, and a map
hits if it prefers that part to the other: half of the maps do by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from cfnsr.data.corpora import Take
from cfnsr.data.synthetic import design
from cfnsr.data.synthetic.cues import Part
from cfnsr.data.synthetic.faces import CUE_LANDMARKS, FRAME_HEIGHT, FRAME_WIDTH
from cfnsr.data.video import choose_frames
from cfnsr.errors import InputError
from cfnsr.evaluation.uncertainty import actor_interval
from cfnsr.params import DrawnClips, Preprocess

#: What is drawn of each part of a face that can show an emotion, each as its own hull.
_HULLS: dict[Part, list[list[int]]] = {
    "upper": [
        list(CUE_LANDMARKS["brows"])[:5],
        list(CUE_LANDMARKS["brows"])[5:],
        list(CUE_LANDMARKS["eyes"])[:6],
        list(CUE_LANDMARKS["eyes"])[6:],
    ],
    "lower": [list(CUE_LANDMARKS["mouth"])],
}
_MARGIN = 0.02  # of the picture's width: a stroke reaches beyond its points


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much of each clip's map lies on the cue, and how much would by chance; (clip,)."""

    found: np.ndarray
    by_chance: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Overlap"]) -> "Overlap":
        """All clips of several."""
        return cls(
            np.concatenate([part.found for part in parts]),
            np.concatenate([part.by_chance for part in parts]),
        )


def face_cue(
    landmarks: np.ndarray, settings: Preprocess, parts: Sequence[Part] = ("upper", "lower")
) -> np.ndarray:
    """Where brows and eyes, mouth or both are in the face crops of a clip: bool (n_frames, S, S).

    Args:
        landmarks: (frame, 68, 2), pixels of the full frame, of the whole clip.
    """
    size = settings.frame_size
    chosen = landmarks[choose_frames(len(landmarks), settings)]
    masks = np.zeros((len(chosen), size, size), np.uint8)
    margin_px = 2 * max(1, round(_MARGIN * size)) + 1
    for mask, points in zip(masks, chosen, strict=True):
        low = np.maximum(np.floor(points.min(axis=0)), 0)
        high = np.minimum(np.ceil(points.max(axis=0)), (FRAME_WIDTH, FRAME_HEIGHT))
        in_crop = np.round((points - low) * size / (high - low) - 0.5).astype(np.int32)
        for hull in (hull for part in parts for hull in _HULLS[part]):
            cv2.fillConvexPoly(mask, cv2.convexHull(in_crop[hull]), 1)
        cv2.dilate(mask, np.ones((margin_px, margin_px), np.uint8), dst=mask)
    return masks.astype(bool)


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


def face_overlap(maps: np.ndarray, cues: np.ndarray, regions: np.ndarray) -> Overlap:
    """How much of each map lies on the face's cue, against a uniform map.

    A position's weight is spread over the pixels that are nearest to it.

    Args:
        maps: (clip, S, H, W), at least 0.
        cues: bool (clip, frame, height, width).
        regions: int (frame, height, width), the position of each pixel.
    """
    n_positions = maps[0].size
    n_pixels = np.bincount(regions.ravel(), minlength=n_positions)
    cue_share = np.stack(
        [np.bincount(regions[cue], minlength=n_positions) / np.maximum(n_pixels, 1) for cue in cues]
    )
    weights = maps.reshape(len(maps), -1)
    found = (weights * cue_share).sum(axis=1) / weights.sum(axis=1)
    return Overlap(found, cue_share.mean(axis=1))


def voice_overlap(maps: np.ndarray, cues: np.ndarray) -> Overlap:
    """How much of each map lies in the voice's stretch, against the other clips' stretches.

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
    return Overlap(own, (found.sum(axis=1) - own) / (len(found) - 1))


def hits(named: Overlap, other: Overlap) -> np.ndarray:
    """Whether each clip's map prefers the part that the voice names to the other, bool (clip,).

    Each part's share of the map counts by what a uniform map would have there.
    """
    return named.found / named.by_chance > other.found / other.by_chance


def hit_rate(hit: np.ndarray, actor: np.ndarray) -> dict[str, float | int]:
    """How many of all maps hit, in percent, with its 95 % interval over actors."""
    by_actor = pd.Series(hit).groupby(actor).agg(["sum", "count"])
    low, high = actor_interval(by_actor["sum"], by_actor["count"])
    return {
        "hit_pct": 100 * float(hit.mean()),
        "ci_low_pct": 100 * low,
        "ci_high_pct": 100 * high,
        "n_clips": len(hit),
        "n_actors": len(by_actor),
    }


def lift(overlap: Overlap, actor: np.ndarray) -> dict[str, float | int | str]:
    """The lift of all clips, its 95 % interval over actors, and what that says of chance."""
    by_actor = pd.DataFrame(vars(overlap)).groupby(actor).sum()
    low, high = actor_interval(by_actor["found"], by_actor["by_chance"])
    verdict = "above" if low > 1 else "below" if high < 1 else "at"
    return {
        "lift": float(overlap.found.sum() / overlap.by_chance.sum()),
        "ci_low": low,
        "ci_high": high,
        "against_chance": verdict if len(by_actor) > 1 else "",
        "n_clips": len(overlap.found),
        "n_actors": len(by_actor),
    }
