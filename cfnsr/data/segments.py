"""Overlapping segments of a clip, heard and seen, as the hybrid deep model takes them.

Sizes and steps are those of the first author's example code, see `cfnsr.models.hybrid`.
"""

import numpy as np

from cfnsr import InputError
from cfnsr.params import Preprocess

WINDOW_S, SHIFT_S = 0.025, 0.010
N_BANDS, LOWEST_HZ, HIGHEST_HZ = 64, 20, 8000
#: Moments of the spectrogram in a segment, and from one segment to the next.
N_MOMENTS, STEP = 64, 30
SEGMENT_S = (N_MOMENTS - 1) * SHIFT_S + WINDOW_S
#: The log-mel spectrogram, its change over time, and the change of that.
N_CHANNELS = 3


def n_segments(settings: Preprocess) -> int:
    """How many the analysed sound has: 6 in 2.45 s. What is left at its end is not heard."""
    n_window, n_shift = _in_samples(settings)
    n_samples = round(settings.duration_s * settings.sample_rate_hz)
    n_moments = 1 + (n_samples - n_window) // n_shift
    return max(0, 1 + (n_moments - N_MOMENTS) // STEP)


def segment_mel(window: np.ndarray, settings: Preprocess) -> np.ndarray:
    """Log-mel segments with their changes, float32 (channel * band, segment, moment).

    64 bands from 20 to 8000 Hz of Hamming windows of 25 ms every 10 ms, in dB down to 80 below the
    loudest moment. The changes are librosa's deltas, over 9 moments, within the segment.

    Args:
        window: float32 samples of the analysed sound at the settings' rate.

    Raises:
        InputError: it is shorter than a segment.
    """
    import librosa

    if n_segments(settings) == 0:
        raise InputError(
            f"preprocess.duration_s is {settings.duration_s}, but a segment takes {SEGMENT_S:.3f} s"
        )
    n_window, n_shift = _in_samples(settings)
    n_fft = 1 << (n_window - 1).bit_length()
    power = librosa.feature.melspectrogram(
        y=np.pad(window, (n_fft - n_window) // 2),  # so the first window starts with the sound
        sr=settings.sample_rate_hz,
        n_fft=n_fft,
        win_length=n_window,
        hop_length=n_shift,
        window="hamming",
        center=False,
        n_mels=N_BANDS,
        fmin=LOWEST_HZ,
        fmax=HIGHEST_HZ,
    )
    log_mel = librosa.power_to_db(power)
    static = np.stack([log_mel[:, i : i + N_MOMENTS] for i in _starts(settings)], axis=1)
    changes = [librosa.feature.delta(static, order=order) for order in (1, 2)]
    return np.concatenate([static, *changes]).astype(np.float32)


def frames_beside(n_available: int, duration_s: float, settings: Preprocess) -> np.ndarray:
    """Which frames lie beside a clip's segments: `n_frames` contiguous ones about each middle.

    At the clip's ends they are its first or its last ones.

    Args:
        n_available: frames of the clip, spread evenly over its `duration_s`.

    Returns:
        Indices (segment * frame,), segment by segment.

    Raises:
        InputError: the clip has fewer frames, or ends within the first segment.
    """
    n = settings.n_frames
    if n_available < n:
        raise InputError(
            f"{n_available} frames, but {n} contiguous ones are asked for; lower hybrid.n_frames"
        )
    if duration_s < settings.offset_s + SEGMENT_S:
        raise InputError(
            f"{duration_s:.3f} s of sound, but a segment takes {SEGMENT_S:.3f} s from "
            f"{settings.offset_s} s on; fetch the file again or lower preprocess.offset_s"
        )
    middles_s = settings.offset_s + _starts(settings) * SHIFT_S + SEGMENT_S / 2
    first = np.round(middles_s * n_available / duration_s - n / 2).astype(int)
    found: np.ndarray = np.clip(first, 0, n_available - n)[:, None] + np.arange(n)
    return found.ravel()


def _in_samples(settings: Preprocess) -> tuple[int, int]:
    """Length and shift of the spectrogram's windows."""
    rate_hz = settings.sample_rate_hz
    return round(WINDOW_S * rate_hz), round(SHIFT_S * rate_hz)


def _starts(settings: Preprocess) -> np.ndarray:
    """The first moment of each segment."""
    return np.arange(n_segments(settings)) * STEP
