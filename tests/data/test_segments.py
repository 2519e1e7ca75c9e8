"""Tests of `cfnsr.data.segments`, and of the arrays that preprocessing makes of it."""

import librosa
import numpy as np
import pytest
import soundfile
from conftest import SMALL, read_waveform

from cfnsr import InputError
from cfnsr.data import preprocess, segments, video
from cfnsr.data.clips import load_clips
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.media import probe
from cfnsr.params import Preprocess

PAPER = Preprocess(frame_choice="segments", n_frames=16)
SEGMENTS = SMALL.model_copy(update={"frame_choice": "segments", "n_frames": 6})


def test_six_overlapping_segments_cover_the_analysed_sound():
    assert segments.n_segments(PAPER) == 6
    assert pytest.approx(0.655) == segments.SEGMENT_S
    starts_s = 0.3 * np.arange(6)
    assert (starts_s[1:] < starts_s[:-1] + segments.SEGMENT_S).all()
    left_over_s = PAPER.duration_s - (starts_s[-1] + segments.SEGMENT_S)
    assert 0 <= left_over_s < 0.3


def test_a_segment_hears_what_sounds_while_it_lasts_and_nothing_else():
    rate_hz = PAPER.sample_rate_hz
    for i in range(6):
        window = np.zeros(round(PAPER.duration_s * rate_hz), np.float32)
        at = round((0.3 * i + 0.3) * rate_hz)  # within segment i, after 300 ms
        window[at : at + 441] = np.sin(2 * np.pi * 1000 * np.arange(441) / rate_hz)
        static = segments.segment_mel(window, PAPER)[: segments.N_BANDS]
        heard = static.max(axis=(0, 2)) > static.max() - 20
        begins = 0.3 * np.arange(6)
        expected = (begins < 0.3 * i + 0.31) & (0.3 * i + 0.3 < begins + segments.SEGMENT_S)
        np.testing.assert_array_equal(heard, expected)
        assert 27 <= static[:, i].max(axis=0).argmax() <= 31  # moments of 10 ms


def test_the_spectrogram_is_librosa_s_and_its_changes_stay_within_the_segment():
    rng = np.random.default_rng(0)
    window = rng.normal(size=round(2.45 * 44_100)).astype(np.float32)
    found = segments.segment_mel(window, PAPER)
    assert found.shape == (3 * 64, 6, 64)
    mel = librosa.filters.mel(sr=44_100, n_fft=2048, n_mels=64, fmin=20, fmax=8000)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(1102) / 1102)
    power = np.stack(
        [
            np.abs(np.fft.rfft(hamming * window[441 * t : 441 * t + 1102], 2048)) ** 2
            for t in range(214)
        ],
        axis=1,
    )
    expected = librosa.power_to_db(mel @ power, top_db=None)
    static = found[:64]
    for i in range(6):
        np.testing.assert_allclose(static[:, i], expected[:, 30 * i : 30 * i + 64], atol=1e-3)
        for order in (1, 2):
            changes = librosa.feature.delta(static[:, i], order=order)
            np.testing.assert_allclose(found[64 * order :][:64, i], changes, atol=1e-4)


def test_frames_are_contiguous_about_each_segment_s_middle_and_never_outside_the_clip():
    n, duration_s = 105, 3.5  # 30 a second
    chosen = segments.frames_beside(n, duration_s, PAPER).reshape(6, 16)
    assert (np.diff(chosen, axis=1) == 1).all()
    middles_s = 0.5 + 0.3 * np.arange(6) + segments.SEGMENT_S / 2
    np.testing.assert_allclose((chosen[:, 0] + 8) / 30, middles_s, atol=0.5 / 30 + 1e-9)
    short = segments.frames_beside(36, 1.2, PAPER).reshape(6, 16)
    assert short.min() == 17
    assert (short[-1] == np.arange(20, 36)).all()
    assert (segments.frames_beside(16, 1.2, PAPER).reshape(6, 16) == np.arange(16)).all()


@pytest.mark.parametrize(
    ("n_frames", "duration_s", "expected"),
    [
        (15, 3.5, "15 frames, but 16 contiguous ones are asked for; lower hybrid.n_frames"),
        (30, 1.0, r"1\.000 s of sound, but a segment takes 0\.655 s from 0\.5 s on; fetch"),
    ],
)
def test_a_clip_that_is_too_short_is_one_clear_line(n_frames, duration_s, expected):
    with pytest.raises(InputError, match=expected) as caught:
        segments.frames_beside(n_frames, duration_s, PAPER)
    assert "\n" not in str(caught.value)


def test_a_window_shorter_than_a_segment_is_one_clear_line():
    brief = PAPER.model_copy(update={"duration_s": 0.6})
    assert segments.n_segments(brief) == 0
    with pytest.raises(InputError, match=r"duration_s is 0\.6, but a segment takes 0\.655 s"):
        segments.segment_mel(np.zeros(round(0.6 * 44_100), np.float32), brief)


def test_segments_are_not_for_whoever_does_not_know_the_clip_s_duration():
    with pytest.raises(InputError, match="for the rows of group hybrid alone"):
        video.choose_frames(50, PAPER)


def test_preprocessing_adds_segments_and_changes_no_other_array(one_clip):
    media, csv = one_clip
    usual = preprocess.preprocess_clip(media, csv, SMALL, draws_landmarks=False)
    assert "segment_mel" not in usual
    arrays = preprocess.preprocess_clip(media, csv, SEGMENTS, draws_landmarks=False)
    assert arrays["segment_mel"].shape == (192, 6, 64)
    assert arrays["segment_mel"].dtype == np.float16
    for name in usual.keys() - {"frames"}:
        np.testing.assert_array_equal(arrays[name], usual[name])
    points, (waveform, rate_hz) = read_landmarks(csv).points, read_waveform(media)
    chosen = segments.frames_beside(len(points), len(waveform) / rate_hz, SEGMENTS)
    every = SMALL.model_copy(update={"n_frames": len(points)})
    whole = video.crop_faces(probe(media), points, every)
    np.testing.assert_array_equal(arrays["frames"], whole[chosen])


def test_a_clip_that_ends_within_its_first_segment_is_rejected(one_clip, tmp_path):
    path = tmp_path / "03-01-01-01-01-01-01.wav"
    waveform, rate_hz = read_waveform(one_clip[0])
    soundfile.write(path, waveform[:rate_hz], rate_hz)
    csv = tmp_path / "landmarks.csv"
    csv.write_text("\n".join(one_clip[1].read_text().splitlines()[:17]))
    with pytest.raises(InputError, match=r"1\.000 s of sound, but a segment takes 0\.655 s"):
        preprocess.preprocess_clip(path, csv, SEGMENTS, draws_landmarks=True)


def test_clips_have_segments_where_they_were_made(random_arrays, tmp_path):
    assert load_clips(random_arrays).segment_mel is None
    for path in random_arrays.iterdir():
        (tmp_path / path.name).symlink_to(path)
    n_clips = len(load_clips(random_arrays).index)
    np.save(tmp_path / "segment_mel.npy", np.zeros((n_clips, 192, 6, 64), np.float16))
    found = load_clips(tmp_path)
    assert found.segment_mel.shape == (n_clips, 192, 6, 64)
    assert found.sha256 == load_clips(random_arrays).sha256
