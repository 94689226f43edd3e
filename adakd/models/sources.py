"""Opening models that others made, from the hub or in its format, and what is wrong with some."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from adakd.errors import UserError

POINTER_BYTES = 1_000  # git-lfs leaves some 130 in place of a file


def pretrained(
    loader: Any, source: str, what: str, whole: bool = True, lacking: str = "", **options: Any
) -> Any:
    """``loader.from_pretrained(source, **options)``; a failure becomes one sentence.

    Args:
        what: is opened, as the sentence's subject, such as "The tokenizer".
        whole: the source should hold a whole model; False for a tokenizer of the recipe's.
        lacking: what to do where the source lacks just this.
    Raises:
        UserError: whatever went wrong.
    """
    # Else transformers asks the hub to convert weights that are no safetensors, and fetches them
    # a second time, in every process.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        return loader.from_pretrained(source, **options)
    except Exception as error:  # what is missing or broken decides which of many it is
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        like_a_path = source.startswith(("/", ".", "~")) or source.count("/") > 1
        advice = "give a hub id (with a network) or a folder in Hugging Face format"
        if not source or like_a_path and not Path(source).exists():
            reason = "no such folder"  # instead of how a hub id should look
        elif whole and (found := _not_whole(Path(source))):
            reason, advice = found
        elif isinstance(error, TypeError) and "PathLike" in str(error):
            reason = "one of its files is missing"  # transformers opens None
            advice = lacking or advice
        if (made := Path(source).parent / "done.json").exists():  # a stage's own
            shut = [path for path in Path(source).glob("*") if not os.access(path, os.R_OK)]
            if shut:
                reason, advice = f"{shut[0]} may not be read", "have its owner let you"
            elif not isinstance(error, MemoryError) and not getattr(error, "errno", None):
                advice = f"delete {made} and run the stage again that made it"  # it lost a file
        raise UserError(f"{what} cannot be loaded from '{source}' ({reason}): {advice}.") from error


def _not_whole(folder: Path) -> tuple[str, str] | None:
    """Why a folder is no whole model, of the kinds that people have, and what to do about it."""
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return None
    for path in sorted(folder.iterdir()):
        read = path.suffix in (".safetensors", ".bin", ".json") and os.access(path, os.R_OK)
        if read and path.is_file() and path.stat().st_size < POINTER_BYTES:
            if path.read_bytes().startswith(b"version https://git-lfs"):
                return f"{path.name} is a pointer of git-lfs", "run git lfs pull in that folder"
    if (folder / "adapter_config.json").exists():
        return "it holds an adapter", "merge it into its model (merge_and_unload), and save that"
    settings = folder / "config.json"
    if not settings.exists():
        if inside := sorted(path.parent.name for path in folder.glob("*/config.json")):
            return "it has no config.json", f"name one of the folders in it, such as {inside[-1]}"
    elif not os.access(settings, os.R_OK):
        return None  # what is wrong is that
    if cut := [path.name for path in sorted(folder.iterdir()) if _is_cut(path)]:
        return f"{cut[0]} is cut or damaged", "copy or download it again"
    # CTranslate2's names no type.
    if not settings.exists() or b"model_type" not in settings.read_bytes():
        return (
            "it has no config.json of Hugging Face's",
            "give a hub id (with a network) or a folder in its format, not in that of OpenAI, "
            "CTranslate2 or whisper.cpp",
        )
    features = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).exists() for name in features):
        return (
            "it has no preprocessor_config.json",
            "copy that of the model that it was fine-tuned from",
        )
    if b'"quantization_config"' in settings.read_bytes():
        return "it is quantised", "take the checkpoint that it was made from"
    if not any(folder.glob("model*.safetensors*")) and not any(folder.glob("pytorch_model*.bin*")):
        inside = sorted(path.parent.name for path in folder.glob("*/model*.safetensors"))
        return (
            "it has no weights that PyTorch reads, model.safetensors or pytorch_model.bin",
            f"copy those of {inside[-1]} in it" if inside else "save or copy them there",
        )
    return None


def _is_cut(path: Path) -> bool:
    """Whether a JSON file is none, or one of safetensors has not the size that its header says."""
    if path.suffix not in (".json", ".safetensors") or not os.access(path, os.R_OK):
        return False
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
            return False
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                return True
            header = json.loads(file.read(length))
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        return path.stat().st_size != 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return True


def pretrained_weights(
    loader: Any, source: str, fresh: tuple[str, ...] = (), **options: Any
) -> Any:
    """The model of a source, in float32.

    transformers gives random weights, with a warning at most, to what the source lacks or has in
    another shape: a UserError here, but for the weights whose names begin like one of ``fresh``.
    """
    settings = Path(source) / "generation_config.json"  # of a damaged one nothing would be said
    if settings.is_file() and _is_cut(settings):
        raise UserError(f"{settings} is cut or damaged: copy or download it again.")
    told_of: Any = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, told = pretrained(loader, source, "The model", dtype=torch.float32, **told_of, **options)
    lacking = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
    if odd := sorted(name for name in lacking if not name.startswith(fresh)):
        advice = "give a complete checkpoint, whose config.json is of these weights"
        if all(name.startswith("lm_head.") for name in odd):  # pretrained, not fine-tuned for CTC
            advice = "set units.kind to characters, and let stage 2 fine-tune a new output layer"
        raise UserError(
            f"'{source}' has no weights for {len(odd)} of the {type(model).__name__}'s parameters "
            f"(such as {odd[0]}), or has them in other shapes: {advice}."
        )
    return model
