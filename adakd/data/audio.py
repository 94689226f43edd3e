"""Reading any audio file as 16 kHz mono samples, and writing the one format that we keep.

Files are opened with soundfile (wav, flac, mp3, ogg, opus). No features, no augmentation, and no
torch: stage 1 reads clips in a process a core, and torch would take 0.3 GB of memory in each.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from adakd.data import mp3
from adakd.errors import UserError
from adakd.files import atomic_write, other_form

if TYPE_CHECKING:
    import numpy as np
    import soundfile

SAMPLE_RATE = 16_000  # Hz, of all audio that models see
LOWEST_RATE = 8_000  # Hz; below telephone quality consonants are lost, and no resampling helps
HIGHEST_RATE = 768_000  # Hz; no recorder goes beyond, and a damaged header's filter takes GBs
LOUDEST = 2.0  # where 1 is full scale; floats and decoders of mp3 or Vorbis overshoot by less
UNKNOWN_LENGTH = (1 << 63) - 1  # samples: libsndfile's SF_COUNT_MAX
UNKNOWN_SIZE = (1 << 31) - (1 << 25)  # bytes; programs that stream write this or more, about 2 GiB
LARGEST_HEADER = 1024  # bytes, of a file without samples
RAW = ".raw"  # soundfile asks the caller for the rate of a file so named, whatever is in it
OVERHANG = 0.1  # seconds by which a segment may pass the file's end: rounding in segment lists
ROLLOFF, ZEROS = 0.99, 6  # resampling: cut-off over the lower Nyquist frequency; zero crossings
BLOCK = 64  # input samples that one row of the resampling product stands for, about
WINDOWS = 256  # rows at a time
LARGEST_FILTER = 1 << 24  # entries

# libsndfile's log: bytes by the header and bytes there are; of samples (WAV, AIFF, AU, CAF) or of
# the whole file (W64, RF64). Whole files show the first number alone, or one that is smaller.
_SIZES = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_OGG_ENDS = {  # in this order: junk hides whether the page before it was marked
    "Junk after the last page": "its last Ogg page is cut, or something follows it",
    "Last page lacks an end-of-stream bit": "its last Ogg page is not marked as the last",
}


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

    Raises:
        AudioError: (naming the file) missing, unreadable, truncated, empty, a sampling rate under
            8 kHz or over 768 kHz, samples that are not numbers, a segment outside the file, more
            than `longest`.
    """
    import numpy as np
    import soundfile

    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in it
        reason = "missing audio file"
        if other_form(path.name, lambda name: os.path.exists(path.with_name(name))):
            reason += ", but there is one of this name in another Unicode form (NFC, NFD)"
        raise AudioError(reason, path) from None
    except OSError as error:  # a name over 255 bytes, a folder that is closed to us
        raise AudioError(f"unreadable audio: {error.strerror}", path) from None
    if not stat.S_ISREG(status.st_mode):
        raise AudioError("missing audio file", path)
    if status.st_size == 0:
        raise AudioError("empty audio file", path)
    if path.suffix.lower() == RAW:
        raise AudioError("unreadable audio: raw samples, of which no header tells the rate", path)
    try:
        with soundfile.SoundFile(path) as file:
            _check_header(file, path)
            _check_end(file, path)
            first, last = _segment(_samples(file, path), file.samplerate, start, end, path)
            if problem := too_long((last - first) / file.samplerate, longest):
                raise AudioError(problem, path)
            if file.seekable():
                file.seek(first)
            else:
                file.read(first)  # as GSM 6.10: what stands before a segment is decoded, too
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


def fault(samples: np.ndarray) -> str | None:
    """Why samples (n,) that `read` gave are no speech to learn from; None if they may be."""
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > LOUDEST:  # 16-bit numbers kept as floats: nothing of them would be left but clipping
        return f"samples beyond full scale: up to {peak:g}, where 1 is full scale"
    if round(peak * 32768) <= 1:  # digital silence, with or without dither
        return "silent audio"
    return None


def is_ready(path: Path) -> bool:
    """Whether a file's header says 16 kHz, mono, WAV or FLAC: such files are used in place."""
    import soundfile

    if path.suffix.lower() == RAW:
        return False
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
    with atomic_write(path, "wb", durable=False) as file:  # a spoilt one is converted again
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
            "a file that does not tell its length, as programs write FLAC that stream it, and as "
            "Ogg streams one after another: 'ffmpeg -i OLD NEW.flac' adds it",
            path,
        )
    if file.samplerate > HIGHEST_RATE:
        raise AudioError(
            f"sampling rate too high: {file.samplerate} Hz, at most {HIGHEST_RATE} Hz taken", path
        )
    if file.frames == 0:
        reason, size = "empty audio: no samples", path.stat().st_size
        if size > LARGEST_HEADER and re.search("^data : 0$", file.extra_info, re.MULTILINE):
            reason += (
                f", for the header's data size is 0 in a file of {size} bytes: a recording that "
                "was cut? 'ffmpeg -i OLD NEW.wav' gives it its length"
            )
        raise AudioError(reason, path)


def _check_end(file: soundfile.SoundFile, path: Path) -> None:
    """Refuse a file that ends before it should.

    libsndfile quietly shortens it. Only its log tells, and of NIST SPHERE not even that.
    """
    log = file.extra_info
    for told, found in _SIZES.findall(log):
        if int(found) < int(told) < UNKNOWN_SIZE:
            raise AudioError(f"truncated audio: {told} bytes expected, {found} found", path)
    if file.format == "OGG":
        for line, problem in _OGG_ENDS.items():
            if line in log:
                raise AudioError(
                    f"truncated audio: {problem}; if nothing is missing, "
                    "'ffmpeg -i OLD -c copy NEW' mends it",
                    path,
                )
    if file.format == "VOC" and "Seems to be a truncated file" in log:
        raise AudioError("truncated audio: its header tells of more samples than there are", path)
    if file.format == "NIST":
        with open(path, "rb") as opened:
            count = re.search(rb"sample_count -i (\d+)", opened.read(1024))
        if count and file.frames < int(count[1]):
            raise AudioError(
                f"truncated audio: {int(count[1])} samples expected, {file.frames} found", path
            )


def _samples(file: soundfile.SoundFile, path: Path) -> int:
    """Samples a channel of an open file."""
    if file.format != "MP3":
        return file.frames
    status = path.stat()
    try:
        count = _mp3_samples(path, status.st_size, status.st_mtime_ns)
    except mp3.DamagedError as error:
        raise AudioError(f"truncated audio: {error}", path) from None
    if count is None:
        return file.frames
    if count > file.frames + 1152:  # a frame: libsndfile's guess may be a little short of the truth
        raise AudioError(
            f"mp3 whose length header is wrong or missing: "
            f"{file.frames / file.samplerate:.2f} s would be read of "
            f"{count / file.samplerate:.2f} s; 'ffmpeg -i OLD -c copy NEW' writes one",
            path,
        )
    return min(count, file.frames)


@lru_cache(maxsize=1)
def _mp3_samples(path: Path, size: int, changed: int) -> int | None:
    """`mp3.samples` of a file, once for all segments of a long recording that follow each other."""
    return mp3.samples(path.read_bytes())


def _segment(
    count: int, rate: int, start: float | None, end: float | None, path: Path
) -> tuple[int, int]:
    """The first sample of a segment and the one after its last, at the file's own rate."""
    seconds = count / rate
    begin = 0.0 if start is None else start
    stop = seconds if end is None else end
    if end is not None and end <= begin:
        raise AudioError(f"segment ends before it begins: {begin:g} s to {stop:g} s", path)
    if not 0 <= begin < seconds or stop > seconds + OVERHANG:
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
