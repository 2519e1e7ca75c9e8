"""Tests of `cfnsr.data.media` with files as recorders, cameras and copies leave them."""

import struct

import av
import cv2
import numpy as np
import pytest
from conftest import cut, read_waveform, remux, write_film

from cfnsr import InputError
from cfnsr.data.media import opened, pictures, probe

RATE_HZ = 16_000
#: 4 s of film, each picture as bright as it is late, and of a tone that grows as steadily.
SHOWN_S = np.arange(120) / 30
FILM = [np.full((48, 64, 3), 40 + i, np.uint8) for i in range(120)]
TIME_S = np.arange(4 * RATE_HZ) / RATE_HZ
TONE = 0.2 * TIME_S * np.sin(2 * np.pi * 440 * TIME_S)


def shown_at(path, time_s):
    """When the picture that a clip shows at a time was taken, by its brightness."""
    clip = probe(path)
    place = int(np.searchsorted(clip.picture.starts_s, time_s, side="right")) - 1
    ((_, picture),) = pictures(clip, [place])
    return (picture.mean() - 40) / 30


def heard_at(path, time_s):
    """When the tenth of a second of tone was made that a clip plays around a time, by its power."""
    waveform, rate_hz = read_waveform(path)
    around = waveform[round((time_s - 0.05) * rate_hz) :][: rate_hz // 10]
    return np.sqrt(2 * np.mean(around**2)) / 0.2 if len(around) else 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    write_film(path, FILM, SHOWN_S, [(0, TONE)])
    return path


@pytest.mark.parametrize(
    ("name", "form", "flags"),
    [
        ("copy.mkv", "matroska", {}),
        ("copy.flv", "flv", {}),
        ("copy.ts", "mpegts", {}),
        ("fragments.mp4", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_a_copy_in_another_container_has_the_same_clock(plain, tmp_path, name, form, flags):
    copy = tmp_path / name
    remux(plain, copy, form=form, flags=flags)
    assert probe(copy).duration_s == pytest.approx(probe(plain).duration_s, abs=0.15)
    for time_s in (0.5, 2.0, 3.5):
        assert shown_at(copy, time_s) == pytest.approx(shown_at(plain, time_s), abs=0.12)
        assert heard_at(copy, time_s) == pytest.approx(heard_at(plain, time_s), abs=0.12)


def test_a_fragmented_copy_has_no_hole_after_its_first_block_of_sound(tmp_path):
    plain, whole, fragmented = (tmp_path / name for name in ("a.mp4", "a.mkv", "fragments.mp4"))
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    write_film(plain, FILM[:30], SHOWN_S[:30], [(0, noise)], rate_hz=48_000)
    remux(plain, whole, form="matroska", flags={})
    remux(plain, fragmented, flags={"movflags": "frag_keyframe+empty_moov"})
    expected, _ = read_waveform(whole)
    found, _ = read_waveform(fragmented)
    np.testing.assert_array_equal(found[:40_000], expected[:40_000])
    assert probe(fragmented).duration_s == pytest.approx(probe(whole).duration_s, abs=0.03)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("film", "sound", "gaps"),
    [
        (slice(None), [(1.5, 4)], {"sound": (0, 1.5)}),
        (slice(45, None), [(0, 4)], {"picture": (0, 1.5)}),
        (slice(None), [(0, 1), (2.5, 4)], {"sound": (1, 2.5)}),
        (np.r_[0:30, 75:120], [(0, 4)], {"picture": (1, 2.5)}),
        (slice(None), [(0, 2)], {"sound": (2, 4)}),
        (slice(60), [(0, 4)], {"picture": (2, 4)}),
    ],
)
def test_picture_and_sound_are_where_their_stamps_say(tmp_path, suffix, film, sound, gaps):
    path = tmp_path / f"clip.{suffix}"
    bounds = sound if len(sound) > 1 else [(sound[0][0], sound[0][1])]
    sounds = [(start, TONE[int(start * RATE_HZ) : int(end * RATE_HZ)]) for start, end in bounds]
    kept = np.arange(120)[film]
    write_film(path, [FILM[i] for i in kept], SHOWN_S[kept], sounds)
    clip = probe(path)
    assert clip.duration_s == pytest.approx(4, abs=0.1)
    for kind, track in clip.tracks.items():
        expected = [gaps[kind]] if kind in gaps else []
        np.testing.assert_allclose(
            np.reshape(track.gaps, (-1, 2)), np.reshape(expected, (-1, 2)), atol=0.1
        )
    if "sound" not in gaps or gaps["sound"] == (0, 1.5):
        assert heard_at(path, 3) == pytest.approx(3, abs=0.1)
    if "picture" not in gaps or gaps["picture"][1] < 3:
        assert shown_at(path, 3) == pytest.approx(3, abs=0.1)
    if "sound" in gaps:
        assert heard_at(path, np.mean(gaps["sound"])) < 0.02
        assert clip.tracks["sound"].missing_share(*gaps["sound"]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "flags", [{}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}]
)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.95, 0.99])
def test_an_mp4_without_its_end_is_refused(plain, tmp_path, flags, share):
    path = tmp_path / "cut.mp4"
    remux(plain, path, flags=flags)
    probe(path)
    cut(path, share)
    with pytest.raises(InputError, match=r"^cut\.mp4 (is cut short|cannot be decoded)"):
        probe(path)


def test_an_avi_with_dropped_frames_repeats_the_one_before(tmp_path):
    path = tmp_path / "clip.avi"
    kept = np.flatnonzero(np.arange(120) % 10 != 7)
    write_film(
        path, [FILM[i] for i in kept], SHOWN_S[kept], [(0, TONE)], codecs=("mpeg4", "pcm_s16le")
    )
    assert probe(path).duration_s == pytest.approx(4, abs=0.01)
    assert shown_at(path, 107.5 / 30) == pytest.approx(106 / 30, abs=0.12)
    cut(path, 0.9)
    with pytest.raises(InputError, match="cut short"):
        probe(path)


UPRIGHT = (1, 0, 0, 1)


def with_matrix(source, target, a, b, c, d):
    """A copy whose header asks players to show column x, line y at (a x + c y, b x + d y)."""
    content = bytearray(source.read_bytes())
    unit = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    start = content.index(struct.pack(">9i", *unit), content.index(b"tkhd"))
    unit[:2], unit[3:5] = (a << 16, b << 16), (c << 16, d << 16)
    content[start : start + 36] = struct.pack(">9i", *unit)
    target.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((-1, 0, 0, -1), lambda picture: picture[::-1, ::-1]),
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
    ],
)
def test_a_picture_is_turned_and_mirrored_as_players_show_it(tmp_path, matrix, expected):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :16], picture[24:, :40] = (250, 20, 20), (20, 20, 250)
    write_film(tmp_path / "plain.mp4", [picture] * 3, SHOWN_S[:3])
    with_matrix(tmp_path / "plain.mp4", tmp_path / "turned.mp4", *matrix)
    (_, upright), (_, shown) = (
        next(pictures(probe(tmp_path / f"{name}.mp4"), [1])) for name in ("plain", "turned")
    )
    np.testing.assert_array_equal(shown, expected(upright))


def test_a_cover_picture_is_no_film(tmp_path):
    path = tmp_path / "song.mp3"
    write_film(path, sounds=[(0, TONE)], codecs=(None, "libmp3lame"))
    jpeg = cv2.imencode(".jpg", FILM[0])[1].tobytes()
    body = b"\0image/jpeg\0\x03\0" + jpeg
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    content = path.read_bytes()
    n_tag = 10 + int.from_bytes(content[6:10]) if content[:3] == b"ID3" else 0
    path.write_bytes(b"ID3\x03\0\0" + size + frame + content[n_tag:])
    with av.open(path) as container:
        assert container.streams.video
    assert list(probe(path).tracks) == ["sound"]


def two_sounds(path):
    """An mp4 with two sound tracks; FFmpeg cannot name the codec of the first."""
    with av.open(path, "w") as container:
        tracks = [container.add_stream("aac", RATE_HZ, layout="mono") for _ in range(2)]
        for track, loudness in zip(tracks, (0.5, 1.0), strict=True):
            block = av.AudioFrame.from_ndarray(
                (loudness * TONE[None]).astype(np.float32), format="fltp", layout="mono"
            )
            block.sample_rate, block.pts = RATE_HZ, 0
            container.mux(track.encode(block))
            container.mux(track.encode())
    content = bytearray(path.read_bytes())
    for name, other in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        start = content.index(name, content.index(b"stsd"))
        content[start : start + 4] = other
    path.write_bytes(content)


def test_a_sound_track_of_unknown_codec_is_passed_over_and_that_is_said(tmp_path):
    path = tmp_path / "clip.mp4"
    two_sounds(path)
    assert probe(path).warnings == (
        "FFmpeg cannot decode sound track 1, so track 2 is taken instead",
    )
    assert heard_at(path, 3) == pytest.approx(3, abs=0.1)


def test_a_clip_whose_only_sound_has_an_unknown_codec_is_refused(plain, tmp_path):
    content = bytearray(plain.read_bytes())
    for name, other in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        start = content.index(name, content.rindex(b"stsd"))
        content[start : start + 4] = other
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InputError, match="has no sound stream that FFmpeg can decode; "):
        read_waveform(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["2024-08-20T13:28:35Z.mp4", "http:clip.mp4", "50 %d?.mp4"])
def test_a_name_that_ffmpeg_would_read_as_an_address_is_just_a_name(plain, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(plain.read_bytes())
    with opened(path) as clip:
        assert set(clip.tracks) == {"picture", "sound"}


def test_a_relative_name_is_one_too(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(plain.parent)
    assert probe(plain.relative_to(plain.parent)).duration_s > 3


def test_a_title_that_is_no_utf_8_is_no_obstacle(tmp_path):
    path = tmp_path / "clip.wav"
    write_film(path, sounds=[(0, TONE)], codecs=(None, "pcm_s16le"))
    title = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"K\xf6ln"
    content = path.read_bytes()
    at = content.index(b"data")
    content = content[:at] + title + content[at:]
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert len(read_waveform(path)[0]) == len(TONE)


def test_pictures_that_ffmpeg_invents_are_refused(tmp_path):
    path = tmp_path / "noise.mp4"
    rng = np.random.default_rng(0)
    write_film(path, rng.integers(0, 256, (20, 96, 128, 3), np.uint8), SHOWN_S[:20])
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start + size // 2 : start + size] = rng.bytes(size - size // 2)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^noise\.mp4 is damaged, and FFmpeg invents a part"):
        list(pictures(probe(path), range(20)))


def test_a_frame_that_the_decoder_does_not_give_is_named(tmp_path):
    path = tmp_path / "film.mp4"
    write_film(path, np.zeros((20, 96, 128, 3), np.uint8), SHOWN_S[:20])
    with pytest.raises(InputError, match=r"^film\.mp4 is damaged: frame 21 of 20 cannot be"):
        list(pictures(probe(path), [3, 20]))


def test_stamps_that_jump_by_hours_are_refused(tmp_path):
    path = tmp_path / "clip.mkv"
    write_film(path, sounds=[(0, TONE), (7200, TONE)])
    with pytest.raises(InputError, match="time stamps that jump by 2 hours"):
        probe(path)


def test_a_folder_that_is_named_like_a_file_is_refused(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(InputError, match=r"^clip\.mp4 cannot be decoded \(Is a directory\)"):
        probe(tmp_path / "clip.mp4")
