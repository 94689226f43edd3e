"""Dropout for a CPU, where torch draws its masks one number after the other.

`torch.nn.functional.dropout` asks Mersenne Twister for a double a value, on one thread: a tenth of
a step of XLS-R 300M on two cores (docs/PERFORMANCE.md). Sixteen bits a value are enough; four
values share one draw here. As in torch, what is kept is scaled up (Srivastava et al. 2014).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = "adakd_dropout"  # the name under which transformers finds `attention`
DRAWN = 1 << 16  # equally probable numbers


def drop(states: Tensor, p: float) -> Tensor:
    """Zero each value with probability ``p``, and scale the others so that the mean stays.

    Args:
        states: any shape, on the CPU.
        p: in [0, 1); taken to the nearest 1/65,536.

    Returns:
        states * mask / (1 - p), with a new mask from torch's own generator at every call.
    """
    dropped = min(round(p * DRAWN), DRAWN - 1)
    count = states.numel()
    words = torch.empty(math.ceil(count / 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[:count].view(states.shape)
    mask = torch.empty(states.shape, dtype=states.dtype)
    torch.ge(drawn, dropped - DRAWN // 2, out=mask)
    return states * mask.mul_(DRAWN / (DRAWN - dropped))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` on a CPU; anywhere else it is that."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and 0 < self.p < 1 and input.device.type == "cpu":
            return drop(input, self.p)
        return super().forward(input)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Transformers' SDPA, and where it drops attention weights on a CPU, the formula itself.

    With dropout torch's SDPA has no fused kernel on a CPU and computes the same.
    softmax(q k^T scaling) v of queries (B, H, T, D), keys and values (B, H, S, D) and a mask
    (B, 1, T, S) that is true where a query may look: (B, T, H, D).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not 0 < dropout < 1 or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **rest
        )
    # Passes over (B, H, T, S) take time. Scaling the queries saves one each way, and a mask that is
    # added in place saves one and needs none on the way back.
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = query @ key.transpose(2, 3)
    if attention_mask is not None:
        scores += torch.finfo(scores.dtype).min * ~attention_mask
    weights = drop(scores.softmax(dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


def use(hf: Any) -> None:
    """Have a Hugging Face model drop by these functions, wherever it drops anything.

    Args:
        hf: a model whose dropouts are modules and whose attention is transformers' interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    for parent in hf.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
    if hf.config.attention_dropout > 0 and hf.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        hf.set_attn_implementation(ATTENTION)
