import math
import struct
from contextlib import nullcontext

import av
import librosa
import numpy as np
import pytest
import soundfile
from conftest import cut, read_waveform, remux
from hypothesis import given
from hypothesis import strategies as st

from cfnsr import InputError
from cfnsr.data.audio import decode, log_mel, mfcc, n_mfcc_frames, read_window
from cfnsr.data.media import opened, probe
from cfnsr.params import Preprocess

PAPER = Preprocess()
NAME = "03-01-01-01-01-01-01.wav"


def voice(duration_s, rate=48_000, n_channels=1):
    """Something with pitch, noise and movement, (sample, channel)."""
    rng = np.random.default_rng(1)
    time_s = np.arange(round(duration_s * rate)) / rate
    tone = np.sin(2 * np.pi * (150 * time_s + 40 * np.sin(3 * time_s)))
    loudness = 0.2 * (1.2 + np.sin(7 * time_s))
    channels = [loudness * (tone + 0.1 * rng.normal(size=len(tone))) for _ in range(n_channels)]
    return 0.3 * np.stack(channels, axis=1)


@pytest.fixture
def wav(tmp_path):
    """A function that writes a 16-bit wav and gives its path."""

    def write(samples, rate=48_000):
        soundfile.write(tmp_path / NAME, samples, rate, subtype="PCM_16")
        return tmp_path / NAME

    return write


def window_mfcc(path, settings=PAPER):
    window = read_window(path, settings)
    return mfcc(log_mel(window, settings.sample_rate_hz), settings.n_mfcc)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_waveform_is_the_mean_of_the_channels_that_soundfile_reads(tmp_path, suffix, n_channels):
    path = tmp_path / f"voice{suffix}"
    soundfile.write(path, voice(0.7, n_channels=n_channels), 48_000, subtype="PCM_16")
    waveform, rate = read_waveform(path)
    expected, expected_rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert (rate, waveform.dtype) == (expected_rate, np.float32)
    np.testing.assert_allclose(waveform, expected.mean(axis=1), atol=1e-7)


def test_the_sound_of_an_mp4_is_all_of_what_pyav_decodes(one_clip):
    media, _ = one_clip
    with av.open(media) as container:
        expected = np.concatenate(
            [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
        )
    waveform, rate = read_waveform(media)
    assert rate == 24_000
    np.testing.assert_array_equal(waveform, expected)


def test_mfccs_are_librosas_to_the_last_bit_where_nothing_is_resampled(wav):
    path = wav(voice(3.3, rate=44_100), 44_100)
    cut_out, rate = librosa.load(path, sr=44_100, offset=0.5, duration=2.45)
    expected = librosa.feature.mfcc(y=cut_out, sr=rate, n_mfcc=13)
    found = window_mfcc(path)
    assert found.shape == expected.shape == (13, 212)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_mfccs_of_48_khz_are_the_releases_but_for_the_edges_of_the_window(wav):
    # The release cuts first and resamples then, so its resampler sees silence beyond the window.
    path = wav(voice(3.3))
    cut_out, rate = librosa.load(path, sr=22050 * 2, offset=0.5, duration=2.45)
    expected = librosa.feature.mfcc(y=cut_out, sr=rate, n_mfcc=13)
    found = window_mfcc(path)
    assert found.shape == expected.shape == (13, 212)
    np.testing.assert_allclose(found[:, 3:-3], expected[:, 3:-3], atol=0.05)
    assert np.abs(found).max() > 100


def test_log_mels_are_librosas_and_reach_80_db_down(wav):
    path = wav(voice(3.3, rate=44_100), 44_100)
    cut_out, rate = librosa.load(path, sr=44_100, offset=0.5, duration=2.45)
    expected = librosa.power_to_db(librosa.feature.melspectrogram(y=cut_out, sr=rate))
    found = log_mel(read_window(path, PAPER), 44_100)
    assert found.shape == (128, 212)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found.max() - found.min() <= 80.001


@given(st.integers(8_000, 48_000), st.floats(0.1, 5))
def test_the_number_of_mfcc_vectors_is_librosas_frame_count(rate, duration_s):
    n_samples = round(duration_s * rate)
    expected = librosa.util.frame(np.zeros(n_samples + 2048), frame_length=2048, hop_length=512)
    assert n_mfcc_frames(rate, duration_s) == expected.shape[-1]


def test_a_take_that_ends_within_the_window_is_followed_by_silence(wav):
    # RAVDESS's take 01-02-01-02-02-13 lasts 2.936 s, the window ends at 2.95 s.
    path = wav(voice(2.936, rate=44_100), 44_100)
    window = read_window(path, PAPER)
    assert len(window) == round(2.45 * 44_100)
    n_there = round(2.936 * 44_100) - 22_050
    assert (window[n_there:] == 0).all()
    assert window[n_there - 100 : n_there].any()
    assert window_mfcc(path).shape == (13, 212)


def test_the_window_is_where_and_as_long_as_the_settings_say(wav):
    samples = np.zeros(3 * 16_000)
    samples[16_000:32_000] = 0.5
    settings = Preprocess(sample_rate_hz=16_000, offset_s=1.0, duration_s=1.0)
    np.testing.assert_allclose(read_window(wav(samples, 16_000), settings), 0.5, atol=1e-4)


@pytest.mark.parametrize("n_samples", [1, 14_400, 24_000])
def test_a_sound_that_ends_before_the_window_is_refused(wav, n_samples):
    path = wav(voice(1)[:n_samples])
    with pytest.raises(InputError, match=r"has 0\.\d+ s of sound, but .*starts at 0\.5 s; .*lower"):
        read_window(path, PAPER)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cannot be decoded"),
        (b"not a wav\n", "cannot be decoded"),
        (b"RIFF\x10\x00\x00\x00WAVE", "cannot be decoded"),
    ],
)
def test_a_file_that_is_no_sound_is_refused(tmp_path, content, expected):
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{NAME} {expected}.*fetch or export it again$"):
        read_waveform(path)


def test_an_empty_or_missing_wav_is_refused(wav, tmp_path):
    with pytest.raises(InputError, match="has an empty sound stream"):
        read_waveform(wav(np.zeros((0, 1))))
    with pytest.raises(InputError, match=r"cannot be decoded \(No such file"):
        read_waveform(tmp_path / "missing.wav")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_wav_that_is_cut_short_is_refused_and_not_padded_with_silence(wav, share):
    path = wav(voice(3.3))
    cut(path, share)
    with pytest.raises(InputError, match=r"is cut short: .* fetch or export it again"):
        read_window(path, PAPER)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F024, 0])
def test_a_wav_whose_header_leaves_its_length_open_is_read(wav, size):
    path = wav(voice(1))
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", size), struct.pack("<I", max(size - 36, 0))
    path.write_bytes(content)
    assert len(read_waveform(path)[0]) == 48_000


@pytest.mark.parametrize("n_channels", [7, 8, 16, 64])
def test_many_channels_are_one_waveform(wav, n_channels):
    path = wav(voice(0.2, n_channels=n_channels))
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(read_waveform(path)[0], expected.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("open_clip", [opened, lambda path: nullcontext(probe(path))])
@pytest.mark.parametrize(
    ("n_channels", "expected"), [(449, "cannot be decoded"), (37_889, "has sound that is at no")]
)
def test_channels_that_ffmpeg_cannot_mix_are_one_line(wav, open_clip, n_channels, expected):
    path = wav(voice(3))
    content = bytearray(path.read_bytes())
    content[22:24] = struct.pack("<H", n_channels)
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{NAME} {expected}"), open_clip(path) as clip:
        decode(clip)


def test_eight_channels_in_planes_are_one_waveform(tmp_path):
    path = tmp_path / "voice.ogg"
    soundfile.write(path, voice(1, n_channels=8), 48_000, format="OGG", subtype="VORBIS")
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(read_waveform(path)[0], expected.mean(axis=1), atol=1e-3)


def coded(path, samples, rate, layout="mono", form=None, says_length=False):
    """Write sound as mp3 or AAC, without a header that says how long it is or, an mp3, with one."""
    options = {} if form or says_length else {"write_xing": "0", "id3v2_version": "0"}
    with av.open(path, "w", format=form, options=options) as container:
        stream = container.add_stream("aac" if form else "libmp3lame", rate=rate, layout=layout)
        n_channels = stream.layout.nb_channels
        block = av.AudioFrame.from_ndarray(
            np.repeat(samples[None], n_channels, axis=0).astype(np.float32), "fltp", layout
        )
        block.sample_rate = rate
        to_codec = av.AudioResampler(stream.format, layout, rate, stream.codec_context.frame_size)
        for part in (*to_codec.resample(block), *to_codec.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(("name", "form"), [("voice.mp3", None), ("voice.aac", "adts")])
def test_an_estimated_duration_announces_nothing(tmp_path, name, form):
    # Silence costs few bits: by the rate of its start this file lasts far longer.
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * 44_100)
    coded(tmp_path / name, np.concatenate([np.zeros(2 * 44_100), noise]), 44_100, form=form)
    waveform, rate = read_waveform(tmp_path / name)
    assert len(waveform) / rate == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(
    ("rate", "layout"), [(44_100, "mono"), (44_100, "stereo"), (22_050, "mono")]
)
def test_an_mp3_is_whole_or_refused_by_its_xing_header(tmp_path, rate, layout):
    path = tmp_path / "voice.mp3"
    whole = coded(path, voice(3, rate)[:, 0], rate, layout, says_length=True)
    assert whole.startswith(b"ID3")
    bare = whole[whole.index(b"\xff") :]
    for content, duration_s in ((whole, 3), (bare, 3), (whole + bare, 6)):
        path.write_bytes(content)
        waveform, found_hz = read_waveform(path)
        assert len(waveform) / found_hz == pytest.approx(duration_s, abs=0.2)
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole)
        cut(path, share)
        with pytest.raises(InputError, match=r"^voice\.mp3 is cut short"):
            read_waveform(path)


@pytest.mark.parametrize(("rate", "layout"), [(44_100, "stereo"), (22_050, "mono")])
def test_joined_files_of_other_rates_and_layouts_are_one_waveform(tmp_path, rate, layout):
    first = coded(tmp_path / "first.mp3", voice(1, 44_100)[:, 0], 44_100)
    second = coded(tmp_path / "second.mp3", 3 * voice(1, rate)[:, 0], rate, layout)
    (tmp_path / "both.mp3").write_bytes(first + second)
    waveform, found = read_waveform(tmp_path / "both.mp3")
    assert found == 44_100
    assert len(waveform) / found == pytest.approx(2, abs=0.2)
    one, two = waveform[9_000:36_000], waveform[-36_000:-9_000]
    assert two.std() / one.std() == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("n_title", [0, 3_000])
def test_a_tag_between_joined_mp3s_is_passed_over(tmp_path, n_title):
    first = coded(tmp_path / "first.mp3", voice(1, 44_100)[:, 0], 44_100, says_length=True)
    second = coded(tmp_path / "second.mp3", 3 * voice(1, 44_100)[:, 0], 44_100, says_length=True)
    assert second.startswith(b"ID3")
    title = b"ID3\4\0\0\0\0" + bytes(divmod(n_title, 128)) + bytes(n_title)
    path = tmp_path / "both.mp3"
    path.write_bytes(first + (title if n_title else b"") + second)
    waveform, rate_hz = read_waveform(path)
    assert len(waveform) / rate_hz == pytest.approx(2, abs=0.2)
    one, two = waveform[9_000:36_000], waveform[-36_000:-9_000]
    assert two.std() / one.std() == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -2e6])
def test_samples_that_are_no_sound_are_refused(tmp_path, value):
    samples = voice(1)
    samples[30_000] = value
    soundfile.write(tmp_path / NAME, samples, 48_000, subtype="FLOAT")
    with pytest.raises(InputError, match=rf"^{NAME} has samples that are no sound"):
        read_waveform(tmp_path / NAME)


def test_a_file_of_floats_may_exceed_full_scale(tmp_path):
    soundfile.write(tmp_path / NAME, 32_768 * voice(3), 48_000, subtype="FLOAT")
    assert np.isfinite(window_mfcc(tmp_path / NAME)).all()


@pytest.mark.parametrize("rate", [1, 3_999, 2_000_000_000])
def test_a_rate_that_no_recorder_has_is_refused(wav, rate):
    with pytest.raises(InputError, match=f"says that it has {rate} samples of sound per second"):
        read_window(wav(voice(1), rate), PAPER)


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_the_sound_of_an_mp4_that_is_cut_short_is_refused(one_clip, tmp_path, share):
    path = tmp_path / one_clip[0].name
    remux(one_clip[0], path)
    cut(path, share)
    with pytest.raises(InputError, match=r"cut short|cannot be decoded"):
        read_waveform(path)


def test_an_mp4_without_sound_is_refused(one_clip, tmp_path):
    path = tmp_path / one_clip[0].name
    remux(one_clip[0], path, only="video")
    with pytest.raises(InputError, match="has no sound stream"):
        read_waveform(path)


def test_real_clips_are_read_whole_and_sound_like_librosas(ravdess_actor_1):
    stem = "01-01-01-01-01-01"
    video_file = ravdess_actor_1 / "Actor_01" / f"01-{stem}.mp4"
    sound_file = ravdess_actor_1 / "Actor_01" / f"03-{stem}.wav"
    cut_out, rate = librosa.load(sound_file, sr=44_100, offset=0.5, duration=2.45)
    expected = librosa.feature.mfcc(y=cut_out, sr=rate, n_mfcc=13)
    np.testing.assert_allclose(window_mfcc(sound_file)[:, 3:-3], expected[:, 3:-3], atol=0.5)
    # AAC beside 16-bit PCM of one recording: alike, not equal.
    both = np.corrcoef(window_mfcc(video_file).ravel(), expected.ravel())[0, 1]
    assert both > 0.98


def test_the_real_take_that_ends_early_is_padded(ravdess_shared):
    path = ravdess_shared / "audio" / "Actor_13" / "03-01-02-01-02-02-13.flac"
    end_s = soundfile.info(path).duration
    assert end_s == pytest.approx(2.936, abs=0.001)
    window = read_window(path, PAPER)
    n_there = math.ceil((end_s - 0.5) * 44_100)
    assert len(window) == round(2.45 * 44_100)
    assert (window[n_there:] == 0).all()
    assert window[n_there - 200 : n_there].any()
