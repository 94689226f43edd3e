"""The two families of models behind one small interface.

    wav2vec2   Wav2Vec2ForCTC                    CTC over characters
    whisper    WhisperForConditionalGeneration   encoder-decoder over byte-level BPE

A `Family` wraps the Hugging Face model, its feature extractor and its tokenizer. It turns clips
into a `Batch`, a batch into raw logits under teacher forcing, and logits into one loss an
utterance. The brain, decoding and scoring never ask which family it holds.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import transformers
from torch import Tensor, nn

from adakd import config as configuration
from adakd.data.manifest import Entry, Limit
from adakd.errors import UserError, suggest
from adakd.models.sources import pretrained
from adakd.objectives import Dense, Projected, SoftOutputs, TopK

if TYPE_CHECKING:
    import numpy as np


# transformers draws a bar for every file it reads and writes; ours say what takes time.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

LARGE_AND_SMALL = {51_866, 51_865}  # outputs of large-v3 and turbo; of tiny to large-v2
ENGLISH_ONLY = 51_864  # outputs of OpenAI's English-only Whispers


@dataclass
class Batch:
    """Utterances padded to one length, with all that a loss needs."""

    ids: list[str]
    languages: list[str]
    inputs: Tensor  # (B, samples) waveforms, or (B, mels, frames) log-mel features
    lengths: Tensor  # (B,) input samples or frames that are not padding
    labels: Tensor  # (B, U) units, padded with 0; Whisper's begin with the prompt, padded with eos
    label_lengths: Tensor  # (B,) target units that count
    seconds: float  # audio without padding
    soft: SoftOutputs | None = None  # the teacher's outputs, when they come from the store
    difficulty: Tensor | None = None  # (B,) x
    doubt: Tensor | None = None  # (B,) how likely the transcript is wrong
    characters: Tensor | None = None  # (B, C) of the auxiliary CTC head, padded with 0
    character_lengths: Tensor | None = None  # (B,)
    counted: bool = True  # False: here only so that every process has a batch; its loss is 0
    teacher: Batch | None = None  # the same clips as a live teacher wants them

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``."""

        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; a DataLoader with `pin_memory` calls it."""
        # In one piece each: another copy would go by way of memory that is not page-locked.
        return self.each(lambda tensor: tensor.contiguous().pin_memory())

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return value.each(change) if isinstance(value, Dense | TopK | Batch) else value

        return replace(
            self, **{each.name: changed(getattr(self, each.name)) for each in fields(self)}
        )


@dataclass
class Output:
    """What a forward pass gives, over frames (CTC) or target positions (Whisper)."""

    scores: Tensor | Projected  # (B, T, V) raw logits, or what they are computed from
    encoder_logits: Tensor | None = None  # (B, T', C + 1) of the auxiliary CTC head, blank first

    @cached_property
    def logits(self) -> Tensor:
        """(B, T, V) raw; of Whisper computed when asked for, which most trainings never do."""
        return self.scores.logits() if isinstance(self.scores, Projected) else self.scores


class Family(nn.Module):
    """A model with its feature extractor and tokenizer. See the subclasses for the two families.

    ``hf`` is the Hugging Face model, ``tokenizer`` and ``extractor`` its companions.
    """

    hf: Any
    tokenizer: Any
    extractor: Any
    # Whether a batch may leave a trained parameter without a gradient, such as a layer's that is
    # dropped: DDP has to be told, and then looks for them in every step.
    leaves_unused: bool = True

    @classmethod
    def build(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Self:
        """From a hub id or folder (`source`) or from random weights (`config`).

        ``units``: the folder of the recipe's own tokenizer; None takes the source's.
        """
        raise NotImplementedError

    @classmethod
    def outline(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Self:
        """The model of `build` on torch's meta device, without weights."""
        raise NotImplementedError

    @classmethod
    def limit(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Limit:
        """What the model of `build` cannot take, told without its weights."""
        raise NotImplementedError

    @classmethod
    def untrained_units(cls, source: str, units: Path | None) -> list[str]:
        """Units of the recipe for which a source has no output yet: fine-tuning makes them."""
        return []

    @classmethod
    def lacks(cls, units: Path | None) -> Callable[[str], bool] | None:
        """Says of a character whether the units lack it; None: they are bytes and lack none."""
        return None

    def collate(self, entries: Sequence[Entry], audio: Sequence[np.ndarray]) -> Batch:
        """A padded batch of clips, each float32 (n,) at 16 kHz, with their transcripts' units."""
        raise NotImplementedError

    def forward(self, batch: Batch, task_counts: bool = True) -> Output:
        """Raw logits under teacher forcing.

        task_counts: False where the distillation loss comes alone. What only the task loss takes
        has no gradient then, for which DDP would wait.
        """
        raise NotImplementedError

    def task_loss(self, output: Output, batch: Batch) -> Tensor:
        """(B,) loss against the transcript, nats per target unit."""
        raise NotImplementedError

    def losses(
        self,
        output: Output,
        batch: Batch,
        soft: SoftOutputs | None,
        distill: configuration.Distill,
        scale: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Both losses for training: that of `task_loss`, and with soft outputs a second one.

        It is (B,), tau^2 KL against the teacher, per the same target units; with a ``scale`` the
        squared error between the logits and ``scale`` times the teacher's.
        """
        raise NotImplementedError

    def positions(self, batch: Batch) -> Tensor:
        """(B,) positions of the logits that a teacher's soft outputs cover, from the first."""
        raise NotImplementedError

    def transcribe(self, batch: Batch) -> list[str]:
        """The greedy hypothesis of each utterance."""
        raise NotImplementedError

    @staticmethod
    def computes_whole_batches(inputs: Tensor) -> bool:
        """Whether a forward pass takes a batch as it is; else the family cuts it into pieces.

        What a layer hands to the next one stays in a CPU's cache only while it is small. Without a
        gradient to keep it for, small pieces are faster, whatever the batch (docs/PERFORMANCE.md).
        """
        return torch.is_grad_enabled() or inputs.device.type != "cpu"

    def prepare_training(self, train: configuration.Train) -> None:
        """Set SpecAugment, auxiliary heads and what is frozen."""
        settings = self.hf.config
        settings.apply_spec_augment = train.mask_time > 0 or train.mask_feature > 0
        settings.mask_time_prob = train.mask_time
        settings.mask_feature_prob = train.mask_feature
        for module in self.hf.modules():
            if hasattr(module, "gradient_checkpointing"):
                # The config.json of many a checkpoint of 2021 has layers computed twice.
                module.gradient_checkpointing = False
        if train.precision == "bf16" and not torch.cuda.is_available():
            # torch's fused attention is slow in bf16 on a CPU: forward and backward took 1.1 to 3.5
            # times as long as the plain formula, over 1,500 to 150 frames. In fp32 it is faster.
            self.hf.set_attn_implementation("eager")

    def permit(self, entries: Iterable[Entry]) -> None:
        """Let decoding write all units of these transcripts, also those that a source forbids."""

    def frames(self, seconds: float) -> int | None:
        """Positions of the logits on so much audio; None where the transcript decides."""
        return None

    def stacks(self) -> dict[str, tuple[Any, str]]:
        """Encoder (and decoder): where its `layers` are, and the config's key for their number."""
        raise NotImplementedError

    def keep_layers(self, layers: configuration.Layers) -> None:
        """Keep so many transformer layers, evenly spaced, with their weights; drop the others."""
        for name, (stack, key) in self.stacks().items():
            count = getattr(layers, name)
            if count is None:
                continue
            there = len(stack.layers)
            if count > there:
                raise UserError(
                    f"student.layers.{name} is {count}, and the source's {name} has {there} "
                    "layers: ask for as many at most."
                )
            stack.layers = nn.ModuleList(stack.layers[i] for i in evenly_spaced(there, count))
            for place, layer in enumerate(stack.layers):
                for module in layer.modules():
                    if hasattr(module, "layer_idx"):  # its place in the cache of keys and values
                        module.layer_idx = place
            setattr(self.hf.config, key, count)

    @property
    def padded(self) -> Callable[[float], float] | None:
        """Seconds of a clip -> with the padding it has by itself; None: its batch decides."""
        return None

    @property
    def hears(self) -> float:
        """Seconds of the longest clip that the model takes."""
        return math.inf

    def check_hears(self, utterance: str, seconds: float) -> None:
        """Raise `UserError` for an utterance that is longer: the extractor would cut it."""
        if seconds > self.hears:
            raise UserError(
                f"Utterance '{utterance}' has {seconds:.2f} s, and this model hears "
                f"{self.hears:g}: the data were prepared for another one; prepare them for this "
                "one, with --stage 1 and a --root DIR of its own."
            )

    def round_weights_(self) -> None:
        """Hold in bf16 what autocast rounds to bf16: weights of linear and convolutional layers.

        For a frozen model under autocast, which keeps its rounded copies only of what has a
        gradient, and rounds all else in every pass. The outputs are the same to the bit (tested).
        What autocast leaves in float32 stays: norms, embeddings (Whisper's is its output layer,
        too, which gets a copy), and the weight-normed convolution of wav2vec2.
        """
        for module in self.modules():
            if type(module) in (nn.Linear, nn.Conv1d):  # not of a parametrised class
                for name, value in list(module.named_parameters(recurse=False)):
                    rounded = nn.Parameter(value.to(torch.bfloat16), requires_grad=False)
                    setattr(module, name, rounded)

    @property
    def parameters_count(self) -> int:
        """Parameters of the deployable model, auxiliary heads left out."""
        return sum(parameter.numel() for parameter in self.hf.parameters())

    def vocabulary(self) -> dict[str, int]:
        """Every unit and its index."""
        return self.tokenizer.get_vocab()

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write model, tokenizer and feature extractor in Hugging Face's format."""
        model = self.hf
        if dtype is not torch.float32:
            # A copy: the model in memory goes on in float32.
            import copy

            model = copy.deepcopy(model).to(dtype)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def load(config: configuration.Config, role: str, units: Path | None = None) -> Family:
    """Build the ``teacher`` or ``student`` of a configuration.

    ``units`` is the folder of the recipe's own tokenizer; None takes the source's.
    """
    model: configuration.Model = getattr(config, role)
    with _sound_block(role, model, config.family):
        family = _class(config.family, model.source).build(model, config, units)
    family.keep_layers(model.layers)
    return family


def outline(config: configuration.Config, role: str, units: Path | None = None) -> Family:
    """What `load` would build, on torch's meta device: layers, rates and features, no weights.

    Of a student of the teacher's layers: of the teacher before fine-tuning, which has as many.
    """
    model: configuration.Model = getattr(config, role)
    if model.source == configuration.TEACHER:
        family = outline(config, "teacher", units)
    else:
        with _sound_block(role, model, config.family):
            family = _class(config.family, model.source).outline(model, config, units)
    family.keep_layers(model.layers)
    return family


def limit(config: configuration.Config, role: str, units: Path | None = None) -> Limit:
    """What the ``teacher`` or ``student`` cannot take, told without loading its weights."""
    model: configuration.Model = getattr(config, role)
    if model.source == configuration.TEACHER:
        role, model = "teacher", config.teacher
    if model.source is None and units is None:
        raise UserError(
            f"{role} starts from random weights and needs units of its own: set units.kind to "
            f"{'bpe' if config.family == 'whisper' else 'characters'}."
        )
    with _sound_block(role, model, config.family):
        return _class(config.family, model.source).limit(model, config, units)


@contextlib.contextmanager
def _sound_block(role: str, model: configuration.Model, family: str) -> Iterator[None]:
    """Say in one sentence what is wrong with a `config:` block, whose keys are transformers'.

    It takes a key that it does not know without a word, and what an impossible value raises depends
    on where it is first used.
    """
    if model.config is None:
        yield
        return
    known = transformers.AutoConfig.for_model(family)
    if (kind := model.config.get("model_type", family)) != family:
        raise UserError(
            f"{role}.config: model_type is '{kind}', and the family is {family}: only "
            f"{' and '.join(configuration.FAMILIES)} can be trained, each as its own --family."
        )
    for key in model.config:
        if not hasattr(known, str(key)) and key not in ("attn_implementation", "torch_dtype"):
            hint = suggest(str(key), known.to_dict())
            raise UserError(f"{role}.config: unknown key '{key}'; {hint}")
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{role}.config makes no model ({type(error).__name__}: {reason}): mend its values in "
            "the family's YAML."
        ) from error


def evenly_spaced(there: int, count: int) -> list[int]:
    """Which of ``there`` layers to keep: the first, the last, and ``count`` - 2 evenly between.

    i (there - 1) / (count - 1), rounded down, and for a single one the last: the choice of
    Distil-Whisper (Gandhi et al. 2023, arXiv 2311.00430).
    """
    if count == 1:
        return [there - 1]
    return [i * (there - 1) // (count - 1) for i in range(count)]


def untrained_units(config: configuration.Config, units: Path | None) -> list[str]:
    """Units for which the source of the teacher has no trained output; it has a source."""
    source = str(config.teacher.source)
    return _class(config.family, source).untrained_units(source, units)


def lacks(config: configuration.Config, units: Path | None) -> Callable[[str], bool] | None:
    """Says of a character whether the recipe's units lack it; None where none can be lacking."""
    return _class(config.family, None).lacks(units)


def open_folder(config: configuration.Config, folder: Path) -> Family:
    """Open a model that `Family.save` wrote, its own tokenizer with it."""
    model = configuration.Model(source=str(folder))
    return _class(config.family, model.source).build(model, config, None)


def check_same_units(teacher: Family | Path | str, student: Family | str) -> None:
    """Distillation compares distributions over units: both models must have the same ones.

    Either may be a folder or a hub id that holds a tokenizer: weights are not needed. Whisper's own
    tokens, such as its timestamps, may lack a name in models that older releases of transformers
    have fine-tuned: they stand for the same outputs all the same.
    """

    def units_of(model: Family | Path | str, role: str) -> tuple[dict[str, int], int]:
        if isinstance(model, Family):
            return model.vocabulary(), model.hf.config.vocab_size
        tokenizer = pretrained(transformers.AutoTokenizer, str(model), f"The {role}'s tokenizer")
        settings = pretrained(transformers.AutoConfig, str(model), f"The {role}'s configuration")
        return tokenizer.get_vocab(), settings.vocab_size

    theirs, teachers = units_of(teacher, "teacher")
    ours, students = units_of(student, "student")
    odd = sorted(
        unit
        for unit in {**ours, **theirs}
        if ours.get(unit) != theirs.get(unit)
        and (unit in ours and unit in theirs or not re.fullmatch(r"<\|.*\|>", unit))
    )
    if ENGLISH_ONLY in (teachers, students) and {teachers, students} & LARGE_AND_SMALL:
        english = "teacher" if teachers == ENGLISH_ONLY else "student"
        raise UserError(
            f"The {english} is a Whisper for English alone ({ENGLISH_ONLY} units), the other model "
            "one for all languages: take both of one kind (openai/whisper-tiny.en is of the first, "
            "openai/whisper-tiny of the second)."
        )
    if {teachers, students} == LARGE_AND_SMALL and ("<|yue|>" in ours) != ("<|yue|>" in theirs):
        raise UserError(
            f"Whispers of {teachers} units (teacher) and of {students} (student) do not go "
            "together: large-v3 and turbo have one language more than tiny to large-v2. Take both "
            "from one side, or the student from the teacher's layers (student.source teacher, "
            "student.layers.decoder 2)."
        )
    if odd:
        raise UserError(
            f"Teacher ({len(theirs)} units) and student ({len(ours)} units) have different units, "
            f"for instance {', '.join(map(repr, odd[:3]))}: give both the same "
            "tokenizer (units.kind in the family's YAML, or models of one vocabulary)."
        )
    if teachers != students and (alone := sorted(ours.keys() ^ theirs.keys())):
        raise UserError(
            f"Teacher ({teachers} outputs) and student ({students} outputs) have different units: "
            f"one alone has {', '.join(alone[:3])}. Add the same to the other, or take the student "
            "from the teacher's layers (student.source teacher, student.layers.decoder 2)."
        )
    if teachers != students:
        raise UserError(
            f"Teacher ({teachers} outputs) and student ({students} outputs) have the same units "
            "and different output layers: give models whose layers are of one size; a student that "
            "was made before 2026-11-30 gets a new one where its folder (untrained/) is removed."
        )


def _class(family: str, source: str | None) -> type[Family]:
    """The class of a family; a source that holds another kind of model is a UserError."""
    if source is not None:
        # A model of another kind would open with random weights and without a word.
        found = pretrained(transformers.AutoConfig, source, "The configuration").model_type
        if found not in configuration.FAMILIES:
            raise UserError(
                f"'{source}' holds a model of type {found}, which is not supported: take a "
                "wav2vec2 (XLS-R, MMS-300m) or a Whisper."
            )
        if found != family:
            raise UserError(
                f"'{source}' holds a model of type {found}, and the family is {family}: give "
                "another source or another --family."
            )
    if family == "wav2vec2":
        from adakd.models.wav2vec2 import Wav2Vec2

        return Wav2Vec2
    from adakd.models.whisper import Whisper

    return Whisper
