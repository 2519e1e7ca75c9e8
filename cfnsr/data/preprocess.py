"""A folder of clips to arrays that can be memory-mapped, in parallel, resumable clip by clip.

build/<data>/arrays/
    index.csv      one line a clip: names, labels, sha256 of its files; the arrays' row order
    rejected.csv   the files that cannot be used, and why
    settings.json  what the arrays were made with
    *.npy          frames, mfcc, log_mel, landmark_statistics, motion and segment_mel, see
                   `cfnsr.data.clips.Clips`
    faces.csv      of the clips whose landmarks were looked for, by actor: in how many frames a face
                   was looked for and seen
"""

import hashlib
import json
import shutil
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from cfnsr import InputError, cluster
from cfnsr.data import audio, landmark_detection, motion, segments, summary, video
from cfnsr.data.corpora import Corpus, Take, recorded
from cfnsr.data.drawing import draw_faces
from cfnsr.data.files import is_whole, replacing, turn, writing
from cfnsr.data.landmarks import check_duration, read_landmarks
from cfnsr.data.media import Clip, Kind, opened, pictures
from cfnsr.params import Params, Preprocess

#: Raise it when the arrays change for equal settings, so that half-done work is not mixed in.
VERSION = 4
#: Of a finished clip whose landmarks were looked for: in how many frames, and seen in how many.
_LOOKS = "face_looks"


@dataclass(frozen=True)
class Job:
    """One clip: where its files are and where its arrays go, see `preprocess_clip`."""

    media: Path
    landmarks: Path | None
    result: Path
    settings: Preprocess
    draws_landmarks: bool


def preprocess_clip(
    media: Path,
    landmarks: Path | None,
    settings: Preprocess,
    draws_landmarks: bool,
) -> dict[str, np.ndarray]:
    """One clip's arrays, by their names in `Clips`.

    Args:
        landmarks: their table; without one they are looked for in the film.

    Raises:
        InputError: the clip cannot be used.
    """
    arrays: dict[str, np.ndarray] = {}
    tracked = None if landmarks is None else read_landmarks(landmarks)
    with opened(media) as clip:
        waveform, rate_hz = audio.decode(clip)
        duration_s = len(waveform) / rate_hz
        window = audio.cut_window(media.name, waveform, rate_hz, settings)
        if draws_landmarks and tracked is not None:
            check_duration(tracked, duration_s)
        kinds: list[Kind] = ["sound"] if draws_landmarks else ["picture", "sound"]
        if missing := mostly_missing(clip, kinds, 0.0, clip.duration_s, settings):
            raise InputError(
                f"{media.name} lacks most of its {missing[0]}; fetch or export it again"
            )
        if tracked is None:
            n_frames = len(clip.need("picture").starts_s)
            found = landmark_detection.find_landmarks(partial(pictures, clip), n_frames)
            arrays[_LOOKS] = np.array([found.n_looks, found.n_seen])
        points = found.points if tracked is None else tracked.points
        arrays |= sound_arrays(window, settings)
        shown_s = video.landmark_times(len(points), duration_s, clip.picture)
        arrays |= track_arrays(points, shown_s, settings)
        if draws_landmarks:
            chosen = video.choose_shown(clip.picture, 0, len(points), settings, duration_s)
            arrays["frames"] = draw_faces(points[chosen], settings)
        else:
            arrays["frames"] = video.crop_faces(clip, points, settings, duration_s)
    check_finite(media.name, arrays)
    return arrays


def mostly_missing(
    clip: Clip, kinds: Collection[Kind], start_s: float, end_s: float, settings: Preprocess
) -> list[Kind]:
    """Which of these tracks a clip lacks in more than half of a stretch.

    Of the sound, of that part of it which is analysed.
    """
    heard_s = start_s + settings.offset_s
    stretches: dict[Kind, tuple[float, float]] = {
        "picture": (start_s, end_s),
        "sound": (heard_s, min(heard_s + settings.duration_s, clip.duration_s)),
    }
    found = {kind: clip.tracks[kind] for kind in kinds if kind in clip.tracks}
    return [kind for kind, of in found.items() if of.missing_share(*stretches[kind]) > 0.5]


def check_finite(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Refuse a clip, by an `InputError`, whose arrays are not all finite numbers."""
    for of, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(
                f"{name}: its {of} would not be finite numbers; look at its sound and landmarks"
            )


def sound_arrays(window: np.ndarray, settings: Preprocess) -> dict[str, np.ndarray]:
    """What a network hears: `mfcc`, `log_mel` and segments, by their names in `Clips`.

    Args:
        window: float32 samples of the analysed sound at the settings' rate.
    """
    log_mel = audio.log_mel(window, settings.sample_rate_hz)
    mfcc = audio.mfcc(log_mel, settings.n_mfcc)
    arrays = {"mfcc": mfcc, "log_mel": log_mel.astype(np.float16)}
    if settings.frame_choice == "segments":
        arrays["segment_mel"] = segments.segment_mel(window, settings).astype(np.float16)
    return arrays


def track_arrays(
    points: np.ndarray, shown_s: np.ndarray, settings: Preprocess
) -> dict[str, np.ndarray]:
    """How a face moves: `landmark_statistics` and `motion`, by their names in `Clips`.

    Args:
        points: (frame, 68, 2), pixels.
        shown_s: (frame,), the middle of each frame, from the start of the stretch.
    """
    tracks = motion.tracks(points)
    return {
        "landmark_statistics": summary.landmark_statistics(tracks),
        "motion": motion.on_the_clock(tracks, shown_s, settings),
    }


def preprocess(
    manifest: pd.DataFrame,
    root: Path,
    output: Path,
    params: Params,
    settings: Preprocess,
    scratch: Path,
) -> pd.DataFrame:
    """Preprocess every clip of a manifest and write the arrays to `output`.

    Each finished clip is kept under the hashes of its files, so a run that was stopped, or that
    rejected a clip which is then mended, goes on where it was. A second run with these settings
    waits for the first.

    Args:
        params: of which the data source counts.
        scratch: where finished clips are kept, in a folder of their source and settings.

    Returns:
        The index, one line a usable clip.

    Raises:
        InputError: clips were rejected and `settings.rejected` is `stop` (the usable ones are
            written all the same), none can be used, or the disk is full or read-only.
    """
    made_with = _made_with(params, settings)
    name = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:32]
    with turn(scratch / name) as own, writing(output):
        output.mkdir(parents=True, exist_ok=True)
        files: list[Any] = list(manifest.itertuples())
        has_landmarks = params.corpus.has_landmarks
        jobs = [
            Job(
                root / file.media,
                root / file.landmarks if has_landmarks or file.landmarks_sha256 else None,
                own / f"{_key(file)}.npz",
                settings,
                params.draws_landmarks,
            )
            for file in files
        ]
        if any(job.landmarks is None for job in jobs) and not landmark_detection.is_installed():
            raise InputError(
                f"{params.corpus.name} comes without landmarks: install what finds them with "
                f"`make landmarks`, or put OpenFace's tables into {root / 'landmarks'}, such as "
                f"{Path(files[0].landmarks).name}, and run `dvc repro -f dataset`"
            )
        takes: dict[int, Take] = {}
        problems: dict[int, str] = {}
        for i, job in enumerate(jobs):
            try:
                takes[i] = params.corpus.read(job.media)
            except InputError as error:
                problems[i] = str(error)
        problems |= _run({i: jobs[i] for i in takes})

        index = _index(files, takes, problems, params.corpus)
        rejected = pd.DataFrame(
            [(files[i].media, reason) for i, reason in sorted(problems.items())],
            columns=["media", "reason"],
        )
        # Whoever finds an index trusts what lies beside it.
        (output / "index.csv").unlink(missing_ok=True)
        rejected.to_csv(output / "rejected.csv", index=False, lineterminator="\n")
        (output / "settings.json").write_text(json.dumps(made_with, indent=1) + "\n")
        kept = [job.result for i, job in enumerate(jobs) if i not in problems]
        if kept:
            _assemble(kept, output)
            index.to_csv(output / "index.csv", index=False, lineterminator="\n")
            if any(job.landmarks is None for job in jobs):
                _count_faces(kept, output, index)
        if not kept or (len(rejected) and settings.rejected == "stop"):
            raise InputError(_complaint(rejected, len(files), output))
        shutil.rmtree(own)
    return index


def is_made_with(output: Path, params: Params, settings: Preprocess) -> bool:
    """Whether there are arrays in `output` that were made with these settings."""
    if not (output / "index.csv").exists():
        return False
    there = json.loads((output / "settings.json").read_text())
    return bool(there == _made_with(params, settings))


def _made_with(params: Params, settings: Preprocess) -> dict[str, Any]:
    return {
        "version": VERSION,
        "source": params.data,
        **recorded(params.corpus_name),
        **settings.model_dump(exclude={"rejected"}),
    }


def _run(jobs: dict[int, Job]) -> dict[int, str]:
    """Preprocess all jobs that are not done; the reasons of those that cannot be, by position."""
    todo = [i for i, job in jobs.items() if not is_whole(job.result)]
    finished = cluster.finished(_work, [jobs[i] for i in todo])
    problems = {}
    for n, reason in tqdm(
        finished, total=len(jobs), initial=len(jobs) - len(todo), unit="clip", mininterval=2
    ):
        i = todo[n]
        if isinstance(reason, InputError):
            raise reason  # not of the clip: its arrays cannot be written
        if isinstance(reason, Exception):
            problems[i] = f"{jobs[i].media.name} ended its worker ({reason})"
        elif reason is not None:
            problems[i] = reason
    return problems


def _work(job: Job) -> str | None:
    try:
        arrays = preprocess_clip(job.media, job.landmarks, job.settings, job.draws_landmarks)
    except InputError as error:
        return str(error)
    except Exception as error:  # of whatever kind, it is this clip's, and must not cost the others
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{job.media.name} could not be read ({said})"
    n_bytes = sum(array.nbytes for array in arrays.values())
    with replacing(job.result, n_bytes) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return None


def _key(file: Any) -> str:
    """Of one clip's arrays, among those of its source and settings."""
    what = f"{file.media_sha256} {Path(file.media).stem} {file.landmarks_sha256}"
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _index(
    files: list[Any], takes: dict[int, Take], problems: dict[int, str], corpus: Corpus
) -> pd.DataFrame:
    """Labels of the usable clips; a second file of the same take becomes a problem."""
    lines: dict[str, dict[str, object]] = {}
    for i, take in takes.items():
        if i in problems:
            continue
        file = files[i]
        if take.clip in lines:
            problems[i] = f"{Path(file.media).name} is there twice; keep one of the two"
            continue
        lines[take.clip] = {
            "clip": take.clip,  # the first column
            **asdict(take),
            "emotion": corpus.emotions[take.emotion_index],
            "media_sha256": file.media_sha256,
            "landmarks_sha256": file.landmarks_sha256,
        }
    return pd.DataFrame(list(lines.values()))


def _assemble(results: list[Path], output: Path) -> None:
    """Join the clips' arrays, one clip at a time, so that memory stays flat."""
    n_bytes = sum(path.stat().st_size for path in results)  # not compressed
    with writing(output, n_bytes), ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for path in results:
            with np.load(path) as clip:
                for name in set(clip.files) - {_LOOKS}:
                    array = clip[name]
                    if name not in files:
                        file = stack.enter_context((output / f"{name}.npy").open("wb"))
                        header = np.lib.format.header_data_from_array_1_0(array)
                        header["shape"] = (len(results), *array.shape)
                        np.lib.format.write_array_header_1_0(file, header)
                        files[name] = file
                    files[name].write(array.tobytes())


def _count_faces(results: list[Path], output: Path, index: pd.DataFrame) -> None:
    """By actor, where landmarks were looked for: `actor`, `n_clips`, `n_looks`, `n_seen`."""
    looks = {}
    for i, path in enumerate(results):
        with np.load(path) as clip:
            if _LOOKS in clip:
                looks[i] = clip[_LOOKS]
    if looks:
        counts = pd.DataFrame.from_dict(looks, orient="index", columns=["n_looks", "n_seen"])
        faces = counts.assign(n_clips=1).groupby(index["actor"]).sum()
        faces.to_csv(output / "faces.csv", lineterminator="\n")


def _complaint(rejected: pd.DataFrame, n_files: int, output: Path) -> str:
    lines = [f"  {media}: {reason}" for media, reason in rejected.itertuples(index=False)]
    return (
        f"{len(rejected)} of {n_files} clips cannot be used (listed in {output / 'rejected.csv'}; "
        "the others are kept and are not done again). Mend or remove them and run "
        "`dvc repro -f dataset`, or set preprocess.rejected: skip.\n" + "\n".join(lines)
    )
