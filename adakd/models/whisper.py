"""Whisper: `WhisperForConditionalGeneration` behind the interface of `adakd.models`.

Features come from Hugging Face's own extractor, clip by clip. With `audio.encode: full` a clip is
padded to the model's input length (30 s for OpenAI's checkpoints, less for the embedded ones), as
Hugging Face's pipeline does: an exported model behaves as it was scored. With `speech` it gets at
least TAIL seconds of silence, up to a multiple of GRID, and the encoder's positions end there:
several times less work. Either way a batch holds clips of one padded length, so that an utterance
never depends on its neighbours, and nothing needs a mask.

The decoder reads   <|startoftranscript|> <|language|> <|transcribe|> <|notimestamps|> text
and must predict    text <|endoftext|>; the prompt counts in no loss, end-of-text counts in all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adakd import config as configuration
from adakd import objectives
from adakd.data.audio import SAMPLE_RATE
from adakd.data.manifest import Entry, Limit
from adakd.data.text import primary, spaces_count
from adakd.errors import UserError
from adakd.files import write_json
from adakd.models import ENGLISH_ONLY, Batch, Family, Output
from adakd.models.incremental import Decoder
from adakd.models.sources import pretrained, pretrained_weights
from adakd.objectives import Projected, SoftOutputs

if TYPE_CHECKING:
    import numpy as np

FRAMES_A_SECOND = 100  # log-mel frames; the encoder halves them
MULTILINGUAL = "multilingual"  # a recipe whose utterances say their language themselves
CHARACTERS = 2039  # units of the auxiliary CTC head, a prime
OPENAI_ENDS = (50_256, 50_257)  # the index of <|endoftext|> in these, and in all others of OpenAI's
PROMPT_LENGTH = 4  # start, language, task, no timestamps
TAIL = 0.5  # seconds of silence that end every clip, as it does in Whisper's own training
PIECE = 30  # seconds of audio, padding included, that a CPU encodes at a time
GRID = 0.5  # seconds; few padded lengths, so that many clips share one
# Of a source's generation settings, those that greedy search obeys or that only times need.
KEPT = (
    "is_multilingual", "lang_to_id", "task_to_id", "decoder_start_token_id", "bos_token_id",
    "pad_token_id", "no_timestamps_token_id", "suppress_tokens", "begin_suppress_tokens",
    "alignment_heads", "max_initial_timestamp_index", "prev_sot_token_id",
)  # fmt: skip


class Whisper(Family):
    """An encoder-decoder recogniser on log-mel features; `hf` is its Hugging Face model."""

    def __init__(
        self, hf: Any, tokenizer: Any, extractor: Any, config: configuration.Config
    ) -> None:
        super().__init__()
        self.hf, self.tokenizer, self.extractor = hf, tokenizer, extractor
        self.language = whisper_language = config.whisper_language
        self.leading_space = config.language.leading_space
        self.encode_full = config.audio.encode == "full"
        self.end: int = tokenizer.eos_token_id
        self.prompts: dict[str, list[int]] = {}
        self.ctc_head: nn.Linear | None = None
        # OpenAI's are constants. transformers builds them so, and its `from_pretrained` (5.24.0)
        # makes them parameters like any other, which training would change, and decay.
        hf.model.encoder.embed_positions.requires_grad_(False)
        generation = _greedy_(hf, self.end)
        # OpenAI's checkpoints never begin with a space alone.
        alone = tokenizer.convert_tokens_to_ids("Ġ")
        self.never_first = {alone} if self.end in OPENAI_ENDS else set()
        _describe_prompt(hf, tokenizer)
        if generation.is_multilingual:
            # Written with the model, so that the pipeline decodes in this language unasked.
            known = whisper_language != MULTILINGUAL
            generation.language = whisper_language if known else None
            generation.task = "transcribe"

    @classmethod
    def build(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Whisper:
        """From a hub id or folder (`source`, with its own tokenizer) or random weights (`config`).

        ``units`` is the folder of a `train_bpe` tokenizer, for random weights only.
        """
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        if model.source is not None:
            tokenizer = _tokenizer(model, units)
            settings = _settings(model, tokenizer)
            hf = pretrained_weights(WhisperForConditionalGeneration, model.source, config=settings)
            return cls(hf, tokenizer, _extractor(model.source, settings), config)

        if units is None:
            raise UserError("Random weights need units of their own: units.kind: bpe.")
        tokenizer = _tokenizer(model, units)
        settings = _settings(model, tokenizer)
        hf = WhisperForConditionalGeneration(settings)
        _louder_features_(hf.model.encoder)
        extractor = WhisperFeatureExtractor(
            feature_size=settings.num_mel_bins,
            chunk_length=int(seconds_heard(settings.max_source_positions)),
        )
        return cls(hf, tokenizer, extractor, config)

    @classmethod
    def outline(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Whisper:
        """The model of `build` on torch's meta device, without weights."""
        from transformers import WhisperForConditionalGeneration

        tokenizer = _tokenizer(model, units)
        settings = _settings(model, tokenizer)
        extractor = None if model.source is None else _extractor(model.source, settings)
        with torch.device("meta"):
            hf = WhisperForConditionalGeneration(settings)
            return cls(hf, tokenizer, extractor, config)

    @classmethod
    def limit(
        cls, model: configuration.Model, config: configuration.Config, units: Path | None
    ) -> Limit:
        """The encoder takes so many seconds, the decoder so many tokens with prompt and end."""
        tokenizer = _tokenizer(model, units)
        settings = _settings(model, tokenizer)
        if config.whisper_language != MULTILINGUAL:
            # Told here, before hours of work; by its size, as the generation config is not read.
            multilingual = settings.vocab_size != ENGLISH_ONLY
            _prompt(config.whisper_language, tokenizer, multilingual, f"'{units or model.source}'")
        seconds = seconds_heard(settings.max_source_positions)

        def why_unfit(entry: Entry) -> str | None:
            if entry.seconds > seconds:
                return (
                    f"audio over the model's length: {entry.seconds:.2f} s, the encoder takes "
                    f"{seconds:g} s"
                )
            text = tokenizer(
                lead(entry, config.language.leading_space), add_special_tokens=False
            ).input_ids
            needed = PROMPT_LENGTH + len(text) + 1
            if needed > settings.max_target_positions:
                return (
                    f"target over the decoder's length: {needed} tokens with prompt and end, the "
                    f"decoder takes {settings.max_target_positions}"
                )
            return None

        return why_unfit

    def stacks(self) -> dict[str, tuple[Any, str]]:
        parts = self.hf.model
        return {
            "encoder": (parts.encoder, "encoder_layers"),
            "decoder": (parts.decoder, "decoder_layers"),
        }

    def keep_layers(self, layers: configuration.Layers) -> None:
        super().keep_layers(layers)
        generation = self.hf.generation_config
        if layers.decoder is not None and hasattr(generation, "alignment_heads"):
            del generation.alignment_heads  # they name layers by their number in the source

    @property
    def hears(self) -> float:
        return seconds_heard(self.hf.config.max_source_positions)

    @property
    def padded(self) -> Callable[[float], float]:
        longest = self.hears
        if self.encode_full:
            return lambda seconds: longest
        return lambda seconds: min(longest, math.ceil((seconds + TAIL) / GRID) * GRID)

    def prompt(self, language: str) -> list[int]:
        """Indices of the prompt for a language: 4 tokens, or 2 for an English-only checkpoint."""
        if language not in self.prompts:
            multilingual = self.hf.generation_config.is_multilingual
            self.prompts[language] = _prompt(language, self.tokenizer, multilingual)
        return self.prompts[language]

    def _language_of(self, entry: Entry) -> str:
        """Whisper's code: the recipe's, or the utterance's own in a multilingual recipe."""
        return self.language if self.language != MULTILINGUAL else primary(entry.language)

    def _units(self, entry: Entry) -> list[int]:
        text = lead(entry, self.leading_space)
        units: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        # Before a letter of Bengali, Telugu, Thai and others a leading space is a token of its own:
        # a student would learn what decoding then forbids. A fine-tuned source may forbid nothing,
        # but teacher and student need the same labels.
        at_first = self.hf.generation_config.begin_suppress_tokens or ()
        if units and units[0] in self.never_first.union(at_first):
            units = self.tokenizer(entry.text, add_special_tokens=False).input_ids
        return units

    def permit(self, entries: Iterable[Entry]) -> None:
        generation = self.hf.generation_config
        if generation.suppress_tokens:
            used = set(itertools.chain.from_iterable(map(self._units, entries)))
            kept = [token for token in generation.suppress_tokens if token not in used]
            generation.suppress_tokens = kept or None

    def collate(self, entries: Sequence[Entry], audio: Sequence[np.ndarray]) -> Batch:
        for entry, clip in zip(entries, audio, strict=True):
            self.check_hears(entry.id, len(clip) / SAMPLE_RATE)
        seconds = max(self.padded(len(clip) / SAMPLE_RATE) for clip in audio)
        features = self.extractor(
            list(audio),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            padding="max_length",
            max_length=round(seconds * SAMPLE_RATE),
        ).input_features
        languages = [self._language_of(entry) for entry in entries]
        texts = [self._units(entry) for entry in entries]
        labels = [
            torch.tensor([*self.prompt(code), *text, self.end])
            for code, text in zip(languages, texts, strict=True)
        ]
        characters, character_lengths = self._characters(entries)
        return Batch(
            ids=[entry.id for entry in entries],
            languages=languages,
            inputs=features,  # (B, mels, frames)
            lengths=torch.tensor([len(clip) * FRAMES_A_SECOND // SAMPLE_RATE for clip in audio]),
            labels=nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=self.end),
            label_lengths=torch.tensor([len(text) + 1 for text in texts]),
            seconds=sum(len(clip) for clip in audio) / SAMPLE_RATE,
            characters=characters,
            character_lengths=character_lengths,
        )

    def _characters(self, entries: Sequence[Entry]) -> tuple[Tensor | None, Tensor | None]:
        """What the auxiliary CTC head must say, in characters rather than tokens.

        A thousand tokens are too many to start an alignment from; characters are few. A character's
        unit is its code point modulo CHARACTERS: no vocabulary to keep, and no two letters of an
        alphabet meet. Chinese characters do: of the 3,755 commonest 84 % share theirs.
        """
        if self.ctc_head is None:
            return None, None
        rows = [torch.tensor([1 + ord(c) % CHARACTERS for c in entry.text]) for entry in entries]
        lengths = torch.tensor([len(row) for row in rows])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

    def forward(self, batch: Batch, task_counts: bool = True) -> Output:
        features = batch.inputs
        if self.training:
            # transformers masks in place, and the batch may be used again. What follows the speech
            # stays silent: it is where the model learns to end.
            frames = torch.arange(features.shape[2], device=features.device)
            speech = frames < batch.lengths[:, None]
            features = self.hf.model._mask_input_features(features.clone(), speech)
        states = self._encode(features)
        embedded, output = self._embed(batch.labels[:, :-1])
        decoded = self.hf.model.decoder(
            inputs_embeds=embedded, encoder_hidden_states=states, use_cache=False
        ).last_hidden_state
        encoder_logits = None
        if self.ctc_head is not None and self.training:
            encoder_logits = self.ctc_head(states)
            if not task_counts:
                encoder_logits = encoder_logits.detach()
        # The prompt's own positions count nowhere: leave them out.
        skip = self._prompt_length(batch) - 1
        return Output(Projected(decoded[:, skip:], output), encoder_logits)

    def _embed(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings (B, U, d) of tokens (B, U), and the weight (V, d) of the output layer."""
        table, output = self.hf.model.decoder.embed_tokens, self.hf.proj_out.weight
        if table.weight is not output:
            return table(indices), output
        weight, output = _Tied.apply(output)
        embedded = nn.functional.embedding(indices, weight, table.padding_idx, sparse=True)
        return embedded, output

    def _encode(self, features: Tensor) -> Tensor:
        """Encoder states (B, frames / 2, d) of log-mel features (B, mels, frames) of any length.

        The encoder of transformers takes its full length only; this is the same computation with
        its positions cut to the length that is there (tested against it).
        """
        if self.computes_whole_batches(features):
            return self._encode_piece(features)
        at_once = max(1, PIECE * FRAMES_A_SECOND // features.shape[2])
        return torch.cat([self._encode_piece(piece) for piece in features.split(at_once)])

    def _encode_piece(self, features: Tensor) -> Tensor:
        encoder = self.hf.model.encoder
        dropout = nn.functional.dropout
        states = nn.functional.gelu(encoder.conv1(features))
        states = nn.functional.gelu(encoder.conv2(states)).transpose(1, 2)
        states = states + encoder.embed_positions.weight[: states.shape[1]]
        states = dropout(states, p=encoder.dropout, training=self.training)
        for layer in encoder.layers:
            if not (self.training and torch.rand(()) < encoder.layerdrop):
                states = layer(states, None)
        return encoder.layer_norm(states)

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
        loss = objectives.cross_entropy(output.logits, *self._targets(batch))
        return self._with_auxiliary(loss, output, batch)

    def losses(
        self,
        output: Output,
        batch: Batch,
        soft: SoftOutputs | None,
        distill: configuration.Distill,
        scale: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        targets, mask = self._targets(batch)
        if soft is not None and scale is not None:
            error = objectives.logits_mse(output.logits, soft, mask, batch.label_lengths, scale)
            return self.task_loss(output, batch), error
        assert isinstance(output.scores, Projected)  # see `forward`
        task, kl = objectives.token_losses(output.scores, targets, mask, soft, distill.temperature)
        return self._with_auxiliary(task, output, batch), kl

    def _with_auxiliary(self, loss: Tensor, output: Output, batch: Batch) -> Tensor:
        """The task loss (B,), mixed with the auxiliary CTC head's where there is one."""
        if output.encoder_logits is None:
            return loss
        if batch.characters is None or batch.character_lengths is None:
            raise UserError("A batch for the auxiliary CTC loss must be collated by its model.")
        frames, labels = (batch.lengths + 1) // 2, batch.characters
        # Without the text that does not fit: its loss would be inf, and every gradient NaN.
        repeats = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)
        fits = batch.character_lengths + repeats.sum(dim=1) <= frames
        lengths = torch.where(fits, batch.character_lengths, 0)
        auxiliary = objectives.ctc(output.encoder_logits, frames, labels, lengths, blank=0)
        auxiliary = torch.where(fits, auxiliary, 0.0)
        return (1 - self.ctc_weight) * loss + self.ctc_weight * auxiliary

    def transcribe(self, batch: Batch) -> list[str]:
        """Greedy search with cached keys and values; says what `generate` says (tested)."""
        device = batch.inputs.device
        generation = self.hf.generation_config
        never, not_first = (
            torch.tensor(tokens or [], dtype=torch.long, device=device)
            for tokens in (generation.suppress_tokens, generation.begin_suppress_tokens)
        )
        prompts = torch.tensor([self.prompt(code) for code in batch.languages], device=device)
        room = self.hf.config.max_target_positions - prompts.shape[1]
        decoder = Decoder(self.hf, self._encode(batch.inputs))
        said = torch.full((len(batch.ids), room), self.end, device=device)
        rows = torch.arange(len(batch.ids), device=device)  # the utterances still decoded
        finished = torch.zeros(len(batch.ids), dtype=torch.bool, device=device)
        inputs = prompts
        for position in range(room):
            logits = decoder(inputs).float()
            logits[:, never] = -torch.inf
            if position == 0:
                logits[:, not_first] = -torch.inf
            chosen = logits.argmax(dim=-1).masked_fill(finished, self.end)
            said[rows, position] = chosen
            finished = chosen == self.end
            left = len(rows) - int(finished.sum())
            if left == 0:
                break
            if 2 * left <= len(rows):  # copying what is cached costs about as much as a step
                on = (~finished).nonzero().squeeze(1)
                decoder.keep(on)
                rows, chosen, finished = rows[on], chosen[on], finished[on]
            inputs = chosen.unsqueeze(1)
        decoded = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [text.strip() for text in decoded]

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write model, tokenizer and feature extractor in Hugging Face's format."""
        super().save(folder, dtype)
        # What the tokenizer's `normalize` needs, and transformers 5 does not write.
        if spelling := getattr(self.tokenizer, "english_spelling_normalizer", None):
            write_json(folder / "normalizer.json", spelling)

    def prepare_training(self, train: configuration.Train) -> None:
        super().prepare_training(train)
        self.ctc_weight = train.ctc_weight
        if train.ctc_weight > 0:
            width = self.hf.config.d_model
            self.ctc_head = nn.Linear(width, 1 + CHARACTERS)  # blank first
        # The head does not count in all phases, and dropped layers not in all batches.
        stacks = self.hf.model.encoder, self.hf.model.decoder
        drops = any(stack.layerdrop > 0 for stack in stacks)
        self.leaves_unused = self.ctc_head is not None or drops


class _Tied(torch.autograd.Function):
    """One matrix (V, d) twice: to embed tokens by, and to project on.

    An embedding's gradient is of the matrix's size, and zero but for the tokens that are there: to
    make it and add it takes 3 to 5 % of a small Whisper's step. Sparse, it is added to the other's,
    in place.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, embedding: Tensor, output: Tensor) -> Tensor:  # type: ignore[override]
        return output.add_(embedding)


def lead(entry: Entry, space: bool = True) -> str:
    """The text as Whisper writes it: words begin with a space, in scripts that write spaces."""
    space = space and bool(entry.text) and spaces_count(entry.language)
    return f" {entry.text}" if space else entry.text


def _language_code(language: str) -> str:
    """Whisper's code of a language given by code or name; one that it lacks is a UserError."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if code not in LANGUAGES:
        raise UserError(
            f"Whisper has no language '{language}': set language.whisper to its nearest code."
        )
    return code


def _prompt(
    language: str, tokenizer: Any, multilingual: bool, whose: str = "This Whisper checkpoint"
) -> list[int]:
    """Indices of the prompt for a language; `UserError` where a checkpoint does not know it."""
    code = _language_code(language)
    tokens = ["<|startoftranscript|>", f"<|{code}|>", "<|transcribe|>", "<|notimestamps|>"]
    if not multilingual:
        if code != "en":
            raise UserError(
                f"{whose} knows English only, and the language is '{language}': take a "
                "multilingual one."
            )
        tokens = [tokens[0], tokens[3]]
    known = tokenizer.get_vocab()
    if missing := [token for token in tokens if token not in known]:
        raise UserError(
            f"{whose} has no token {missing[0]}: take another checkpoint, or set language.whisper "
            "to a language near to it."
        )
    indices: list[int] = tokenizer.convert_tokens_to_ids(tokens)
    return indices


@torch.no_grad()
def _louder_features_(encoder: Any) -> None:
    """Let speech outweigh its positions in a random encoder, in place.

    As transformers makes it, the sinusoids (rms 0.7) drown what the two convolutions say (0.3), and
    CTC stays longer on its plateau of blanks (tried: 3.31 against 2.96 nats a character after 200
    steps). The sinusoids are weights of the checkpoint like any other, so the scale stays with it.
    """
    for conv in (encoder.conv1, encoder.conv2):
        fan_in = conv.in_channels * conv.kernel_size[0]
        nn.init.normal_(conv.weight, std=2 / fan_in**0.5)
    encoder.embed_positions.weight.mul_(0.2)


def _extractor(source: str, settings: Any) -> Any:
    """The feature extractor of a checkpoint; `UserError` if it is of another model's features."""
    from transformers import WhisperFeatureExtractor

    extractor = pretrained(WhisperFeatureExtractor, source, "The feature extractor")
    if extractor.feature_size != settings.num_mel_bins:
        raise UserError(
            f"'{source}' has {extractor.feature_size} mel bins by its preprocessor_config.json, "
            f"and its model takes {settings.num_mel_bins}: give it the preprocessor_config.json of "
            "the model that it was made from."
        )
    return extractor


def _settings(model: configuration.Model, tokenizer: Any) -> Any:
    """The configuration of a model; one of random weights takes the tokenizer's units."""
    from transformers import WhisperConfig

    class Loader:
        """Of a source whose encoder was shortened with transformers 4 "num_hidden_layers" is the
        old number of its layers, which transformers 5 would take.
        """

        @staticmethod
        def from_pretrained(source: str) -> Any:
            settings, _ = WhisperConfig.get_config_dict(source)
            if "encoder_layers" in settings:
                settings.pop("num_hidden_layers", None)
            return WhisperConfig.from_dict(settings)

    if model.source is not None:
        return pretrained(Loader, model.source, "The configuration")
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
    if settings.max_source_positions % (FRAMES_A_SECOND // 2):
        raise UserError(
            f"max_source_positions is {settings.max_source_positions}: it must be a multiple "
            f"of {FRAMES_A_SECOND // 2}, whole seconds of audio."
        )
    return settings


def seconds_heard(positions: int) -> float:
    """How much audio an encoder of so many positions takes: each stands for two frames."""
    return 2 * positions / FRAMES_A_SECOND


def _tokenizer(model: configuration.Model, units: Path | None) -> Any:
    """The recipe's tokenizer, of random weights, or the source's own."""
    if units is None:
        return own_tokenizer(str(model.source))
    if model.source is not None:
        raise UserError(
            f"Whisper keeps the tokenizer of its checkpoint ('{model.source}'): set units.kind to "
            "source."
        )
    return own_tokenizer(str(units), "The units", whole=False)


def own_tokenizer(source: str, what: str = "The tokenizer", whole: bool = True) -> Any:
    """Whisper's tokenizer from a folder or hub id; one without its files is a UserError."""
    from tokenizers import AddedToken
    from transformers import WhisperTokenizer

    tokenizer = pretrained(WhisperTokenizer, source, what, whole)
    known = tokenizer.get_vocab()
    if "Ġ" not in known:  # a space among byte-level units
        raise UserError(
            f"'{source}' holds no tokenizer: its tokenizer.json (or vocab.json and merges.txt) is "
            "missing."
        )
    if whole and "<|startoftranscript|>" not in known:
        raise UserError(
            f"'{source}' has the text units only: copy tokenizer.json or added_tokens.json of the "
            "model that it was fine-tuned from."
        )
    # From a folder of 2022, which has no tokenizer.json, transformers (5.24.0) takes all special
    # tokens but one for text: hypotheses would hold some, and exports write the prompt.
    special = [token for token in tokenizer.all_special_tokens if token in known]
    tokenizer.backend_tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    # OpenAI's have it true, by which transformers 4 takes the spaces before punctuation away.
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def _greedy_(hf: Any, end: int) -> Any:
    """Have `generate` say what `transcribe` says, also from an export; the new generation config.

    A source's lengths, penalties, beams and sampling would make the export say other texts than
    were scored.
    """
    from transformers import GenerationConfig

    source = vars(hf.generation_config)
    kept = {name: source[name] for name in KEPT if name in source}
    for name in ("suppress_tokens", "begin_suppress_tokens"):  # those of a larger vocabulary go
        kept[name] = [token for token in kept.get(name) or () if token < hf.config.vocab_size]
        kept[name] = kept[name] or None  # of an empty list transformers before 4.50 dies
    hf.generation_config = GenerationConfig(
        **kept,
        eos_token_id=end,
        max_length=hf.config.max_target_positions,
        num_beams=1,  # unset, the pipeline would search five
    )
    if getattr(hf.config, "forced_decoder_ids", None):
        hf.config.forced_decoder_ids = None  # an English-only prompt would come from these
    return hf.generation_config


def _describe_prompt(hf: Any, tokenizer: Any) -> None:
    """Have `generate` and the pipeline begin as `_prompt` does.

    The languages and tasks stay as the generation config has them; that of random weights, and of
    checkpoints that are older than these keys, has none.
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    index, generation = tokenizer.convert_tokens_to_ids, hf.generation_config

    def lacks(name: str) -> bool:
        return getattr(generation, name, None) is None

    if lacks("is_multilingual"):
        generation.is_multilingual = hf.config.vocab_size != ENGLISH_ONLY
    # As `_prompt` has them: the configuration of an old checkpoint may name another start.
    generation.no_timestamps_token_id = index("<|notimestamps|>")
    generation.decoder_start_token_id = index("<|startoftranscript|>")
    if generation.is_multilingual and lacks("task_to_id"):
        generation.task_to_id = {task: index(f"<|{task}|>") for task in ("translate", "transcribe")}
    if generation.is_multilingual and lacks("lang_to_id"):
        known, tokens = tokenizer.get_vocab(), [f"<|{code}|>" for code in LANGUAGES]
        generation.lang_to_id = {token: known[token] for token in tokens if token in known}
