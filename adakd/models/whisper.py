"""Whisper: `WhisperForConditionalGeneration` behind the interface of `adakd.models`.

Features come from Hugging Face's own extractor, clip by clip, padded to the model's input length
(30 s for OpenAI's checkpoints, less for the embedded ones), as its pipeline does: an utterance
never depends on its neighbours, and an exported model behaves as it was scored.

The decoder reads   <|startoftranscript|> <|language|> <|transcribe|> <|notimestamps|> text
and must predict    text <|endoftext|>; the prompt counts in no loss, end-of-text counts in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adakd import config as configuration
from adakd import objectives
from adakd.data.audio import SAMPLE_RATE
from adakd.data.manifest import Entry
from adakd.data.text import spaces_count
from adakd.errors import UserError
from adakd.models import Batch, Family, Limit, Output, pretrained
from adakd.objectives import SoftOutputs

if TYPE_CHECKING:
    import numpy as np

FRAMES_A_SECOND = 100  # log-mel frames; the encoder halves them
MULTILINGUAL = "multilingual"  # a recipe whose utterances say their language themselves
PROMPT_LENGTH = 4  # start, language, task, no timestamps


class Whisper(Family):
    """An encoder-decoder recogniser on log-mel features; `hf` is its Hugging Face model."""

    def __init__(self, hf: Any, tokenizer: Any, extractor: Any, whisper_language: str) -> None:
        super().__init__()
        self.hf, self.tokenizer, self.extractor = hf, tokenizer, extractor
        self.language = whisper_language
        self.end: int = tokenizer.eos_token_id
        self.prompts: dict[str, list[int]] = {}
        self.ctc_head: nn.Linear | None = None
        # Written with the model, so that the pipeline decodes in this language unasked.
        hf.generation_config.language = (
            None if whisper_language == MULTILINGUAL else whisper_language
        )
        hf.generation_config.task = "transcribe"
        hf.generation_config.forced_decoder_ids = None

    @classmethod
    def build(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Whisper:
        """From a hub id or folder (`source`, with its own tokenizer) or random weights (`config`).

        ``units`` is the folder of a `train_bpe` tokenizer, for random weights only.
        """
        from transformers import (
            WhisperConfig,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
            WhisperTokenizer,
        )

        if model.source is not None:
            if units is not None:
                raise UserError(
                    f"Whisper keeps the tokenizer of its checkpoint ('{model.source}'): set "
                    "units.kind to source."
                )
            hf = pretrained(
                WhisperForConditionalGeneration, model.source, "The model", dtype=torch.float32
            )
            extractor = pretrained(WhisperFeatureExtractor, model.source, "The feature extractor")
            tokenizer = pretrained(WhisperTokenizer, model.source, "The tokenizer")
            return cls(hf, tokenizer, extractor, config.whisper_language)

        if units is None:
            raise UserError("Random weights need units of their own: units.kind: bpe.")
        tokenizer = WhisperTokenizer.from_pretrained(units)
        end = tokenizer.eos_token_id
        settings = WhisperConfig(
            **{
                "suppress_tokens": None,
                "begin_suppress_tokens": None,
                **(model.config or {}),
                "vocab_size": len(tokenizer),
                "pad_token_id": end,
                "bos_token_id": end,
                "eos_token_id": end,
                "decoder_start_token_id": tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
            }
        )
        hf = WhisperForConditionalGeneration(settings)
        _describe_prompt(hf, tokenizer)
        seconds = 2 * settings.max_source_positions / FRAMES_A_SECOND
        if seconds != int(seconds):
            raise UserError(
                f"max_source_positions is {settings.max_source_positions}: it must be a multiple "
                f"of {FRAMES_A_SECOND // 2}, whole seconds of audio."
            )
        extractor = WhisperFeatureExtractor(
            feature_size=settings.num_mel_bins, chunk_length=int(seconds)
        )
        return cls(hf, tokenizer, extractor, config.whisper_language)

    @classmethod
    def limit(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Limit:
        """The encoder takes so many seconds, the decoder so many tokens with prompt and end."""
        from transformers import WhisperConfig, WhisperTokenizer

        settings = (
            pretrained(WhisperConfig, model.source, "The configuration")
            if model.source
            else WhisperConfig(**(model.config or {}))
        )
        tokenizer = pretrained(WhisperTokenizer, str(units or model.source), "The tokenizer")
        seconds = 2 * settings.max_source_positions / FRAMES_A_SECOND

        def why_unfit(entry: Entry) -> str | None:
            if entry.seconds > seconds:
                return (
                    f"audio over the model's length: {entry.seconds:.2f} s, the encoder takes "
                    f"{seconds:g} s"
                )
            needed = PROMPT_LENGTH + len(tokenizer(lead(entry), add_special_tokens=False).input_ids) + 1
            if needed > settings.max_target_positions:
                return (
                    f"target over the decoder's length: {needed} tokens with prompt and end, the "
                    f"decoder takes {settings.max_target_positions}"
                )
            return None

        return why_unfit

    @property
    def padded_seconds(self) -> float:
        return 2 * self.hf.config.max_source_positions / FRAMES_A_SECOND

    def prompt(self, language: str) -> list[int]:
        """Indices of the prompt for a language: 4 tokens, or 2 for an English-only checkpoint."""
        code = self.language if not language else language
        if code not in self.prompts:
            try:
                self.tokenizer.set_prefix_tokens(
                    language=code, task="transcribe", predict_timestamps=False
                )
                self.prompts[code] = list(self.tokenizer.prefix_tokens)
            except ValueError:
                raise UserError(
                    f"Whisper has no language '{code}': set language.whisper to its nearest code."
                ) from None
            unknown = [i for i in self.prompts[code] if not isinstance(i, int) or i == self.end]
            if unknown:
                raise UserError(f"The Whisper tokenizer has no token for language '{code}'.")
        return self.prompts[code]

    def _language_of(self, entry: Entry) -> str:
        """Whisper's code: the recipe's, or the utterance's own in a multilingual recipe."""
        return self.language if self.language != MULTILINGUAL else entry.language.split("-")[0]

    def _units(self, entry: Entry) -> list[int]:
        return self.tokenizer(lead(entry), add_special_tokens=False).input_ids

    def collate(self, entries: Sequence[Entry], audio: Sequence[np.ndarray]) -> Batch:
        features = self.extractor(
            list(audio), sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="max_length"
        ).input_features
        languages = [self._language_of(entry) for entry in entries]
        texts = [self._units(entry) for entry in entries]
        labels = [
            torch.tensor([*self.prompt(code), *text, self.end])
            for code, text in zip(languages, texts, strict=True)
        ]
        return Batch(
            ids=[entry.id for entry in entries],
            languages=languages,
            inputs=features,  # (B, mels, frames)
            lengths=torch.tensor([len(clip) * FRAMES_A_SECOND // SAMPLE_RATE for clip in audio]),
            labels=nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=self.end),
            label_lengths=torch.tensor([len(text) + 1 for text in texts]),
            seconds=sum(len(clip) for clip in audio) / SAMPLE_RATE,
        )

    def forward(self, batch: Batch) -> Output:
        result = self.hf(
            input_features=batch.inputs, decoder_input_ids=batch.labels[:, :-1], use_cache=False
        )
        encoder_logits = None
        if self.ctc_head is not None and self.training:
            encoder_logits = self.ctc_head(result.encoder_last_hidden_state)
        # The prompt's own positions count nowhere: leave them out.
        skip = self._prompt_length(batch) - 1
        return Output(result.logits[:, skip:], encoder_logits)

    def _prompt_length(self, batch: Batch) -> int:
        return len(self.prompt(batch.languages[0]))

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Targets (B, U) and their mask: text and end-of-text, without prompt and padding."""
        targets = batch.labels[:, self._prompt_length(batch) :]
        mask = torch.arange(targets.shape[1], device=targets.device)
        return targets, mask < batch.label_lengths.unsqueeze(1)

    def positions(self, batch: Batch) -> Tensor:
        return batch.label_lengths

    def task_loss(self, output: Output, batch: Batch) -> Tensor:
        targets, mask = self._targets(batch)
        loss = objectives.cross_entropy(output.logits, targets, mask)
        if output.encoder_logits is None:
            return loss
        # CTC over the same text; the head's unit 0 is its blank, so units move up by one.
        frames = (batch.lengths + 1) // 2
        text_lengths = batch.label_lengths - 1
        labels = torch.where(mask, targets, 0) + 1
        auxiliary = objectives.ctc(output.encoder_logits, frames, labels, text_lengths, blank=0)
        possible = torch.isfinite(auxiliary)
        auxiliary = torch.where(possible, auxiliary, 0.0)
        return (1 - self.ctc_weight) * loss + self.ctc_weight * auxiliary

    def distillation_loss(
        self, output: Output, soft: SoftOutputs, batch: Batch, distill: configuration.Distill
    ) -> Tensor:
        _, mask = self._targets(batch)
        return objectives.token_kl(output.logits, soft, mask, distill.temperature)

    def transcribe(self, batch: Batch) -> list[str]:
        texts: list[str] = [""] * len(batch.ids)
        for code in sorted(set(batch.languages)):
            rows = [i for i, language in enumerate(batch.languages) if language == code]
            indices = self.hf.generate(
                batch.inputs[rows],
                language=code if self.hf.generation_config.is_multilingual else None,
                task="transcribe" if self.hf.generation_config.is_multilingual else None,
                return_timestamps=False,
                num_beams=1,
                do_sample=False,
            )
            decoded = self.tokenizer.batch_decode(indices, skip_special_tokens=True)
            for row, text in zip(rows, decoded, strict=True):
                texts[row] = text.strip()
        return texts

    def prepare_training(self, train: configuration.Train) -> None:
        super().prepare_training(train)
        self.ctc_weight = train.ctc_weight
        if train.ctc_weight > 0:
            width = self.hf.config.d_model
            self.ctc_head = nn.Linear(width, self.hf.config.vocab_size + 1)



def lead(entry: Entry) -> str:
    """The text as Whisper writes it: words begin with a space, in scripts that write spaces."""
    return f" {entry.text}" if spaces_count(entry.language) else entry.text


def _describe_prompt(hf: Any, tokenizer: Any) -> None:
    """Fill the generation config that `generate` and the pipeline read for the prompt."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    index = tokenizer.convert_tokens_to_ids
    generation = hf.generation_config
    generation._from_model_config = False  # else a loader would make it anew, without all this
    generation.is_multilingual = True
    generation.lang_to_id = {f"<|{code}|>": index(f"<|{code}|>") for code in LANGUAGES}
    generation.task_to_id = {task: index(f"<|{task}|>") for task in ("translate", "transcribe")}
    generation.no_timestamps_token_id = index("<|notimestamps|>")
    generation.decoder_start_token_id = index("<|startoftranscript|>")
    generation.max_length = hf.config.max_target_positions
    generation.suppress_tokens = None
    generation.begin_suppress_tokens = None
