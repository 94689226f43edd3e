"""Audio comes in as 16 kHz mono or as a sentence that says why not."""

from __future__ import annotations

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
    for start, end in ((0.5, 1.5), (2.0, 3.0), (-0.1, 0.5), (0.5, 0.5), (0.6, 0.5)):
        with pytest.raises(audio.AudioError, match="segment outside the file"):
            audio.read(path, start, end)


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
    (tmp_path / "d.wav").write_bytes(b"not audio")
    assert not audio.is_ready(tmp_path / "d.wav")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.wav", "missing audio file"),
        ("empty.wav", "empty audio file"),
        ("garbage.wav", "unreadable audio"),
        ("nothing.wav", "empty audio: no samples"),
        ("slow.wav", "sampling rate too low: 7999 Hz"),
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
    elif name == "garbage.wav":
        path.write_bytes(b"hello " * 1_000)
    elif name == "nothing.wav":
        soundfile.write(path, noise(0), 16_000)
    elif name == "slow.wav":
        soundfile.write(path, noise(8_000), 7_999)
    elif name == "nan.wav":
        soundfile.write(path, np.array([0.1, np.nan]), 16_000, subtype="FLOAT")
    elif name.startswith("cut"):
        soundfile.write(path, noise(16_000), 16_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=reason) as raised:
        audio.read(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_streamed_wav_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1_000), 16_000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4  # what ffmpeg writes into a pipe
    path.write_bytes(data)
    assert len(audio.read(path)) == 1_000
