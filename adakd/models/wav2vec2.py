"""Wav2vec 2.0 with CTC: `Wav2Vec2ForCTC` behind the interface of `adakd.models`.

Waveforms are normalised over their own length, never over padding, and padding is masked, so that
an utterance's logits do not depend on its neighbours. Checkpoints with group norm in the feature
encoder (`feat_extract_norm: group`) leak padding into the statistics; they run one utterance at a
time, which is slower and right.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adakd import config as configuration
from adakd import objectives
from adakd.data.audio import SAMPLE_RATE
from adakd.data.manifest import Entry, Limit
from adakd.errors import UserError
from adakd.files import write_json
from adakd.models import Batch, Family, Output, dropout
from adakd.models.sources import pretrained, pretrained_weights
from adakd.models.units import BLANK, SPACE, UNKNOWN, without_unknown
from adakd.objectives import SoftOutputs
from adakd.processes import say

if TYPE_CHECKING:
    import numpy as np

PIECE = 12 * 1024  # seconds of audio times hidden units that a CPU computes at a time
# The vector in place of masked frames, which checkpoints that were trained without masks lack.
MASK = ("wav2vec2.masked_spec_embed",)
LEAST_FILTER = 200  # samples: a first kernel this long spans a pitch period, as a filterbank does


class Wav2Vec2(Family):
    """A CTC recogniser on raw waveforms; `hf` is a `Wav2Vec2ForCTC`."""

    def __init__(self, hf: Any, tokenizer: Any, extractor: Any) -> None:
        super().__init__()
        self.hf, self.tokenizer, self.extractor = hf, tokenizer, extractor
        self.blank: int = tokenizer.pad_token_id
        self.masks = False  # SpecAugment in training

    @classmethod
    def build(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Wav2Vec2:
        """From a hub id or folder (`source`) or from random weights (`config`).

        ``units`` is the folder of a `train_characters` tokenizer. The output layer is made anew for
        it, and rows of characters that the source's own tokenizer knows are copied.
        """
        from transformers import (
            Wav2Vec2Config,
            Wav2Vec2FeatureExtractor,
            Wav2Vec2ForCTC,
        )

        if model.source is None:
            if units is None:
                raise UserError("Random weights need units of their own: units.kind: characters.")
            tokenizer = _tokenizer(model, units)
            settings = Wav2Vec2Config(
                **{
                    **(model.config or {}),
                    "vocab_size": _outputs(config, tokenizer),
                    "pad_token_id": tokenizer.pad_token_id,
                }
            )
            hf = Wav2Vec2ForCTC(settings)
            if settings.conv_kernel[0] >= LEAST_FILTER:
                first: Any = hf.wav2vec2.feature_extractor.conv_layers[0]
                mel_filters_(first.conv)
                if settings.feat_extract_norm == "layer":
                    # Steep enough for GELU to rectify, which a filterbank needs.
                    nn.init.constant_(first.layer_norm.weight, 4.0)
            extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
            return cls(hf, tokenizer, extractor)

        source = model.source
        _configuration(source)
        extractor = _extractor(source)
        if units is None:
            tokenizer = own_tokenizer(source)
            hf = pretrained_weights(Wav2Vec2ForCTC, source, MASK)
            outputs, known = hf.config.vocab_size, tokenizer.get_vocab()
            if odd := sorted(unit for unit, index in known.items() if index >= outputs):
                raise UserError(
                    f"'{source}' has {outputs} outputs and {len(known)} units, and none for "
                    f"{odd[0]!r}: set units.kind to characters, and let stage 2 fine-tune it with "
                    "a new output layer."
                )
            if outputs > len(known) and tokenizer.unk_token is None:
                raise UserError(
                    f"'{source}' has {outputs} outputs, {len(known)} units and no unknown unit "
                    "that could stand for the others: name one in its tokenizer_config.json "
                    "(unk_token)."
                )
            hf.config.pad_token_id = tokenizer.pad_token_id  # some sources name another blank
            return cls(hf, tokenizer, extractor)

        tokenizer = _tokenizer(model, units)
        hf = pretrained_weights(
            Wav2Vec2ForCTC,
            source,
            (*MASK, "lm_head."),
            vocab_size=_outputs(config, tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        )
        # Always: a new vocabulary may happen to be as large as the source's.
        nn.init.normal_(hf.lm_head.weight, std=hf.config.initializer_range)
        nn.init.zeros_(hf.lm_head.bias)
        _copy_known_rows(hf, source, tokenizer)
        return cls(hf, tokenizer, extractor)

    @classmethod
    def outline(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Wav2Vec2:
        """The model of `build` on torch's meta device, without weights."""
        from transformers import Wav2Vec2ForCTC

        tokenizer = _tokenizer(model, units)
        extractor = None if model.source is None else _extractor(model.source)
        with torch.device("meta"):
            return cls(Wav2Vec2ForCTC(_settings(model)), tokenizer, extractor)

    @classmethod
    def limit(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Limit:
        """CTC needs a frame for every label, and one for the blank between two equal labels."""
        settings, tokenizer = _settings(model), _tokenizer(model, units)

        def why_unfit(entry: Entry) -> str | None:
            labels = tokenizer(entry.text).input_ids
            needed = len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
            frames = _frames(settings, entry.seconds)
            if needed <= frames:
                return None
            return (
                f"target longer than the frames that CTC has: {needed} needed for the transcript, "
                f"{frames} in {entry.seconds:.2f} s"
            )

        return why_unfit

    def frames(self, seconds: float) -> int:
        return _frames(self.hf.config, seconds)

    def stacks(self) -> dict[str, tuple[Any, str]]:
        return {"encoder": (self.hf.wav2vec2.encoder, "num_hidden_layers")}

    @classmethod
    def untrained_units(cls, source: str, units: Path | None) -> list[str]:
        if units is None:
            return []
        settings = _configuration(source)
        # What was pretrained alone comes without an output layer, if perhaps with a tokenizer.
        known = _known_units(source) if settings.architectures == ["Wav2Vec2ForCTC"] else {}
        tokenizer = _of_recipe(units)
        outputs = settings.vocab_size
        return [unit for unit in tokenizer.get_vocab() if known.get(unit, outputs) >= outputs]

    @classmethod
    def lacks(cls, units: Path | None) -> Callable[[str], bool]:
        tokenizer = _of_recipe(units)
        # A unit may be several characters, as "ch" is: by themselves they would be unknown.
        longer = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        parts = set("".join(unit for unit in longer if len(unit) > 1))

        @cache
        def lacking(character: str) -> bool:
            unknown = tokenizer.unk_token_id in tokenizer(character).input_ids
            return unknown and character not in parts

        return lacking

    def collate(self, entries: Sequence[Entry], audio: Sequence[np.ndarray]) -> Batch:
        waves = [torch.from_numpy(self._normalised(clip)) for clip in audio]
        labels = [torch.tensor(self._units(entry.text), dtype=torch.long) for entry in entries]
        return Batch(
            ids=[entry.id for entry in entries],
            languages=[entry.language for entry in entries],
            inputs=nn.utils.rnn.pad_sequence(waves, batch_first=True),  # (B, N)
            lengths=torch.tensor([len(wave) for wave in waves]),
            labels=nn.utils.rnn.pad_sequence(labels, batch_first=True),  # (B, U)
            label_lengths=torch.tensor([len(units) for units in labels]),
            seconds=sum(len(clip) for clip in audio) / SAMPLE_RATE,
        )

    def _normalised(self, clip: np.ndarray) -> np.ndarray:
        if not self.extractor.do_normalize:
            return clip
        # The feature extractor's own formula, over the clip and nothing else.
        return (clip - clip.mean()) / (clip.var() + 1e-7) ** 0.5

    def _units(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def forward(self, batch: Batch, task_counts: bool = True) -> Output:
        pieces = self._pieces(batch)
        if len(pieces) == 1:
            return Output(self._logits(batch.inputs, batch.lengths))
        rows: list[Tensor] = []  # (T, V) of each utterance
        for piece, longest in pieces:
            rows.extend(self._logits(batch.inputs[piece, :longest], batch.lengths[piece]))
        return Output(nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def _pieces(self, batch: Batch) -> list[tuple[slice, int]]:
        """Which utterances, one after the other, are computed together; samples of the longest."""
        group = self.hf.config.feat_extract_norm == "group"
        if self.computes_whole_batches(batch.inputs) and not group:
            return [(slice(len(batch.ids)), batch.inputs.shape[1])]
        lengths = batch.lengths.tolist()
        most = 0 if group else PIECE * SAMPLE_RATE / self.hf.config.hidden_size  # samples
        pieces, first = [], 0
        for i in range(1, len(lengths) + 1):
            if i == len(lengths) or (i - first + 1) * max(lengths[first : i + 1]) > most:
                pieces.append((slice(first, i), max(lengths[first:i])))
                first = i
        return pieces

    def _logits(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, V) of waveforms (B, N), of which so many samples (B,) are not padding."""
        settings = self.hf.config
        frames = int(self.hf._get_feat_extract_output_lengths(waves.shape[1]))
        # transformers refuses to mask spans longer than the input.
        settings.apply_spec_augment = self.masks and frames >= settings.mask_time_length
        mask = None  # faster, where nothing is padding; only to look would make a GPU wait
        if waves.device.type != "cpu" or bool((lengths < waves.shape[1]).any()):
            places = torch.arange(waves.shape[1], device=waves.device)
            mask = (places < lengths.unsqueeze(1)).long()
        logits = self.hf(waves, attention_mask=mask).logits
        if self.training and self.masks and not settings.apply_spec_augment:
            # A gradient of zero for the vector in place of masked frames: DDP misses it elsewhere.
            logits = logits + 0 * self.hf.wav2vec2.masked_spec_embed.sum()
        return logits

    def positions(self, batch: Batch) -> Tensor:
        return self.hf._get_feat_extract_output_lengths(batch.lengths)

    def task_loss(self, output: Output, batch: Batch) -> Tensor:
        return objectives.ctc(
            output.logits, self.positions(batch), batch.labels, batch.label_lengths, self.blank
        )

    def losses(
        self,
        output: Output,
        batch: Batch,
        soft: SoftOutputs | None,
        distill: configuration.Distill,
        scale: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        task = self.task_loss(output, batch)
        if soft is None:
            return task, None
        frames, units = self.positions(batch), batch.label_lengths
        select: Any = distill.frames  # checked by the configuration
        if scale is not None:
            counted = objectives.selected_frames(soft, frames, select, self.blank)
            return task, objectives.logits_mse(output.logits, soft, counted, units, scale)
        return task, objectives.frame_kl(
            output.logits, soft, frames, units, distill.temperature, select, self.blank
        )

    def transcribe(self, batch: Batch) -> list[str]:
        best = self.forward(batch).logits.argmax(dim=-1)
        frames = self.positions(batch).tolist()
        return [
            without_unknown(self.tokenizer.decode(row[:count]), self.tokenizer)
            for row, count in zip(best.tolist(), frames, strict=True)
        ]

    def prepare_training(self, train: configuration.Train) -> None:
        super().prepare_training(train)
        self.masks = self.hf.config.apply_spec_augment
        if self.masks and not hasattr(self.hf.wav2vec2, "masked_spec_embed"):
            # What stands for a masked frame; checkpoints trained without masks come without it.
            size = self.hf.config.hidden_size
            self.hf.wav2vec2.masked_spec_embed = nn.Parameter(torch.rand(size))
        if hasattr(self.hf.wav2vec2, "masked_spec_embed"):
            used = self.masks and train.mask_time > 0
            self.hf.wav2vec2.masked_spec_embed.requires_grad_(used)
        self.leaves_unused = False
        # Dropping whole layers at random is a habit of pretraining; it hides in train mode.
        self.hf.config.layerdrop = 0.0
        # transformers asks for the waveform's gradient, for gradient checkpointing. Nothing here
        # uses it, and it took a fifth of a step of wav2vec2-micro.
        self.hf.wav2vec2.feature_extractor._requires_grad = False
        if not torch.cuda.is_available():
            dropout.use(self.hf)
        if train.freeze_feature_encoder:
            self.hf.freeze_feature_encoder()


def _extractor(source: str) -> Any:
    """The feature extractor of a checkpoint; `UserError` if it is of other audio than all here."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = pretrained(Wav2Vec2FeatureExtractor, source, "The feature extractor")
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UserError(
            f"'{source}' hears audio of {extractor.sampling_rate} Hz, and all audio here has "
            f"{SAMPLE_RATE} Hz: take another checkpoint."
        )
    return extractor


def _frames(settings: Any, seconds: float) -> int:
    """How many frames the convolutions of a configuration make of so much audio."""
    frames = round(seconds * SAMPLE_RATE)
    for kernel, stride in zip(settings.conv_kernel, settings.conv_stride, strict=True):
        frames = max(0, (frames - kernel) // stride + 1)
    return frames


def _settings(model: configuration.Model) -> Any:
    """The configuration of a model, but for the size of its vocabulary."""
    from transformers import Wav2Vec2Config

    return _configuration(model.source) if model.source else Wav2Vec2Config(**(model.config or {}))


def _configuration(source: str) -> Any:
    """The configuration of a source; one of a model with adapters is a UserError."""
    from transformers import Wav2Vec2Config

    settings = pretrained(Wav2Vec2Config, source, "The configuration")
    if settings.adapter_attn_dim is not None:
        raise UserError(
            f"'{source}' has adapters (as MMS has, and outputs, for each of its languages), which "
            "are not supported: take a checkpoint without, such as facebook/mms-300m."
        )
    if settings.add_adapter:
        raise UserError(
            f"'{source}' has layers that shorten its output (add_adapter): take one without."
        )
    return settings


def _tokenizer(model: configuration.Model, units: Path | None) -> Any:
    """The recipe's tokenizer, or else the source's own."""
    return own_tokenizer(str(model.source)) if units is None else _of_recipe(units)


def _of_recipe(folder: Path | None) -> Any:
    """The recipe's tokenizer, as `units.train_characters` wrote it."""
    from transformers import Wav2Vec2CTCTokenizer

    return pretrained(Wav2Vec2CTCTokenizer, str(folder), "The units", whole=False)


def own_tokenizer(source: str) -> Any:
    """The tokenizer of a source, without units for which its model has no output.

    Of fine-tuned models on the hub many have such: transformers makes <s> and </s> where vocab.json
    lacks them, and (5.24.0) units as "{'content': '<s>', ...}" of what older releases wrote.
    """
    from transformers import Wav2Vec2CTCTokenizer

    outputs = _configuration(source).vocab_size
    advice = "set units.kind to characters, and let stage 2 fine-tune it"  # as XLS-R
    found = pretrained(Wav2Vec2CTCTokenizer, source, "The tokenizer", lacking=advice)
    # Of one with a language model it would look for that, wherever these units are saved.
    found._processor_class = None
    found.init_kwargs.pop("processor_class", None)
    made = {unit: i for unit, i in found.get_vocab().items() if unit not in found.encoder}
    if all(index < outputs for index in made.values()):
        return found
    units = found.encoder | {unit: i for unit, i in made.items() if i < outputs}
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "vocab.json", units)
        return Wav2Vec2CTCTokenizer(
            str(Path(folder) / "vocab.json"),
            bos_token=found.bos_token if found.bos_token in units else None,
            eos_token=found.eos_token if found.eos_token in units else None,
            unk_token=found.unk_token,
            pad_token=found.pad_token,
            # The attribute says | whatever tokenizer_config.json has (transformers 5.24.0).
            word_delimiter_token=found.special_tokens_map.get("word_delimiter_token")
            or found.word_delimiter_token,
            replace_word_delimiter_char=found.replace_word_delimiter_char,
            do_lower_case=found.do_lower_case,
            clean_up_tokenization_spaces=False,
        )


def _outputs(config: configuration.Config, tokenizer: Any) -> int:
    """Outputs of a model that gets a new output layer: one for each unit.

    The student of a finished teacher has as many as that, which may have more than units.
    """
    if config.teacher.finetuned and config.units.kind == "source" and config.teacher.source:
        return int(_configuration(config.teacher.source).vocab_size)
    return 1 + max(tokenizer.get_vocab().values())  # numbers may be left out


def _copy_known_rows(hf: Any, source: str, tokenizer: Any) -> None:
    """Start the outputs of known characters from the source's own output layer.

    Sources without a tokenizer (XLS-R) keep the random one.
    """
    from transformers import Wav2Vec2ForCTC

    known = _known_units(source)
    if not known:
        return
    head = Wav2Vec2ForCTC.from_pretrained(source, dtype=torch.float32).lm_head
    ours, copied = tokenizer.get_vocab(), 0
    with torch.no_grad():
        for unit, index in ours.items():
            if unit in known and known[unit] < head.out_features:
                hf.lm_head.weight[index] = head.weight[known[unit]]
                hf.lm_head.bias[index] = head.bias[known[unit]]
                copied += 1
    # What was pretrained alone has no outputs, whatever tokenizer it comes with.
    if copied < len(ours) and _configuration(source).architectures == ["Wav2Vec2ForCTC"]:
        say(f"'{source}': {copied} of {len(ours)} outputs start from its own, the others at random")


def _known_units(source: str) -> dict[str, int]:
    """The units of a source's own tokenizer and their indices; none without a tokenizer.

    Its blank, unknown unit and space have the names of ours, whatever it calls them. Letters that
    it has in upper case alone, as English models of 2020 do, stand for those in lower case too.
    """
    from transformers import Wav2Vec2CTCTokenizer

    try:
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError):
        return {}
    units = tokenizer.get_vocab()
    theirs = tokenizer.pad_token, tokenizer.unk_token, tokenizer.word_delimiter_token
    roles = zip((BLANK, UNKNOWN, SPACE), theirs, strict=True)
    lower = {unit.lower(): index for unit, index in units.items() if len(unit) == 1}
    return lower | units | {ours: units[name] for ours, name in roles if name in units}


@torch.no_grad()
def mel_filters_(conv: Any) -> None:
    """Start a first convolution as a mel-spaced filterbank, in place.

    Every centre frequency gets three windowed cosines 120 degrees apart: whatever the phase of a
    tone, one of them is near its peak, so that the rectified outputs together follow its envelope.
    The gain rises with frequency, as pre-emphasis does. Training from random weights on few hours
    starts from something like a spectrogram instead of having to find it; compare Zeghidour et al.
    2018, arXiv 1711.01161, who start from Gabor filters.

    Args:
        conv: an nn.Conv1d of one input channel; weight (filters, 1, kernel). Filters beyond a
            multiple of three stay.
    """
    kernel = conv.kernel_size[0]
    bands = conv.out_channels // 3
    top = 2595 * math.log10(1 + (SAMPLE_RATE / 2 - 400) / 700)
    low = 2595 * math.log10(1 + 80 / 700)
    mel = torch.linspace(low, top, bands)
    centres = 700 * (10 ** (mel / 2595) - 1)  # Hz
    time = (torch.arange(kernel) - kernel / 2) / SAMPLE_RATE  # seconds
    window = torch.hann_window(kernel, periodic=False)
    for band, centre in enumerate(centres.tolist()):
        for phase in range(3):
            wave = torch.cos(2 * math.pi * (centre * time + phase / 3)) * window
            gain = (centre / 1000) ** 0.5
            conv.weight[3 * band + phase, 0] = gain * wave / wave.norm()
    if conv.bias is not None:
        conv.bias.zero_()
