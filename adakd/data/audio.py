"""Reading any audio file as 16 kHz mono samples, and writing the one format that we keep.

Files are opened with soundfile (wav, flac, mp3, ogg, opus). No features, no augmentation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from adakd.errors import UserError
from adakd.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import soundfile

SAMPLE_RATE = 16_000  # Hz, of all audio that models see
LOWEST_RATE = 8_000  # Hz; below telephone quality consonants are lost, and no resampling helps
OVERHANG = 0.1  # seconds by which a segment may pass the file's end: rounding in segment lists


class AudioError(UserError):
    """An audio file that cannot be used. `reason` leaves out the file, the message names it."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read(path: Path, start: float | None = None, end: float | None = None) -> np.ndarray:
    """The samples of a file, or of its part from `start` to `end` seconds.

    Returns float32 of shape (samples,), mono (channels averaged), 16 kHz (resampled where needed),
    in [-1, 1] but for the overshoot of resampling.
    Errors (AudioError, naming the file): missing, unreadable, truncated, empty, a sampling rate
    under 8 kHz, samples that are not numbers, a segment outside the file.
    """
    import numpy as np
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise AudioError("missing audio file", path)
    if path.stat().st_size == 0:
        raise AudioError("empty audio file", path)
    try:
        with soundfile.SoundFile(path) as file:
            _check_header(file, path)
            first, last = _segment(file, start, end, path)
            file.seek(first)
            channels = file.read(last - first, dtype="float32", always_2d=True)  # (n, channels)
            rate = file.samplerate
    except soundfile.SoundFileError as error:
        detail = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise AudioError(f"unreadable audio: {detail}", path) from None
    if len(channels) < last - first:
        raise AudioError(
            f"truncated audio: {last - first} samples expected, {len(channels)} found", path
        )
    if not np.isfinite(channels).all():
        raise AudioError("samples that are not numbers (NaN or infinity)", path)
    samples = channels.mean(axis=1)
    return samples if rate == SAMPLE_RATE else _resample(samples, rate)


def is_ready(path: Path) -> bool:
    """Whether a file's header says 16 kHz, mono, WAV or FLAC: such files are used in place."""
    import soundfile

    try:
        header = soundfile.info(path)
    except soundfile.SoundFileError:
        return False
    return (
        header.samplerate == SAMPLE_RATE
        and header.channels == 1
        and header.format in ("WAV", "WAVEX", "FLAC")
    )


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write float samples (n,) in [-1, 1], 16 kHz, as mono 16-bit FLAC, atomically.

    Louder samples are clipped. What was read from a 16-bit 16 kHz file is written bit for bit.
    """
    import numpy as np
    import soundfile

    # Scaled here, for libsndfile scales by 32768 when reading but by 32767 when writing.
    integers = np.clip(np.rint(np.asarray(samples, dtype=np.float64) * 32768), -32768, 32767)
    with atomic_write(path, "wb") as file:
        soundfile.write(
            file, integers.astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16"
        )


def _check_header(file: soundfile.SoundFile, path: Path) -> None:
    if file.samplerate < LOWEST_RATE:
        raise AudioError(
            f"sampling rate too low: {file.samplerate} Hz, at least {LOWEST_RATE} Hz needed", path
        )
    if file.frames == 0:
        raise AudioError("empty audio: no samples", path)
    # libsndfile quietly shortens a WAV whose data ends early; only its log tells. A declared size
    # of 2 GiB or more is what programs write that stream a WAV and cannot know its length.
    shortened = re.search(r"^\s*data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if shortened and int(shortened[2]) < int(shortened[1]) < 2**31 - 2**16:
        raise AudioError(
            f"truncated audio: {shortened[1]} bytes of samples expected, {shortened[2]} found", path
        )


def _segment(
    file: soundfile.SoundFile, start: float | None, end: float | None, path: Path
) -> tuple[int, int]:
    """The first sample of a segment and the one after its last, at the file's own rate."""
    seconds = file.frames / file.samplerate
    begin = 0.0 if start is None else start
    stop = seconds if end is None else end
    if not 0 <= begin < min(stop, seconds) or stop > seconds + OVERHANG:
        raise AudioError(
            f"segment outside the file: {begin:g} s to {stop:g} s of {seconds:g} s", path
        )
    first = round(begin * file.samplerate)
    last = file.frames if end is None else min(round(stop * file.samplerate), file.frames)
    if first >= last:
        raise AudioError(f"empty audio: no samples between {begin:g} s and {stop:g} s", path)
    return first, last


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    import torch
    from torchaudio.functional import resample

    with torch.inference_mode():
        return resample(torch.from_numpy(samples), rate, SAMPLE_RATE).numpy()
