"""Reading any audio file as 16 kHz mono samples, and writing the one format that we keep.

Files are opened with soundfile (wav, flac, mp3, ogg, opus). No features, no augmentation, and no
torch: stage 1 reads clips in a process a core, and torch would take 0.3 GB of memory in each.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from adakd.data import mp3
from adakd.errors import UserError
from adakd.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import soundfile

SAMPLE_RATE = 16_000  # Hz, of all audio that models see
LOWEST_RATE = 8_000  # Hz; below telephone quality consonants are lost, and no resampling helps
UNKNOWN_LENGTH = (1 << 63) - 1  # samples: libsndfile's SF_COUNT_MAX
OVERHANG = 0.1  # seconds by which a segment may pass the file's end: rounding in segment lists
ROLLOFF, ZEROS = 0.99, 6  # resampling: cut-off over the lower Nyquist frequency; zero crossings
BLOCK = 64  # input samples that one row of the resampling product stands for, about
WINDOWS = 256  # rows at a time
LARGEST_FILTER = 1 << 24  # entries


class AudioError(UserError):
    """An audio file that cannot be used. `reason` leaves out the file, the message names it."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(reason, path)  # as given: a copy from another process is made of these
        self.reason, self.path = reason, path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def too_long(seconds: float, longest: float) -> str | None:
    """Why audio of so many seconds is rejected, None if it is not."""
    if seconds <= longest:
        return None
    return f"too long: {seconds:.3f} s, at most {longest:g} s allowed"


def read(
    path: Path, start: float | None = None, end: float | None = None, longest: float = math.inf
) -> np.ndarray:
    """The samples of a file, or of its part from `start` to `end` seconds.

    longest: seconds; of what is longer no sample is decoded.

    Returns float32 of shape (samples,), mono (channels averaged), 16 kHz (resampled where needed),
    in [-1, 1] but for the overshoot of resampling.
    Errors (AudioError, naming the file): missing, unreadable, truncated, empty, a sampling rate
    under 8 kHz, samples that are not numbers, a segment outside the file, more than `longest`.
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
            first, last = _segment(_samples(file, path), file.samplerate, start, end, path)
            if problem := too_long((last - first) / file.samplerate, longest):
                raise AudioError(problem, path)
            file.seek(first)
            channels = file.read(last - first, dtype="float32", always_2d=True)  # (n, channels)
            rate = file.samplerate
    except soundfile.SoundFileError as error:
        detail = str(getattr(error, "error_string", error)).strip().rstrip(".")
        if detail.startswith("File does not exist"):  # libsndfile's word for an mp3 without frames
            detail = "no format that soundfile knows, or damaged from its beginning on"
        raise AudioError(f"unreadable audio: {detail}", path) from None
    if len(channels) < last - first:
        raise AudioError(
            f"truncated audio: {last - first} samples expected, {len(channels)} found", path
        )
    if not np.isfinite([channels.min(), channels.max()]).all():
        raise AudioError("samples that are not numbers (NaN or infinity)", path)
    # One channel is no average: that would cost as much as decoding it.
    samples = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
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
    import soundfile

    encoded = io.BytesIO()  # one write to the file instead of one a block takes a fifth less time
    soundfile.write(encoded, _integers(samples), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    with atomic_write(path, "wb") as file:
        file.write(encoded.getbuffer())


def checksum(samples: np.ndarray) -> int:
    """CRC-32 of samples (n,) as 16-bit integers: before `write_flac` what it is after `read`."""
    return zlib.crc32(_integers(samples).tobytes())


def _integers(samples: np.ndarray) -> np.ndarray:
    """Samples (n,) in [-1, 1] as 16-bit integers, louder ones clipped."""
    import numpy as np

    # Scaled here, for libsndfile scales by 32768 when reading but by 32767 when writing. A power of
    # two: float32 loses nothing.
    return np.clip(np.rint(np.asarray(samples) * 32768), -32768, 32767).astype(np.int16)


def _check_header(file: soundfile.SoundFile, path: Path) -> None:
    if file.samplerate < LOWEST_RATE:
        raise AudioError(
            f"sampling rate too low: {file.samplerate} Hz, at least {LOWEST_RATE} Hz needed", path
        )
    if file.frames == UNKNOWN_LENGTH:
        raise AudioError(
            "a file that does not tell its length, as programs write FLAC that stream it: "
            "'ffmpeg -i OLD NEW.flac' adds it",
            path,
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


def _samples(file: soundfile.SoundFile, path: Path) -> int:
    """Samples a channel of an open file."""
    if file.format != "MP3":
        return file.frames
    try:
        count = mp3.samples(path.read_bytes())
    except mp3.DamagedError as error:
        raise AudioError(f"truncated audio: {error}", path) from None
    if count is None:
        return file.frames
    if count > file.frames + 1152:  # a frame: libsndfile's guess may be a little short of the truth
        raise AudioError(
            f"mp3 of a varying bit rate without a length header: "
            f"{file.frames / file.samplerate:.2f} s would be read of "
            f"{count / file.samplerate:.2f} s; 'ffmpeg -i OLD -c copy NEW' adds the header",
            path,
        )
    return min(count, file.frames)


def _segment(
    count: int, rate: int, start: float | None, end: float | None, path: Path
) -> tuple[int, int]:
    """The first sample of a segment and the one after its last, at the file's own rate."""
    seconds = count / rate
    begin = 0.0 if start is None else start
    stop = seconds if end is None else end
    if not 0 <= begin < min(stop, seconds) or stop > seconds + OVERHANG:
        raise AudioError(
            f"segment outside the file: {begin:g} s to {stop:g} s of {seconds:g} s", path
        )
    first = round(begin * rate)
    last = count if end is None else min(round(stop * rate), count)
    if first >= last:
        raise AudioError(f"empty audio: no samples between {begin:g} s and {stop:g} s", path)
    return first, last


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (n,) of any rate at 16 kHz, by band-limited interpolation (Smith 1984)."""
    import numpy as np

    factor = math.gcd(rate, SAMPLE_RATE)
    down, up = rate // factor, SAMPLE_RATE // factor
    if down * up > LARGEST_FILTER:  # a rate as no recorder has: slow, but within any memory
        from scipy.signal import resample_poly

        return resample_poly(samples, up, down).astype(np.float32)
    taps, reach, step = _filter(down, up)  # (window, a block's outputs)
    count = -(-len(samples) * up // down)
    blocks = -(-count // taps.shape[1])
    found = np.empty((blocks, taps.shape[1]), dtype=np.float32)
    # In small pieces: a clip's megabyte of fresh memory takes longer to get than to fill.
    for first in range(0, blocks, WINDOWS):
        rows = min(WINDOWS, blocks - first)
        piece = np.zeros((rows - 1) * step + len(taps), dtype=np.float32)
        begin = first * step - reach
        inside = samples[max(begin, 0) : begin + len(piece)]
        piece[max(-begin, 0) :][: len(inside)] = inside
        windows = np.lib.stride_tricks.sliding_window_view(piece, len(taps))[::step]
        np.dot(windows, taps, out=found[first : first + rows])
    return found.reshape(-1)[:count]


@lru_cache(maxsize=8)
def _filter(down: int, up: int) -> tuple[np.ndarray, int, int]:
    """The filter as a matrix, so that a block of outputs is a window of inputs times it.

    h(t) = c sinc(ct) cos(pi ct / 2Z)^2 for |ct| < Z, with the cut-off c relative to the input's
    Nyquist frequency: a windowed sinc with torchaudio's values. Returns the matrix (window,
    outputs), the inputs that a window reaches beyond its block on either side, and a block's.
    """
    import numpy as np

    cutoff = ROLLOFF * min(1.0, up / down)
    reach = math.ceil(ZEROS / cutoff)
    periods = max(1, round(BLOCK / down))
    step, outputs = periods * down, periods * up
    # ct between each input of a window and each output of its block
    inputs = np.arange(step + 2 * reach) - reach
    time = cutoff * (inputs[:, None] - np.arange(outputs) * (down / up))
    window = np.where(np.abs(time) < ZEROS, np.cos(time * np.pi / (2 * ZEROS)) ** 2, 0.0)
    return (cutoff * np.sinc(time) * window).astype(np.float32), reach, step
