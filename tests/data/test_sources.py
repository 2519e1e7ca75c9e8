import hashlib
import shutil

import pandas as pd
import pytest
import soundfile
from conftest import TAKES, read_waveform

from cfnsr import InputError
from cfnsr.data import download, sources
from cfnsr.data.corpora import ravdess
from cfnsr.data.corpora.ravdess import stem
from cfnsr.data.synthetic import recording
from cfnsr.params import Clips, Params, SourceParams, SyntheticParams

STEMS = [stem(take) for take in TAKES]


def media(stem, suffix=".mp4"):
    return f"Actor_{stem[-2:]}/{stem}{suffix}"


def test_the_manifest_lists_every_clip_with_hashlibs_sha256(synthetic_root):
    table = sources.manifest(synthetic_root, Params(data="synthetic"))
    assert tuple(table.columns) == ("media", "landmarks", "media_sha256", "landmarks_sha256")
    assert table["media"].tolist() == sorted(media(stem) for stem in STEMS)
    for line in table.itertuples():
        for path, found in (
            (line.media, line.media_sha256),
            (line.landmarks, line.landmarks_sha256),
        ):
            expected = hashlib.sha256((synthetic_root / path).read_bytes()).hexdigest()
            assert found == expected


def test_unusable_names_and_songs_are_listed_and_silent_videos_passed_over(clips_root):
    actor = clips_root / "Actor_01"
    source = actor / f"{STEMS[0]}.mp4"
    for name in ("holiday.mp4", f"02{STEMS[0][2:]}.mp4", "01-02-03-01-01-01-01.mp4", "notes.txt"):
        shutil.copy(source, actor / name)
    table = sources.manifest(clips_root, Params(data="ravdess")).set_index("media")
    assert set(table.index) - {media(stem) for stem in STEMS} == {
        "Actor_01/holiday.mp4",
        "Actor_01/01-02-03-01-01-01-01.mp4",
    }
    assert table.loc["Actor_01/holiday.mp4", "landmarks_sha256"] == ""


def test_a_clip_without_landmarks_names_where_they_were_looked_for(clips_root):
    (clips_root / "landmarks" / f"{STEMS[2]}.csv").unlink()
    table = sources.manifest(clips_root, Params(data="synthetic")).set_index("media")
    line = table.loc[media(STEMS[2]), ["landmarks", "landmarks_sha256"]]
    assert line.tolist() == [f"landmarks/{STEMS[2]}.csv", ""]
    assert (table["landmarks_sha256"] != "").sum() == len(STEMS) - 1


def upper_case_suffixes(root):
    for path in [*root.glob("Actor_02/*"), *root.glob("landmarks/*")]:
        path.rename(path.with_suffix(path.suffix.upper()))


def folders_in_any_case(root):
    (root / "Actor_01").rename(root / "actor_01")
    (root / "landmarks").rename(root / "Landmarks")


def nested_twice(root):
    for folder in (root / "Actor_02", root / "landmarks"):
        folder.rename(root / "inner")
        folder.mkdir()
        (root / "inner").rename(folder / folder.name)


def what_macos_leaves(root):
    for path in [*root.glob("Actor_01/*"), *root.glob("landmarks/*")]:
        path.with_name(f"._{path.name}").write_bytes(bytes(4096))
    (root / "Actor_01" / ".DS_Store").touch()


@pytest.mark.parametrize(
    "change", [upper_case_suffixes, folders_in_any_case, nested_twice, what_macos_leaves]
)
def test_every_clip_is_found_in_the_same_order_however_it_was_unpacked(clips_root, change):
    columns = ["media_sha256", "landmarks_sha256"]
    expected = sources.manifest(clips_root, Params(data="ravdess"))
    change(clips_root)
    table = sources.manifest(clips_root, Params(data="ravdess"))
    assert table[columns].equals(expected[columns])
    for path in [*table["media"], *table["landmarks"]]:
        assert (clips_root / path).is_file()


def test_landmarks_elsewhere_are_one_line_that_says_where_they_were_looked_for(clips_root):
    (clips_root / "landmarks").rename(clips_root / "FacialTracking_Actors_01-24")
    with pytest.raises(InputError) as caught:
        sources.manifest(clips_root, Params(data="ravdess"))
    assert str(caught.value).startswith(f"no landmarks of these clips in {clips_root}/landmarks: ")


def test_what_lacks_of_the_official_takes_is_one_line(clips_root):
    official = pd.DataFrame(
        {"media": [media(stem(take, 3), ".wav") for take in ravdess.CORPUS.takes]}
    )
    assert sources.lacking(official, clips_root, ravdess.CORPUS) == ""
    some = official[:240].drop(index=[70, 71])
    assert sources.lacking(some, clips_root, ravdess.CORPUS) == (
        "1202 of 1440 official takes are not there: 2 of actor 2, such as 02-02-02-01-02; "
        f"every take of actor {', '.join(map(str, range(5, 25)))}"
    )


def test_drawn_landmarks_go_with_the_wav_files_of_their_take(clips_root):
    waveform, rate = read_waveform(clips_root / media(STEMS[0]))
    voice = "03" + STEMS[0][2:]
    soundfile.write(clips_root / media(voice, ".wav"), waveform, rate)
    (line,) = sources.manifest(clips_root, Params(data="ravdess_landmarks")).to_dict("records")
    assert line["media"] == media(voice, ".wav")
    assert line["landmarks"] == f"landmarks/{STEMS[0]}.csv"


def test_a_manifest_is_read_back_as_it_was_written(clips_root, tmp_path):
    (clips_root / "landmarks" / f"{STEMS[2]}.csv").unlink()
    table = sources.manifest(clips_root, Params(data="synthetic"))
    path = tmp_path / "build" / "manifest.csv"
    sources.write_manifest(table, path)
    assert sources.read_manifest(path).equals(table)
    with pytest.raises(InputError, match=r"does not exist; run `dvc repro dataset`"):
        sources.read_manifest(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("ravdess", r"Actor_\*/01-\*\.mp4"), ("ravdess_landmarks", r"Actor_\*/03-\*\.wav")],
)
def test_a_root_without_clips_is_one_line_that_says_what_was_looked_for(tmp_path, source, expected):
    with pytest.raises(InputError, match=f"no clips in .*{expected}; point {source}.root of"):
        sources.manifest(tmp_path, Params(data=source))


def test_a_file_that_cannot_be_read_is_one_line(clips_root):
    path = clips_root / media(STEMS[0])
    path.unlink()
    path.symlink_to("gone.mp4")
    with pytest.raises(InputError, match=rf"{STEMS[0]}\.mp4 cannot be read \(No such file"):
        sources.manifest(clips_root, Params(data="synthetic"))


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_root_that_is_no_folder_is_one_line(tmp_path, kind):
    root = tmp_path / "ravdess"
    if kind == "a file":
        root.touch()
    params = Params(data="ravdess", ravdess=SourceParams(root=root))
    with pytest.raises(InputError, match=r"ravdess\.root: .* is no folder; expected the one that"):
        sources.provide(params, tmp_path)


def test_a_root_is_used_as_it_is_and_counts_from_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fetch", pytest.fail)
    (tmp_path / "here").mkdir()
    for root in ("here", tmp_path / "here"):
        params = Params(data="ravdess", ravdess=SourceParams(root=root))
        assert sources.provide(params, tmp_path) == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    params = Params(data="ravdess", ravdess=SourceParams(root="~/here"))
    assert sources.provide(params, tmp_path / "elsewhere") == tmp_path / "here"


def test_without_a_root_the_control_is_written_and_ravdess_downloaded(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(download, "fetch", lambda *given: calls.append(given))
    monkeypatch.setattr(recording, "write_dataset", lambda *given: calls.append(given))
    for params in (
        Params(),
        Params(synthetic=SyntheticParams()),
        Params(data="ravdess"),
        Params(data="ravdess_landmarks"),
    ):
        assert sources.provide(params, tmp_path) == tmp_path / "data" / params.data
    assert calls == [
        (tmp_path / "data" / "synthetic", Clips()),
        (tmp_path / "data" / "synthetic", Clips()),
        (download.archives(without_films=False), tmp_path / "data" / "ravdess"),
        (download.archives(without_films=True), tmp_path / "data" / "ravdess_landmarks"),
    ]


@pytest.mark.parametrize("below", ["tmp1", "standalone/tmp2"])
def test_a_queued_experiment_uses_the_clips_that_the_checkout_has(tmp_path, monkeypatch, below):
    asked = []
    monkeypatch.setattr(download, "fetch", lambda *given: asked.append(given))
    workspace = tmp_path / ".dvc" / "tmp" / "exps" / below  # where DVC runs it
    workspace.mkdir(parents=True)
    for source in ("ravdess", "ravdess_landmarks"):
        assert sources.provide(Params(data=source), workspace) == tmp_path / "data" / source
    assert asked == [
        (download.archives(without_films=False), tmp_path / "data" / "ravdess"),
        (download.archives(without_films=True), tmp_path / "data" / "ravdess_landmarks"),
    ]
    (tmp_path / "here").mkdir()
    for root in ("here", tmp_path / "here"):
        for source in ("ravdess", "synthetic"):
            params = Params(data=source, **{source: {"root": root}})
            assert sources.provide(params, workspace) == tmp_path / "here"


def test_queued_experiments_do_not_overwrite_each_others_control(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(recording, "write_dataset", lambda *given: written.append(given))
    expected = []
    for seed in (7, 8):
        workspace = tmp_path / ".dvc" / "tmp" / "exps" / f"tmp{seed}"
        clips = Clips(seed=seed)
        root = sources.provide(Params(synthetic=SyntheticParams(clips=clips)), workspace)
        assert root.is_relative_to(workspace)
        expected.append((root, clips))
    assert written == expected
