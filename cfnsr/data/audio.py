"""Sound files to MFCCs and log-mel spectrograms (section 3.2)."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import av
import numpy as np

from cfnsr import InputError
from cfnsr.data.media import Clip, decoding, opened
from cfnsr.params import Preprocess

HOP = 512  # librosa's default, samples
N_MELS = 128  # librosa's default
#: By how much stamps may waver: containers round them, recorders note when a block arrived. What
#: lies farther from the end of the block before is there at another time.
JITTER_S = 0.03
#: A telephone has 8000 samples a second, the most of any recorder are 768,000.
LOWEST_HZ, HIGHEST_HZ = 4_000, 1_000_000
#: In full scales: 120 dB above it. Files of floats may exceed 1, and some hold 16-bit integers,
#: but no converter has more range; 1e15 would overflow in the spectrogram.
LOUDEST = 1e6


def n_mfcc_frames(sample_rate_hz: int, duration_s: float) -> int:
    """How many MFCC vectors a window gives: 212 for 2.45 s at 44,100 Hz."""
    return 1 + round(duration_s * sample_rate_hz) // HOP


def decode(clip: Clip) -> tuple[np.ndarray, int]:
    """The sound of an opened clip: mono float32 samples in [-1, 1], and their rate in Hz.

    The first sample is the clip's first moment, be it of picture or sound; silence where the
    stream is missing.

    Raises:
        InputError: no sound stream, or one that cannot be decoded or is no sound.
    """
    with decoding(clip.path):
        runs = [
            (form[-1], list(_mono(frames, clip.start_s)))
            for form, frames in groupby(clip.frames(clip.need("sound")), _form)
        ]
    if not runs:
        raise InputError(f"{clip.path.name} has an empty sound stream; fetch or export it again")
    rates_hz = [run_hz for run_hz, _ in runs]
    rate_hz = max(rates_hz)
    if not LOWEST_HZ <= min(rates_hz) <= rate_hz <= HIGHEST_HZ:
        raise InputError(
            f"{clip.path.name} says that it has {rates_hz[0]} samples of sound per second; "
            "fetch or export it again"
        )
    blocks = []
    for run_hz, run in runs:
        if run_hz != rate_hz:  # files that were joined
            start = min(at for at, _ in run)
            joined = resample(_laid([(at - start, part) for at, part in run]), run_hz, rate_hz)
            run = [(round(start * rate_hz / run_hz), joined)]
        blocks += run
    waveform = _laid(blocks)
    if not max(waveform.max(), -waveform.min()) <= LOUDEST:
        raise InputError(
            f"{clip.path.name} has samples that are no sound (not finite, or beyond {LOUDEST:g} "
            "times full scale); fetch or export it again"
        )
    return waveform, rate_hz


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _mono(frames: Iterable[av.AudioFrame], start_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of one form as mono samples, and at which sample of the clip they start."""
    to_packed = av.AudioResampler(format="flt")  # PyAV crashes at eight planes or more
    end = 0
    is_first = True
    for frame in frames:
        rate_hz = frame.sample_rate
        for block in to_packed.resample(frame):
            samples = block.to_ndarray().reshape(-1, block.layout.nb_channels).mean(axis=1)
            stamped = end if frame.time is None else round((frame.time - start_s) * rate_hz)
            start = stamped if is_first or abs(stamped - end) > JITTER_S * rate_hz else end
            start, is_first = max(start, 0), False
            yield start, samples
            end = start + len(samples)


def _laid(blocks: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Blocks of samples on a time line, silence between them."""
    waveform = np.zeros(max(start + len(samples) for start, samples in blocks), np.float32)
    for start, samples in blocks:
        waveform[start : start + len(samples)] = samples
    return waveform


def read_window(path: Path, settings: Preprocess) -> np.ndarray:
    """The analysed part of a file's sound: from `offset_s` for `duration_s`, zero-padded.

    Mono float32 samples at `settings.sample_rate_hz`; an `InputError` as of `decode`, or
    where the sound ends before the window starts.
    """
    with opened(path) as clip:
        return cut_window(path.name, *decode(clip), settings)


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
