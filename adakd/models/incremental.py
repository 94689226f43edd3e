"""Whisper's decoder, one token at a time: what greedy search asks of it, and nothing else.

The computation is that of `WhisperDecoder` in transformers, with its own layers and weights (tested
against it). What is saved is what lies between them: keys and values are written into room made
beforehand instead of being copied into a longer tensor at every step, no mask is built, and only
the last position is projected on the vocabulary. A step of a small decoder is some twenty
operations a layer of a few microseconds each, so that this is a large part of its time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]  # keys and values
ROOM = 64  # tokens there is room for at first: more than most utterances take


class Decoder:
    """Reads tokens and gives the logits of the next one; remembers what it has read.

    Args:
        hf: `WhisperForConditionalGeneration` in eval mode; its linear layers may be int8.
        states: (B, T, d) the encoder's.
    """

    def __init__(self, hf: Any, states: Tensor) -> None:
        self._hf, self._read = hf, 0
        self._layers = list(hf.model.decoder.layers)
        # Of each layer, (B, H, T, d / H) of what the encoder says, and of the tokens read so far.
        self._heard: list[Pair] = []
        self._said: list[Pair] = []
        for layer in self._layers:
            attend = layer.encoder_attn
            keys, values = attend.k_proj(states), attend.v_proj(states)
            self._heard.append((_heads(attend, keys), _heads(attend, values)))
            nothing = keys.new_empty(len(states), attend.num_heads, 0, attend.head_dim)
            self._said.append((nothing, nothing))

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, V) logits of what follows ``tokens`` (B, N), which follow those read before."""
        decoder, start = self._hf.model.decoder, self._read
        self._read += tokens.shape[1]
        if self._read > self._said[0][0].shape[2]:
            self._make_room()
        positions = decoder.embed_positions.weight[start : self._read]
        states = decoder.embed_tokens(tokens) + positions  # (B, N, d)
        for layer, said, heard in zip(self._layers, self._said, self._heard, strict=True):
            attend, normed = layer.self_attn, layer.self_attn_layer_norm(states)
            keys, values = (each[:, :, : self._read] for each in said)
            keys[:, :, start:] = _heads(attend, attend.k_proj(normed))
            values[:, :, start:] = _heads(attend, attend.v_proj(normed))
            # Only the prompt is several tokens, and nothing comes before it.
            states = states + _attention(attend, normed, (keys, values), tokens.shape[1] > 1)
            normed = layer.encoder_attn_layer_norm(states)
            states = states + _attention(layer.encoder_attn, normed, heard)
            normed = layer.final_layer_norm(states)
            states = states + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        return self._hf.proj_out(decoder.layer_norm(states[:, -1]))

    def keep(self, rows: Tensor) -> None:
        """Go on with these of the utterances, (n,) int, and forget the others."""
        # Layer by layer, so that no more than one is there twice.
        for place, (keys, values) in enumerate(self._heard):
            self._heard[place] = keys[rows], values[rows]
        for place, (keys, values) in enumerate(self._said):
            self._said[place] = keys[rows, :, : self._read], values[rows, :, : self._read]

    def _make_room(self) -> None:
        """For twice as many tokens as have been read, so that few are copied, and seldom."""
        for place, pair in enumerate(self._said):
            padding = max(ROOM, 2 * self._read) - pair[0].shape[2]
            keys, values = (nn.functional.pad(each, (0, 0, 0, padding)) for each in pair)
            self._said[place] = keys, values


def _heads(attend: Any, states: Tensor) -> Tensor:
    """(B, N, d) to (B, H, N, d / H)."""
    return states.unflatten(-1, (attend.num_heads, -1)).transpose(1, 2).contiguous()


def _attention(attend: Any, states: Tensor, kept: Pair, causal: bool = False) -> Tensor:
    """Attention of (B, N, d) over keys and values that are there already, (B, N, d)."""
    # Scaled before the product, as transformers has it: Whisper is sensitive to the rounding.
    queries = _heads(attend, attend.q_proj(states) * attend.scaling)
    found = nn.functional.scaled_dot_product_attention(queries, *kept, None, 0.0, causal, scale=1.0)
    return attend.out_proj(found.transpose(1, 2).flatten(2))
