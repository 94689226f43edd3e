"""Synthetic speech with eSpeak NG: the embedded corpus, made in-process from sentences.

Speakers are eSpeak's voice variants; recipes/espeak/voices.tsv says which, and why. Every
utterance draws its rate, pitch, level, noise and reverberation from a generator keyed by (seed,
utterance id), so that utterances differ in difficulty and none depends on its neighbours. It is
made speech, good for a demonstration and for tests: a CER on it says nothing about people.

The GPL library (pip package espeakng-loader) is loaded here and nowhere else. The same seed gives
the same corpus, byte for byte, with the same versions of eSpeak NG, NumPy, SciPy and libsndfile.

recipes/espeak/pretrain/voices.py measures every variant and writes voices.tsv.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd.config import REPOSITORY, places_of
from adakd.corpora import SPLITS, Utterance, grammar, marker
from adakd.data.audio import SAMPLE_RATE, write_flac
from adakd.errors import UserError
from adakd.files import fingerprint, read_jsonl, sha256, write_json, write_jsonl
from adakd.progress import track

if TYPE_CHECKING:
    import numpy as np

ESPEAK_RATE = 22_050  # Hz, what eSpeak NG gives
FORMAT = 1  # part of the fingerprint: raise it when the same options would give other audio
LONGEST = 60.0  # s: hardly a sentence takes longer, and twice what Whisper hears of a clip
# Ours -> eSpeak's, where they differ.
CODES = {"zh": "cmn", "zh-CN": "cmn", "zh-TW": "cmn", "zh-HK": "yue", "zh-MO": "yue"}


@dataclass
class Options:
    """What to make. Ranges are [low, high] and drawn from uniformly, per utterance."""

    hours: float = 0.5  # hours of training audio, split evenly over `languages`
    dev_minutes: float = 4.0  # minutes of dev audio, split evenly over `languages`
    test_minutes: float = 8.0  # minutes of test audio; with `languages` no test set is made
    grammar: str | None = None  # grammar file; None: recipes/espeak/<language>/conf/grammar.yaml
    text: str | None = None  # the user's own sentences, one a line, in place of the grammar
    languages: dict[str, str] | None = None  # pretraining: language -> grammar file
    voices: str = "recipes/espeak/voices.tsv"  # which variant speaks in which split
    seed: int = 1  # everything drawn depends on it
    sentences_per_utterance: list[int] = field(default_factory=lambda: [1, 1])  # joined by pauses
    max_seconds: float = 12.0  # no further sentence is joined beyond this length
    rate: list[int] = field(default_factory=lambda: [130, 230])  # words a minute, eSpeak's unit
    pitch: list[int] = field(default_factory=lambda: [35, 65])  # 0..99; 50: the voice's own
    snr_db: list[float] = field(default_factory=lambda: [5.0, 35.0])  # speech over noise, in dB
    reverb: list[float] = field(default_factory=lambda: [0.05, 0.3])  # RT60 in s; [0, 0]: none
    level_db: list[float] = field(default_factory=lambda: [-32.0, -18.0])  # speech RMS, dBFS

    def __post_init__(self) -> None:
        for name in ("sentences_per_utterance", "rate", "pitch", "snr_db", "reverb", "level_db"):
            value = getattr(self, name)
            if len(value) != 2 or not -math.inf < value[0] <= value[1] < math.inf:
                raise UserError(f"corpus.{name}: {value} is no range; write [low, high]")
        limits = {"rate": (80, 450), "pitch": (0, 99), "reverb": (0, 5), "level_db": (-80, 0)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value[0] < low or value[1] > high:
                raise UserError(f"corpus.{name}: {value} must lie within {low} and {high}")
        if self.sentences_per_utterance[0] < 1:
            raise UserError("corpus.sentences_per_utterance: an utterance has 1 sentence at least")
        needed = min(self.hours, self.dev_minutes)
        amounts = (self.hours, self.dev_minutes, self.test_minutes)
        if needed <= 0 or not all(0 <= each < math.inf for each in amounts):
            raise UserError(
                "corpus.hours and corpus.dev_minutes must be above 0, corpus.test_minutes not "
                "below, and all three finite"
            )
        if self.text and self.languages:
            raise UserError("corpus.text goes with one language; give no corpus.languages with it")


# ---------------------------------------------------------------------------------- the library


class _Voice(ctypes.Structure):  # espeak_VOICE in speak_lib.h, as far as it is read here
    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.POINTER(ctypes.c_char))]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _RATE, _PITCH = 2, 0x8000, 1, 1, 3  # speak_lib.h


@cache
def _loader() -> Any:
    """The package that carries eSpeak NG; `UserError` where it is not installed."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "the espeak recipes need the package espeakng-loader: pip install '.[espeak]'"
        ) from None
    return espeakng_loader


class _Library:
    """A freshly loaded eSpeak NG; `close` unloads it.

    eSpeak keeps state between utterances that no call resets, not even espeak_Terminate: the phase
    of its pitch flutter and its random numbers, so that A, B, A gives two different A. Unloading
    the library does reset it (0.3 ms), and with seeded random numbers, its own and the C library's
    rand() (variants with "klatt 6"), an utterance depends on nothing before it. One at a time: a
    second one inside the first would be the same library.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._callback = _CALLBACK(self._receive)  # kept: ctypes does not hold it for the library
        self._library = ctypes.CDLL(_loader().get_library_path())
        folder = str(_loader().get_data_path()).encode()
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, folder, _DONT_EXIT)
        if rate != ESPEAK_RATE:
            raise UserError(f"eSpeak NG does not start ({rate}); reinstall espeakng-loader")
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> _Library:
        return self

    def __exit__(self, *_: object) -> None:
        import _ctypes

        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: object) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # 0: go on

    def languages(self) -> set[str]:
        list_voices = self._library.espeak_ListVoices
        list_voices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        voices, codes, number = list_voices(None), set(), 0
        while voices[number]:
            # (a priority byte, a code, a zero byte) again and again, then a zero byte
            packed, position = voices[number].contents.languages, 0
            while packed[position] != b"\0":
                end = position + 1
                while packed[end] != b"\0":
                    end += 1
                codes.add(packed[position + 1 : end].decode())  # type: ignore[union-attr]
                position = end + 1
            number += 1
        return codes

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> bytes:
        library, encoded = self._library, text.encode()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice '{voice}'; see recipes/espeak/voices.tsv")
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)
        self._chunks.clear()
        size = ctypes.c_size_t(len(encoded) + 1)
        if library.espeak_Synth(encoded, size, 0, 1, 0, _UTF8, None, None) != 0:
            raise UserError(f"eSpeak NG could not speak '{text}' with the voice '{voice}'")
        return b"".join(self._chunks)


@cache
def espeak_code(language: str) -> str:
    """eSpeak's code of a language; one that it cannot speak is a UserError."""
    with _Library() as library:
        known = library.languages()
    code = CODES.get(language, language)
    if code not in known:
        near = [name for name in sorted(known) if name[:2] == language[:2].lower()][:3]
        hint = "give a code that it has, such as 'hi' or 'en'."
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        raise UserError(f"language.code: eSpeak NG has no language '{language}': {hint}")
    return code


@cache
def variants() -> tuple[str, ...]:
    """Names of all voice variants that eSpeak NG carries, sorted."""
    folder = Path(_loader().get_data_path(), "voices/!v")
    return tuple(sorted(path.name for path in folder.iterdir()))


def speak(text: str, language: str, variant: str, rate: int = 175, pitch: int = 50) -> np.ndarray:
    """Synthesise one text, without silence at its ends.

    rate in words a minute (80..450), pitch 0..99; returns float32 (n,) in -1..1 at 16 kHz, empty if
    eSpeak finds nothing to say. The result depends on the arguments alone. Not for threads.
    """
    import numpy as np
    from scipy.signal import resample_poly

    if variant not in variants():
        raise UserError(f"eSpeak NG has no voice variant '{variant}'; see espeak/voices.tsv")
    voice = f"{espeak_code(language)}+{variant}"  # before: two libraries at once would be one
    with _Library() as library:
        data = library.speak(text, voice, rate, pitch)
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    if len(loud) == 0:
        return np.zeros(0, dtype=np.float32)
    # 22,050 * 320 / 441 = 16,000
    return resample_poly(samples[loud[0] : loud[-1] + 1], 320, 441, window=_low_pass())


@cache
def _low_pass() -> np.ndarray:
    """resample_poly's own filter, which it would design anew for every utterance."""
    from scipy.signal import firwin

    return firwin(2 * 10 * 441 + 1, 1 / 441, window=("kaiser", 5.0)).astype("float32")


# ------------------------------------------------------------------------------ making it harder


@dataclass(frozen=True)
class Mixture:
    """Speech and noise before they are added, each (n,) at 16 kHz, with what was drawn."""

    speech: np.ndarray  # reverberant, at its level
    noise: np.ndarray
    snr_db: float
    rt60: float  # seconds; 0: dry
    slope: float  # of the noise's power spectrum: power ~ f^-slope; 0 white, 2 brown

    def samples(self) -> np.ndarray:
        """Their sum, turned down as a whole where it would clip."""
        import numpy as np

        mixed = self.speech + self.noise
        return mixed * min(1.0, 0.99 / max(float(np.abs(mixed).max()), 1e-9))


def generator(seed: int, utterance_id: str) -> np.random.Generator:
    """Random numbers of one utterance: they depend on the corpus seed and its id, not on order."""
    import numpy as np

    digest = hashlib.sha256(f"{seed}/{utterance_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def degrade(dry: np.ndarray, options: Options, draw: np.random.Generator) -> Mixture:
    """Draw level, reverberation and noise for dry speech (n,) at 16 kHz.

    The SNR is that of mean powers over the whole utterance, reverberant speech over noise.
    """
    import numpy as np
    from scipy.fft import irfft, next_fast_len, rfft

    rt60 = draw.uniform(options.reverb[0], options.reverb[1])
    direct_db = draw.uniform(0.0, 15.0)  # direct sound over reverberation, in energy
    tail = int(rt60 * SAMPLE_RATE)
    length = len(dry) + min(tail, SAMPLE_RATE // 5)  # the room rings on for a moment
    size = next_fast_len(length + tail, real=True)
    speech = np.pad(dry.astype(np.float32), (0, length - len(dry)))
    if tail > 1:
        # Decaying noise: -60 dB at rt60, an amplitude of exp(-6.9 t / rt60) (Polack 1988)
        decay = np.exp(-6.9 * np.arange(tail, dtype=np.float32) / tail)
        response = draw.standard_normal(tail, dtype=np.float32) * decay
        response *= np.sqrt(10 ** (-direct_db / 10) / np.sum(response**2))
        response[0] = 1.0
        speech = irfft(rfft(speech, size) * rfft(response, size), size)[:length]
    level_db = draw.uniform(options.level_db[0], options.level_db[1])
    speech = speech * (10 ** (level_db / 20) / _rms(speech))

    slope = draw.uniform(0.0, 2.0)
    bins = size // 2 + 1
    # Flat below 50 Hz; white noise has a spectrum of independent normal numbers
    frequency = np.maximum(np.arange(bins, dtype=np.float32) * SAMPLE_RATE / size, 50.0)
    white = draw.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    noise = irfft(white * frequency ** np.float32(-slope / 2), size)[:length]
    snr_db = draw.uniform(options.snr_db[0], options.snr_db[1])
    noise *= _rms(speech) / _rms(noise) * 10 ** (-snr_db / 20)
    return Mixture(speech, noise, snr_db, rt60, slope)


def _rms(samples: np.ndarray) -> float:
    import numpy as np

    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


# -------------------------------------------------------------------------------------- stage 0


def fetch(options: Options, folder: Path, language: str) -> None:
    """Make the corpus below `folder`: <split>/<id>.flac and <split>-<language>.jsonl.

    Train, dev and test share no speaker (voices.tsv) and no sentence (grammar.split_of). With
    `languages` (pretraining) the train set has the train speakers and train-bucket sentences only,
    the dev set dev speakers and dev-bucket sentences; test speakers and test-bucket sentences of
    any recipe are never heard. Does nothing if the folder holds the same corpus; finished parts of
    an interrupted one are kept; another corpus of ours is replaced.

    Raises:
        UserError: grammar, language, too few sentences; no eSpeak NG.
    """
    grammars = _grammars(options, language)
    contents = _contents(options, grammars)
    voices = contents["voices"]
    path = folder / "corpus.json"
    fingerprint = _fingerprint(options, contents)
    state = marker.read(path) or {}
    seconds = {"train": options.hours * 3600, "dev": options.dev_minutes * 60}
    if not options.languages:
        seconds["test"] = options.test_minutes * 60
    if state.get("fingerprint") != fingerprint:
        for code, source in grammars.items():  # a mistake is told before anything is removed
            espeak_code(code)
            _check_sentences(options, source, {s: n / len(grammars) for s, n in seconds.items()})
        if state:  # without, the recordings may not be ours
            write_json(path, {"finished": False})  # first: cut after this, nothing counts as made
            for part in SPLITS:
                shutil.rmtree(folder / part, ignore_errors=True)
        for part in SPLITS:
            for manifest in folder.glob(f"{part}-*.jsonl"):
                manifest.unlink()
        state = {"fingerprint": fingerprint, "options": dataclasses.asdict(options), **contents}
    if state.get("finished"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    state["finished"] = False
    write_json(path, state)

    parts = [
        (code, split, seconds[split] / len(grammars))
        for code in grammars
        for split in seconds
        if not (folder / f"{split}-{code}.jsonl").exists()
    ]

    def work() -> Iterator[None]:
        """Make the parts; one item per second of audio made, for the progress."""
        for code, split, share in parts:
            rows: list[dict[str, Any]] = []
            told = 0
            source = grammars[code]
            for row, so_far in _make_part(
                options, source, code, split, share, voices[split], folder
            ):
                rows.append(row)
                while told < min(so_far, share):
                    told += 1
                    yield
            write_jsonl(folder / f"{split}-{code}.jsonl", rows)

    total = sum(share for _, _, share in parts)
    what = "eSpeak, seconds of " + " ".join(grammars)
    for _ in track(work(), total, what):
        pass
    state["finished"] = True
    write_json(path, state)


def _check_sentences(options: Options, source: grammar.Grammar, seconds: dict[str, float]) -> None:
    """Refuse sentences too few for these seconds of each split, had each of them `LONGEST`."""
    for split, wanted in seconds.items():
        needed = math.ceil(wanted / LONGEST)
        found = (s for s in grammar.sentences(source, options.seed) if grammar.split_of(s) == split)
        taken = sum(1 for _ in itertools.islice(found, needed))
        if taken < needed:
            raise _too_few(source, split, taken, f"too few for {wanted / 60:.1f} minutes")


def _too_few(source: grammar.Grammar, split: str, taken: int, what: str) -> UserError:
    return UserError(
        f"{source.path}: it has only {taken} distinct sentences for {split} (at most "
        f"{source.possible} in all, of which train gets 75 %, dev and test 12.5 % each): "
        f"{what}; add words, patterns or lines, "
        "or ask for less with corpus.hours, corpus.dev_minutes, corpus.test_minutes"
    )


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance]:
    """Utterances of a fetched corpus: by split, by language, in the order they were made.

    Raises:
        UserError: stage 0 not finished, or run with other options, sentences or voices.
    """
    state = marker.read(folder / "corpus.json") or {}
    if not state.get("finished"):
        raise UserError(f"{folder}: no finished corpus there; run stage 0 (corpus) first")
    marker.check_options(folder, state["options"], _drawn(options))
    _check_contents(folder, options, state)
    for split in SPLITS:
        for manifest in sorted(folder.glob(f"{split}-*.jsonl")):
            for row in read_jsonl(manifest):
                yield Utterance(
                    id=row["id"],
                    split=split,
                    audio=folder / split / f"{row['id']}.flac",
                    text=row["text"],
                    speaker=row["speaker"],
                    language=row["language"],
                )


def _make_part(
    options: Options,
    source: grammar.Grammar,
    language: str,
    split: str,
    seconds: float,
    speakers: list[str],
    folder: Path,
) -> Iterator[tuple[dict[str, Any], float]]:
    """Write FLAC files until `seconds` are full; yields rows of the manifest and seconds so far."""
    import numpy as np

    (folder / split).mkdir(parents=True, exist_ok=True)
    bucket = (s for s in grammar.sentences(source, options.seed) if grammar.split_of(s) == split)
    waiting: list[str] = []  # a sentence that was drawn but did not fit any more
    so_far, number, taken = 0.0, 0, 0
    order: list[str] = []
    while so_far < seconds:
        number += 1
        name = f"{language}-{split}-{number:06d}"
        draw = generator(options.seed, name)
        if not order:  # every speaker once, then again in another order
            turn = generator(options.seed, f"speakers/{language}/{split}/{number}")
            order = [speakers[i] for i in turn.permutation(len(speakers))]
        speaker = order.pop()
        rate = int(draw.integers(options.rate[0], options.rate[1] + 1))
        pitch = int(draw.integers(options.pitch[0], options.pitch[1] + 1))
        fewest, most = options.sentences_per_utterance
        wanted = int(draw.integers(fewest, most + 1))
        pause = np.zeros(int(draw.uniform(0.15, 0.5) * SAMPLE_RATE), dtype=np.float32)
        edges = [
            np.zeros(int(seconds_of_edge * SAMPLE_RATE), dtype=np.float32)
            for seconds_of_edge in draw.uniform(0.05, 0.3, size=2)
        ]
        texts: list[str] = []
        pieces = [edges[0]]
        for _ in range(wanted):
            sentence = waiting.pop() if waiting else next(bucket, None)
            if sentence is None:
                break
            spoken = speak(sentence, language, speaker, rate, pitch)
            if len(spoken) == 0:
                raise UserError(
                    f"{source.path}: eSpeak NG ({language}) is silent on '{sentence}'; remove it"
                )
            joined = [pause, spoken] if texts else [spoken]
            length = sum(map(len, (*pieces, *joined, edges[1]))) / SAMPLE_RATE
            if texts and length > options.max_seconds:
                waiting.append(sentence)
                break
            texts.append(sentence)
            pieces += joined
        if not texts:
            raise _too_few(source, split, taken, f"{so_far / 60:.1f} of {seconds / 60:.1f} minutes")
        taken += len(texts)
        mixture = degrade(np.concatenate([*pieces, edges[1]]), options, draw)
        samples = mixture.samples()
        write_flac(folder / split / f"{name}.flac", samples)
        so_far += len(samples) / SAMPLE_RATE
        yield (
            {
                "id": name,
                "text": " ".join(texts),
                "speaker": speaker.replace(" ", "_"),
                "language": language,
                "seconds": round(len(samples) / SAMPLE_RATE, 4),
                "rate": rate,
                "pitch": pitch,
                "snr_db": round(mixture.snr_db, 2),
                "rt60": round(mixture.rt60, 3),
            },
            so_far,
        )


def _grammars(options: Options, language: str) -> dict[str, grammar.Grammar]:
    if options.languages:
        return {
            code: grammar.load(_find(path, f"corpus.languages.{code}"))
            for code, path in sorted(options.languages.items())
        }
    if options.text:
        return {language: grammar.load_text(_find(options.text, "corpus.text"))}
    own = REPOSITORY / "recipes" / "espeak" / language / "conf" / "grammar.yaml"
    if options.grammar is None and not own.is_file():
        raise UserError(
            f"eSpeak has nothing to say in '{language}': set corpus.grammar to a grammar file, or "
            "give your own sentences, one a line, with --text FILE"
        )
    path = own if options.grammar is None else _find(options.grammar, "corpus.grammar")
    return {language: grammar.load(path)}


def _find(path: str, key: str) -> Path:
    """The file of that path: see `places_of`."""
    for candidate in places_of(path):
        if candidate.is_file():
            return candidate
    raise UserError(f"{key}: there is no file {path}, here or in the repository; check the path")


def _contents(options: Options, grammars: dict[str, grammar.Grammar]) -> dict[str, Any]:
    """What the files say that the options name: the sentences (as SHA-256) and the voices."""
    return {
        "sentences": {code: sha256(source.path) for code, source in grammars.items()},
        "voices": _voices_in_use(_find(options.voices, "corpus.voices")),
    }


def _check_contents(folder: Path, options: Options, state: dict[str, Any]) -> None:
    """Refuse files that say something else than those of stage 0 did (UserError)."""
    if "sentences" not in state:  # a marker from before they stood there
        return
    code, *_ = state["sentences"]
    # Without `languages`, which names them all, there is one: as it was then, here is no other.
    other = (options.languages or {code: ""}).keys() != state["sentences"].keys()
    now = {} if other else _contents(options, _grammars(options, code))
    for what in ("sentences", "voices"):
        if now.get(what) != state[what]:
            raise UserError(
                f"{folder}: made with other {what} than corpus.text, corpus.grammar, "
                "corpus.languages and corpus.voices give now; run stage 0 again"
            )


def _fingerprint(options: Options, contents: dict[str, Any]) -> str:
    """16 hexadecimal digits over all that the audio depends on; contents count, not paths."""
    from importlib.metadata import version

    _loader()  # first, for what `version` raises without it is no sentence
    made = [FORMAT, version("espeakng-loader"), _drawn(options)]
    everything = [*made, bool(options.languages), contents["sentences"], contents["voices"]]
    return fingerprint(everything)


def _drawn(options: Options) -> dict[str, Any]:
    """The options that are no files, whose contents count and not their paths."""
    files = ("grammar", "text", "languages", "voices")
    return {name: each for name, each in dataclasses.asdict(options).items() if name not in files}


# --------------------------------------------------------------------------------------- voices

COLUMNS = ("variant", "level_db", "pitch_hz", "cer", "split", "reason")


@dataclass
class VoiceRow:
    """A line of voices.tsv."""

    variant: str
    level_db: float  # RMS over a few sentences, dBFS
    pitch_hz: float  # median over voiced frames
    cer: float  # of a recogniser; nan: not measured
    split: str  # train, dev, test or unused
    reason: str


def read_voices(path: Path) -> list[VoiceRow]:
    """Read voices.tsv; a line that does not fit is a UserError with its number."""
    rows = []
    for number, line in enumerate(grammar.read_text(path).splitlines(), start=1):
        fields = line.split("\t")
        if number == 1:
            if tuple(fields) != COLUMNS:
                raise UserError(f"{path}:1: the columns must be {', '.join(COLUMNS)}")
            continue
        try:
            variant, level, pitch, cer, split, reason = fields
            row = VoiceRow(variant, float(level), float(pitch), float(cer), split, reason)
        except ValueError:
            raise UserError(f"{path}:{number}: not {len(COLUMNS)} fields, or no number") from None
        if split not in (*SPLITS, "unused"):
            raise UserError(f"{path}:{number}: split '{split}' is not train, dev, test or unused")
        rows.append(row)
    return rows


def _voices_in_use(path: Path) -> dict[str, list[str]]:
    """Variants by split, sorted; no variant may stand in the table twice."""
    rows = read_voices(path)
    names = [row.variant for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: the variant '{name}' stands there twice; remove one line")
    found = {s: sorted(row.variant for row in rows if row.split == s) for s in SPLITS}
    for split, speakers in found.items():
        if not speakers:
            raise UserError(f"{path}: no variant has the split '{split}'; give it one at least")
    return found
