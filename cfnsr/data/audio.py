"""Sound files to MFCCs and log-mel spectrograms (section 3.2)."""

from pathlib import Path

import av
import numpy as np

from cfnsr.errors import InputError
from cfnsr.params import Preprocess

HOP = 512  # librosa's default, samples
N_MELS = 128  # librosa's default
#: By how much a whole file may be shorter than it says: encoders pad, writers miscount headers.
TOLERANCE_S = 0.1
RIFF_TOLERANCE_BYTES = 1024


def n_mfcc_frames(sample_rate_hz: int, duration_s: float) -> int:
    """How many MFCC vectors a window gives: 212 for 2.45 s at 44,100 Hz."""
    return 1 + round(duration_s * sample_rate_hz) // HOP


def read_waveform(path: Path) -> tuple[np.ndarray, int]:
    """The sound of a wav, flac or mp4 file: mono float32 samples in [-1, 1], and their rate in Hz.

    Raises:
        InputError: no sound stream, or one that is cut short or cannot be decoded.
    """
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                raise InputError(f"{path.name} has no sound stream; fetch the file again")
            stream = container.streams.audio[0]
            to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
            blocks = [
                block.to_ndarray()
                for frame in (*container.decode(stream), None)
                for block in to_float.resample(frame)
            ]
            rate = stream.rate
            announced_s = float((stream.duration or 0) * (stream.time_base or 0))
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path.name} cannot be decoded ({error.strerror}); fetch the file again"
        ) from None
    if not blocks:
        raise InputError(f"{path.name} has an empty sound stream; fetch the file again")
    waveform = np.concatenate(blocks, axis=1).mean(axis=0)
    if len(waveform) / rate < announced_s - TOLERANCE_S or _riff_is_cut(path):
        raise InputError(
            f"{path.name} is cut short: only {len(waveform) / rate:.2f} s of its sound are there; "
            "fetch the file again"
        )
    return waveform, rate


def _riff_is_cut(path: Path) -> bool:
    """Whether a wav file is shorter than its header says, which FFmpeg passes over."""
    with path.open("rb") as file:
        header = file.read(8)
    n_bytes = int.from_bytes(header[4:], "little")
    is_known = header[:4] == b"RIFF" and n_bytes != 0xFFFF_FFFF  # unknown to whoever streamed it
    return is_known and path.stat().st_size + RIFF_TOLERANCE_BYTES < n_bytes


def read_window(path: Path, settings: Preprocess) -> np.ndarray:
    """The analysed part of a file's sound: from `offset_s` for `duration_s`, zero-padded.

    Returns:
        Mono float32 samples at `settings.sample_rate_hz`.

    Raises:
        InputError: unreadable, or it ends before the window starts.
    """
    return cut_window(path.name, *read_waveform(path), settings)


def cut_window(name: str, waveform: np.ndarray, rate_hz: int, settings: Preprocess) -> np.ndarray:
    """The same of a waveform that is already read from the file `name`."""
    if len(waveform) <= settings.offset_s * rate_hz:
        raise InputError(
            f"{name} has {len(waveform) / rate_hz:.3f} s of sound, but the analysed window "
            f"starts at {settings.offset_s} s; fetch the file again or lower preprocess.offset_s"
        )
    resampled = resample(waveform, rate_hz, settings.sample_rate_hz)
    return cut_resampled(resampled, settings.offset_s, settings)


def cut_resampled(waveform: np.ndarray, start_s: float, settings: Preprocess) -> np.ndarray:
    """`duration_s` of a waveform at the settings' rate from `start_s`, zero-padded at its end."""
    rate_hz = settings.sample_rate_hz
    start, n_samples = round(start_s * rate_hz), round(settings.duration_s * rate_hz)
    window = waveform[start : start + n_samples]
    return np.pad(window, (0, n_samples - len(window)))


def resample(waveform: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    """Mono float32 samples at another rate."""
    import librosa  # loads numba: two seconds that the models need not pay

    return librosa.resample(waveform, orig_sr=rate_hz, target_sr=target_hz)


def log_mel(window: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Log-power mel spectrogram by librosa's defaults, float32 (band, time), in dB.

    128 bands; values reach from the loudest moment down to 80 dB below it.
    """
    import librosa

    power = librosa.feature.melspectrogram(y=window, sr=sample_rate_hz, n_mels=N_MELS)
    return librosa.power_to_db(power)


def mfcc(log_mel: np.ndarray, n_mfcc: int) -> np.ndarray:
    """The first cepstral coefficients of a log-mel spectrogram, float32 (coefficient, time).

    The same as `librosa.feature.mfcc` on the waveform; the first is roughly the loudness.
    """
    import librosa

    return librosa.feature.mfcc(S=log_mel, n_mfcc=n_mfcc)
