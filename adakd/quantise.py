"""A trained student in int8: the weights of its linear layers, for CPUs. Nothing is trained here.

Dynamic quantisation, PyTorch's own: weights are rounded once, to 255 steps a layer; activations
whenever they come, by the largest of the input at hand. So hypotheses depend on what else is in a
batch, and int8 models decode one clip at a time, as they do where they are used.

Convolutions, norms and embeddings stay float32, and so does Whisper's output layer: its weights are
those of the embedding, so that a copy in int8 would make the model larger.

Opened, the student is a model of transformers as before, on the CPU, with `generate` and pipelines:

    from transformers import pipeline

    from adakd import quantise

    recognise = pipeline("automatic-speech-recognition", "exp/.../kd/seed1/model", device="cpu")
    quantise.load_(recognise.model, "exp/.../kd-int8/seed1/model")

The file holds every weight; of the float32 folder only the configuration and the tokenizer count.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from adakd.errors import UserError
from adakd.files import atomic_write

FILE = "int8.pt"


def quantise_(hf: nn.Module) -> None:
    """Put int8 layers in the place of the linear ones of a model on the CPU; only eval is left.

    ``hf`` is the model of transformers, as in `load_`: a Family's ``hf``, a pipeline's ``model``.

    Raises:
        UserError: it is not on the CPU.
    """
    if any(parameter.device.type != "cpu" for parameter in hf.parameters()):
        raise UserError(
            'int8 layers run on the CPU alone: open the model there (a pipeline with device="cpu").'
        )
    shared = {id(layer.weight) for layer in hf.modules() if isinstance(layer, nn.Embedding)}
    linear = {
        name
        for name, layer in hf.named_modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) not in shared
    }
    hf.eval()
    with warnings.catch_warnings():
        # It is to move to a package of its own (torchao); torch 2.11, which is pinned, has it.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.quantize_dynamic(hf, linear, torch.qint8, inplace=True)


def save(hf: nn.Module, folder: Path) -> None:
    """Quantise a model and write its weights to int8.pt in `folder`."""
    quantise_(hf)
    with atomic_write(folder / FILE, "wb") as file:
        torch.save(hf.state_dict(), file)


def load_(hf: nn.Module, folder: Path | str) -> None:
    """Turn the float32 model that int8.pt in `folder` was made from into what is written there."""
    quantise_(hf)
    path = Path(folder) / FILE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of how torch itself stores int8
            hf.load_state_dict(torch.load(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # of pickle, zip or torch, by what is broken
        raise UserError(
            f"{path} is damaged, or of another model: delete it and run --stage 7 "
            "--decode.int8 true, which makes it anew."
        ) from error
