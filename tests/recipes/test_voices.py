"""What recipes/espeak/pretrain/voices.py measures of a voice, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from adakd.corpora import espeak


@pytest.fixture(scope="module")
def voices(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/espeak/pretrain/voices.py")


def test_pitch_of_a_known_tone(voices: ModuleType) -> None:
    time = np.arange(16_000) / 16_000
    for hertz in (80.0, 150.0, 310.0):
        harmonics = [np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 8)]
        pitch, voiced = voices.pitch(0.1 * np.sum(harmonics, axis=0))
        assert pitch == pytest.approx(hertz, rel=0.02) and voiced == 1.0
    assert voices.pitch(np.random.default_rng(1).standard_normal(16_000))[1] < 0.1


def test_espeak_speaks_at_the_pitch_that_is_asked_for(voices: ModuleType) -> None:
    low, high = (
        voices.pitch(espeak.speak("आज मौसम अच्छा है", "hi", "m3", pitch=pitch))[0]
        for pitch in (20, 80)
    )
    assert high > 1.3 * low


def test_the_table_has_voices_that_can_be_heard_and_is_written_as_it_is_read(
    voices: ModuleType,
) -> None:
    rows = espeak.read_voices(voices.TABLE)
    for row in rows:
        if row.split != "unused":
            assert voices.PITCHES[0] <= row.pitch_hz <= voices.PITCHES[1]
            assert voices.LEVELS[0] <= row.level_db <= voices.LEVELS[1]
            assert row.cer <= voices.WORST_CER
    assert voices.format_table(rows) == voices.TABLE.read_text("utf-8")


def test_relatives_go_to_one_split(voices: ModuleType) -> None:
    names = [f"{stem}{i}" for stem in ("f", "m", "klatt", "robosoft") for i in range(1, 6)]
    rows = [espeak.VoiceRow(n, -20.0, 100.0 + i, 0.1, "unused", "") for i, n in enumerate(names)]
    voices.assign(rows)
    splits = {row.variant: row.split for row in rows}
    assert set(splits.values()) == set(voices.SHARES)
    assert len({splits[f"klatt{i}"] for i in range(1, 6)}) == 1
    assert len({splits[f"robosoft{i}"] for i in range(1, 6)}) == 1
    assert len({splits[f"f{i}"] for i in range(1, 6)}) > 1  # different people
