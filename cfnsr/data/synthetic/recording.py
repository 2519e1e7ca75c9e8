"""Clips of drawn faces and synthetic voices, in a corpus's own layout: mp4 files with sound."""

import hashlib
import io
import json
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cfnsr import InputError, cluster
from cfnsr.data import corpora
from cfnsr.data.corpora import Take
from cfnsr.data.files import replacing
from cfnsr.data.synthetic import design, faces, voices
from cfnsr.data.synthetic.design import Cue, random_numbers, takes
from cfnsr.data.synthetic.faces import EXPRESSIONS, Array, Expression, Look, composed
from cfnsr.data.synthetic.voices import SAMPLE_RATE_HZ, SPEECH_S, Speaker
from cfnsr.params import DrawnClips

FRAME_RATE_HZ = 15

_N_FRAMES = (47, 55)  # 3.1 to 3.6 s
_STRENGTH = {1: 0.8, 2: 1.1}


def write_clip(root: Path, take: Take, clips: DrawnClips) -> None:
    """Write the take's mp4 and landmark csv under `root`, each whole or not at all.

    Equal arguments give equal bytes with the same libraries on the same kind of processor.

    Raises:
        InputError: the disk is full or read-only.
    """
    shown, look = design.cue(take, clips), _look(take.actor, clips)
    rng = random_numbers(clips, take.clip)
    n_frames = int(rng.integers(*_N_FRAMES))
    time_s = np.arange(n_frames) / FRAME_RATE_HZ
    points = faces.landmarks(look, _expression(shown, time_s, rng))
    performance = list(zip(points, _poses(look, time_s, rng), strict=True))
    pixels = np.stack([faces.place(face, look, pose) for face, pose in performance])
    frames = (faces.paint(look, face, pose) for face, pose in performance)
    waveform = _waveform(take.actor, shown, n_frames / FRAME_RATE_HZ, clips, rng)
    landmark_path, clip_path = _paths(root, take, clips)
    _write(landmark_path, _landmark_csv(pixels).encode())
    _write(clip_path, _mp4(frames, waveform))


def write_dataset(root: Path, clips: DrawnClips) -> None:
    """Write all clips that are missing, in parallel; clips of other settings are replaced.

    Args:
        root: gets the corpus's folders, landmarks/ and a file that says how the clips were made.

    Raises:
        InputError: `root` holds clips that this module did not write, or cannot be written.
    """
    _claim(root, clips)
    for name, text in corpora.find(clips.corpus).tables(takes(clips)).items():
        _write(root / name, text.encode())
    missing = _missing(root, clips)
    written = cluster.finished(partial(write_clip, root, clips=clips), missing)
    for _, error in tqdm(
        written, "synthetic clips", len(missing), unit="clip", mininterval=2, disable=not missing
    ):
        if error is not None:
            raise error


def _missing(root: Path, clips: DrawnClips) -> list[Take]:
    return [
        take
        for take in takes(clips)
        if not all(path.exists() for path in _paths(root, take, clips))
    ]


def _paths(root: Path, take: Take, clips: DrawnClips) -> tuple[Path, Path]:
    """The landmark csv and the film; it is an mp4, whatever its suffix."""
    corpus = corpora.find(clips.corpus)
    return root / f"landmarks/{corpus.landmarks_name(take)}.csv", root / corpus.path(take)


def _claim(root: Path, clips: DrawnClips) -> None:
    """Leave in `root` only clips of these settings and this code, and say so in its marker."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    wanted = json.dumps({"clips": clips.model_dump(), "code": code}, indent=1)
    marker = root / "synthetic.json"
    if marker.exists() and marker.read_text() == wanted:
        return
    suffixes = {".csv", *chain(*(corpus.suffixes for corpus in corpora.CORPORA.values()))}
    present = sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes)
    if present and not marker.exists():
        raise InputError(
            f"{root} holds clips that were not drawn here ({present[0].name}); "
            "expected an empty or new folder, so choose another root"
        )
    # The old marker stays until the old clips are gone, so an interruption mixes nothing.
    for path in present:
        path.unlink()
    _write(marker, wanted.encode())


def _write(path: Path, content: bytes) -> None:
    with replacing(path, len(content)) as partial:
        partial.write_bytes(content)


def _look(actor: int, clips: DrawnClips) -> Look:
    is_woman = actor in corpora.find(clips.corpus).women
    return Look(random_numbers(clips, f"face of actor {actor}"), long_hair=is_woman)


def _expression(shown: Cue, time_s: Array, rng: np.random.Generator) -> Expression:
    """The emotion growing in, held and fading, on a face that blinks and talks."""
    end_s = time_s[-1]
    onset_s, offset_s = rng.uniform(0.2, 0.6), end_s - rng.uniform(0.1, 0.4)
    ramp = np.interp(time_s, [onset_s, onset_s + 0.4, offset_s - 0.4, offset_s], [0, 1, 1, 0])
    one = shown.upper == shown.lower
    whole = EXPRESSIONS[shown.upper] if one else composed(shown.upper, shown.lower)
    rest, target = np.array(EXPRESSIONS["neutral"]), np.array(whole)
    moved = Expression(*(rest + _STRENGTH[shown.strength] * ramp[:, None] * (target - rest)).T)
    blinks_s = rng.uniform([0.2, 1.8], [1.4, end_s])
    closed = np.exp(-(((time_s[:, None] - blinks_s) / 0.06) ** 2)).max(1)
    syllables = np.sin(2 * np.pi * (rng.uniform(1.8, 2.2) * time_s + rng.random())) ** 2
    talking = (time_s > SPEECH_S[0]) & (time_s < SPEECH_S[1])
    return moved._replace(
        eyes=moved.eyes * (1 - 0.9 * closed),
        mouth_open=moved.mouth_open + 0.09 * talking * syllables,
    )


def _poses(look: Look, time_s: Array, rng: np.random.Generator) -> Array:
    """A slightly swaying head, (frame, 3), see `faces.place`."""
    rate_hz, phase = rng.uniform(0.2, 0.5, 3), rng.random(3)
    sway = np.sin(2 * np.pi * (time_s[:, None] * rate_hz + phase)) * (3.0, 2.0, 0.05)
    return np.add(sway, (*look.centre_px, 0))


def _waveform(
    actor: int, shown: Cue, duration_s: float, clips: DrawnClips, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The sound of the whole clip, shape (n_samples,)."""
    is_woman = actor in corpora.find(clips.corpus).women
    speaker = Speaker(random_numbers(clips, f"voice of actor {actor}"), woman=is_woman)
    start_s, end_s = shown.voice_start_s, shown.voice_end_s
    spoken = []
    if shown.points_to is not None:
        middle_s = end_s if shown.voice is None else (start_s + end_s) / 2
        spoken.append((voices.POINTERS[shown.points_to], start_s, middle_s))
        start_s = middle_s
    if shown.voice is not None:
        spoken.append((voices.TIMBRES[shown.voice], start_s, end_s))
    return voices.speak(speaker, spoken, _STRENGTH[shown.strength], duration_s, rng)


def _landmark_csv(pixels: Array) -> str:
    """OpenFace's columns; `pixels` has shape (n_frames, 68, 2)."""
    n_points = pixels.shape[1]
    names = [f"{axis}_{point}" for axis in "xy" for point in range(n_points)]
    row = "%d,%.3f,%.2f" + ",%.2f" * len(names)
    lines = [",".join(["frame", "timestamp", "confidence", *names])]
    for index, xy in enumerate(pixels):
        lines.append(row % (index + 1, index / FRAME_RATE_HZ, 0.98, *xy.T.ravel()))
    return "\n".join(lines) + "\n"


def _mp4(frames: Iterable[NDArray[np.uint8]], waveform: NDArray[np.float32]) -> bytes:
    """H.264 and AAC in an mp4 without library versions or times in its header."""
    buffer = io.BytesIO()
    options = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format="mp4", container_options=options) as container:
        # One thread: x264's output depends on how many there are.
        x264 = {"preset": "ultrafast", "crf": "23", "threads": "1"}
        video = container.add_stream("libx264", FRAME_RATE_HZ, options=x264)
        video.width, video.height = faces.FRAME_WIDTH, faces.FRAME_HEIGHT
        video.pix_fmt = "yuv420p"
        audio = container.add_stream(
            "aac", SAMPLE_RATE_HZ, layout="mono", options={"aac_coder": "fast"}
        )
        for index, rgb in enumerate(frames):
            yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)
            frame = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE_HZ)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE_HZ, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return buffer.getvalue()
