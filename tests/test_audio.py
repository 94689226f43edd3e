"""Audio comes in as 16 kHz mono or as a sentence that says why not."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adakd.data import audio
from adakd.errors import UserError


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-32768, 32768, count).astype(np.int16)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 1), (44_100, 2), (48_000, 1)])
def test_any_rate_becomes_16_khz_mono(tmp_path: Path, rate: int, channels: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone(440, 0.5, rate)] * channels, axis=1), rate)
    samples = audio.read(path)
    assert samples.dtype == np.float32 and samples.shape == (8_000,)
    # Away from the ends, where resampling sees silence, it is the same tone.
    np.testing.assert_allclose(samples[400:-400], tone(440, 0.5, 16_000)[400:-400], atol=5e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_resampling_is_torchaudios(rate: int) -> None:
    import torch
    from torchaudio.functional import resample

    clip = np.random.default_rng(rate).uniform(-1, 1, 12_345).astype(np.float32)
    for length in (1, 2, 63, 64, 65, 440, 441, 12_345):
        # In float64: torchaudio's filter is only as exact as its input.
        expected = resample(torch.from_numpy(clip[:length]).double(), rate, 16_000).numpy()
        found = audio._resample(clip[:length], rate)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_an_odd_rate_is_resampled_too(tmp_path: Path) -> None:
    # 16 kHz and 47,999 Hz share no factor: as one matrix the filter would take 3 GB.
    soundfile.write(tmp_path / "a.wav", tone(440, 0.5, 47_999), 47_999)
    samples = audio.read(tmp_path / "a.wav")
    assert len(samples) == 8_001 and samples.dtype == np.float32
    np.testing.assert_allclose(samples[400:-401], tone(440, 0.5, 16_000)[400:-400], atol=5e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((100, 2), [0.5, -0.25]), 16_000)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav"), 0.125, atol=1e-4)


def test_flac_is_written_bit_for_bit(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(5_000), 16_000)
    audio.write_flac(tmp_path / "deep" / "a.flac", audio.read(tmp_path / "a.wav"))
    written, rate = soundfile.read(tmp_path / "deep" / "a.flac", dtype="int16")
    assert rate == 16_000 and np.array_equal(written, noise(5_000))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.flac"]


def test_loud_samples_are_clipped_not_wrapped(tmp_path: Path) -> None:
    audio.write_flac(tmp_path / "a.flac", np.array([2.0, -2.0]))
    np.testing.assert_allclose(audio.read(tmp_path / "a.flac"), [1, -1], atol=1e-4)


def test_segments(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(16_000), 16_000)
    whole = audio.read(path)
    assert np.array_equal(audio.read(path, 0.25, 0.5), whole[4_000:8_000])
    assert np.array_equal(audio.read(path, start=0.75), whole[12_000:])
    assert np.array_equal(audio.read(path, end=0.25), whole[:4_000])
    assert np.array_equal(audio.read(path, 0.5, 1.05), whole[8_000:])  # a rounded end
    for start, end in ((0.5, 1.5), (2.0, 3.0), (-0.1, 0.5), (1.5, None)):
        with pytest.raises(audio.AudioError, match="segment outside the file"):
            audio.read(path, start, end)
    for start, end in ((0.5, 0.5), (0.6, 0.5)):
        with pytest.raises(audio.AudioError, match="segment ends before it begins"):
            audio.read(path, start, end)


def test_segments_of_what_cannot_be_sought_in(tmp_path: Path) -> None:
    path = tmp_path / "telephone.wav"
    soundfile.write(path, tone(300, 2.0, 8_000), 8_000, subtype="GSM610")
    assert not soundfile.SoundFile(path).seekable()
    decoded = soundfile.read(path, frames=16_000, dtype="float32")[0]
    assert np.array_equal(audio.read(path), audio._resample(decoded, 8_000))
    part = audio._resample(decoded[4_000:12_000], 8_000)
    assert np.array_equal(audio.read(path, 0.5, 1.5), part)


def test_what_is_too_long_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(24_000), 8_000)
    assert len(audio.read(path, longest=3.0)) == 48_000
    assert len(audio.read(path, 1.0, 2.0, longest=1.5)) == 16_000
    monkeypatch.delattr(soundfile.SoundFile, "read")
    for part in ((None, None), (0.5, 2.75), (0.5, None)):
        with pytest.raises(audio.AudioError, match=r"too long: .* s, at most 2 s allowed"):
            audio.read(path, *part, longest=2.0)


def test_a_streamed_flac_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(16_000), 16_000)
    whole = bytearray(path.read_bytes())
    assert whole[:8] == b"fLaC\0\0\0\x22", "STREAMINFO comes first"
    whole[21] &= 0xF0  # its number of samples: 36 bits (RFC 9639, 8.2)
    whole[22:26] = bytes(4)
    path.write_bytes(whole)
    with pytest.raises(audio.AudioError, match="does not tell its length, .*ffmpeg"):
        audio.read(path)


# ---- cut files -----------------------------------------------------------------------------------

CONTAINERS = [
    ("WAV", "PCM_16"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_U8"),
    ("AIFF", "PCM_16"),
    ("AU", "ULAW"),
    ("CAF", "PCM_16"),
    ("NIST", "PCM_16"),
    ("VOC", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


@pytest.mark.parametrize(("container", "coding"), CONTAINERS)
def test_a_file_that_was_cut_is_refused(tmp_path: Path, container: str, coding: str) -> None:
    """libsndfile reads the rest of most without a word: speech would lack under its transcript."""
    path = tmp_path / "speech"
    soundfile.write(path, noise(47_999), 16_000, format=container, subtype=coding)
    data = path.read_bytes()
    assert len(audio.read(path)) == 47_999
    pages = [i for i in range(1, len(data)) if data.startswith(b"OggS", i)]
    assert bool(pages) == (container == "OGG")
    for length in (len(data) // 2, len(data) - 100, *pages, *[page + 30 for page in pages]):
        path.write_bytes(data[:length])
        with pytest.raises(audio.AudioError, match="(truncated|unreadable|empty) audio") as raised:
            audio.read(path)
        assert "\n" not in str(raised.value)


def test_why_an_ogg_is_refused(tmp_path: Path) -> None:
    whole = []
    for _ in range(2):  # each with a number of its own
        soundfile.write(
            tmp_path / "a.opus", tone(300, 2.0, 16_000), 16_000, format="OGG", subtype="OPUS"
        )
        whole.append((tmp_path / "a.opus").read_bytes())
    (tmp_path / "cut.opus").write_bytes(whole[0][: whole[0].rindex(b"OggS")])
    with pytest.raises(audio.AudioError, match="truncated audio: .* not marked as the last; if .*"):
        audio.read(tmp_path / "cut.opus")
    # One after another they are one recording to players, but libsndfile reads the first alone.
    (tmp_path / "two.opus").write_bytes(b"".join(whole))
    with pytest.raises(audio.AudioError, match="truncated audio: .*something follows it; if .*ff"):
        audio.read(tmp_path / "two.opus")


@pytest.mark.parametrize(
    ("container", "places", "size"),
    [
        ("AU", [8], 0xFFFFFFFF),  # bytes of samples
        ("AIFF", [4, 42], 0x7F000000),  # of the file and of samples, as sox writes into a pipe
        ("W64", [16], (1 << 64) - 1),  # of the file, as ffmpeg does
    ],
)
def test_a_streamed_file_of_unknown_length_is_whole(
    tmp_path: Path, container: str, places: list[int], size: int
) -> None:
    path = tmp_path / "a"
    soundfile.write(path, noise(1_000), 16_000, format=container)
    data = bytearray(path.read_bytes())
    for place in places:
        width = 8 if container == "W64" else 4
        told = int.from_bytes(data[place : place + width], "little" if width == 8 else "big")
        assert 2_000 <= told <= len(data)
        data[place : place + width] = size.to_bytes(width, "little" if width == 8 else "big")
    path.write_bytes(data)
    assert len(audio.read(path)) == 1_000


def test_a_recording_that_was_never_closed_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1_000), 16_000)
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = (36).to_bytes(4, "little"), bytes(4)  # as at the recording's start
    path.write_bytes(data)
    with pytest.raises(audio.AudioError, match="data size is 0 in a file of 2044 bytes: .*ffmpeg"):
        audio.read(path)
    soundfile.write(path, noise(0), 16_000)
    with pytest.raises(audio.AudioError, match="empty audio: no samples$"):
        audio.read(path)


# ---- what is no speech ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(100), "silent audio"),
        (np.array([1, -1, 0, 1]) / 32768, "silent audio"),  # dither
        (np.array([2, -1, 0, 1]) / 32768, None),
        (np.array([0.0, -2 / 32768]), None),
        (np.array([0.5, -1.9]), None),  # floats go a little over
        (np.array([0.5, -2.1]), "samples beyond full scale: up to 2.1, where 1 is full scale"),
        (np.array([10_000.0, 0.0]), "samples beyond full scale: up to 10000, where"),
    ],
)
def test_samples_that_are_no_speech(samples: np.ndarray, reason: str | None) -> None:
    found = audio.fault(samples.astype(np.float32))
    assert found == reason or (reason and found and found.startswith(reason))


def test_is_ready(tmp_path: Path) -> None:
    for name, rate, channels, ready in (
        ("a.wav", 16_000, 1, True),
        ("a.flac", 16_000, 1, True),
        ("a.ogg", 16_000, 1, False),
        ("b.wav", 8_000, 1, False),
        ("c.wav", 16_000, 2, False),
    ):
        soundfile.write(tmp_path / name, np.zeros((1_600, channels)), rate)
        assert audio.is_ready(tmp_path / name) is ready, name
    for name in ("d.wav", "d.raw"):
        (tmp_path / name).write_bytes(b"not audio")
        assert not audio.is_ready(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.wav", "missing audio file"),
        ("empty.wav", "empty audio file"),
        ("garbage.wav", "unreadable audio"),
        ("garbage.RAW", "unreadable audio: raw samples, of which no header tells the rate"),
        ("nothing.wav", "empty audio: no samples"),
        ("slow.wav", "sampling rate too low: 7999 Hz"),
        ("fast.wav", "sampling rate too high: 20000003 Hz, at most 768000 Hz"),
        ("fastest.wav", "sampling rate too high: 2147483647 Hz"),
        ("ä" * 128 + ".wav", "unreadable audio: File name too long"),
        ("zero\0byte.wav", "missing audio file"),
        ("folder.wav", "missing audio file"),
        ("nan.wav", "not numbers"),
        ("cut.wav", "truncated audio"),
        ("cut.flac", "unreadable|truncated"),
        ("cut.mp3", "unreadable|truncated"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    if name == "empty.wav":
        path.touch()
    elif name.startswith("garbage"):
        path.write_bytes(b"hello " * 1_000)
    elif name == "nothing.wav":
        soundfile.write(path, noise(0), 16_000)
    elif name == "slow.wav":
        soundfile.write(path, noise(8_000), 7_999)
    elif name.startswith("fast"):
        soundfile.write(path, noise(8_000), 16_000)
        rate = 20_000_003 if name == "fast.wav" else 2**31 - 1
        data = path.read_bytes()
        path.write_bytes(data[:24] + rate.to_bytes(4, "little") + data[28:])
    elif name == "folder.wav":
        path.mkdir()
    elif name == "nan.wav":
        soundfile.write(path, np.array([0.1, np.nan]), 16_000, subtype="FLOAT")
    elif name.startswith("cut"):
        soundfile.write(path, noise(16_000), 16_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=reason) as raised:
        audio.read(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_a_name_that_looks_like_the_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "caf\u00e9.wav", noise(1_000), 16_000)
    with pytest.raises(UserError, match=r"missing audio file, but there is one .* \(NFC, NFD\)"):
        audio.read(tmp_path / "cafe\u0301.wav")
    with pytest.raises(UserError, match="missing audio file$"):
        audio.read(tmp_path / "the\u0301.wav")
    folder = tmp_path / "jose\u0301"  # a folder keeps the form that it has
    folder.mkdir()
    soundfile.write(folder / "caf\u00e9.wav", noise(1_000), 16_000)
    with pytest.raises(UserError, match="another Unicode form"):
        audio.read(folder / "cafe\u0301.wav")


def test_streamed_wav_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1_000), 16_000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4  # what ffmpeg writes into a pipe
    path.write_bytes(data)
    assert len(audio.read(path)) == 1_000


# ---- mp3 -----------------------------------------------------------------------------------------


def frames(data: bytes) -> list[bytes]:
    """An mp3 cut at its frames, found by their common header: enough for what soundfile writes."""
    # Sync, version, layer and protection are one for all; bit rate and padding may differ.
    starts = [i for i in range(len(data) - 3) if data[i : i + 2] == data[:2]]
    real = [starts[0]]
    for start in starts[1:]:
        if start - real[-1] >= 26 and data[start + 3] & 0xCF == data[3] & 0xCF:
            real.append(start)
    return [data[a:b] for a, b in zip(real, [*real[1:], len(data)], strict=True)]


def write_mp3(path: Path, mode: str, rate: int = 48_000, seconds: float = 2.0) -> bytes:
    """Noise that swells and fades, so that a varying bit rate does vary."""
    envelope = 0.5 * np.linspace(0, 1, round(seconds * rate)) ** 12
    clip = noise(len(envelope)) / 32768 * envelope
    soundfile.write(path, clip, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return path.read_bytes()


@pytest.mark.parametrize(
    "head",
    [
        2 * (b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)),
        b"ID3\x04\x00\x10\x00\x00\x01\x00" + bytes(128) + b"3DI\x04\x00\x10\x00\x00\x01\x00",
        bytes(300),
    ],
    ids=["two tags", "a tag with a footer", "zeros"],
)
def test_what_stands_before_an_mp3s_first_frame_is_skipped(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "a.mp3"
    data = write_mp3(path, "CONSTANT")
    path.write_bytes(head + data)
    assert len(audio.read(path)) == 32_000
    path.write_bytes(head + b"".join(frames(data)[1:]))  # without a length header
    whole = (len(frames(data)) - 1) * 1152 / 3
    assert whole - 1152 / 3 < len(audio.read(path)) <= whole + 1


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_an_mp3_is_read_whole_or_refused(tmp_path: Path, mode: str, rate: int) -> None:
    path = tmp_path / "a.mp3"
    data = write_mp3(path, mode, rate)
    assert len(audio.read(path)) == 32_000
    for share in (0.999, 0.9, 0.5, 0.1, 0.01):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(audio.AudioError, match="truncated audio|unreadable audio") as raised:
            audio.read(path)
        assert "\n" not in str(raised.value)
    path.write_bytes(data[: len(data) // 2] + bytes(4_000) + data[len(data) // 2 + 4_000 :])
    with pytest.raises(audio.AudioError, match="truncated audio|unreadable audio"):
        audio.read(path)


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)])
@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_an_mp3_without_a_length_header(tmp_path: Path, tag: bytes, rate: int) -> None:
    """As encoders write that pipe: libsndfile guesses the length from one frame's bit rate."""
    path = tmp_path / "a.mp3"
    of_a_frame = 1152 if rate > 24_000 else 576
    constant = frames(write_mp3(path, "CONSTANT", rate))
    whole = (len(constant) - 1) * of_a_frame * 16_000 / rate
    path.write_bytes(tag + b"".join(constant[1:]))
    # Nothing is cut off, or added but what libsndfile guesses too little: part of a frame.
    assert whole - of_a_frame * 16_000 / rate < len(audio.read(path)) <= whole + 1
    path.write_bytes(tag + b"".join(constant[1:])[:-20])
    with pytest.raises(audio.AudioError, match="truncated audio: its last mp3 frame lacks 20 b"):
        audio.read(path)
    path.write_bytes(tag + b"".join(constant[1:]) + b"TAG" + bytes(125))
    assert len(audio.read(path)) == pytest.approx(whole, abs=1)
    path.write_bytes(tag + b"".join([*constant[1:30], b"?" * 50, *constant[30:]]))
    with pytest.raises(audio.AudioError, match="no mp3 frame at byte"):
        audio.read(path)

    varying = frames(write_mp3(path, "VARIABLE", rate))[1:]
    seconds = len(varying) * of_a_frame / rate
    path.write_bytes(tag + b"".join([min(varying, key=len), *varying[1:]]))
    assert len(audio.read(path)) == pytest.approx(16_000 * seconds, abs=1)
    # A loud first frame makes the file seem shorter than it is: speech would be lost in silence.
    path.write_bytes(tag + b"".join([max(varying, key=len), *varying[1:]]))
    assert soundfile.info(path).duration < 0.9 * seconds
    with pytest.raises(audio.AudioError, match=f"would be read of {seconds:.2f} s; 'ffmpeg"):
        audio.read(path)


def test_the_length_header_of_an_mp3_is_not_believed(tmp_path: Path) -> None:
    """`cat` makes one recording of two, whose header is that of the first."""
    path = tmp_path / "two.mp3"
    data = write_mp3(path, "VARIABLE")
    tags = (b"", b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128), b"TAG" + bytes(125))
    for tag in tags:
        path.write_bytes(data + tag)
        assert len(audio.read(path)) == 32_000
        path.write_bytes(tags[1] + data + tag + data)
        assert soundfile.info(path).frames == 96_000
        with pytest.raises(audio.AudioError, match=r"would be read of 4\.\d\d s; 'ffmpeg"):
            audio.read(path)
        path.write_bytes(data + tag + data[: len(data) * 3 // 4])
        with pytest.raises(audio.AudioError, match=r"2\.00 s would be read of 3\.\d\d s"):
            audio.read(path)
    path.write_bytes(data + b"?" * 50)  # nothing is lost
    assert len(audio.read(path)) == 32_000


def test_an_mp3_without_a_length_header_of_two_files(tmp_path: Path) -> None:
    path = tmp_path / "two.mp3"
    constant = b"".join(frames(write_mp3(path, "CONSTANT"))[1:])
    path.write_bytes(constant)
    once = audio.read(path)
    for tag in (b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128), b"TAG" + bytes(125)):
        path.write_bytes(constant + tag)
        assert len(audio.read(path)) == len(once)
        path.write_bytes(constant + tag + constant)
        twice = audio.read(path)
        assert len(twice) == pytest.approx(2 * len(once), abs=400)
        # The second file sounds as the first does, but for a frame in which the decoder finds in.
        np.testing.assert_allclose(twice[len(once) + 2_000 : -400], once[2_000:-400], atol=1e-3)


def test_an_mp3_without_a_frame_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    for data, reason in ((b"", "empty audio file"), (b"ID3" + bytes(200), "no format that")):
        path.write_bytes(data)
        with pytest.raises(audio.AudioError, match=reason):
            audio.read(path)


def test_a_checksum_is_of_16_bit_samples_and_survives_the_file(tmp_path: Path) -> None:
    samples = np.array([0.0, 0.5, -1.0, 1.0, 0.25000001], dtype=np.float32)
    integers = np.array([0, 16384, -32768, 32767, 8192], dtype="<i2")
    assert audio.checksum(samples) == zlib.crc32(integers.tobytes())
    audio.write_flac(tmp_path / "a.flac", samples)
    assert audio.checksum(audio.read(tmp_path / "a.flac")) == audio.checksum(samples)
    assert audio.checksum(samples[::-1].copy()) != audio.checksum(samples)
