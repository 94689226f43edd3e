"""`adakd bench prepare`: how fast stage 1 reads a corpus of mp3 clips, and the memory it takes.

Contenders, on the same clips:

    adakd        stage 1 as recipes run it: decode, 16 kHz mono, FLAC, text, limits of the model,
                 ids, manifest; the start of its processes counts
    floor        only soundfile's decoder, torchaudio's resampling (filter made once) and
                 soundfile's FLAC encoder; its processes are started before the clock is
    speechbrain  SpeechBrain's common_voice_prepare.py, given with --speechbrain FILE: it belongs to
                 the recipes of its repository and not to its pip package. It reads headers only;
                 with ffmpeg on the PATH its `convert_to_wav` is measured too

Every contender runs once unmeasured. With --utterances it measures memory instead
(`adakd.bench.memory`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adakd.bench import measure
from adakd.bench.measure import Cost
from adakd.corpora import Utterance
from adakd.errors import UserError
from adakd.options import Parser, natural, path, several

RATE = 48_000  # Hz, of the made-up clips, as Common Voice's
SECONDS = (2.5, 7.5)  # their lengths, drawn evenly: 5 s on average
DISTINCT = 200  # made-up clips that differ; more are copies
LANGUAGE = "hi"


@dataclass(frozen=True)
class Clip:
    """An mp3 file and what is said in it."""

    path: Path
    text: str


Contender = Callable[[Path, int], Cost]  # given an empty folder and a number of processes


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success. Errors are `UserError`s."""
    parser = Parser(prog="adakd bench prepare")
    parser.add_argument("--clips", type=natural, default=1000, help="clips (1000)")
    parser.add_argument("--rounds", type=natural, default=5, help="times that all run (5)")
    parser.add_argument(
        "--processes", type=several(natural), default="1 2", help='numbers of them ("1 2")'
    )
    parser.add_argument("--corpus", type=path, help="folder or archive of mp3 clips; else made up")
    parser.add_argument("--speechbrain", type=path, help="SpeechBrain's common_voice_prepare.py")
    parser.add_argument(
        "--utterances", type=several(natural),
        help='measure memory instead: sizes of a corpus, "10000 1000000"',
    )  # fmt: skip
    parser.add_argument("--root", type=path, help="where scratch files go (a temporary folder)")
    options = parser.parse_args(list(arguments))
    with tempfile.TemporaryDirectory(dir=options.root) as scratch:
        if options.utterances:
            from adakd.bench import memory

            jobs = max(options.processes)
            memory.report(arguments, options.utterances, jobs, Path(scratch))
        else:
            speed(Path(scratch), options, arguments)
    return 0


def speed(scratch: Path, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Run every contender over the clips, round after round, and print what each took."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a contender has the processes that it is given, no more
    clips = (
        find_clips(options.corpus, scratch / "corpus", options.clips)
        if options.corpus
        else make_clips(scratch, options.clips)
    )
    contenders: dict[str, Contender] = {
        "adakd": prepare_ours(clips, scratch),
        "floor": partial(run_floor, clips),
    }
    if options.speechbrain is not None:
        theirs = load_theirs(options.speechbrain)
        contenders["speechbrain, headers only"] = partial(run_theirs, theirs, clips, False)
        if shutil.which("ffmpeg"):
            contenders["speechbrain, wav by ffmpeg"] = partial(run_theirs, theirs, clips, True)

    def in_a_fresh_folder(contender: Contender, jobs: int) -> Cost:
        folder = scratch / "out"
        folder.mkdir()
        try:
            return contender(folder, jobs)
        finally:
            shutil.rmtree(folder)

    measure.print_heading("prepare", arguments)
    print(f"{len(clips)} clips, {length(clips):.1f} s on average.\n")
    rows = []
    for jobs in options.processes:
        work = {
            name: partial(in_a_fresh_folder, contender, jobs)
            for name, contender in contenders.items()
        }
        measure.in_turn(work, 1)  # unmeasured
        costs = measure.in_turn(work, options.rounds)
        for name, found in costs.items():
            rows.append(
                [
                    name,
                    str(jobs),
                    measure.spread([len(clips) / cost.wall / jobs for cost in found], 1),
                    measure.spread(measure.ratios(costs, name, ["floor"], "wall"), 2),
                    measure.spread([1000 * cost.processor / len(clips) for cost in found], 2),
                    measure.spread(measure.ratios(costs, name, ["floor"], "processor"), 2),
                ]
            )
    head = ["what", "processes", "clips/s a core, wall", "of the floor"]
    measure.print_table([*head, "processor ms a clip", "of the floor"], rows)
    if options.speechbrain is None:
        print(
            "SpeechBrain's common_voice_prepare: not measured, it is not part of the pip package "
            "(give --speechbrain FILE).\n"
        )
    print_storage([clip.path for clip in clips[:200]], scratch)


def print_storage(paths: list[Path], scratch: Path) -> None:
    """What a FLAC file a clip costs beside 16-bit samples of all clips in one file, unpacked."""
    import numpy as np

    from adakd.data import audio

    samples = [audio.read(path) for path in paths]
    lengths = [len(clip) for clip in samples]
    files = [scratch / "storage" / f"{number}.flac" for number in range(len(paths))]
    large = scratch / "large.raw"

    def write_flac() -> None:
        for file, clip in zip(files, samples, strict=True):
            audio.write_flac(file, clip)

    def read_flac() -> None:
        for file in files:
            audio.read(file)

    def write_large() -> None:
        with large.open("wb") as file:
            for clip in samples:
                file.write((clip * 32768).clip(-32768, 32767).astype("<i2").tobytes())

    def read_large() -> None:
        mapped = np.memmap(large, dtype="<i2", mode="r")
        end = 0
        for count in lengths:
            (mapped[end : end + count] / np.float32(32768)).sum()  # touched, as training would
            end += count

    costs = measure.interleaved(
        {
            "write flac": write_flac,
            "read flac": read_flac,
            "write large": write_large,
            "read large": read_large,
        },
        3,
    )
    rows = []
    for name, key, found in (
        ("FLAC, a file a clip", "flac", files),
        ("16-bit samples, one large file", "large", [large]),
    ):
        size = sum(path.stat().st_size for path in found)
        row = [name, f"{size / (sum(lengths) / audio.SAMPLE_RATE):,.0f}"]
        for verb in ("write", "read"):
            milliseconds = [1000 * cost.wall / len(paths) for cost in costs[f"{verb} {key}"]]
            row.append(measure.spread(milliseconds, 2))
        rows.append(row)
    measure.print_table(
        ["16 kHz audio kept as", "bytes a second", "ms to write a clip", "ms to read it"], rows
    )


# ------------------------------------------------------------------ clips


def make_clips(scratch: Path, count: int) -> list[Clip]:
    """Noise with the long-term spectrum and the syllables of speech, as mp3 at 64 kbit/s."""
    import numpy as np
    import soundfile

    draw = np.random.default_rng(1)
    folder = scratch / "clips"
    folder.mkdir()
    clips: list[Clip] = []
    for number in range(count):
        path = folder / f"common_voice_{LANGUAGE}_{number:08}.mp3"
        if number < DISTINCT:
            frames = round(draw.uniform(*SECONDS) * RATE)
            spectrum = np.fft.rfft(draw.standard_normal(frames))
            # Flat up to 500 Hz, then 12 dB an octave down; four syllables a second
            spectrum /= 1 + (np.fft.rfftfreq(frames, 1 / RATE) / 500) ** 2
            speech = np.fft.irfft(spectrum, frames)
            speech *= np.sin(2 * np.pi * 2 * np.arange(frames) / RATE) ** 2
            soundfile.write(
                path,
                0.3 * speech / np.abs(speech).max(),
                RATE,
                format="MP3",
                bitrate_mode="CONSTANT",
                compression_level=0.89,
            )
        else:
            shutil.copyfile(clips[number % DISTINCT].path, path)
        clips.append(Clip(path, sentence(number)))
    return clips


def find_clips(corpus: Path, folder: Path, count: int) -> list[Clip]:
    """The first `count` mp3 files of a folder or of an archive, unpacked below `folder`."""
    if corpus.is_file():
        from adakd.corpora.archive import extract

        extract(corpus, folder, lambda path: path.suffix == ".mp3")
        corpus = folder
    paths = sorted(corpus.rglob("*.mp3"))[:count]
    if len(paths) < count:
        raise UserError(f"--corpus: {len(paths)} mp3 files there, and --clips asks for {count}")
    return [Clip(path, sentence(number)) for number, path in enumerate(paths)]


def sentence(number: int) -> str:
    """A made-up sentence of eight Hindi-looking words: text takes its time too."""
    draw = random.Random(number)
    words = ["".join(draw.choices("कखगचजतदनपमयरलवसह", k=3)) + draw.choice("ािीुे") for _ in range(8)]
    return " ".join(words) + "।"


def length(clips: list[Clip]) -> float:
    """Seconds of a clip on average."""
    import soundfile

    return statistics.fmean(soundfile.info(clip.path).duration for clip in clips)


# ------------------------------------------------------------------ contenders


def prepare_ours(clips: list[Clip], scratch: Path) -> Contender:
    """Stage 1 with the limit of a CTC model, whose units are made here, outside the clock."""
    from adakd import config as configuration
    from adakd import models
    from adakd.data import prepare as stage
    from adakd.models import units

    mapping = {"family": "wav2vec2", "student": {"config": {}}, "units": {"kind": "characters"}}
    config = configuration.from_dict(configuration.Config, mapping, "adakd bench")
    units.train_characters(
        (stage.target(clip.text, LANGUAGE, True) for clip in clips), scratch / "units"
    )
    limit = models.limit(config, "student", scratch / "units")
    utterances = [
        # Training needs a dev set; which clip it is costs the same.
        Utterance(
            clip.path.stem, "train" if number else "dev", clip.path, clip.text, "speaker", LANGUAGE
        )
        for number, clip in enumerate(clips)
    ]

    def run(folder: Path, jobs: int) -> Cost:
        def work() -> None:
            how = stage.Clips(
                folder=folder / "audio",
                root=folder,
                language=LANGUAGE,
                min_seconds=0.1,
                max_seconds=30.0,
                normalise=True,
            )
            counts = stage.prepare(utterances, folder, how, [limit], 0.0, jobs)
            assert counts["train"]["kept"] + counts["dev"]["kept"] == len(clips)

        with contextlib.redirect_stderr(io.StringIO()):
            return measure.clocked(work)

    return run


def run_floor(clips: list[Clip], folder: Path, jobs: int) -> Cost:
    """Only decoding, resampling and encoding."""
    paths = [clip.path for clip in clips]
    if jobs == 1:
        started = time.perf_counter()
        processor = convert(paths, folder)
        return Cost(time.perf_counter() - started, processor)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool:
        # Both processes have torch and a filter before the clock starts.
        warm = [pool.submit(convert, paths[:1], folder, True) for _ in range(4 * jobs)]
        for one in warm:
            one.result()
        started = time.perf_counter()
        chunks = [paths[i : i + 16] for i in range(0, len(paths), 16)]
        processor = sum(pool.map(convert, chunks, [folder] * len(chunks)))
        return Cost(time.perf_counter() - started, processor)


def convert(paths: list[Path], folder: Path, warm: bool = False) -> float:
    """Write 16 kHz FLAC of each mp3 below `folder`; returns processor seconds of this process."""
    import soundfile
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    with torch.inference_mode():
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            if samples.ndim > 1:  # (n, channels), of one's own corpus
                samples = samples.mean(axis=1)
            clip = _resampler(rate)(torch.from_numpy(samples)).numpy()
            name = f"{os.getpid()}" if warm else path.stem
            soundfile.write(folder / f"{name}.flac", clip, 16_000, subtype="PCM_16")
    return time.process_time() - started


_resamplers: dict[int, Any] = {}


def _resampler(rate: int) -> Any:
    from torchaudio.transforms import Resample

    if rate not in _resamplers:
        _resamplers[rate] = Resample(rate, 16_000)
    return _resamplers[rate]


def load_theirs(path: Path) -> Any:
    """SpeechBrain's recipe module from its file."""
    specification = importlib.util.spec_from_file_location("common_voice_prepare", path)
    if specification is None or specification.loader is None or not path.is_file():
        raise UserError(f"--speechbrain {path}: no such Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # its processes look it up by name
    specification.loader.exec_module(module)
    return module


def run_theirs(theirs: Any, clips: list[Clip], convert: bool, folder: Path, jobs: int) -> Cost:
    """`prepare_common_voice` over the clips as train, one clip each as dev and test."""
    (folder / "clips").mkdir()
    for clip in clips:
        os.symlink(os.path.abspath(clip.path), folder / "clips" / clip.path.name)
    for split, part in (("train", clips), ("dev", clips[:1]), ("test", clips[:1])):
        rows = [f"speaker\t{clip.path.name}\t{clip.text}\t0\n" for clip in part]
        header = "client_id\tpath\tsentence\tup_votes\n"
        (folder / f"{split}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    cores = os.sched_getaffinity(0)
    try:
        # It starts a process for each core that it may use.
        os.sched_setaffinity(0, sorted(cores)[:jobs])
        with contextlib.redirect_stderr(io.StringIO()):
            cost = measure.clocked(
                lambda: theirs.prepare_common_voice(
                    str(folder),
                    str(folder / "csv"),
                    accented_letters=True,
                    language=LANGUAGE,
                    convert_to_wav=convert,
                )
            )
    finally:
        os.sched_setaffinity(0, cores)
    with open(folder / "csv" / "train.csv", encoding="utf-8") as file:
        assert sum(1 for _ in file) == len(clips) + 1
    return cost
