"""What notebook 04 tells: every run that there is, looked into once."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from dask.system import cpu_count
from tqdm import tqdm

from cfnsr import InputError
from cfnsr.attention import deletion, localisation
from cfnsr.attention.deletion import Curves
from cfnsr.attention.maps import (
    Gate,
    Maps,
    Modality,
    audio_axis,
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
from cfnsr.data.synthetic.design import PARTS, Part, takes_of
from cfnsr.evaluation.uncertainty import ratio
from cfnsr.models.registry import REFERENCE, find, reported
from cfnsr.params import Params
from cfnsr.training.runs import read_info, run_folder
from cfnsr.training.trained import Trained, Viewed, load_trained

T = TypeVar("T")
Found = TypeVar("Found")

#: Each of them holds the clips of a run.
_MOST_THREADS = 4
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
        folders: dict[str, list[Path]] = {}
        for row in reported(settings.row, settings.seeds):
            for fold, seed in product(settings.folds, find(row).seeds(settings.seeds)):
                folder = run_folder(runs, row, fold, seed)
                if folder.is_dir():
                    folders.setdefault(row, []).append(folder)
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
            if folder.match(f"fold_{fold or '*'}/*/seed_{seed or '*'}"):
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

    `index`, `arrays`, which the network is given, unscaled, and `maps` are of these clips.
    """

    trained: Trained
    positions: np.ndarray
    index: pd.DataFrame
    arrays: Arrays
    maps: Maps
    located: Sequence["Located"]

    @classmethod
    def at(cls, study: Study, folder: Path) -> "Look":
        trained = load_trained(folder)
        positions = trained.test_positions(study.clips)
        arrays = trained.arrays(study.clips, positions)
        view = trained.view(arrays)
        maps = read_maps(view, arrays)
        index = study.clips.index.iloc[positions].reset_index(drop=True)
        located = located_maps(view, arrays, maps)
        return cls(trained, positions, index, arrays, maps, located)

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
    """One map of a run's test clips, (clip, position), which sums to one over a clip.

    `regions` is the position that is nearest to each pixel, int (frame, S, S), of a map of the
    face, or to each MFCC vector, int (time,), of one of the voice.
    """

    name: str
    modality: Modality
    values: np.ndarray
    regions: np.ndarray

    @classmethod
    def of(
        cls, trained: Trained, arrays: Arrays, name: str, modality: Modality, map_: np.ndarray
    ) -> "Located":
        """Of a map (clip, S, H, W) or (clip, token), at least 0."""
        model: Any = trained.model
        if modality == "video":
            regions = video_regions(trained, map_.shape[1:])
        else:
            regions = audio_axis(model.audio).nearest(map_.shape[1], arrays["mfcc"].shape[2])
        return cls(name, modality, normalised(map_).reshape(len(map_), -1), regions)


def located_maps(view: Viewed, arrays: Arrays, found: Maps) -> list[Located]:
    """Every map of places in frames or MFCCs, face first: the network's own, then Grad-CAM."""
    trained, attention = view.trained, found.self_attention
    maps: list[tuple[str, Modality, np.ndarray | None]] = []
    if hasattr(trained.model, "video"):
        cam = grad_cam(view, arrays, "video", found.predicted)
        maps += [
            ("cross-modal, face", "video", found.cross_modal),
            ("Grad-CAM, face", "video", cam),
        ]
    if hasattr(trained.model, "audio"):
        cam = grad_cam(view, arrays, "audio", found.predicted)
        rolled = None if attention is None else rollout(attention)[:, -1]
        maps += [
            ("rollout, voice", "audio", rolled),
            ("cross-modal, voice", "audio", found.cross_modal_audio),
            ("Grad-CAM, voice", "audio", cam),
        ]
    return [
        Located.of(trained, arrays, name, modality, map_)
        for name, modality, map_ in maps
        if map_ is not None
    ]


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


@dataclass(frozen=True, eq=False)
class _LookedInto:
    """What one run says, of which a survey is made; `overlaps` are of each of its maps."""

    row: str
    fold: int
    outcomes: pd.DataFrame
    gates: tuple[Gate, ...]
    overlaps: list[pd.DataFrame]


def _in_threads(work: Callable[[T], Found], of: Sequence[T], what: str) -> list[Found]:
    """What `work` finds of each run, in their order; torch computes in several threads at once.

    Nothing of it may draw from torch's generator.
    """
    n_threads = min(max(cpu_count() // torch.get_num_threads(), 1), _MOST_THREADS)
    with ThreadPoolExecutor(n_threads) as threads:
        found = threads.map(work, of)
        return list(tqdm(found, total=len(of), desc=what, unit="run", mininterval=5))


def survey_runs(
    study: Study, chosen: str, noisy_clips: Mapping[float, Clips], clip_root: Path, seed: int
) -> Survey:
    """Look into every run once.

    Args:
        chosen: the row whose maps are also those of an untrained network: what these find of
            the cue is no merit of the training (Adebayo et al. 2018).
        noisy_clips: see `reliance.with_noise`.
        clip_root: the folder with the control's landmarks; not read for other data.
    """
    cues = None if study.settings.drawn is None else _Cues(study, clip_root)
    # Before the threads: weights are drawn from the one generator that all threads share.
    untrained = {
        folder: load_trained(folder).untrained() for folder in study.folders[chosen] if cues
    }

    def look_into(run: tuple[str, Path]) -> _LookedInto:
        row, folder = run
        trained = load_trained(folder)
        positions = study.chosen(trained.info)
        arrays = trained.arrays(study.clips, positions)
        view = trained.view(arrays)
        silence = trained.silence(study.clips)
        outcomes = outcomes_of_run(view, study.clips, positions, noisy_clips, silence, seed)
        found = read_maps(view, arrays)
        overlaps = []
        if cues is not None:
            label = find(row).label
            maps = {label: located_maps(view, arrays, found)}
            if folder in untrained:
                fresh = untrained[folder].view(arrays)
                maps[f"{label}, untrained"] = located_maps(fresh, arrays, read_maps(fresh, arrays))
            overlaps = [
                cues.overlap(trained, map_, positions).assign(
                    row=row, label=name, map=map_.name, run=str(folder)
                )
                for name, of in maps.items()
                for map_ in of
            ]
        return _LookedInto(row, trained.info["fold"], outcomes, found.gates, overlaps)

    runs = [(row, folder) for row, folders in study.folders.items() for folder in folders]
    looked_into = _in_threads(look_into, runs, "runs")
    outcomes: dict[str, list[pd.DataFrame]] = {}
    gates: dict[str, tuple[Gate, ...]] = {}
    gate_folds = set()
    for looked in looked_into:
        outcomes.setdefault(looked.row, []).append(looked.outcomes)
        label = find(looked.row).label
        if looked.gates and label not in gates:
            gates[label] = looked.gates
            gate_folds.add(looked.fold)
    overlaps = [clips for looked in looked_into for clips in looked.overlaps]
    pointed = [clips for clips in overlaps if "hit" in clips]
    return Survey(
        summarise(outcomes),
        _by_map(overlaps, localisation.lift).reindex(columns=list(LOCALISATION_COLUMNS)),
        _by_map(pointed, localisation.hit_rate),
        gates,
        sorted(gate_folds),
    )


def _by_map(
    overlaps: Sequence[pd.DataFrame], summary: Callable[[pd.DataFrame], Mapping[str, Any]]
) -> pd.DataFrame:
    """A line a row, label and map, over all its runs' clips."""
    names = ["row", "label", "map"]
    groups = pd.concat(overlaps).groupby(names, sort=False) if overlaps else ()
    return pd.DataFrame(
        {
            **dict(zip(names, of, strict=True)),
            **summary(clips),
            "n_clips": len(clips),
            "n_actors": clips["actor"].nunique(),
            "n_runs": clips["run"].nunique(),
        }
        for of, clips in groups
    )


def cams(study: Study, like: Look) -> dict[str, Located]:
    """Grad-CAM of every row that sees, by label, on the clips of a look.

    The rows' runs of the same fold and seed are taken.
    """
    alike = "fold_{fold}/*/seed_{seed}".format_map(like.trained.info)

    def cam(run: tuple[str, Path]) -> tuple[str, Located]:
        row, folder = run
        trained = load_trained(folder)
        arrays = trained.arrays(study.clips, like.positions)
        view = trained.view(arrays)
        map_ = grad_cam(view, arrays, "video", view.logits(arrays).argmax(axis=1))
        return find(row).label, Located.of(trained, arrays, "Grad-CAM, face", "video", map_)

    runs = [
        (row, folder)
        for row, folders in study.folders.items()
        for folder in folders
        if folder.match(alike) and "frames" in find(row).inputs
    ]
    return dict(_in_threads(cam, runs, "Grad-CAM"))


class _Cues:
    """What the drawn clips of a study show, and where."""

    def __init__(self, study: Study, clip_root: Path) -> None:
        assert study.settings.drawn is not None
        self._clips = study.settings.drawn
        self._preprocess = study.settings.source.preprocess
        self._actor = study.clips.index["actor"].to_numpy()
        self._takes = takes_of(study.clips.index["clip"], self._clips)
        self._folder = clip_root / "landmarks"
        self._landmarks_name = study.settings.corpus.landmarks_name
        self._faces: dict[int, dict[Part, np.ndarray]] = {}

    def overlap(self, trained: Trained, map_: Located, positions: np.ndarray) -> pd.DataFrame:
        """Of a map and what each clip shows: found, by_chance, actor.

        Of a face also hit, if the voice names a part of it: then this part is the cue.
        """
        if map_.modality == "video":
            named, other = zip(*map(self._face, positions), strict=True)
            found = localisation.face_overlap(map_.values, np.stack(named), map_.regions)
            if other[0] is not None:
                apart = localisation.face_overlap(map_.values, np.stack(other), map_.regions)
                found["hit"] = localisation.hits(found, apart)
        else:
            model: Any = trained.model
            axis = audio_axis(model.audio)
            times_s = token_times_s(axis, map_.values.shape[1], self._preprocess)
            step_s = axis.step * HOP / self._preprocess.sample_rate_hz
            takes = [self._takes[position] for position in positions]
            voices = localisation.voice_cues(takes, self._clips, times_s, step_s)
            found = localisation.voice_overlap(map_.values, voices)
        return found.assign(actor=self._actor[positions])

    def _face(self, position: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Where a clip's cue is, and the part that the voice does not name if it names one."""
        take = self._takes[position]
        # Most clips are looked at by several rows, and some by none.
        if position not in self._faces:
            landmarks = read_landmarks(self._folder / f"{self._landmarks_name(take)}.csv").points
            self._faces[position] = localisation.face_cues(landmarks, self._preprocess)
        upper, lower = (self._faces[position][part] for part in PARTS)
        named = design.cue(take, self._clips).points_to
        if named is None:
            return upper | lower, None
        return (upper, lower) if named == "upper" else (lower, upper)


@dataclass(frozen=True, eq=False)
class Effect:
    """Deletion and insertion curves of one row over all its runs, by the map's name."""

    curves: Mapping[str, Curves]
    gains: pd.DataFrame


def measure_effect(study: Study, row: str, seed: int) -> Effect:
    """Hide what each map of a row's runs ranks first, on their test clips."""

    def curves_of(folder: Path) -> tuple[np.ndarray, dict[str, Curves]]:
        trained = load_trained(folder)
        positions = study.chosen(trained.info)
        arrays = trained.arrays(study.clips, positions)
        view = trained.view(arrays)
        maps = located_maps(view, arrays, read_maps(view, arrays))
        silence = trained.silence(study.clips)
        found: dict[str, Curves] = {}
        for modality, group in groupby(maps, key=lambda map_: map_.modality):
            alike = list(group)
            regions, (n_clips, n_regions) = alike[0].regions, alike[0].values.shape
            score = deletion.score_of(view, arrays, silence, modality, regions)
            area = np.bincount(regions.ravel(), minlength=n_regions)
            random = deletion.random_scores(score, n_clips, area, seed)
            found |= {m.name: deletion.curves(score, m.values, area, random, seed) for m in alike}
        return positions, found

    chosen, runs = zip(*_in_threads(curves_of, study.folders[row], "deletion"), strict=True)
    curves = {name: Curves.joined([run[name] for run in runs]) for name in runs[0]}
    actor = study.clips.index["actor"].to_numpy()[np.concatenate(chosen)]
    counts = len(actor), len(np.unique(actor)), len(runs)
    lines = []
    for name, joined in curves.items():
        gains = {"deletion": joined.deletion_gain, "insertion": joined.insertion_gain}
        for area_of, gain in gains.items():
            lines.append((name, area_of, *ratio(gain, np.ones(len(gain)), actor), *counts))
    return Effect(curves, pd.DataFrame(lines, columns=list(GAIN_COLUMNS)))
