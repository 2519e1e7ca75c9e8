"""Which modality does a system rely on? Its accuracy as one is silenced, swapped or spoilt.

`silenced`: replaced by the mean of all test clips, so it is there, and says nothing of this clip.
`swapped`: replaced by that of another test clip, of another emotion. `noise`: white noise is added
to the waveform, and the MFCCs are computed from that. `frames dropped`: the last frame before
stands for one that is lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cfnsr import InputError
from cfnsr.data import audio, preprocess
from cfnsr.data.clips import Arrays, Clips
from cfnsr.evaluation.uncertainty import ratio
from cfnsr.models.registry import find
from cfnsr.params import Preprocess
from cfnsr.training.trained import Viewed

SNR_DB = (20.0, 10.0, 0.0, -10.0)
DROPPED_PCT = (25.0, 50.0, 75.0)


def media_of(index: pd.DataFrame, manifest: pd.DataFrame, root: Path) -> list[Path]:
    """The media file of each clip of the index.

    Raises:
        InputError: one is no longer there; preprocessing was done from it.
    """
    by_hash = dict(zip(manifest["media_sha256"], manifest["media"], strict=True))
    clips = zip(index["clip"], index["media_sha256"], strict=True)
    paths = [root / by_hash.get(sha256, clip) for clip, sha256 in clips]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"{path} is gone, and noise is added to its waveform; run `dvc repro -f dataset`"
            )
    return paths


def with_noise(
    clips: Clips,
    media: Sequence[Path],
    positions: np.ndarray,
    settings: Preprocess,
    seed: int,
    snr_db: Sequence[float] = SNR_DB,
) -> dict[float, Clips]:
    """The clips with white noise in the sound of some, by signal-to-noise ratio in dB.

    Noise has the power of the analysed window over the ratio. The same noise serves all ratios.

    Args:
        media: the file of each clip, (clip,), see `media_of`.
        positions: of the clips that get noise; the others' sound is nan.
    """
    mfcc = {snr: np.full_like(clips.mfcc, nan) for snr in snr_db}
    log_mel = {snr: np.full_like(clips.log_mel, nan) for snr in snr_db}
    for i in tqdm(positions, desc="noise", unit="clip", mininterval=5):
        window = audio.read_window(media[i], settings)
        noise = np.random.default_rng([seed, i]).standard_normal(len(window), np.float32)
        for snr in snr_db:
            spoilt = window + noise * np.sqrt(np.mean(window**2) / 10 ** (snr / 10))
            heard = preprocess.sound_arrays(spoilt.astype(np.float32), settings)
            mfcc[snr][i], log_mel[snr][i] = heard["mfcc"], heard["log_mel"]
    return {snr: replace(clips, mfcc=mfcc[snr], log_mel=log_mel[snr]) for snr in snr_db}


def drop_frames(pictures: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Lose that share of each clip's frames at random, never the first; the one before stays.

    Args:
        pictures: (clip, frame, ...).
    """
    n_clips, n_frames = pictures.shape[:2]
    n_lost = min(round(share * n_frames), n_frames - 1)
    order = rng.random((n_clips, n_frames - 1)).argsort(axis=1).argsort(axis=1)
    lost = np.column_stack([np.zeros(n_clips, bool), order < n_lost])
    shown = np.maximum.accumulate(np.where(lost, 0, np.arange(n_frames)), axis=1)
    return pictures[np.arange(n_clips)[:, None], shown]


def donors(emotion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each clip, the position of one of another emotion, drawn at random.

    Raises:
        InputError: all clips have one emotion.
    """
    if len(np.unique(emotion)) < 2:
        raise InputError("a swap needs test clips of two emotions; found one")
    return np.array([rng.choice(np.flatnonzero(emotion != own)) for own in emotion])


def outcomes_of_run(
    view: Viewed,
    clips: Clips,
    positions: np.ndarray,
    noisy_clips: Mapping[float, Clips],
    silence: Arrays,
    seed: int,
) -> pd.DataFrame:
    """What one run says of each of its test clips under every condition that concerns it.

    Args:
        view: of the clips at `positions`, which are test clips of its run.
        noisy_clips: all clips with noise in their sound, by the ratio in dB; see `with_noise`.

    Returns:
        Columns condition, level (dB or % of the frames, nan where there is none), clip, actor,
        correct, follows (says the emotion of the swapped-in modality; nan elsewhere), weight.
    """
    trained, row = view.trained, view.trained.row
    emotion = clips.emotion[positions]
    rng = np.random.default_rng([seed, trained.info["fold"]])
    donor = donors(emotion, rng)
    arrays = trained.arrays(clips, positions)

    def answers() -> Iterator[tuple[str, float, np.ndarray]]:
        """Condition, level and logits."""
        yield "intact", nan, view.logits(arrays)
        for modality, names in (("video", row.of_face), ("audio", row.of_voice)):
            if not names:
                continue
            silent = {name: np.broadcast_to(silence[name], arrays[name].shape) for name in names}
            swapped = {name: arrays[name][donor] for name in names}
            unseen, other = view, view
            if "frames" in names:
                nobody = {"frames": silence["frames"][None]}  # one picture stands for all
                unseen = trained.view(nobody).at(np.zeros(len(positions), int))
                other = view.at(donor)
            yield f"{modality} silenced", nan, unseen.logits({**arrays, **silent})
            yield f"{modality} swapped", nan, other.logits({**arrays, **swapped})
            if "frames" in names:
                for lost_pct in DROPPED_PCT:
                    dropped = {"frames": drop_frames(arrays["frames"], lost_pct / 100, rng)}
                    yield "frames dropped", lost_pct, trained.logits({**arrays, **dropped})
            if modality == "audio":
                for snr, spoilt in noisy_clips.items():
                    noisy = spoilt.arrays(names, positions)
                    yield "audio noise", snr, view.logits({**arrays, **noisy})

    index = clips.index.iloc[positions][["clip", "actor"]].reset_index(drop=True)
    tables = []
    for condition, level, logits in answers():
        says = logits.argmax(axis=1)
        follows = says == emotion[donor] if condition.endswith("swapped") else nan
        table = index.assign(
            condition=condition, level=level, correct=says == emotion, follows=follows
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True).assign(weight=1 / len(positions))


def summarise(outcomes_by_row: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """One line a row, condition and level, with its interval; a row's runs count alike.

    `change_pct` is the accuracy minus the intact one, its interval that of the paired difference.
    """
    lines = []
    for row, runs in outcomes_by_row.items():
        table = pd.concat([run.assign(run=i) for i, run in enumerate(runs)], ignore_index=True)
        table["weight"] /= len(runs)
        intact = table[table["condition"] == "intact"].set_index(["run", "clip"])["correct"]
        for (condition, level), part in table.groupby(
            ["condition", "level"], sort=False, dropna=False
        ):
            before = intact.loc[pd.MultiIndex.from_frame(part[["run", "clip"]])].to_numpy()
            weight = part["weight"].to_numpy()
            right = weight * part["correct"].to_numpy()
            accuracy, low, high = ratio(right, weight, part["actor"])
            change, change_low, change_high = ratio(right - weight * before, weight, part["actor"])
            lines.append(
                {
                    "row": row,
                    "label": find(row).label,
                    "condition": condition,
                    "level": level,
                    "accuracy_pct": 100 * accuracy,
                    "ci_low_pct": 100 * low,
                    "ci_high_pct": 100 * high,
                    "change_pct": 100 * change,
                    "change_low_pct": 100 * change_low,
                    "change_high_pct": 100 * change_high,
                    "follows_pct": 100 * float((weight * part["follows"]).sum(skipna=False)),
                    "n_clips": part["clip"].nunique(),
                    "n_actors": part["actor"].nunique(),
                    "n_runs": len(runs),
                }
            )
    return pd.DataFrame(lines)
