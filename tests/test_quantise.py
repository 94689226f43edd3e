"""Int8 students against the formula of dynamic quantisation, written out."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
import tiny
import torch

from adakd import models, quantise
from adakd.data import audio
from adakd.decode import transcribe
from adakd.errors import UserError

FAMILIES = ("wav2vec2", "whisper")


@pytest.fixture(scope="module", params=FAMILIES)
def student(request, tmp_path_factory):
    """The family's name, a folder with a saved tiny model, and the model."""
    folder = tmp_path_factory.mktemp(request.param)
    family = tiny.family(request.param, folder)
    family.save(folder / "model")
    return request.param, folder, family


def opened(student):
    kind, folder, _ = student
    return models.open_folder(tiny.config(kind), folder / "model").eval()


def by_hand(layer: torch.nn.Linear, inputs: np.ndarray) -> np.ndarray:
    """(n, out) of inputs (n, in): int8 weights, inputs in 128 steps from their least to largest.

    128 and not 256, since sums of products must fit 16 bits on older processors.
    """
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    step = np.abs(weight).max() / 127.5
    small = np.clip(np.round(weight / step), -128, 127) * step
    low, high = min(inputs.min(), 0.0), max(inputs.max(), 0.0)
    grain = (high - low) / 127
    zero = np.round(-low / grain)
    rounded = (np.clip(np.round(inputs / grain) + zero, 0, 127) - zero) * grain
    return rounded @ small.T + bias


@pytest.mark.parametrize("content", [b"", b"garbage", b"half", b"\0" * 5_000])
def test_damaged_weights_are_told(student, tmp_path, content):
    quantise.save(opened(student).hf, tmp_path)
    path = tmp_path / quantise.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(UserError, match="int8.pt is damaged, or of another model: delete it and"):
        quantise.load_(opened(student).hf, tmp_path)


def test_a_layer_is_the_formula(student):
    family, small = opened(student), opened(student)
    quantise.quantise_(small.hf)
    if student[0] == "whisper":
        plain, layer = (m.hf.model.decoder.layers[1].fc1 for m in (family, small))
    else:
        plain, layer = (m.hf.lm_head for m in (family, small))
    inputs = torch.from_numpy(tiny.noise(1.0, 5)[: 10 * plain.in_features]).view(10, -1)
    expected = by_hand(plain, inputs.numpy())
    found = layer(inputs).detach().numpy()
    # Where a weight lies in the middle between two steps, rounding decides which it takes.
    assert np.isclose(found, expected, rtol=1e-4, atol=1e-4).mean() > 0.9
    np.testing.assert_allclose(found, expected, atol=0.01)
    exact = plain(inputs).detach().numpy()
    error = np.abs(expected - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1, "int8 is near, and not the same"


def test_linear_layers_become_int8_and_others_stay(student):
    kind, _, family = student
    small = opened(student)
    quantise.quantise_(small.hf)
    before, after = dict(family.hf.named_modules()), dict(small.hf.named_modules())
    linear = {name for name, layer in before.items() if isinstance(layer, torch.nn.Linear)}
    kept = {name for name in linear if isinstance(after[name], torch.nn.Linear)}
    # Whisper's output layer is its embedding.
    assert kept == ({"proj_out"} if kind == "whisper" else set())
    for name in linear - kept:
        assert after[name].weight().dtype == torch.qint8
    others = {name: value for name, value in small.hf.state_dict().items() if "_packed" not in name}
    state = family.hf.state_dict()
    compared = [name for name in others if torch.is_tensor(others[name]) and name in state]
    assert len(compared) > 10
    assert all(torch.equal(others[name], state[name]) for name in compared)


def test_what_is_on_disk_is_what_decodes_whatever_the_batches(student):
    kind, folder, _ = student
    small = opened(student)
    quantise.save(small.hf, folder / "int8")
    entries = tiny.entries(folder)
    config = tiny.config(kind)
    found = [
        transcribe(config, folder / "model", part, folder, "", int8=folder / "int8")
        for part in (entries, entries[::-1], entries[:1])
    ]
    texts = [row["hypothesis"] for row in found[0]]
    assert [row["hypothesis"] for row in found[1]] == texts[::-1]
    assert [row["hypothesis"] for row in found[2]] == texts[:1]
    for entry, text in zip(entries, texts, strict=True):
        batch = small.collate([entry], [audio.read(folder / entry.audio)])
        with torch.inference_mode():
            assert small.transcribe(batch) == [text]
    plain = [row["hypothesis"] for row in transcribe(config, folder / "model", entries, folder, "")]
    assert plain != texts, "these weights are drawn so wide that int8 changes some text"


def documented(folder):
    """What the module's own lines open: a pipeline of the student in int8."""
    code = quantise.__doc__.split("pipelines:\n\n")[1].split("\n\nThe file")[0]
    for there, here in (("kd-int8/seed1/model", "int8"), ("kd/seed1/model", "model")):
        assert f'"exp/.../{there}"' in code
        code = code.replace(f"exp/.../{there}", str(folder / here))
    names = {}
    exec(textwrap.dedent(code), names)
    return names["recognise"]


def test_the_documented_lines_open_the_model_that_decodes(student):
    kind, folder, _ = student
    quantise.save(opened(student).hf, folder / "int8")
    # Decoding opens it so; that other weights were there before makes no difference.
    ours, recognise = tiny.family(kind, folder, seed=2), documented(folder)
    quantise.load_(ours.hf, folder / "int8")
    entries, config = tiny.entries(folder), tiny.config(kind)
    rows = transcribe(config, folder / "model", entries, folder, "", int8=folder / "int8")
    for entry, row in zip(entries, rows, strict=True):
        clip = audio.read(folder / entry.audio)
        inputs = recognise.feature_extractor(
            clip, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt"
        )
        if kind == "whisper":
            inputs["decoder_input_ids"] = torch.tensor([[5, 6, 7]])
        with torch.inference_mode():
            assert torch.equal(recognise.model(**inputs).logits, ours.hf(**inputs).logits)
        said = recognise({"raw": clip, "sampling_rate": audio.SAMPLE_RATE})["text"]
        assert said.strip() == row["hypothesis"]


def test_int8_is_refused_where_it_cannot_run(student):
    elsewhere = opened(student).hf.to("meta")
    with pytest.raises(UserError, match="on the CPU alone"):
        quantise.load_(elsewhere, student[1] / "int8")


def test_int8_takes_about_a_quarter(tmp_path):
    block = tiny.whisper_config(d_model=128, encoder_ffn_dim=1024, decoder_ffn_dim=1024)
    family = tiny.family("whisper", tmp_path, model=block)
    linear = sum(
        layer.weight.numel()
        for name, layer in family.hf.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "proj_out"
    )
    family.save(tmp_path / "model")
    quantise.save(family.hf, tmp_path / "int8")
    before = (tmp_path / "model" / "model.safetensors").stat().st_size
    after = (tmp_path / "int8" / "int8.pt").stat().st_size
    assert before - after == pytest.approx(3 * linear, rel=0.05)
