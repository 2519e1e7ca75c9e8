"""Damaged mp4, wav and csv files, at the door of training and at that of a user's own clip.

What is used with other arrays and no note is what no reader could know. The samples of a wav and
the digits of a csv have no checksum: any 16 bits are a loudness, any digit is a place. Frames of
H.264 and AAC have none either: some flipped bits are another picture or sound that is as valid as
the true one, and an index of an mp4 whose numbers are still plausible leads to other frames. Of 450
damaged mp4 files of the control 15 are such. In a trial of 600 others 20 were; for 3 of these
FFmpeg's AAC decoder wrote to its log, but it gave the sound as a valid one, whatever `err_detect`
asks for.
"""

import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest
import soundfile
from conftest import SMALL, read_waveform, remux
from harness import read_all

from cfnsr.data.preprocess import preprocess_clip
from cfnsr.own_clip.reading import Needs, open_clip

pytestmark = pytest.mark.slow
#: Damaged files of each file and kind of damage; there are four files and five kinds.
N_EACH = 45
REAL = "CFNSR_REAL_CLIPS"


def flip_bits(content, rng):
    for _ in range(rng.choice([1, 4, 16])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def cut_end(content, rng):
    del content[rng.randrange(len(content)) :]


def zero_blocks(content, rng):
    for _ in range(rng.choice([1, 3])):
        start, size = rng.randrange(len(content)), rng.choice([16, 512, 4096])
        content[start : start + size] = bytes(len(content[start : start + size]))


def move_block(content, rng):
    start, size = rng.randrange(len(content)), rng.choice([16, 512, 4096])
    block = content[start : start + size]
    del content[start : start + size]
    start = rng.randrange(len(content))
    content[start:start] = block


def spoil_header(content, rng):
    """Random bytes near the start, and near the end, where an mp4 may have its index."""
    for _ in range(rng.choice([1, 2, 8])):
        at = rng.randrange(min(rng.choice([64, 4096]), len(content)))
        content[at if rng.random() < 0.5 else -1 - at] = rng.randrange(256)


KINDS = [flip_bits, cut_end, zero_blocks, move_block, spoil_header]


def arrays_of(door, media, landmarks):
    """The sha256 of a clip's arrays, and what is noted of it."""
    draws = media.suffix == ".wav"
    if door == "training":
        arrays, notes = [preprocess_clip(media, landmarks, SMALL, draws)], ()
    else:
        own = open_clip(media, landmarks, SMALL, Needs(True, True, draws, tracks=True))
        arrays, notes = list(own.arrays()), own.warnings
    content = b"".join(part[name].tobytes() for part in arrays for name in sorted(part))
    return hashlib.sha256(content).hexdigest(), notes


def measure(clips, folder, n_each, counts):
    """Damage each (what, media, landmarks, index of the two to be damaged) in every way."""
    jobs, keys = [], []
    for what, *pair, place in clips:
        for kind in KINDS:
            for i in range(n_each):
                content = bytearray(pair[place].read_bytes())
                kind(content, random.Random(f"{what} {kind.__name__} {i}"))
                damaged = list(pair)
                damaged[place] = folder / what / f"{kind.__name__}_{i}" / pair[place].name
                damaged[place].parent.mkdir(parents=True)
                damaged[place].write_bytes(content)
                for door in ("training", "own clip"):
                    jobs.append((door, *damaged))
                    keys.append((what, kind.__name__, door, *pair))
    whole = {key[2:]: arrays_of(*key[2:])[0] for key in keys}
    warm = ("training", *clips[0][1:3])
    bad = []
    for key, (outcome, said) in zip(keys, read_all(arrays_of, jobs, warm), strict=True):
        what, kind, door, *_ = key
        if outcome == "used":
            noted = "a note" if said[1] else "no note"
            outcome = "same arrays" if said[0] == whole[key[2:]] else f"other arrays, {noted}"
        subject = f"damaged files, {door}"
        for name in ("rejected", "same arrays", "other arrays, a note", "other arrays, no note"):
            counts.add(subject, f"{what} {kind}", name, 0)
        for name in ("traceback", "crashed", "hung"):
            counts.add(subject, f"{what} {kind}", name, 0)
        counts.add(subject, f"{what} {kind}", "tried")
        counts.add(subject, f"{what} {kind}", outcome)
        if outcome in ("traceback", "crashed", "hung"):
            bad.append((key, outcome, said))
    assert not bad


def test_damaged_clips_of_the_control(one_clip, tmp_path, counts):
    media, landmarks = one_clip
    fast = tmp_path / "fast" / media.name
    fast.parent.mkdir()
    remux(media, fast)
    wav = tmp_path / f"03{media.stem[2:]}.wav"
    soundfile.write(wav, *read_waveform(media))
    clips = [
        ("mp4, index last", media, landmarks, 0),
        ("mp4, index first", fast, landmarks, 0),
        ("wav", wav, landmarks, 0),
        ("csv", media, landmarks, 1),
    ]
    measure(clips, tmp_path / "damaged", N_EACH, counts)


def test_damaged_real_clips(tmp_path, counts):
    """Of a folder with `Actor_XX` and `landmarks`, the first mp4 and the first wav."""
    if REAL not in os.environ:
        pytest.skip(f"no real clips: {REAL} names no folder")
    root = Path(os.environ[REAL])
    clips = []
    for suffix in ("mp4", "wav"):
        for media in sorted(root.glob(f"Actor_*/0[13]-*.{suffix}"))[:1]:
            landmarks = root / "landmarks" / f"01{media.stem[2:]}.csv"
            clips.append((f"real {suffix}", media, landmarks, 0))
            clips.append((f"real csv of {suffix}", media, landmarks, 1))
    assert clips
    measure(clips, tmp_path / "damaged", 5, counts)
    shutil.rmtree(tmp_path / "damaged")
