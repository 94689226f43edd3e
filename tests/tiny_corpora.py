"""Corpora of exactly the layouts that people have, small enough to make in a blink.

Helpers of the tests of corpora and of recipes/test_layouts.py; no test stands here. Each maker puts
in what goes wrong in the real thing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

SPLITS = ("train", "dev", "test")


def clip(path: Path, number: int, seconds: float = 0.6, rate: int = 16_000) -> None:
    """Write a tone in a little noise; no two numbers sound alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.2 * np.sin(2 * np.pi * (200 + 37 * number % 2500) * time)
    noise = 0.01 * np.random.default_rng(number).standard_normal(len(time))
    soundfile.write(path, (tone + noise).astype(np.float32), rate)


def write_lines(path: Path, lines: Sequence[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def append(path: Path, *lines: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def files(folder: Path) -> dict[Path, bytes]:
    """What is in each file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commit(folder: Path) -> str:
    """Make a git repository of a folder; returns its address."""
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "all"],
    ):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder.as_uri()


# ------------------------------------------------------------------ Kaldi

WORDS = "asubuhi nyumba kitabu maji chakula rafiki barabara shule mwalimu daktari".split()
SAID = {"train": 12, "dev": 4, "test": 6}


def kaldi(egs: Path) -> Path:
    """s5/data of a Swahili corpus below `egs`; returns it.

    Train has whole files, Windows line ends and a byte order mark; dev has segments of one
    recording; test has neither speakers nor segments, and absolute paths with a blank in them.
    """
    data = egs / "s5" / "data"
    for split, count in SAID.items():
        ids = [f"{split}-s{number % 3}-{number:02}" for number in range(count)]
        text = [f"{one} {WORDS[i % 10]} {WORDS[(i + 3) % 10]}" for i, one in enumerate(ids)]
        folder = data / split
        if split == "train":
            for number, one in enumerate(ids):
                clip(egs / "s5" / "wav" / f"{one}.wav", number)
            scp = [f"{one}\twav/{one}.wav" for one in ids]
            write_lines(folder / "wav.scp", scp, "\r\n")
            write_lines(folder / "text", ["\ufeff" + text[0], *text[1:]], "\r\n")
        elif split == "dev":
            clip(egs / "s5" / "wav" / "long.flac", 77, 0.5 * count, 44_100)
            write_lines(folder / "wav.scp", ["long wav/long.flac"])
            segments = [f"{one} long {0.5 * i} {0.5 * i + 0.5}" for i, one in enumerate(ids)]
            segments[-1] = segments[-1].rpartition(" ")[0] + " -1"  # to the end
            write_lines(folder / "segments", segments)
            write_lines(folder / "text", text)
        else:
            for number, one in enumerate(ids):
                clip(egs / "audio here" / f"{one}.wav", 100 + number, rate=8_000)
            scp = [f"{one} {(egs / 'audio here' / one).absolute()}.wav" for one in ids]
            write_lines(folder / "wav.scp", scp)
            write_lines(folder / "text", text)
        if split != "test":
            write_lines(folder / "utt2spk", [f"{one} {one[: one.rindex('-')]}" for one in ids])
    return data


# ------------------------------------------------------------------ AISHELL-2

READ = (  # as in trans.txt: what is odd in the real one, and plain sentences
    "厨房用具",
    "电影节评委画家赵孟𫖯的后人",
    "去ＡＴＭ取钱",
    "搬不走的要及时'关停并转'",
    "帮我放一首歌Let's Go",
    "明年二月底'小成'",
    "打开wi-fi",
    "北京今天的天气怎么样",
    "对低收入群体的帮助也更大",
    "换一首歌",
    "赵孟頫是画家",
    "价格走高的楼盘",
)
HEARD = ("换一首歌", "打开电视", "今天天气", "去取钱", "放一首歌")


def aishell2(parent: Path) -> Path:
    """AISHELL-2 and AISHELL-DEV-TEST-SET below `parent`; returns the former."""
    corpus = parent / "AISHELL-2"
    _aishell2_set(corpus / "iOS" / "data", "IC", 2, READ, 0)
    for number, (condition, letter) in enumerate((("iOS", "I"), ("Android", "A"), ("Mic", "M"))):
        place = parent / "AISHELL-DEV-TEST-SET" / condition
        _aishell2_set(place / "dev", f"{letter}D", 1, HEARD[:3], 50 + 10 * number)
        _aishell2_set(place / "test", f"{letter}T", 2, HEARD, 80 + 20 * number)
    return corpus


def _aishell2_set(
    folder: Path, letters: str, speakers: int, sentences: Sequence[str], number: int
) -> None:
    """Every speaker reads every sentence; tab separated, trans.txt with Windows line ends."""
    scp, trans = [], []
    for speaker in range(1, speakers + 1):
        for place, sentence in enumerate(sentences, start=1):
            name = f"{letters}{speaker:04}W{place:04}"
            path = f"wav/{letters[1]}{speaker:04}/{name}.wav"
            clip(folder / path, number + 7 * speaker + place)
            scp.append(f"{name}\t{path}")
            trans.append(f"{name}\t{sentence}")
    write_lines(folder / "wav.scp", scp)
    write_lines(folder / "trans.txt", trans, "\r\n")


# ------------------------------------------------------------------ audio-cmn

CHARACTERS = "天气今明电影视台北京学生"


def words() -> list[str]:
    """Two-character words in which every character stands as often."""
    count = len(CHARACTERS)
    return [
        CHARACTERS[i] + CHARACTERS[(i + step) % count] for step in (1, 2, 3) for i in range(count)
    ]


def audio_cmn(folder: Path, gaps: Sequence[str] = ("越_越_", "从_到_")) -> Path:
    """24k-abr/hsk of audio-cmn below `folder`, real mp3 at 22,050 Hz; returns `folder`."""
    for number, word in enumerate([*words(), *gaps]):
        clip(folder / "24k-abr" / "hsk" / f"cmn-{word}.mp3", number, 0.7, 22_050)
    return folder
