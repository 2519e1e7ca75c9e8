"""The synthetic control: clips in RAVDESS's own layout whose best possible accuracy is known.

A drawn face and a synthetic voice each show the clip's emotion with a set probability and one
fixed other emotion otherwise, independently of each other. See `ceilings` for what follows.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cfnsr import cluster
from cfnsr.data.corpora.ravdess import EMOTIONS, Take, speech_takes
from cfnsr.data.synthetic import faces, voices
from cfnsr.data.synthetic.faces import EXPRESSIONS, Array, Expression, Look, Pose
from cfnsr.data.synthetic.voices import CARRIER, SAMPLE_RATE_HZ, SPEECH_S, TIMBRES, Speaker, Timbre
from cfnsr.errors import InputError
from cfnsr.params import Clips

FRAME_RATE_HZ = 15
#: What is shown instead of each emotion, by RAVDESS's code. Only neutral and calm are partners in
#: both, so face and voice together settle every other doubt, and still not everything.
FACE_PARTNER = {1: 2, 2: 1, 3: 8, 8: 3, 4: 7, 7: 4, 5: 6, 6: 5}
VOICE_PARTNER = {1: 2, 2: 1, 3: 5, 5: 3, 4: 6, 6: 4, 7: 8, 8: 7}

_N_FRAMES = (47, 55)  # 3.1 to 3.6 s
_STRENGTH = {1: 0.8, 2: 1.1}
# Steps of the R2 sequence, 1/g and 1/g^2 with g^3 = g + 1: its points fill the square evenly.
_R2_STEPS = (0.7548776662466927, 0.5698402909980532)


@dataclass(frozen=True)
class Cue:
    """What a clip shows: emotion codes 1 to 8, and when the voice shows its one.

    `strength`, 1 or 2, is the take's intensity. Neutral takes, which RAVDESS has in one intensity
    only, draw one, so that strength tells nothing about the emotion. The face shows its emotion in
    `faces.CUE_LANDMARKS`.
    """

    face: int
    voice: int
    strength: int
    voice_start_s: float
    voice_end_s: float


def takes(clips: Clips) -> list[Take]:
    """Every take of the control."""
    return speech_takes(clips.n_statements, clips.n_repetitions)


def cue(take: Take, clips: Clips) -> Cue:
    """What the take's clip shows, the same in every process.

    Raises:
        KeyError: `takes(clips)` does not have that take.
    """
    face, voice = _shown(clips)[take]
    rng = _rng(clips, f"cue {take.clip}")
    strength = int(rng.integers(1, 3)) if take.emotion == 1 else take.intensity
    duration_s = rng.uniform(0.9, 1.2)
    start_s = rng.uniform(SPEECH_S[0] + 0.1, SPEECH_S[1] - 0.1 - duration_s)
    return Cue(face, voice, strength, start_s, start_s + duration_s)


def ceilings(clips: Clips) -> dict[str, float]:
    r"""The best possible accuracy in percent from `video`, `audio` and `audio_video`.

    Of all that face and voice show, f and v say everything about the emotion e; so no classifier
    beats the one that takes the most probable e for each pair:

        100 sum_{f,v} max_e P(e) P(f | e) P(v | e)

    and for one modality the same without the other's factor. P(e) is the emotion's share of
    `takes(clips)`; P(f | e) is the reliability for f = e, its rest for f = e's partner, else 0.
    """
    codes = [take.emotion_index for take in takes(clips)]
    prior = np.bincount(codes, minlength=len(EMOTIONS)) / len(codes)
    face = _confusion(FACE_PARTNER, clips.face_reliability)
    voice = _confusion(VOICE_PARTNER, clips.voice_reliability)
    joint = {
        "video": np.einsum("e,ef->ef", prior, face),
        "audio": np.einsum("e,ev->ev", prior, voice),
        "audio_video": np.einsum("e,ef,ev->efv", prior, face, voice),
    }
    return {name: 100 * float(table.max(0).sum()) for name, table in joint.items()}


def write_clip(root: Path, take: Take, clips: Clips) -> None:
    """Write the take's mp4 and landmark csv under `root`, each whole or not at all.

    Equal arguments give equal bytes with the same libraries on the same kind of processor.

    Raises:
        KeyError: `takes(clips)` does not have that take.
    """
    shown, look, rng = cue(take, clips), _look(take.actor, clips), _rng(clips, take.clip)
    n_frames = int(rng.integers(*_N_FRAMES))
    time_s = np.arange(n_frames) / FRAME_RATE_HZ
    points = faces.landmarks(look, _expression(shown, time_s, rng))
    performance = list(zip(points, _poses(look, time_s, rng), strict=True))
    pixels = np.stack([faces.place(face, look, pose) for face, pose in performance])
    frames = (faces.paint(look, face, pose) for face, pose in performance)
    waveform = _waveform(take.actor, shown, n_frames / FRAME_RATE_HZ, clips, rng)
    landmark_path, clip_path = _paths(root, take)
    _write(landmark_path, _landmark_csv(pixels).encode())
    _write(clip_path, _mp4(frames, waveform))


def write_dataset(root: Path, clips: Clips, alone: bool = False) -> None:
    """Write all clips that are missing, in parallel; clips of other settings are replaced.

    Args:
        root: gets Actor_XX/, landmarks/ and a file that says how the clips were made.
        clips: what to write.
        alone: in this process, instead of on the workers of `cluster.connect`.

    Raises:
        InputError: `root` holds clips that this module did not write.
    """
    _claim(root, clips)
    missing = _missing(root, clips)
    write = partial(write_clip, root, clips=clips)
    progress = tqdm(total=len(missing), desc="synthetic clips", unit="clip", disable=not missing)
    with progress:
        for _, error in cluster.finished(write, missing, alone):
            if error is not None:
                raise error
            progress.update()


def _missing(root: Path, clips: Clips) -> list[Take]:
    return [take for take in takes(clips) if not all(path.exists() for path in _paths(root, take))]


def _paths(root: Path, take: Take) -> tuple[Path, Path]:
    """The landmark csv and the mp4."""
    stem = take.stem()
    return root / f"landmarks/{stem}.csv", root / f"Actor_{take.actor:02d}/{stem}.mp4"


def _claim(root: Path, clips: Clips) -> None:
    """Leave in `root` only clips of these settings and this code, and say so in its marker."""
    sources = [Path(__file__), Path(faces.__file__), Path(voices.__file__)]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    wanted = json.dumps({"clips": clips.model_dump(), "code": code}, indent=1)
    marker = root / "synthetic.json"
    if marker.exists() and marker.read_text() == wanted:
        return
    present = [*root.glob("Actor_*/*.mp4"), *root.glob("landmarks/*.csv")]
    if present and not marker.exists():
        raise InputError(
            f"{root} holds clips that are not of the synthetic control ({present[0].name}); "
            "expected an empty or new folder, so choose another root"
        )
    # The old marker stays until the old clips are gone, so an interruption mixes nothing.
    for path in present:
        path.unlink()
    _write(marker, wanted.encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _rng(clips: Clips, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose; hashed, because Python's `hash` differs per process."""
    digest = hashlib.sha256(f"{clips.seed} {purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


@lru_cache(maxsize=4)
def _shown(clips: Clips) -> dict[Take, tuple[int, int]]:
    """The emotions that each take's face and voice show.

    Within an emotion the two uniform numbers that decide come from a randomly shifted R2 sequence
    along the actors. One take's pair is exactly uniform on the square, so `ceilings` holds in
    expectation, and the shares come out far closer to it than with independent draws. An actor's
    takes are shuffled first, lest reliability depend on intensity.
    """
    shown = {}
    for emotion in range(1, len(EMOTIONS) + 1):
        rng = _rng(clips, f"emotion {emotion}")
        group = [take for take in takes(clips) if take.emotion == emotion]
        shuffled = dict(zip(group, rng.random(len(group)), strict=True))
        group.sort(key=lambda take: (take.actor, shuffled[take]))
        uniform = (rng.random(2) + np.outer(np.arange(len(group)), _R2_STEPS)) % 1
        for take, (u, v) in zip(group, uniform, strict=True):
            face = emotion if u < clips.face_reliability else FACE_PARTNER[emotion]
            voice = emotion if v < clips.voice_reliability else VOICE_PARTNER[emotion]
            shown[take] = (face, voice)
    return shown


def _confusion(partner: dict[int, int], reliability: float) -> Array:
    """P(shown | emotion), one row an emotion."""
    columns = [partner[emotion] - 1 for emotion in sorted(partner)]
    truth = np.eye(len(partner))
    return reliability * truth + (1 - reliability) * truth[columns]


def _look(actor: int, clips: Clips) -> Look:
    return Look.draw_lots(_rng(clips, f"face of actor {actor}"), long_hair=actor % 2 == 0)


def _expression(shown: Cue, time_s: Array, rng: np.random.Generator) -> Expression:
    """The emotion growing in, held and fading, on a face that blinks and talks."""
    end_s = time_s[-1]
    onset_s, offset_s = rng.uniform(0.2, 0.6), end_s - rng.uniform(0.1, 0.4)
    ramp = np.interp(time_s, [onset_s, onset_s + 0.4, offset_s - 0.4, offset_s], [0, 1, 1, 0])
    rest, target = np.array(EXPRESSIONS[1]), np.array(EXPRESSIONS[shown.face])
    moved = Expression(*(rest + _STRENGTH[shown.strength] * ramp[:, None] * (target - rest)).T)
    blinks_s = rng.uniform([0.2, 1.8], [1.4, end_s])
    closed = np.exp(-(((time_s[:, None] - blinks_s) / 0.06) ** 2)).max(1)
    syllables = np.sin(2 * np.pi * (rng.uniform(1.8, 2.2) * time_s + rng.random())) ** 2
    talking = (time_s > SPEECH_S[0]) & (time_s < SPEECH_S[1])
    return moved._replace(
        eyes=moved.eyes * (1 - 0.9 * closed),
        mouth_open=moved.mouth_open + 0.09 * talking * syllables,
    )


def _poses(look: Look, time_s: Array, rng: np.random.Generator) -> list[Pose]:
    """A slightly swaying head."""
    rate_hz, phase = rng.uniform(0.2, 0.5, 3), rng.random(3)
    sway = np.sin(2 * np.pi * (time_s[:, None] * rate_hz + phase)) * (3.0, 2.0, 0.05)
    return [Pose(np.add(look.centre_px, motion[:2]), motion[2]) for motion in sway]


def _waveform(
    actor: int, shown: Cue, duration_s: float, clips: Clips, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The sound of the whole clip, shape (n_samples,)."""
    speaker = Speaker.draw_lots(_rng(clips, f"voice of actor {actor}"), woman=actor % 2 == 0)
    carrier, target = np.array(CARRIER), np.array(TIMBRES[shown.voice])
    timbre = Timbre(*(carrier + _STRENGTH[shown.strength] * (target - carrier)))
    stretch_s = (shown.voice_start_s, shown.voice_end_s)
    return voices.speak(speaker, timbre, stretch_s, duration_s, rng)


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
