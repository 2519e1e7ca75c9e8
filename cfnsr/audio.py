"""Waveforms to MFCCs (section 3.2)."""

import numpy as np

from cfnsr.params import Preprocess

HOP = 512  # librosa's default, samples


def n_mfcc_frames(sample_rate_hz: int, duration_s: float) -> int:
    """How many MFCC vectors a window gives: 212 for 2.45 s at 44,100 Hz."""
    return 1 + round(duration_s * sample_rate_hz) // HOP


def cut_window(waveform: np.ndarray, settings: Preprocess) -> np.ndarray:
    """The analysed part: from `offset_s` for `duration_s`, zero-padded at its end.

    Args:
        waveform: mono samples at `settings.sample_rate_hz`.
    """
    rate = settings.sample_rate_hz
    start, n_samples = round(settings.offset_s * rate), round(settings.duration_s * rate)
    window = waveform[start : start + n_samples]
    return np.pad(window, (0, n_samples - len(window)))


def mfcc(waveform: np.ndarray, settings: Preprocess) -> np.ndarray:
    """MFCCs of the analysed window, float32 (coefficient, time), by librosa's defaults.

    The coefficients are those of a log-power mel spectrogram with a top of 80 dB below its peak;
    the first is roughly the loudness.
    """
    import librosa  # loads scipy.fft and numba: 1 s that the models need not pay

    return librosa.feature.mfcc(
        y=cut_window(waveform, settings).astype(np.float32),
        sr=settings.sample_rate_hz,
        n_mfcc=settings.n_mfcc,
    )
