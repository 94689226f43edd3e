"""Measure every eSpeak voice and write ../voices.tsv: which are in use, and why others are not.

Out of use are voices that are too quiet or too loud, that whisper, that sound like another one, and
those that a recogniser does not understand (a croak, a joke): every variant says the same Hindi
sentences, clean, and the committed wav2vec2-mini writes down what it hears.

    python recipes/espeak/pretrain/voices.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from adakd import config as configuration
from adakd import models, score
from adakd.corpora import espeak, grammar
from adakd.corpora.espeak import VoiceRow
from adakd.data import text
from adakd.data.audio import SAMPLE_RATE
from adakd.data.manifest import Entry
from adakd.files import write_text

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "voices.tsv"
HEARD = 12  # sentences that no training has seen: of the dev bucket
MEASURED = (  # Hindi: open and close vowels, stops, nasals, fricatives
    "आज सुबह से हल्की बारिश हो रही है।",
    "मेरी बहन बाज़ार से ताज़े फल और सब्ज़ियाँ लाई है।",
    "क्या आप कल शाम को हमारे घर आएँगे?",
    "पुराने किले के पीछे एक छोटी नदी बहती है।",
)
LEVELS = (-30.0, -9.0)  # dBFS; quieter or louder variants are distorted or hardly there
PITCHES = (70.0, 350.0)  # Hz, median
VOICED = 0.25  # least share of voiced frames: below it a variant whispers
WORST_CER = 0.5  # a recogniser's CER above which a variant counts as not intelligible
SAME_DB, SAME_PITCH = 1.0, 1.03  # spectra and pitches closer than this: the same speaker twice
SHARES = {"train": 0.6, "dev": 0.2, "test": 0.2}  # of the speakers


def main() -> None:
    """Measure, choose, listen, and write the table."""
    rows = measure()
    assign([row for row in rows if not row.reason])
    listen(rows)
    for row in rows:
        if row.split == "unused":
            continue
        row.reason = "in use"
        # After the splits are made: a CER moves no other voice between train, dev and test
        if row.cer > WORST_CER:
            row.split, row.reason = "unused", f"CER above {WORST_CER:g}"
    write_text(TABLE, format_table(rows))
    for split in (*SHARES, "unused"):
        names = [row.variant for row in rows if row.split == split]
        print(f"{split}: {len(names)}: {', '.join(names)}")


def measure() -> list[VoiceRow]:
    """Level, pitch and spectrum of every variant over MEASURED, and why it is not to be used."""
    rows: list[VoiceRow] = []
    spectra: list[np.ndarray] = []
    for variant in espeak.variants():
        samples = np.concatenate([espeak.speak(text, "hi", variant) for text in MEASURED])
        level = 20 * np.log10(_rms(samples)) if len(samples) else -np.inf
        height, voiced = pitch(samples)
        spectrum = long_term_spectrum(samples)
        row = VoiceRow(variant, level, height, float("nan"), "unused", "")
        rows.append(row)
        spectra.append(spectrum)
        if not LEVELS[0] <= level <= LEVELS[1]:
            row.reason = f"level outside {LEVELS[0]:g}..{LEVELS[1]:g} dBFS"
        elif voiced < VOICED:
            row.reason = f"hardly voiced ({voiced:.0%} of frames)"
        elif not PITCHES[0] <= height <= PITCHES[1]:
            row.reason = f"pitch outside {PITCHES[0]:g}..{PITCHES[1]:g} Hz"
        else:
            for other, its_spectrum in zip(rows[:-1], spectra[:-1], strict=True):
                distance = float(np.sqrt(np.mean((spectrum - its_spectrum) ** 2)))
                ratio = max(height, other.pitch_hz) / min(height, other.pitch_hz)
                if not other.reason and distance < SAME_DB and ratio < SAME_PITCH:
                    row.reason = f"sounds like {other.variant} ({distance:.2f} dB apart)"
                    break
    return rows


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def listen(rows: list[VoiceRow]) -> None:
    """Fill in the CER of the committed wav2vec2-mini on what every variant says."""
    config = configuration.load(HERE, "wav2vec2")
    model = models.open_folder(config, HERE / "checkpoints" / "wav2vec2-mini").eval()
    hindi = grammar.load(HERE / "conf" / "grammar" / "hi.yaml")
    unseen = (s for s in grammar.sentences(hindi, seed=0) if grammar.split_of(s) == "dev")
    sentences = list(itertools.islice(unseen, HEARD))
    for row in rows:
        clips = [espeak.speak(sentence, "hi", row.variant) for sentence in sentences]
        entries = [
            Entry(str(i), "", 0.0, text.normalise(sentence, "hi"), sentence, row.variant, "hi")
            for i, sentence in enumerate(sentences)
        ]
        with torch.inference_mode():
            heard = model.transcribe(model.collate(entries, clips))
        row.cer = score.total(score.count([entry.text for entry in entries], heard)).cer
        print(f"{row.variant:16} {row.cer:.3f}")


def format_table(rows: list[VoiceRow]) -> str:
    """The text of voices.tsv, which `espeak.read_voices` reads."""
    lines = ["\t".join(espeak.COLUMNS)]
    for row in rows:
        numbers = f"{row.level_db:.1f}\t{row.pitch_hz:.0f}\t{row.cer:.3f}"
        lines.append(f"{row.variant}\t{numbers}\t{row.split}\t{row.reason}")
    return "\n".join(lines) + "\n"


def assign(rows: list[VoiceRow]) -> None:
    """Give families of variants, in the order of their pitch, to the split that lacks most."""
    families: dict[str, list[VoiceRow]] = {}
    for row in rows:
        stem = row.variant.lower().replace("robot", "").rstrip("0123456789")
        # f1 .. f5 and m1 .. m8 are different people; robosoft2 is another robosoft
        families.setdefault(row.variant if stem in ("f", "m") else stem, []).append(row)
    counts = dict.fromkeys(SHARES, 0)
    for family in sorted(families.values(), key=lambda f: (f[0].pitch_hz, f[0].variant)):
        total = sum(counts.values()) + len(family)
        split = max(SHARES, key=lambda s: SHARES[s] * total - counts[s])
        counts[split] += len(family)
        for row in family:
            row.split = split


def in_frames(samples: np.ndarray, length: int, step: int) -> np.ndarray:
    if len(samples) < length:
        return np.zeros((0, length))
    return np.lib.stride_tricks.sliding_window_view(samples, length)[::step]  # (frames, length)


def pitch(samples: np.ndarray) -> tuple[float, float]:
    """Median pitch in Hz over voiced frames, and their share, of speech (n,) at 16 kHz.

    A frame of 48 ms is voiced where its normalised autocorrelation has a peak above 0.5 between 50
    and 500 Hz.
    """
    length = 768
    frames = in_frames(samples, length, 320)
    power = np.sqrt(np.mean(frames**2, axis=1)) if len(frames) else np.zeros(0)
    frames = frames[power > 0.1 * power.max(initial=0.0)]
    if len(frames) == 0:
        return float("nan"), 0.0
    spectrum = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * np.hanning(length), 2048)
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(length), 2048)) ** 2)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)
    # Divided by the window's own autocorrelation, else long lags always look weak (Boersma 1993)
    correlation = correlation / correlation[:, :1] / (window / window[0] + 1e-9)
    low, high = SAMPLE_RATE // 500, SAMPLE_RATE // 50
    region = correlation[:, low : high + 1].copy()
    peaks = region.max(axis=1)
    # The first lag that is nearly as good as the best: twice the period is as good as the period
    best = low + np.argmax(region >= 0.9 * peaks[:, None], axis=1)
    refined = [
        lag + int(np.argmax(row[lag : lag + 8])) for lag, row in zip(best, correlation, strict=True)
    ]
    voiced = peaks > 0.5
    if not voiced.any():
        return float("nan"), 0.0
    return float(np.median(SAMPLE_RATE / np.array(refined)[voiced])), float(np.mean(voiced))


def long_term_spectrum(samples: np.ndarray) -> np.ndarray:
    """Mean power in 32 bands of 250 Hz, in dB relative to the whole, (32,)."""
    frames = in_frames(samples, 512, 256)
    if len(frames) == 0:
        return np.full(32, -100.0)
    power = np.mean(np.abs(np.fft.rfft(frames * np.hanning(512))[:, :256]) ** 2, axis=0)
    bands = power.reshape(32, 8).sum(axis=1)
    return 10 * np.log10(bands / bands.sum() + 1e-6)


if __name__ == "__main__":
    main()
