"""Text units that a recipe makes from its own training text.

    characters   CTC: SentencePiece finds the inventory, and it is written as the vocabulary of
                 Hugging Face's Wav2Vec2CTCTokenizer with the same indices (unit 0 is the blank)
    bpe          Whisper: byte-level BPE in WhisperTokenizer's format with all of Whisper's language
                 and task tokens; bytes are the base, so no text in any language has an unknown unit

Checkpoints that bring a tokenizer of their own need none of this.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adakd.data.text import UNKNOWN_CHARACTER
from adakd.errors import UserError
from adakd.files import write_json

BLANK, UNKNOWN, SPACE = "<pad>", "<unk>", "|"


def without_unknown(decoded: str, tokenizer: Any) -> str:
    """A hypothesis as a CTC tokenizer decodes it, stripped.

    Its token for what it has no unit for is one character, U+FFFD, and not the five of "<unk>".
    """
    unknown = tokenizer.unk_token
    return (decoded.replace(unknown, UNKNOWN_CHARACTER) if unknown else decoded).strip()


def train_characters(texts: Iterable[str], folder: Path) -> None:
    """Write a character tokenizer for CTC to ``folder``, in SentencePiece's and HF's format.

    Raises:
        UserError: texts that hold nothing; a ``|``, which Hugging Face's tokenizer reads as a
            space.
    """
    import sentencepiece
    from transformers import Wav2Vec2CTCTokenizer

    sentences = [text for text in texts if text.strip()]
    if not sentences:
        raise UserError(
            "No training text to make units from: set units.kind to source, which takes the "
            "teacher's, or give the corpus transcripts of train."
        )
    for sentence in sentences:
        if SPACE in sentence:
            raise UserError(
                f"'{sentence}' holds '|', which stands for a space in CTC units: "
                "take it out of the corpus or set data.normalise to true."
            )
    inventory = {character for sentence in sentences for character in sentence} - {" "}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="char",
        character_coverage=1.0,
        vocab_size=len(inventory) + 3,  # and blank, unknown, space
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        max_sentence_length=1 << 20,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece=BLANK,
        unk_piece=UNKNOWN,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocabulary = {piece.replace("\u2581", SPACE): i for i, piece in enumerate(pieces)}
    if SPACE not in vocabulary:
        # A script without spaces: Hugging Face's tokenizer wants its delimiter all the same.
        vocabulary[SPACE] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "characters.model").write_bytes(model.getvalue())
    write_json(folder / "vocab.json", vocabulary)
    Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"),
        pad_token=BLANK,
        unk_token=UNKNOWN,
        bos_token=None,
        eos_token=None,
        word_delimiter_token=SPACE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def train_bpe(texts: Iterable[str], folder: Path, size: int) -> None:
    """Write a WhisperTokenizer of ``size`` byte-level BPE pieces, special tokens on top."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    if size < 256:
        raise UserError(f"units.size is {size}: a byte-level BPE needs at least 256 pieces.")
    trainer = ByteLevelBPETokenizer()
    # The leading space marks a word's beginning, as in Whisper's own transcripts.
    words = (" " + text for text in texts)
    trainer.train_from_iterator(words, vocab_size=size, min_frequency=2, show_progress=False)
    state = json.loads(trainer.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in LANGUAGES),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer = WhisperTokenizer(
        vocab=vocabulary | {special[0]: len(vocabulary)},
        merges=[tuple(merge) for merge in state["merges"]],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.pad_token = special[0]
    tokenizer.save_pretrained(folder)
