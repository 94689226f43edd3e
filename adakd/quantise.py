"""A trained student in int8: the weights of its linear layers, for CPUs. Nothing is trained here.

Dynamic quantisation, PyTorch's own: weights are rounded once, to 255 steps a layer; activations
whenever they come, by the largest of the input at hand. So hypotheses depend on what else is in a
batch, and int8 models decode one clip at a time, as they do where they are used.

Convolutions, norms and embeddings stay float32, and so does Whisper's output layer: its weights are
those of the embedding, so that a copy in int8 would make the model larger.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from adakd.files import atomic_write

if TYPE_CHECKING:
    from adakd.models import Family

FILE = "int8.pt"


def quantise_(family: Family) -> None:
    """Put int8 layers in the place of the linear ones of a model on the CPU; only eval is left."""
    shared = {id(layer.weight) for layer in family.hf.modules() if isinstance(layer, nn.Embedding)}
    linear = {
        name
        for name, layer in family.hf.named_modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) not in shared
    }
    family.eval()
    with warnings.catch_warnings():
        # It is to move to a package of its own (torchao); torch 2.11, which is pinned, has it.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.quantize_dynamic(family.hf, linear, torch.qint8, inplace=True)


def save(family: Family, folder: Path) -> None:
    """Quantise a model and write its weights to int8.pt in `folder`."""
    quantise_(family)
    with atomic_write(folder / FILE, "wb") as file:
        torch.save(family.hf.state_dict(), file)


def load_(family: Family, folder: Path) -> None:
    """Turn the float32 model that int8.pt in `folder` was made from into what is written there."""
    quantise_(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of how torch itself stores int8
        family.hf.load_state_dict(torch.load(folder / FILE))
