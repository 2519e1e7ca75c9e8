"""One bad clip among 59 good ones: these are kept, it is named, and only it is looked at again."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, cut, remux

from cfnsr import InputError, cluster
from cfnsr.data import preprocess, sources
from cfnsr.params import Params

pytestmark = pytest.mark.slow
CONTROL = Params(data="synthetic")


def of_no_size(media, landmarks):
    media.write_bytes(b"")


def of_text(media, landmarks):
    media.write_text("not a video")


def cut_short(media, landmarks):
    cut(media, 0.6)


def zeroed(media, landmarks):
    size = media.stat().st_size
    media.write_bytes(media.read_bytes()[: size // 2] + bytes(size - size // 2))


def without_sound(media, landmarks):
    shutil.copy(media, media.with_suffix(".old"))
    remux(media.with_suffix(".old"), media, only="video")


def without_picture(media, landmarks):
    shutil.copy(media, media.with_suffix(".old"))
    remux(media.with_suffix(".old"), media, only="audio")


def a_folder(media, landmarks):
    media.unlink()
    media.mkdir()


def of_no_take(media, landmarks):
    media.rename(media.with_name("holiday.mp4"))


def without_landmarks(media, landmarks):
    landmarks.unlink()


def with_empty_landmarks(media, landmarks):
    landmarks.write_bytes(b"")


def with_half_the_landmarks(media, landmarks):
    lines = landmarks.read_text().splitlines(keepends=True)
    landmarks.write_text("".join(lines[: len(lines) // 2]))


def with_landmarks_of_nan(media, landmarks):
    table = pd.read_csv(landmarks)
    landmarks.write_text(table.assign(x_30=np.nan).to_csv(index=False))


def with_a_face_elsewhere(media, landmarks):
    table = pd.read_csv(landmarks)
    moved = {name: table[name] + 5_000 for name in table if name.startswith(("x_", "y_"))}
    landmarks.write_text(table.assign(**moved).to_csv(index=False))


KINDS = [
    of_no_size,
    of_text,
    cut_short,
    zeroed,
    without_sound,
    without_picture,
    a_folder,
    of_no_take,
    without_landmarks,
    with_empty_landmarks,
    with_half_the_landmarks,
    with_landmarks_of_nan,
    with_a_face_elsewhere,
]


def run(root, folder):
    """Preprocess; how long it took, which results it left, and what it said."""
    started, said = time.monotonic(), ""
    try:
        manifest = sources.manifest(root, CONTROL)
        scratch = folder / "scratch"
        preprocess.preprocess(manifest, root, folder / "arrays", CONTROL, SMALL, scratch)
    except InputError as error:
        said = str(error)
    results = {path: path.stat().st_mtime_ns for path in folder.glob("scratch/*/*.npz")}
    return time.monotonic() - started, results, said


def test_one_bad_clip_among_59_good_ones(sixty_clips, tmp_path, counts, monkeypatch):
    with cluster.local_cluster(True, gpus=[], n_workers=2) as workers:
        monkeypatch.setenv(cluster.ADDRESS, workers.scheduler_address)
        run(sixty_clips, tmp_path / "all")
        whole = np.load(tmp_path / "all/arrays/mfcc.npy")
        for kind in KINDS:
            folder = tmp_path / kind.__name__
            root = shutil.copytree(sixty_clips, folder / "clips")
            media = sorted(root.glob("Actor_01/*.mp4"))[30]
            kind(media, root / "landmarks" / f"{media.stem}.csv")
            first_s, results, said = run(root, folder)
            second_s, again, repeated = run(root, folder)
            rejected = pd.read_csv(folder / "arrays/rejected.csv")
            named = "holiday.mp4" if kind is of_no_take else media.name
            assert rejected["media"].tolist() == [f"Actor_01/{named}"]
            assert "\n" not in rejected["reason"].item()
            assert "could not be read" not in rejected["reason"].item()
            assert said == repeated
            assert said.count("\n") == 1
            kept = np.load(folder / "arrays/mfcc.npy")
            np.testing.assert_array_equal(kept, np.delete(whole, 30, axis=0))
            assert len(results) == 59
            assert again == results
            assert second_s < first_s / 2
            counts.add("a bad clip among 59", kind.__name__, "tried")
            counts.add("a bad clip among 59", kind.__name__, "good clips kept", len(kept))
            counts.add("a bad clip among 59", kind.__name__, "named", len(rejected))
            counts.add("a bad clip among 59", kind.__name__, "done again", 0)
            shutil.rmtree(folder)
