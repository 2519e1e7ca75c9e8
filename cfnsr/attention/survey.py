"""What notebook 04 tells: every run that there is, looked into once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cfnsr.attention import deletion
from cfnsr.attention.deletion import Curves
from cfnsr.attention.localisation import (
    Overlap,
    face_cue,
    face_overlap,
    hit_rate,
    hits,
    lift,
    voice_cues,
    voice_overlap,
)
from cfnsr.attention.maps import (
    Gate,
    Maps,
    Modality,
    audio_axis,
    audio_regions,
    grad_cam,
    normalised,
    read_maps,
    rollout,
    token_times_s,
    video_regions,
)
from cfnsr.attention.reliance import outcomes_of_run, summarise
from cfnsr.data.audio import HOP
from cfnsr.data.clips import Arrays, Clips
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.synthetic import design
from cfnsr.data.synthetic.cues import PARTS, takes_of
from cfnsr.errors import InputError
from cfnsr.models.registry import REFERENCE, find, reported
from cfnsr.params import Params
from cfnsr.training.runs import read_info, run_folder
from cfnsr.training.trained import Trained, Viewed, load_trained

LOCALISATION_COLUMNS = (
    "row",
    "label",
    "map",
    "lift",
    "ci_low",
    "ci_high",
    "against_chance",
    "n_clips",
    "n_actors",
    "n_runs",
)
POINTING_COLUMNS = (
    "row",
    "label",
    "map",
    "hit_pct",
    "ci_low_pct",
    "ci_high_pct",
    "n_clips",
    "n_actors",
    "n_runs",
)
GAIN_COLUMNS = ("map", "area", "mean", "ci_low", "ci_high", "n_clips", "n_actors", "n_runs")


@dataclass(frozen=True, eq=False)
class Study:
    """The runs that params.yaml asks for and that exist, with their clips.

    `folders` are the runs' folders by row, in fold and seed order. Of each row's test clips
    `n_clips` are looked at, evenly from its folds and spread over their actors; 0 are all. The
    seeds of a fold look at the same ones.
    """

    settings: Params
    clips: Clips
    folders: Mapping[str, Sequence[Path]]
    n_clips: int

    @classmethod
    def open(cls, settings: Params, clips: Clips, runs: Path, n_clips: int) -> "Study":
        """Find the runs below `runs/<data>/<protocol>`.

        Raises:
            InputError: there is none.
        """
        found = {
            row: [
                folder
                for fold in settings.folds
                for seed in find(row).seeds(settings.seeds)
                if (folder := run_folder(runs, row, fold, seed)).is_dir()
            ]
            for row in reported(settings.row, settings.seeds)
        }
        folders = {row: paths for row, paths in found.items() if paths}
        if not folders:
            raise InputError(f"no runs in {runs}; train them with `dvc repro`")
        return cls(settings, clips, folders, n_clips)

    def choose(self, row: str, fold: int, seed: int) -> Path:
        """The run to look at: what is asked for, or the next best that there is.

        Args:
            row: empty is the row of params.yaml, CFN-SR where that is `all`.
            fold, seed: 0 is the first of params.yaml.

        Raises:
            InputError: there is no such row, or it has no such fold or seed.
        """
        name = row or (REFERENCE if self.settings.row == "all" else self.settings.row)
        name = find(name).alias or name
        if name not in self.folders and not row:
            name = next(iter(self.folders))
        of_row = self.folders.get(name, ())
        for folder in of_row:
            if (not fold or folder.parents[1].name == f"fold_{fold}") and (
                not seed or folder.name == f"seed_{seed}"
            ):
                return folder
        there = ", ".join(f"{path.parents[1].name}/{path.name}" for path in of_row) or "nothing"
        raise InputError(
            f"{name} has no run of fold {fold or 'any'} and seed {seed or 'any'}; found {there} "
            "(rows: " + ", ".join(self.folders) + ")"
        )

    def chosen(self, info: Mapping[str, Any]) -> np.ndarray:
        """Positions of the test clips of a run that are looked at.

        Args:
            info: its run.json.
        """
        test = self.clips.of_actors(info["actors"]["test"])
        n_folds = len({folder.parent for folder in self.folders[info["row"]]})
        n = min(-(-self.n_clips // n_folds) or len(test), len(test))
        return test[np.linspace(0, len(test) - 1, n).round().astype(int)]

    @property
    def looked_at(self) -> np.ndarray:
        """Positions of all clips that are looked at, in any run."""
        return np.unique(np.concatenate([self.chosen(info) for info in self._infos]))

    @property
    def extent(self) -> str:
        """How many of the test clips are looked at, for a title."""
        tested = [self.clips.of_actors(info["actors"]["test"]) for info in self._infos]
        n_clips, n_all = len(self.looked_at), len(np.unique(np.concatenate(tested)))
        return f"all {n_all} test clips" if n_clips == n_all else f"{n_clips} of {n_all} test clips"

    @cached_property
    def _infos(self) -> list[dict[str, Any]]:
        """run.json of every run; read once, since every title asks for it."""
        return [read_info(folder) for folders in self.folders.values() for folder in folders]


@dataclass(frozen=True, eq=False)
class Look:
    """One run, and what it attends to on all of its test clips.

    `index`, `pictures` (clip, frame, S, S, channel), `arrays`, which the network is given,
    unscaled, and `maps` are of these clips.
    """

    folder: Path
    trained: Trained
    positions: np.ndarray
    index: pd.DataFrame
    pictures: np.ndarray
    arrays: Arrays
    maps: Maps
    located: Sequence["Located"]

    @classmethod
    def at(cls, study: Study, folder: Path) -> "Look":
        trained = load_trained(folder)
        positions = trained.test_positions(study.clips)
        pictures = study.clips.frames[positions]
        arrays = trained.arrays(study.clips, positions)
        view = trained.view(arrays)
        maps = read_maps(view, arrays)
        index = study.clips.index.iloc[positions].reset_index(drop=True)
        located = located_maps(view, arrays, maps)
        return cls(folder, trained, positions, index, pictures, arrays, maps, located)

    @property
    def of_face(self) -> "Located | None":
        """The run's own map of the face, else its Grad-CAM, else None."""
        return next((map_ for map_ in self.located if map_.modality == "video"), None)

    @property
    def token_times_s(self) -> np.ndarray:
        """The middle of each audio token, seconds of the clip."""
        model: Any = self.trained.model
        axis = audio_axis(model.audio)
        return token_times_s(axis, model.audio.n_tokens, self.trained.preprocess)


@dataclass(frozen=True, eq=False)
class Located:
    """One map of a run's test clips: (clip, S, H, W) of the face or (clip, token) of the voice.

    Sums to one over a clip.
    """

    name: str
    modality: Modality
    values: np.ndarray


def located_maps(view: Viewed, arrays: Arrays, found: Maps) -> list[Located]:
    """Every map of places in frames or MFCCs, face first: the network's own, then Grad-CAM."""
    model: Any = view.trained.model
    maps = []
    if hasattr(model, "video"):
        if found.cross_modal is not None:
            maps.append(Located("cross-modal, face", "video", found.cross_modal))
        cam = grad_cam(view, arrays, "video", found.predicted)
        maps.append(Located("Grad-CAM, face", "video", cam))
    if hasattr(model, "audio"):
        if found.self_attention is not None:
            rolled = rollout(found.self_attention)[:, -1]
            maps.append(Located("rollout, voice", "audio", rolled))
        if found.cross_modal_audio is not None:
            maps.append(Located("cross-modal, voice", "audio", found.cross_modal_audio))
        cam = grad_cam(view, arrays, "audio", found.predicted)
        maps.append(Located("Grad-CAM, voice", "audio", cam))
    return [Located(m.name, m.modality, normalised(m.values)) for m in maps]


@dataclass(frozen=True, eq=False)
class Survey:
    """Every run under every condition, and its maps against the cue where that is known.

    `pointing` says how often maps of the face prefer the part that the voice names.
    """

    reliance: pd.DataFrame
    localisation: pd.DataFrame
    pointing: pd.DataFrame
    gates: Mapping[str, tuple[Gate, ...]]  # of each row's first run, by label
    gate_folds: Sequence[int]  # which these first runs test


def survey_runs(
    study: Study, chosen: str, noisy_clips: Mapping[float, Clips], clip_root: Path, seed: int
) -> Survey:
    """Look into every run once.

    Args:
        chosen: the row whose maps are also those of an untrained network: what these find of
            the cue is no merit of the training (Adebayo et al. 2018).
        noisy_clips: see `modality_reliance.noisy`.
        clip_root: the folder with the control's landmarks; not read for other data.
    """
    outcomes: dict[str, list[pd.DataFrame]] = {}
    overlaps: dict[tuple[str, str, str], list[tuple[Overlap, np.ndarray]]] = {}
    pointed: dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    gates: dict[str, tuple[Gate, ...]] = {}
    gate_folds = set()
    cues = _Cues(study, clip_root) if study.settings.drawn is not None else None
    actor = study.clips.index["actor"].to_numpy()
    folders = [(row, folder) for row, paths in study.folders.items() for folder in paths]
    for row, folder in tqdm(folders, desc="runs", unit="run", mininterval=5):
        trained = load_trained(folder)
        positions = study.chosen(trained.info)
        arrays = trained.arrays(study.clips, positions)
        view = trained.view(arrays)
        silence = trained.silence(study.clips)
        outcomes.setdefault(row, []).append(
            outcomes_of_run(view, study.clips, positions, noisy_clips, silence, seed)
        )
        found = read_maps(view, arrays)
        label = find(row).label
        if found.gates and label not in gates:
            gates[label] = found.gates
            gate_folds.add(trained.info["fold"])
        maps = {label: located_maps(view, arrays, found)}
        if row == chosen:
            fresh = trained.untrained().view(arrays)
            maps[f"{label}, untrained"] = located_maps(fresh, arrays, read_maps(fresh, arrays))
        for name, map_ in ((name, map_) for name, of in maps.items() for map_ in of):
            if cues is not None:
                overlap = cues.overlap(trained, map_, positions)
                key = row, name, map_.name
                overlaps.setdefault(key, []).append((overlap, actor[positions]))
                if cues.points and map_.modality == "video":
                    other = cues.overlap(trained, map_, positions, named=False)
                    pointed.setdefault(key, []).append((hits(overlap, other), actor[positions]))
    return Survey(
        summarise(outcomes),
        _localisation(overlaps),
        _pointing(pointed),
        gates,
        sorted(gate_folds),
    )


def cams(
    study: Study, like: Path, positions: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Grad-CAM of every row that sees, on the same clips.

    Args:
        like: a run; the rows' runs of the same fold and seed are taken.
        positions: test clips of that fold.

    Returns:
        By label: the maps (clip, S, H, W), which sum to one, and the position that is nearest to
        each pixel, int (frame, height, width).
    """
    found = {}
    for row, folders in study.folders.items():
        of_fold = [path for path in folders if path.parents[1].name == like.parents[1].name]
        folder = next((path for path in of_fold if path.name == like.name), None)
        if folder is None or not (trained := load_trained(folder)).sees_frames:
            continue
        arrays = trained.arrays(study.clips, positions)
        view = trained.view(arrays)
        target = view.logits(arrays).argmax(axis=1)
        map_ = grad_cam(view, arrays, "video", target)
        regions = video_regions(trained, map_.shape[1:])
        found[find(row).label] = normalised(map_), regions
    return found


class _Cues:
    """What the drawn clips of a study show, and where."""

    def __init__(self, study: Study, clip_root: Path) -> None:
        assert study.settings.drawn is not None
        self._clips = study.settings.drawn
        self._preprocess = study.settings.source.preprocess
        self._takes = takes_of(study.clips.index["clip"], self._clips)
        self._folder = clip_root / "landmarks"
        self._landmarks_name = study.settings.corpus.landmarks_name
        self._faces: dict[tuple[int, bool], np.ndarray] = {}

    @property
    def points(self) -> bool:
        """Whether the voice names a part of the face."""
        return design.cue(self._takes[0], self._clips).points_to is not None

    def overlap(
        self, trained: Trained, map_: Located, positions: np.ndarray, named: bool = True
    ) -> Overlap:
        """Of a map and what each clip shows.

        Args:
            named: of a face, the part that the voice names, or the other one.
        """
        if map_.modality == "video":
            regions = video_regions(trained, map_.values.shape[1:])
            faces = np.stack([self._face(position, named) for position in positions])
            return face_overlap(map_.values, faces, regions)
        model: Any = trained.model
        axis = audio_axis(model.audio)
        times_s = token_times_s(axis, map_.values.shape[1], self._preprocess)
        step_s = axis.step * HOP / self._preprocess.sample_rate_hz
        takes = [self._takes[position] for position in positions]
        voices = voice_cues(takes, self._clips, times_s, step_s)
        return voice_overlap(map_.values, voices)

    def _face(self, position: int, named: bool) -> np.ndarray:
        # Most clips are looked at by several rows, and some by none.
        if (position, named) not in self._faces:
            take = self._takes[position]
            part = design.cue(take, self._clips).points_to
            parts = PARTS if part is None else [each for each in PARTS if (each == part) == named]
            landmarks = read_landmarks(self._folder / f"{self._landmarks_name(take)}.csv").points
            self._faces[position, named] = face_cue(landmarks, self._preprocess, parts)
        return self._faces[position, named]


def _pointing(
    pointed: Mapping[tuple[str, str, str], Sequence[tuple[np.ndarray, np.ndarray]]],
) -> pd.DataFrame:
    lines = [
        {
            "row": row,
            "label": label,
            "map": name,
            **hit_rate(*map(np.concatenate, zip(*runs, strict=True))),
            "n_runs": len(runs),
        }
        for (row, label, name), runs in pointed.items()
    ]
    return pd.DataFrame(lines, columns=list(POINTING_COLUMNS))


def _localisation(
    overlaps: Mapping[tuple[str, str, str], Sequence[tuple[Overlap, np.ndarray]]],
) -> pd.DataFrame:
    lines = [
        {
            "row": row,
            "label": label,
            "map": name,
            **lift(
                Overlap.joined([overlap for overlap, _ in runs]),
                np.concatenate([actor for _, actor in runs]),
            ),
            "n_runs": len(runs),
        }
        for (row, label, name), runs in overlaps.items()
    ]
    return pd.DataFrame(lines, columns=list(LOCALISATION_COLUMNS))


@dataclass(frozen=True, eq=False)
class Effect:
    """Deletion and insertion curves of one row over all its runs, by the map's name."""

    curves: Mapping[str, Curves]
    gains: pd.DataFrame
    hidden: Mapping[str, str]


def measure_effect(study: Study, row: str, seed: int) -> Effect:
    """Hide what each map of a row's runs ranks first, on their test clips."""
    parts: dict[str, list[tuple[Curves, np.ndarray]]] = {}
    hidden = {}
    for folder in tqdm(study.folders[row], desc="deletion", unit="run", mininterval=5):
        trained = load_trained(folder)
        positions = study.chosen(trained.info)
        arrays = trained.arrays(study.clips, positions)
        actor = study.clips.index["actor"].to_numpy()[positions]
        view = trained.view(arrays)
        found = read_maps(view, arrays)
        maps = located_maps(view, arrays, found)
        silence = trained.silence(study.clips)
        for modality in ("video", "audio"):
            of_modality = [map_ for map_ in maps if map_.modality == modality]
            for name, curves in _curves(view, arrays, silence, of_modality, seed):
                parts.setdefault(name, []).append((curves, actor))
                hidden[name] = "of the picture" if modality == "video" else "of the sound"
    lines = []
    for name, runs in parts.items():
        actor = np.concatenate([found for _, found in runs])
        for area in ("deletion", "insertion"):
            gain = np.concatenate([getattr(curves, f"{area}_gain") for curves, _ in runs])
            lines.append(
                {
                    "map": name,
                    "area": area,
                    **deletion.by_actor(gain, actor),
                    "n_clips": len(gain),
                    "n_actors": len(np.unique(actor)),
                    "n_runs": len(runs),
                }
            )
    joined = {name: Curves.joined([curves for curves, _ in runs]) for name, runs in parts.items()}
    return Effect(joined, pd.DataFrame(lines, columns=list(GAIN_COLUMNS)), hidden)


def _curves(
    view: Viewed,
    arrays: Arrays,
    silence: Arrays,
    maps: Sequence[Located],
    seed: int,
) -> Iterable[tuple[str, Curves]]:
    """Curves of maps of one modality."""
    if not maps:
        return
    trained, values = view.trained, maps[0].values
    if maps[0].modality == "video":
        regions = video_regions(trained, values.shape[1:])
        score = deletion.video_score(view, arrays, silence, regions)
    else:
        regions = audio_regions(trained, values.shape[1], arrays["mfcc"].shape[2])
        score = deletion.audio_score(view, arrays, silence, regions)
    n_clips, n_regions = values.reshape(len(values), -1).shape
    area = np.bincount(regions.ravel(), minlength=n_regions)
    by_chance = deletion.random_scores(score, n_clips, area, seed)
    for map_ in maps:
        flat = map_.values.reshape(n_clips, n_regions)
        yield map_.name, deletion.curves(score, flat, area, by_chance, seed)
