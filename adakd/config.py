"""Plain YAML -> validated dataclasses -> overrides. Nothing here imports torch.

A recipe's settings are three layers, later ones winning:

1. ``conf/recipe.yaml``    the corpus, the language, the data: what both families share
2. ``conf/<family>.yaml``  models and training of one family
3. overrides               ``--train.epochs 3`` on the command line, read as YAML is, but for text,
                           which stays as it was typed

Groups of keys (`train`, `corpus`, `methods`) are merged key by key. What an override gives for a
single key takes its place, a mapping too: ``--teacher.train {}`` leaves nothing of it.

An unknown key, a value of the wrong type or broken YAML is a `UserError` that says where it
stands and what was probably meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import os
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adakd.data.text import primary
from adakd.errors import UserError, suggest
from adakd.methods import METHODS

T = typing.TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[1]
FAMILIES = ("wav2vec2", "whisper")
TEACHER = "teacher"  # student.source: the trained teacher; transcripts.source: its hypotheses


@dataclass
class Language:
    code: str = ""  # BCP 47 as the corpus has it: hi, ta, zh-CN; rules of the text depend on it
    whisper: str | None = None  # Whisper's code when it differs (zh for zh-CN)
    # Whisper's texts begin with a space, as OpenAI's do, where the language writes spaces. false:
    # for a finished teacher of Hugging Face's fine-tuning scripts, which leave it out.
    leading_space: bool = True


@dataclass
class LabelNoise:
    shuffled: float = 0.0  # share of the utterances that get the transcript of another one
    missing: float = 0.0  # share of the words left out
    misspelt: float = 0.0  # share of the words with a wrong letter
    seed: int = 1


@dataclass
class Data:
    min_seconds: float = 0.1  # shorter clips hold no speech
    max_seconds: float = 30.0  # longer clips are rejected with a reason, never cut
    max_rejected: float = 0.05  # share of rejected utterances that stops the stage
    languages: list[str] = field(default_factory=list)  # of a multilingual corpus; empty: all
    normalise: bool = True  # train on normalised text; false trains on the transcript as it is
    untranscribed: bool = False  # keep training audio without a transcript, for the teacher's
    jobs: int = 0  # processes that read audio; 0 means one a core
    label_noise: LabelNoise = field(default_factory=LabelNoise)  # wrong transcripts in train


@dataclass
class Transcripts:
    source: str = "corpus"  # what students learn to write: corpus | teacher (its hypotheses)
    max_cer: float = 0.1  # teacher: hypotheses further from the transcript are left out


@dataclass
class Audio:
    # Whisper in training and the teacher pass: full (its whole input length) | speech (only what is
    # there, several times faster).
    encode: str = "full"


@dataclass
class Units:
    kind: str = "source"  # source: the checkpoint's tokenizer | characters (CTC) | bpe (Whisper)
    size: int = 1000  # pieces of a byte-level BPE; characters need no size


@dataclass
class Layers:
    encoder: int | None = None  # how many to keep, evenly spaced; empty keeps them all
    decoder: int | None = None  # Whisper's own


@dataclass
class Model:
    source: str | None = None  # hub id or local folder; student: also "teacher", that of stage 2
    layers: Layers = field(default_factory=Layers)  # fewer transformer layers than the source has
    config: dict[str, Any] | None = None  # Hugging Face config keys for random weights, no network
    finetuned: bool = False  # take the teacher as it is: stage 2 trains nothing
    seed: int | None = None  # of the teacher, one for students of all seeds; empty: the run's own
    train: dict[str, Any] = field(default_factory=dict)  # keys of `train` that differ for it


@dataclass
class Train:
    epochs: int = 10  # passes; the one with the lowest dev CER counts, of equal ones the last
    max_steps: int | None = None  # optimiser steps at most, whatever the epochs say
    batch_seconds: float = 60.0  # audio in one micro-batch, padding included
    accumulate: int = 1  # micro-batches in one optimiser step
    learning_rate: float = 1e-3  # peak of AdamW's learning rate
    warmup: float = 0.1  # share of the steps in which the rate rises; then it falls linearly to 0
    weight_decay: float = 0.01  # on matrices only, not on biases and norms
    clip: float = 1.0  # largest gradient norm, over all parameters
    mask_time: float = 0.05  # SpecAugment: share of frames masked, in tens; two of these at least
    mask_feature: float = 0.0  # SpecAugment: share of features masked
    ctc_weight: float = 0.0  # Whisper: weight of a CTC loss on the encoder (training from nothing)
    freeze_feature_encoder: bool = False  # wav2vec2: as is usual for XLS-R
    precision: str = "auto"  # auto (bf16 on a GPU that has it, else fp32) | bf16 | fp32
    workers: int = 0  # processes that load audio; 0 is best on two cores
    checkpoint_minutes: float = 10.0  # between checkpoints inside an epoch

    @property
    def batch_seconds_without_gradients(self) -> float:
        """Audio in a batch where no gradients are kept, padding included: twice as much fits."""
        return 2 * self.batch_seconds


@dataclass
class Distill:
    temperature: float = 2.0  # tau, softens teacher and student
    teacher: str = "cached"  # cached: soft outputs of the teacher store | online: the live teacher
    top_k: int = 0  # logits kept a frame or token, and as many drawn from the rest; 0 keeps all
    frames: str = "all"  # CTC frames that count: all | nonblank | symmetric
    difficulty: str = "insample"  # x: insample | crossfit | pretrained | dropout, adakd.difficulty
    dropout_passes: int = 8  # over every utterance, for difficulty: dropout


@dataclass
class Decode:
    # Whisper in stage 7, as in audio.encode: full is what Hugging Face's pipeline hears.
    encode: str = "full"
    int8: bool = False  # stages 7 to 9: every student also with its linear layers in int8, on CPUs


@dataclass
class Score:
    bootstrap: int = 1000  # resamples behind each interval


@dataclass
class Config:
    recipe: str = ""  # corpus/language, the folder below recipes/
    family: str = ""  # wav2vec2 | whisper
    seed: int = 1  # of everything random in training
    fold: int | None = None  # which speakers test, in corpora that rotate them
    tag: str = ""  # keeps a variant beside the others: exp/.../<method>-<tag>
    demonstration: bool = False  # the numbers are no evidence; the report says so
    language: Language = field(default_factory=Language)
    corpus: dict[str, Any] = field(default_factory=dict)  # kind and its Options
    data: Data = field(default_factory=Data)
    transcripts: Transcripts = field(default_factory=Transcripts)
    audio: Audio = field(default_factory=Audio)
    units: Units = field(default_factory=Units)
    teacher: Model = field(default_factory=Model)
    student: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    distill: Distill = field(default_factory=Distill)
    methods: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # of each weighting
    decode: Decode = field(default_factory=Decode)
    score: Score = field(default_factory=Score)

    @property
    def whisper_language(self) -> str:
        """The language as Whisper's tokenizer names it."""
        return self.language.whisper or primary(self.language.code)

    @property
    def learns_hypotheses(self) -> bool:
        """Whether students learn to write what the teacher hears, not the transcripts."""
        return self.transcripts.source == TEACHER

    @property
    def guarded(self) -> bool:
        """Whether a method asks how likely each transcript is wrong."""
        return any((options or {}).get("guard") is not None for options in self.methods.values())

    def train_of(self, role: str) -> Train:
        """Training settings of ``teacher`` or ``student``: `train` with that model's own keys."""
        own = getattr(self, role).train
        return from_dict(Train, {**dataclasses.asdict(self.train), **own}, f"{role}.train")


# Codes of languages that Whisper or the text rules know by two letters: those of ISO 639-2 and -3,
# also of one language within such a one (swh). jp, cn and gr are countries, iw is old.
MEANT = dict(
    pair.split(":")
    for pair in (
        "afr:af alb:sq sqi:sq amh:am ara:ar arb:ar arm:hy hye:hy asm:as aze:az azj:az bak:ba "
        "baq:eu eus:eu bel:be ben:bn bos:bs bre:br bul:bg cat:ca zho:zh chi:zh cn:zh hrv:hr "
        "ces:cs cze:cs dan:da nld:nl dut:nl dzo:dz eng:en est:et fao:fo fin:fi fra:fr fre:fr "
        "fry:fy glg:gl kat:ka geo:ka deu:de ger:de ell:el gre:el gr:el guj:gu hat:ht hau:ha "
        "heb:he iw:he hin:hi hun:hu isl:is ice:is ind:id ita:it jpn:ja jp:ja jav:jv kan:kn kaz:kk "
        "khm:km kor:ko lao:lo lat:la lav:lv lin:ln lim:li lit:lt ltz:lb mkd:mk mac:mk mlg:mg "
        "msa:ms may:ms zsm:ms mal:ml mlt:mt mri:mi mao:mi mar:mr mon:mn khk:mn mya:my bur:my "
        "nep:ne npi:ne nor:no nno:nn nob:nb oci:oc pan:pa pus:ps fas:fa per:fa pes:fa pol:pl "
        "por:pt ron:ro rum:ro rus:ru san:sa srp:sr sna:sn snd:sd sin:si slk:sk slo:sk slv:sl "
        "som:so spa:es sun:su swa:sw swh:sw swe:sv smo:sm tgl:tl tgk:tg tah:ty tam:ta tat:tt "
        "tel:te tha:th tib:bo bod:bo tir:ti ton:to tur:tr tuk:tk ukr:uk urd:ur uzb:uz uzn:uz "
        "vie:vi cym:cy wel:cy yid:yi yor:yo"
    ).split()
)

CHOICES = {
    "family": FAMILIES,
    "transcripts.source": ("corpus", "teacher"),
    "audio.encode": ("full", "speech"),
    "decode.encode": ("full", "speech"),
    "units.kind": ("source", "characters", "bpe"),
    "train.precision": ("auto", "bf16", "fp32"),
    "distill.teacher": ("cached", "online"),
    "distill.frames": ("all", "nonblank", "symmetric"),
    "distill.difficulty": ("insample", "crossfit", "pretrained", "dropout"),
}
ABOVE_0 = math.ulp(0.0)  # the least number that is
FINITE = sys.float_info.max
# Least and largest value; an empty one is not looked at.
RANGES: dict[str, tuple[float, float]] = {
    "data.min_seconds": (0, FINITE),
    "data.max_seconds": (ABOVE_0, math.inf),
    "data.max_rejected": (0, 1),
    "data.jobs": (0, FINITE),
    "data.label_noise.shuffled": (0, 1),
    "data.label_noise.missing": (0, 1),
    "data.label_noise.misspelt": (0, 1),
    "transcripts.max_cer": (0, math.inf),
    "units.size": (1, FINITE),
    "distill.temperature": (ABOVE_0, 100),  # at 100 all outputs weigh nearly alike
    "distill.top_k": (0, FINITE),
    "distill.dropout_passes": (2, FINITE),  # one has no spread
    "score.bootstrap": (1, FINITE),
}
RANGES_OF_TRAIN: dict[str, tuple[float, float]] = {
    "epochs": (1, FINITE),
    "max_steps": (1, FINITE),
    "batch_seconds": (ABOVE_0, math.inf),
    "accumulate": (1, FINITE),
    "learning_rate": (0, FINITE),
    "warmup": (0, 1),
    "weight_decay": (0, FINITE),
    "clip": (ABOVE_0, math.inf),
    "mask_time": (0, 1),
    "mask_feature": (0, 1),
    "ctc_weight": (0, 1),
    "workers": (0, FINITE),
    "checkpoint_minutes": (0, math.inf),
}


def load(recipe_folder: Path, family: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The validated configuration of one family of a recipe.

    ``recipe_folder`` is ``recipes/<corpus>/<language>``; ``overrides`` maps dotted keys to values:
    text as it stands on the command line, or anything else that YAML knows. Raises `UserError` for
    whatever is wrong in either.
    """
    if family not in FAMILIES:
        raise UserError(f"Unknown family '{family}': choose {_one_of(FAMILIES, family)}.")
    merged: dict[str, Any] = {}
    for path in (recipe_folder / "conf" / "recipe.yaml", recipe_folder / "conf" / f"{family}.yaml"):
        layer = read_yaml(path)
        # Checked layer by layer, so that the message names the file and the line at fault.
        from_dict(Config, layer, str(path), path)
        merged = _merge(merged, layer)
        _check_inner_groups(layer, merged, path)
    settings = ungrouped(overrides or {})
    for key, value in settings.items():
        _override(merged, key, value, settings)
    merged.setdefault("recipe", "/".join(recipe_folder.parts[-2:]))
    merged["family"] = family
    config = from_dict(Config, merged, "the configuration")
    check(config)
    for model in (config.teacher, config.student):
        model.source = _located(model.source)
    return config


def _check_inner_groups(layer: Mapping[str, Any], merged: Mapping[str, Any], path: Path) -> None:
    """Check the groups that `Config` holds as plain mappings, where file and line are known."""
    from adakd import corpora

    for role in ("teacher", "student"):
        own = layer.get(role, {}).get("train", {})
        from_dict(Train, own, str(path), path, f"{role}.train.")
    options = {key: value for key, value in layer.get("corpus", {}).items() if key != "kind"}
    if options and "kind" in merged["corpus"]:
        module = corpora.module(str(merged["corpus"]["kind"]))
        from_dict(module.Options, options, str(path), path, "corpus.")
    _check_methods(layer.get("methods", {}), str(path), path)


def _check_methods(methods: Mapping[str, Any], where: str, path: Path | None = None) -> None:
    """Check the names; the options are for `adakd.weighting.build`, which needs torch."""
    for name in methods:
        if name not in METHODS:
            place = _place(where, f"methods.{name}", path)
            raise UserError(f"{place}: unknown method '{name}'; {suggest(name, METHODS)}")


def places_of(path: str) -> tuple[Path, Path]:
    """Where something may lie: as given, or below the repository; a recipe runs from anywhere.

    With recipes/ the repository goes first: one may stand in another copy of it.
    """
    given, below = Path(os.path.expanduser(path)), REPOSITORY / path
    return (below, given) if path.startswith("recipes/") else (given, below)


def _located(source: str | None) -> str | None:
    """A model's folder, or a hub id."""
    if not source or source == TEACHER:
        return source
    found = next(filter(Path.is_dir, places_of(source)), None)
    as_written = found is None or (Path(source).is_dir() and found.samefile(source))
    return source if as_written else str(found)


def _check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{key} is '{value}': choose {_one_of(allowed, value)}.")


def check(config: Config) -> None:
    """Raise `UserError` for values that have the right type and still cannot be used."""
    check_recipe(config.recipe)
    for key, allowed in CHOICES.items():
        _check_choice(key, _get(config, key), allowed)
    for key, limits in RANGES.items():
        _check_range(key, _get(config, key), *limits)
    if config.data.min_seconds > config.data.max_seconds:
        raise UserError("data.min_seconds is above data.max_seconds: no clip would be left.")
    if not config.language.code:
        raise UserError(
            f"{config.recipe}: language.code is missing; give it, e.g. --language.code sw, or "
            f"set it in conf/recipe.yaml; for a study: --set {config.recipe} language.code sw."
        )
    check_language(config.language.code)
    if "kind" not in config.corpus:
        raise UserError(f"{config.recipe}: corpus.kind is missing; set it in conf/recipe.yaml.")
    for role in ("teacher", "student"):
        model = getattr(config, role)
        if (model.source is None) == (model.config is None):
            raise UserError(
                f"{role} needs either {role}.source (a hub id or a folder) or {role}.config "
                "(random weights), and not both; set one in the family's YAML."
            )
        train = config.train_of(role)
        _check_choice(f"{role}.train.precision", train.precision, CHOICES["train.precision"])
        for name, limits in RANGES_OF_TRAIN.items():
            key = f"{role}.train.{name}" if name in model.train else f"train.{name}"
            _check_range(key, getattr(train, name), *limits)
    if config.units.kind == "characters" and config.family != "wav2vec2":
        raise UserError("units.kind: characters is for wav2vec2; Whisper has source or bpe.")
    if config.units.kind == "bpe" and config.family != "whisper":
        raise UserError("units.kind: bpe is for whisper; wav2vec2 has source or characters.")
    if config.student.seed is not None:
        raise UserError("student.seed: a student has the seed of its run; set seed instead.")
    _check_layers(config)
    _check_methods(config.methods, "the configuration")
    if config.learns_hypotheses and (config.distill.difficulty != "insample" or config.guarded):
        raise UserError(
            "transcripts.source teacher takes distill.difficulty insample and no guard: what the "
            "teacher wrote itself it neither doubts nor saw in halves."
        )


def check_recipe(name: str) -> None:
    """Raise `UserError` for a name that would lead out of exp/, or into the folder of another."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise UserError(
            f"'{name}' is no name of a recipe: name a folder below recipes/, such as espeak/hi."
        )


def check_language(code: str) -> None:
    """Raise `UserError` for the name of a language, or a code that hides it from the text rules."""
    language = primary(code)
    meant = MEANT.get(language)
    if len(language) > 3 and language != "multilingual":
        # Imported here, where its seconds do not matter.
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        meant = TO_LANGUAGE_CODE.get(language, "its ISO 639 code, such as sw")
    if meant:
        raise UserError(f"language.code is '{code}': write {meant}.")


def _check_range(key: str, value: float | None, low: float, high: float) -> None:
    if value is None or low <= value <= high:  # which nan is not
        return
    least = "above 0" if low == ABOVE_0 else f"of at least {low:g}"
    most = f" and at most {high:g}" if high < FINITE else ""
    raise UserError(f"{key} is {value}: give a number {least}{most}.")


def _check_layers(config: Config) -> None:
    if config.teacher.source == TEACHER or config.teacher.layers != Layers():
        raise UserError(
            f"teacher: source '{TEACHER}' and layers are for the student, which starts from them."
        )
    layers = config.student.layers
    if layers != Layers() and config.student.source is None:
        raise UserError(
            "student.layers keeps layers of student.source: give a source, 'teacher' for instance, "
            "or set the number of layers in student.config."
        )
    if any(count is not None and count < 1 for count in (layers.encoder, layers.decoder)):
        raise UserError("student.layers: give whole numbers from 1 on.")
    if config.family == "wav2vec2" and layers.decoder is not None:
        raise UserError("student.layers.decoder: wav2vec2 has no decoder; leave it out.")


class _NotMeant(yaml.MarkedYAMLError):
    """What YAML reads as nobody means it."""


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number. YAML 1.1 wants 1.0e-3 and reads this as text.

    What it reads in base 8 (010) or 60 (1:30) is refused, and so is a key that stands twice in one
    mapping, of which it would drop the first. A date is text, whether there is such a day or not.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                problem = f"the key '{key.value}' stands here for the second time"
                raise _NotMeant(None, None, problem, key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node

    def _number(self, node: yaml.ScalarNode) -> int | float:
        if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            base = 60 if ":" in node.value else 8
            problem = f"YAML reads {node.value} in base {base}; write a decimal number, or quote it"
            raise _NotMeant(None, None, problem, node.start_mark)
        integer = node.tag.endswith(":int")
        try:
            return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)
        except ValueError:  # 0x_, or thousands of digits
            problem = f"{node.value:.20} is no number that can be read"
            raise _NotMeant(None, None, problem, node.start_mark) from None


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _Loader._number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        UserError: (naming file and line) there is none, it is no valid YAML, or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a recipe needs it (see recipes/TEMPLATE).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line, problem = _of_broken_yaml(path, error)
        mend = "that line" + (" or the one above" if problem.startswith("mapping values") else "")
        raise UserError(f"{path}, line {line}: not valid YAML ({problem}); mend {mend}.") from None
    except RecursionError:
        raise UserError(f"{path}: its brackets lie too deep in each other; mend them.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(content).__name__}.")
    return content


def _of_broken_yaml(path: Path, error: Any) -> tuple[str, str]:
    """The line at which YAML is broken, and what is wrong there."""
    if isinstance(error, UnicodeDecodeError):
        return str(error.object.count(b"\n", 0, error.start) + 1), "not UTF-8 text"
    if isinstance(error, yaml.reader.ReaderError):
        text, at = path.read_text(encoding="utf-8"), error.position
        problem = f"{text[at]!a} is a character that YAML does not take"
        return str(text.count("\n", 0, at) + 1), problem
    noticed = error.problem_mark.line + 1
    # Where a quotation mark or a bracket opens; a block begins far above what is wrong in it.
    if (error.context or "").startswith(("while scanning", "while parsing a flow")):
        begun = (error.context_mark or error.problem_mark).line + 1
        if begun != noticed:
            return f"{begun}, noticed at line {noticed}", error.problem
    return str(noticed), error.problem


def from_dict(
    cls: type[T],
    mapping: Any,
    where: str,
    path: Path | None = None,
    prefix: str = "",
) -> T:
    """Build dataclass ``cls`` from ``mapping``; ``where`` names the source in messages.

    ``path``, when given, is the YAML file itself: messages then carry the line of the key, which
    stands under ``prefix`` ("cells.kd.", say).

    Raises:
        UserError: a key that ``cls`` lacks, or a value of another type.
    """
    if not isinstance(mapping, Mapping):
        place = _place(where, prefix.rstrip("."), path)
        raise UserError(f"{place}: '{prefix.rstrip('.')}' must hold keys, found {mapping!r}.")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(typing.cast(Any, cls))]
    values = {}
    for key, value in mapping.items():
        full = f"{prefix}{key}"
        if key not in known:
            raise UserError(
                f"{_place(where, full, path)}: unknown key '{full}'; {suggest(str(key), known)}"
            )
        hint = hints[key]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[key] = from_dict(hint, value, where, path, f"{full}.")
        else:
            values[key] = _typed(hint, value, full, where, path)
    return cls(**values)


def _typed(hint: Any, value: Any, key: str, where: str, path: Path | None) -> Any:
    """``value`` as ``hint`` asks; an int passes for a float, nothing else is converted."""
    origin = typing.get_origin(hint)
    options = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if option is Any:
            return value
        if option is type(None):
            if value is None:
                return None
            continue
        kind = typing.get_origin(option) or option
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > FINITE:
                raise UserError(f"{_place(where, key, path)}: '{key}' has too many digits.")
            return float(value)
        if kind is list and isinstance(value, (list, tuple)):
            inner = typing.get_args(option)
            return [_typed(inner[0], v, key, where, path) for v in value] if inner else list(value)
        if kind is dict and isinstance(value, Mapping):
            inner = typing.get_args(option) or (Any, Any)
            if inner[0] is str:
                check_names(value, key, where, path)
            return {k: _typed(inner[1], v, f"{key}.{k}", where, path) for k, v in value.items()}
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
    names = " or ".join(_type_name(option) for option in options)
    raise UserError(f"{_place(where, key, path)}: '{key}' must be {names}, found {value!r}.")


def check_names(mapping: Mapping[Any, Any], key: str, where: str, path: Path | None) -> None:
    """Raise `UserError` where a key of a mapping is a number, empty, or a bare no or yes."""
    for name in mapping:
        if not isinstance(name, str):
            raise UserError(
                f"{_place(where, f'{key}.{name}', path)}: in '{key}' YAML reads a key as {name!r}, "
                "which is no name: write text there, if need be in quotes."
            )


def _type_name(option: Any) -> str:
    names = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
        list: "a list", dict: "a mapping", type(None): "empty",
    }  # fmt: skip
    return names.get(typing.get_origin(option) or option, str(option))


def ungrouped(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings in which no key holds a group: ``{train: {epochs: 2}}`` as ``{train.epochs: 2}``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        hint = _hint(key, None)
        if dataclasses.is_dataclass(hint) or key in ("corpus", "methods"):
            if isinstance(value, str) and value != "":
                value = _spelt(value, hint, key)
            if isinstance(value, Mapping):
                found |= ungrouped(value, f"{key}.")
                continue
        found[key] = value
    return found


def _override(target: dict[str, Any], key: str, value: Any, overrides: Mapping[str, Any]) -> None:
    """Set ``a.b.c`` in nested ``target`` to a value, or to what a text means there."""
    if isinstance(value, str) and value != "":
        corpus = target.get("corpus")
        kind = corpus.get("kind") if isinstance(corpus, dict) else None
        value = _spelt(value, _hint(key, overrides.get("corpus.kind", kind)), key)
    *parents, last = key.split(".")
    for parent in parents:
        inner = target.setdefault(parent, {})
        if inner is None:
            inner = target[parent] = {}
        if not isinstance(inner, dict):
            raise UserError(f"--{key}: '{parent}' is a value, not a group of keys.")
        target = inner
    target[last] = value
    # A model comes from one place: naming a source takes the `config:` block away, and vice versa.
    other = {"source": "config", "config": "source"}.get(last)
    if value is not None and other and parents in (["teacher"], ["student"]):
        target.pop(other, None)


def _hint(dotted: str, kind: Any) -> Any:
    """The type of a key, ``kind`` being that of the corpus; Any where no dataclass says it."""
    from adakd import corpora

    found: Any = Config
    group = ""
    for part in dotted.split("."):
        if group in ("teacher.train", "student.train"):
            found = Train
        elif group == "corpus" and part != "kind" and kind is not None:
            found = corpora.module(str(kind)).Options
        if not dataclasses.is_dataclass(found):
            return Any
        found = typing.get_type_hints(found).get(part, Any)
        group = f"{group}.{part}".lstrip(".")
    return found


def _spelt(text: str, hint: Any, dotted: str) -> Any:
    """The value that ``text`` spells: itself where the key holds text, else what YAML reads."""
    if hint in (str, str | None) and text != "null" and text[0] not in "'\"":
        return text  # YAML would end "my #1 corpus" at the #, and read no as false
    try:
        return yaml.load(text, _Loader)
    except _NotMeant as error:
        raise UserError(f"--{dotted}: {error.problem}.") from None
    except yaml.YAMLError:  # '@name' is no YAML, but plain text
        return text


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def dump_yaml(content: Any) -> str:
    """``content`` (plain values) as YAML text, keys in their own order, any script readable."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _get(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def _place(where: str, key: str, path: Path | None) -> str:
    line = line_of(path, key) if path else None
    return f"{where}, line {line}" if line else where


def line_of(path: Path, key: str) -> int | None:
    """The line of a YAML file on which dotted ``key`` stands, or as much of it as is there."""
    node = _composed(path.read_text(encoding="utf-8"))
    line = None
    for part in key.split("."):
        if not isinstance(node, yaml.MappingNode):
            break
        for name, value in node.value:
            if name.value == part:
                line, node = name.start_mark.line + 1, value
                break
        else:
            break
    return line


@functools.lru_cache(maxsize=8)
def _composed(text: str) -> yaml.Node | None:
    """A YAML file's nodes, which know their lines; asked for again with every key."""
    return yaml.compose(text)


def _one_of(allowed: tuple[str, ...], found: str) -> str:
    near = difflib.get_close_matches(found, allowed, n=1)
    return f"one of {', '.join(allowed)}" + (f" (perhaps '{near[0]}')" if near else "")
