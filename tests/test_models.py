"""Both families against Hugging Face's own losses, plain loops, and the pipeline of the export.

KINDS are the families; "group" is wav2vec2 with the group norm that leaks over padding.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from adakd import config as configuration
from adakd import finished, models, objectives
from adakd.data import audio, manifest
from adakd.errors import UserError
from adakd.files import read_json, write_json
from adakd.models import incremental, sources, units, wav2vec2, whisper
from adakd.models.wav2vec2 import mel_filters_
from adakd.objectives import Dense, top_k
from adakd.teacher_store import Store, Writer, begin, finish

KINDS = ("wav2vec2", "group", "whisper")
FAMILIES = ("wav2vec2", "whisper")
NOISE = {"rtol": 2e-5, "atol": 2e-5}  # of float32 sums in another order


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def entries(folder):
    return tiny.entries(folder)


@pytest.fixture(scope="session")
def clips(folder, entries):
    return [audio.read(folder / entry.audio) for entry in entries]


@pytest.fixture(scope="session")
def build(folder):
    """build(kind, seed) gives a tiny model in eval mode, always the same one."""
    built = {}

    def make(kind, seed=1):
        if (kind, seed) not in built:
            group = kind == "group"
            built[kind, seed] = tiny.family(
                "wav2vec2" if group else kind,
                folder,
                seed,
                tiny.wav2vec2_config("group") if group else None,
            )
        return built[kind, seed]

    return make


@pytest.fixture(scope="session")
def saved(folder, build):
    """Where the tiny model of each family was saved."""
    for name in FAMILIES:
        build(name).save(folder / name)
    return {name: folder / name for name in FAMILIES}


def fresh(kind, folder, **changes):
    """A model that a test may change."""
    return tiny.family(kind, folder, model=None, **changes)


def source(path):
    return configuration.Model(source=str(path))


def task_loss(family, batch):
    with torch.inference_mode():
        return family.task_loss(family(batch), batch)


def transcripts(family, batch):
    with torch.inference_mode():
        return family.transcribe(batch)


def distillation(student, teacher, batch, settings, k=0):
    """The distillation loss of a batch against the live teacher."""
    with torch.inference_mode():
        logits = teacher(batch).logits
        soft = top_k(logits, k, settings.temperature) if k else Dense(logits)
        return student.losses(student(batch), batch, soft, settings)[1]


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_depends_on_the_batch_size_or_on_padding(build, entries, clips, kind):
    teacher, student = build(kind, 1), build(kind, 2)
    together = teacher.collate(entries, clips)
    texts, losses = transcripts(teacher, together), task_loss(teacher, together)
    divergences = distillation(student, teacher, together, configuration.Distill())
    assert len(set(texts)) == len(entries) and all(texts)  # else the test could not fail
    for places in ([0], [1], [2], [3], [4], [4, 0], [1, 2, 4]):
        batch = teacher.collate([entries[i] for i in places], [clips[i] for i in places])
        assert transcripts(teacher, batch) == [texts[i] for i in places]
        torch.testing.assert_close(task_loss(teacher, batch), losses[places], **NOISE)
        torch.testing.assert_close(
            distillation(student, teacher, batch, configuration.Distill()),
            divergences[places],
            **NOISE,
        )


@pytest.mark.parametrize("seconds", [0, 4])
@pytest.mark.parametrize("kind", FAMILIES)
def test_pieces_give_what_the_whole_batch_gives(build, entries, clips, kind, seconds, monkeypatch):
    """A CPU computes a batch piece by piece where no gradient is asked for."""
    family = build(kind)
    batch = family.collate(entries, clips)
    whole = family(batch).logits  # (B, T, V)
    monkeypatch.setattr(whisper, "PIECE", seconds)
    monkeypatch.setattr(wav2vec2, "PIECE", seconds * family.hf.config.hidden_size)
    sizes = []  # utterances of each piece
    part = family._encode_piece if kind == "whisper" else family._logits
    name = part.__name__

    def watched(inputs, *others):
        sizes.append(len(inputs))
        return part(inputs, *others)

    monkeypatch.setattr(family, name, watched)
    with torch.no_grad():
        pieces = family(batch).logits
    # Whisper's clips have 2 s each, the others the longest of 1.7, 0.9 | 0.5, 1.9 | 0.3.
    assert sizes == ([2, 2, 1] if seconds else [1] * len(entries))
    for row, truth, count in zip(pieces, whole, family.positions(batch), strict=True):
        torch.testing.assert_close(row[:count], truth[:count].detach(), **NOISE)


def test_group_norm_would_leak_over_padding(build, entries, clips):
    """Why such checkpoints run one utterance at a time."""
    group = build("group")
    batch = group.collate([entries[4], entries[0]], [clips[4], clips[0]])
    with torch.inference_mode():
        padded = group.hf(batch.inputs).logits[0]
        alone = group(batch).logits[0]
    frames = group.positions(batch)[0]
    assert (padded[:frames] - alone[:frames]).abs().max() > 0.01


@pytest.mark.parametrize("encode", ["full", "speech"])
def test_a_clip_that_whisper_cannot_hear_whole_is_refused(folder, entries, encode):
    """The extractor would cut it in silence, and leave its text whole."""
    family = tiny.family("whisper", folder, audio=configuration.Audio(encode=encode))
    clip = tiny.noise(tiny.WHISPER_SECONDS, 1)
    assert len(family.collate(entries[:1], [clip]).ids) == 1
    with pytest.raises(UserError, match="'utterance-0' has 2.10 s, and this model hears 2: "):
        family.collate(entries[:1], [np.pad(clip, (0, 1600))])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_says_what_is_in_it(build, entries, clips, kind):
    family = build(kind)
    batch = family.collate(entries, clips)
    assert batch.ids == [entry.id for entry in entries]
    assert batch.seconds == pytest.approx(sum(tiny.SECONDS))
    assert batch.counted and batch.soft is None and batch.difficulty is None
    end = kind == "whisper"
    for row, entry in enumerate(entries):
        text = f" {entry.text}" if end else entry.text
        expected = len(family.tokenizer(text, add_special_tokens=False).input_ids) + end
        assert batch.label_lengths[row] == expected
    with torch.inference_mode():
        logits = family(batch).logits
    assert logits.shape[1] == family.positions(batch).max()
    assert logits.shape[2] == len(family.vocabulary())
    if end:
        assert family.padded(0.3) == family.padded(1.9) == tiny.WHISPER_SECONDS
    else:
        assert family.padded is None


def test_moving_a_batch_keeps_all_of_it(build, entries, clips):
    family = build("wav2vec2")
    small = top_k(torch.randn(2, 3, 9), 4, 2.0)
    inner = family.collate(entries[:1], clips[:1])
    for soft in (small, Dense(torch.randn(2, 3, 9)), None):
        batch = replace(
            family.collate(entries, clips), soft=soft, difficulty=torch.ones(5), teacher=inner
        )
        moved = batch.to("meta")
        assert moved.ids == batch.ids and moved.seconds == batch.seconds
        tensors = [moved.inputs, moved.lengths, moved.labels, moved.label_lengths]
        tensors += [moved.difficulty, moved.teacher.inputs]
        if soft is small:
            assert moved.soft.temperature == 2.0
            tensors += [moved.soft.values, moved.soft.indices, moved.soft.tail]
            tensors += [moved.soft.drawn, moved.soft.level]
        elif soft is not None:
            tensors.append(moved.soft.logits)
        assert {tensor.device.type for tensor in tensors} == {"meta"}


# ---- task losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav2vec2", "group"])
def test_the_ctc_loss_is_hugging_faces_own_over_the_label_count(build, entries, clips, kind):
    family = build(kind)
    family.hf.config.ctc_loss_reduction = "sum"
    losses = task_loss(family, family.collate(entries, clips))
    for entry, clip, loss in zip(entries, clips, losses, strict=True):
        inputs = family.extractor(clip, sampling_rate=16000, return_tensors="pt").input_values
        labels = family.tokenizer(entry.text, return_tensors="pt").input_ids
        with torch.inference_mode():
            truth = family.hf(inputs, labels=labels).loss / labels.shape[1]
        torch.testing.assert_close(loss, truth, **NOISE)


def test_whispers_loss_is_hugging_faces_own_with_the_prompt_masked(build, entries, clips):
    family = build("whisper")
    index = family.tokenizer.convert_tokens_to_ids
    losses = task_loss(family, family.collate(entries, clips))
    for entry, clip, loss in zip(entries, clips, losses, strict=True):
        names = ["<|startoftranscript|>", "<|hi|>", "<|transcribe|>", "<|notimestamps|>"]
        text = family.tokenizer(f" {entry.text}", add_special_tokens=False).input_ids
        sequence = [index(name) for name in names] + text + [index("<|endoftext|>")]
        labels = [-100, -100, -100, *sequence[4:]]
        features = family.extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
        with torch.inference_mode():
            truth = family.hf(
                features,
                decoder_input_ids=torch.tensor([sequence[:-1]]),
                labels=torch.tensor([labels]),
            ).loss
        torch.testing.assert_close(loss, truth, **NOISE)


def test_a_short_encoding_is_hugging_faces_of_an_encoder_that_short(folder, entries, clips):
    family = fresh("whisper", folder, audio=configuration.Audio(encode="speech"))
    for entry, clip in zip(entries, clips, strict=True):
        batch = family.collate([entry], [clip])
        seconds = family.padded(entry.seconds)
        assert entry.seconds + 0.5 <= seconds <= entry.seconds + 1 or seconds == 2.0
        assert batch.inputs.shape[2] == round(100 * seconds)
        # The same weights in an encoder whose full length this is.
        short = copy.deepcopy(family.hf)
        short.config.max_source_positions = positions = round(50 * seconds)
        encoder = short.model.encoder
        weights = encoder.embed_positions.weight[:positions]
        encoder.embed_positions = torch.nn.Embedding.from_pretrained(weights)
        with torch.inference_mode():
            found = family(batch).logits
            truth = short(batch.inputs, decoder_input_ids=batch.labels[:, :-1]).logits[:, 3:]
        torch.testing.assert_close(found, truth, **NOISE)


def test_greedy_search_says_what_generate_says(folder, entries, clips):
    family = fresh("whisper", folder)
    batch = family.collate(entries, clips)
    for suppressed, at_first in (None, None), ([5, 300], [7, family.end]):
        family.hf.generation_config.suppress_tokens = suppressed
        family.hf.generation_config.begin_suppress_tokens = at_first
        with torch.inference_mode():
            indices = family.hf.generate(
                batch.inputs, language="hi", task="transcribe", return_timestamps=False
            )
        truth = family.tokenizer.batch_decode(indices, skip_special_tokens=True)
        assert transcripts(family, batch) == [text.strip() for text in truth]
        assert len(set(truth)) > 1


def test_an_export_decodes_as_was_scored_whatever_its_source_was_set_to(
    saved, build, entries, clips, tmp_path
):
    from transformers import GenerationConfig, WhisperForConditionalGeneration, pipeline

    shutil.copytree(saved["whisper"], tmp_path / "source")
    theirs = GenerationConfig.from_pretrained(tmp_path / "source")
    theirs.update(
        max_length=12, repetition_penalty=1.5, no_repeat_ngram_size=3, min_length=9, num_beams=2,
        length_penalty=0.2, bad_words_ids=[[30]], forced_eos_token_id=31, language="ta",
        suppress_tokens=[5, 300], begin_suppress_tokens=[7],
    )  # fmt: skip
    often = build("whisper").tokenizer.convert_tokens_to_ids("m")
    theirs.eos_token_id = [theirs.eos_token_id, often]
    theirs.return_timestamps, theirs.alignment_heads = True, [[1, 0]]
    theirs.save_pretrained(tmp_path / "source")
    family = models.open_folder(tiny.config("whisper"), tmp_path / "source").eval()
    family.save(tmp_path / "export")
    batch = family.collate(entries, clips)
    texts = transcripts(family, batch)
    opened = WhisperForConditionalGeneration.from_pretrained(tmp_path / "export").eval()
    with torch.inference_mode():
        said = family.tokenizer.batch_decode(opened.generate(batch.inputs), True)
    assert [text.strip() for text in said] == texts and len(set(texts)) > 1
    recognise = pipeline("automatic-speech-recognition", str(tmp_path / "export"), device=-1)
    for clip, text in zip(clips, texts, strict=True):
        assert recognise({"raw": clip, "sampling_rate": 16000})["text"].strip() == text
    generation = opened.generation_config
    assert generation.suppress_tokens == [5, 300] and generation.begin_suppress_tokens == [7]
    assert generation.alignment_heads == [[1, 0]] and generation.repetition_penalty is None


def test_an_empty_text_costs_its_end_alone(build, entries, clips):
    family = build("whisper")
    batch = family.collate([replace(entries[0], text="")], clips[:1])
    assert batch.labels.tolist() == [[*family.prompt("hi"), family.end]]
    with torch.inference_mode():
        log = family.hf(batch.inputs, decoder_input_ids=batch.labels[:, :-1]).logits.log_softmax(-1)
    torch.testing.assert_close(task_loss(family, batch), -log[:, -1, family.end], **NOISE)


def test_no_target_begins_with_what_decoding_never_says_first(folder, entries, clips):
    family = fresh("whisper", folder)
    spaced = [family.tokenizer(f" {e.text}", add_special_tokens=False).input_ids for e in entries]
    bare = [family.tokenizer(e.text, add_special_tokens=False).input_ids for e in entries]
    assert all(one[0] != other[0] for one, other in zip(spaced, bare, strict=True))

    def texts() -> list[list[int]]:
        batch = family.collate(entries, clips)
        ends = (4 + batch.label_lengths - 1).tolist()
        return [row[4:end] for row, end in zip(batch.labels.tolist(), ends, strict=True)]

    assert texts() == spaced
    family.hf.generation_config.begin_suppress_tokens = [spaced[0][0], family.end]
    assert texts()[0] == bare[0]
    for found, one, other in zip(texts(), spaced, bare, strict=True):
        assert found == (other if one[0] == spaced[0][0] else one)


def test_no_label_of_openais_whispers_begins_with_a_space_alone(folder, entries, monkeypatch):
    """Whatever a source suppresses: a fine-tuned one may have empty lists, its student has not."""
    letter = replace(entries[0], text="z")  # in none of the texts that units were made from
    family = fresh("whisper", folder)
    with_space = family._units(letter)
    assert family.tokenizer.convert_ids_to_tokens(with_space) == ["Ġ", "z"]
    monkeypatch.setattr(whisper, "OPENAI_ENDS", (family.end,))
    theirs = fresh("whisper", folder)
    assert not theirs.hf.generation_config.begin_suppress_tokens
    assert theirs._units(letter) == with_space[1:]
    assert theirs._units(entries[0]) == family._units(entries[0])


def test_greedy_search_goes_on_without_the_utterances_that_have_ended(
    folder, entries, clips, monkeypatch
):
    family = fresh("whisper", folder)
    batch = family.collate(entries, clips)
    ends_at = torch.tensor([3, 1, 6, 2, 4])  # the step at which each utterance is made to end
    with torch.inference_mode():
        known = incremental.Decoder(family.hf, family._encode(batch.inputs))._heard[0][0]
    seen = []  # the utterances that the decoder reads, step by step

    class Watched(incremental.Decoder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen.clear()

        def __call__(self, tokens):
            keys = self._heard[0][0]
            assert len(tokens) == len(keys) == len(self._said[-1][1])
            seen.append(torch.cdist(keys.flatten(1), known.flatten(1)).argmin(dim=1))
            logits = super().__call__(tokens)
            logits[:, family.end] = torch.where(ends_at[seen[-1]] == len(seen) - 1, 1e9, -1e9)
            return logits

    monkeypatch.setattr(whisper, "Decoder", Watched)
    found = transcripts(family, batch)
    # From where two of five are left, and then one of two, the decoder reads no other.
    everyone = [0, 1, 2, 3, 4]
    assert [step.tolist() for step in seen] == [everyone] * 4 + [[2, 4], [2], [2]]
    for entry, clip, text in zip(entries, clips, found, strict=True):
        assert transcripts(family, family.collate([entry], [clip])) == [text]
    assert len(set(found)) > 1


@pytest.mark.parametrize("room", [1, 64])
def test_a_token_at_a_time_is_the_whole_at_once_by_hugging_faces_decoder(
    build, entries, clips, room, monkeypatch
):
    monkeypatch.setattr(incremental, "ROOM", room)
    family = build("whisper")
    batch = family.collate(entries, clips)
    tokens = torch.randint(5, 300, (len(entries), 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        states = family._encode(batch.inputs)
        truth = family.hf.proj_out(
            family.hf.model.decoder(
                input_ids=tokens, encoder_hidden_states=states, use_cache=False
            ).last_hidden_state
        )
        decoder = incremental.Decoder(family.hf, states)
        torch.testing.assert_close(decoder(tokens[:, :4]), truth[:, 3], **NOISE)
        torch.testing.assert_close(decoder(tokens[:, 4:5]), truth[:, 4], **NOISE)
        on = torch.tensor([4, 1])
        decoder.keep(on)
        for place in range(5, 9):
            found = decoder(tokens[on, place : place + 1])
            torch.testing.assert_close(found, truth[on, place], **NOISE)


def test_chinese_whisper_text_begins_without_a_space(build, entries, clips):
    family = build("whisper")
    chinese = replace(entries[0], text="你好", language="zh-CN")
    batch = family.collate([chinese], clips[:1])
    assert family.tokenizer.decode(batch.labels[0], skip_special_tokens=True) == "你好"
    batch = family.collate(entries[:1], clips[:1])
    assert family.tokenizer.decode(batch.labels[0], skip_special_tokens=True) == " नमस्ते दुनिया"


# ---- distillation losses -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 3])
def test_a_model_has_nothing_to_learn_from_itself(build, entries, clips, kind, k):
    family = build(kind)
    batch = family.collate(entries, clips)
    losses = distillation(family, family, batch, configuration.Distill(), k)
    torch.testing.assert_close(losses, torch.zeros(5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_distillation_loss_is_a_plain_sum_over_positions(
    build, entries, clips, kind, temperature
):
    """One utterance and one position at a time, in float64, by torch.distributions."""
    teacher, student = build(kind, 1), build(kind, 2)
    settings = configuration.Distill(temperature=temperature)
    losses = distillation(student, teacher, student.collate(entries, clips), settings)
    for entry, clip, loss in zip(entries, clips, losses, strict=True):
        alone = student.collate([entry], [clip])
        with torch.inference_mode():
            p, q = (
                [Categorical(logits=row.double() / temperature) for row in m(alone).logits[0]]
                for m in (teacher, student)
            )
        total = sum(kl_divergence(a, b) for a, b in zip(p, q, strict=True)).item()
        # Whisper: the mean over its tokens; CTC: the sum over frames for each label. Both ways the
        # divisor is the one of the task loss.
        truth = temperature**2 * total / alone.label_lengths.item()
        assert loss.item() == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("frames", ["nonblank", "symmetric"])
def test_the_frames_that_count_follow_the_configuration(build, entries, clips, frames):
    teacher, student = build("wav2vec2", 1), build("wav2vec2", 2)
    with torch.inference_mode():
        # Blanks, which random weights seldom prefer.
        bias = teacher.hf.lm_head.bias
        bias[teacher.blank] += 4.0
        batch = student.collate(entries, clips)
        best = teacher(batch).logits.argmax(dim=-1)
        found = distillation(student, teacher, batch, configuration.Distill(frames=frames))
        everything = distillation(student, teacher, batch, configuration.Distill())
        truth = objectives.frame_kl(
            student(batch).logits,
            Dense(teacher(batch).logits),
            student.positions(batch),
            batch.label_lengths,
            2.0,
            frames,
            student.blank,
        )
        bias[teacher.blank] -= 4.0
    assert 0.1 < (best == teacher.blank).float().mean() < 0.9
    torch.testing.assert_close(found, truth)
    assert not torch.allclose(found, everything)


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_scale_the_distillation_loss_is_the_squared_error_of_logits(
    build, entries, clips, kind
):
    """Annealing KD's: the same positions and the same divisor as the KL has."""
    teacher, student = build(kind, 1), build(kind, 2)
    batch = student.collate(entries, clips)
    with torch.inference_mode():
        soft, settings = Dense(teacher(batch).logits), configuration.Distill()
        losses = student.losses(student(batch), batch, soft, settings, 0.3)[1]
    for entry, clip, loss in zip(entries, clips, losses, strict=True):
        alone = student.collate([entry], [clip])
        with torch.inference_mode():
            z_t, z_s = (model(alone).logits[0].double() for model in (teacher, student))
        total = (z_s - 0.3 * z_t).square().mean(dim=-1).sum().item()
        assert loss.item() == pytest.approx(total / alone.label_lengths.item(), rel=1e-3)


def test_the_squared_error_takes_the_frames_that_the_kl_takes(build, entries, clips):
    family = build("wav2vec2")
    batch = family.collate(entries[:1], clips[:1])
    with torch.inference_mode():
        output = family(batch)
        frames = output.logits.shape[1]
        spikes = torch.zeros_like(output.logits)
        spikes[..., family.blank] = 5.0
        spikes[0, frames // 2, family.blank + 1] = 9.0
        settings = configuration.Distill(frames="nonblank")
        loss = family.losses(output, batch, Dense(spikes), settings, 1.0)[1]
    one = (output.logits - spikes)[0, frames // 2].square().mean() / batch.label_lengths[0]
    torch.testing.assert_close(loss[0], one)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(
    ("k", "scale"), [(None, None), (0, None), (5, None), (None, 1.0), (0, 0.3)]
)
def test_both_losses_for_training_are_the_two_and_so_is_their_gradient(
    build, folder, entries, clips, kind, k, scale
):
    student, settings = fresh(kind, folder, seed=2), configuration.Distill()
    batch = student.collate(entries, clips)
    soft = None
    if k is not None:
        with torch.no_grad():
            logits = build(kind, 1)(batch).logits
        soft = top_k(logits, k, settings.temperature) if k else Dense(logits)

    def apart(output):
        if soft is None:
            return None
        positions, units = student.positions(batch), batch.label_lengths
        counted = torch.arange(output.logits.shape[1]) < positions.unsqueeze(1)
        tau = settings.temperature
        if scale is not None:
            return objectives.logits_mse(output.logits, soft, counted, units, scale)
        if kind == "whisper":
            return objectives.token_kl(output.logits, soft, counted, tau)
        return objectives.frame_kl(output.logits, soft, positions, units, tau, blank=student.blank)

    def found(output, joint):
        if joint:
            pair = student.losses(output, batch, soft, settings, scale)
        else:
            pair = student.task_loss(output, batch), apart(output)
        task, distill = pair
        loss = task if distill is None else 0.2 * task + torch.linspace(0.1, 0.9, 5) * distill
        loss.square().sum().backward()
        gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
        student.zero_grad()
        return pair, gradients

    (task, distill), gradients = found(student(batch), True)
    (plain_task, plain_distill), plain = found(student(batch), False)
    torch.testing.assert_close(task, plain_task, **NOISE)
    assert (distill is None) == (k is None)
    if distill is not None:
        torch.testing.assert_close(distill, plain_distill, **NOISE)
    largest = max(gradient.abs().max() for gradient in plain)
    for gradient, truth in zip(gradients, plain, strict=True):
        torch.testing.assert_close(gradient / largest, truth / largest, **NOISE)


def test_whispers_gradient_is_hugging_faces_own_the_shared_embedding_included(
    folder, entries, clips
):
    family = fresh("whisper", folder)
    batch = family.collate(entries, clips)
    weight = family.hf.proj_out.weight
    assert weight is family.hf.model.decoder.embed_tokens.weight
    counted = torch.arange(batch.labels.shape[1] - 4) < batch.label_lengths.unsqueeze(1)
    prompt = torch.full((len(entries), 3), -100)
    truth = family.hf(
        batch.inputs,
        decoder_input_ids=batch.labels[:, :-1],
        labels=torch.cat([prompt, batch.labels[:, 4:].masked_fill(~counted, -100)], dim=1),
    ).loss
    truth.backward()
    plain = {name: p.grad for name, p in family.named_parameters() if p.grad is not None}
    family.zero_grad()
    for micro_batches in (1, 2):  # gradients add up
        task, _ = family.losses(family(batch), batch, None, configuration.Distill())
        (task * batch.label_lengths).sum().div(counted.sum()).backward()
        for name, parameter in family.named_parameters():
            if name in plain:
                found = parameter.grad / micro_batches
                largest = plain[name].abs().max()
                torch.testing.assert_close(found / largest, plain[name] / largest, **NOISE)


# ---- cached and live teacher ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 5])
def test_the_cached_teacher_equals_the_live_one(
    build, entries, clips, tmp_path, kind, k, monkeypatch
):
    """Written in one batching, read in another."""
    # The units that a top k draws of the rest, from one start everywhere
    monkeypatch.setattr(torch, "rand", lambda shape, generator=None: torch.full(shape, 0.3))
    teacher, student = build(kind, 1), build(kind, 2)
    settings = configuration.Distill(top_k=k)
    begin(tmp_path, {}, k, settings.temperature)
    with Writer(tmp_path) as writer:
        for places in ([4, 2], [1], [0, 3]):
            batch = teacher.collate([entries[i] for i in places], [clips[i] for i in places])
            with torch.inference_mode():
                logits = teacher(batch).logits
                losses = task_loss(teacher, batch).tolist()
            for row, count in enumerate(teacher.positions(batch).tolist()):
                reduced = writer.reduce([batch.ids[row]], [count], logits[row, :count])
                writer.add(reduced, [losses[row]])
    finish(tmp_path, 5)
    store = Store(tmp_path)
    batch = student.collate(entries, clips)
    live = distillation(student, teacher, batch, settings, k)
    with torch.inference_mode():
        cached = student.losses(student(batch), batch, store.soft(batch.ids), settings)[1]
    torch.testing.assert_close(cached, live, rtol=2e-3, atol=2e-3)
    assert live.min() > 0.05
    difficulty = torch.tensor([store.difficulties()[i] for i in batch.ids])
    torch.testing.assert_close(difficulty, task_loss(teacher, batch), **NOISE)


@pytest.mark.parametrize("kind", FAMILIES)
def test_models_of_different_units_are_told_apart(build, kind, tmp_path):
    models.check_same_units(build(kind, 1), build(kind, 2))
    if kind == "whisper":
        units.train_bpe(["another language"] * 3, tmp_path, 280)
    else:
        units.train_characters(["another language"], tmp_path)
    config = tiny.config(kind, student=configuration.Model(config=_settings(kind)))
    other = models.load(config, "student", tmp_path)
    with pytest.raises(UserError, match="different units.*same tokenizer"):
        models.check_same_units(build(kind), other)


def _settings(kind):
    return tiny.whisper_config() if kind == "whisper" else tiny.wav2vec2_config()


# ---- fine-tuned models of the hub ----------------------------------------------------------------

ADDED = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def ctc_of_the_hub(source_folder, folder, outputs, files):
    """A copy whose output layer is so wide, with the tokenizer's files as others write them."""
    from transformers import Wav2Vec2ForCTC

    shutil.copytree(source_folder, folder)
    hf = Wav2Vec2ForCTC.from_pretrained(folder)
    head = torch.nn.Linear(hf.lm_head.in_features, outputs)
    with torch.no_grad():
        head.weight[: len(hf.lm_head.weight)] = hf.lm_head.weight
    hf.lm_head, hf.config.vocab_size = head, outputs
    hf.save_pretrained(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_json(folder / name, content)
    return folder


@pytest.mark.parametrize("layout", ["as the blog", "with dicts", "more outputs than units"])
def test_a_finished_ctc_teacher_has_a_unit_for_every_label_and_a_student_for_every_output(
    saved, build, entries, clips, tmp_path, layout
):
    from transformers import AutoTokenizer

    from adakd.stages.preparation import make_units

    units_there = read_json(saved["wav2vec2"] / "vocab.json")
    count = len(units_there)
    plain = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "unk_token": "<unk>", "pad_token": "<pad>"}
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    dicts = [{"content": token, **ADDED} for token in named.values()] * 2
    outputs, expected, files = {
        # huggingface.co/blog/fine-tune-xlsr-wav2vec2: no <s> in vocab.json, nor an output for it
        "as the blog": (count, count, {"tokenizer_config.json": plain}),
        # what transformers 4.11 to 4.25 wrote of the same
        "with dicts": (
            count + 2,
            count + 2,
            {
                "tokenizer_config.json": plain | named,
                "special_tokens_map.json": named | {"additional_special_tokens": dicts},
                "added_tokens.json": {"<s>": count, "</s>": count + 1},
            },
        ),
        "more outputs than units": (
            count + 4,
            count,
            {"tokenizer_config.json": plain | dict.fromkeys(named)},
        ),
    }[layout]
    folder = ctc_of_the_hub(saved["wav2vec2"], tmp_path / "hub", outputs, files)
    config = tiny.config(
        "wav2vec2",
        teacher=configuration.Model(source=str(folder), finetuned=True),
        student=configuration.Model(config=_settings("wav2vec2")),
        units=configuration.Units(kind="source"),
    )
    teacher = models.load(config, "teacher").eval()
    make_units(config, iter(()), tmp_path / "units")
    student = models.load(config, "student", tmp_path / "units").eval()
    models.check_same_units(teacher, student)
    assert teacher.vocabulary().items() >= units_there.items()
    assert len(teacher.vocabulary()) == expected
    batch, own = teacher.collate(entries, clips), student.collate(entries, clips)
    assert torch.equal(batch.labels, own.labels)
    assert torch.equal(batch.labels, build("wav2vec2").collate(entries, clips).labels)
    assert student(own).logits.shape[-1] == teacher(batch).logits.shape[-1] == outputs
    assert distillation(student, teacher, batch, configuration.Distill()).isfinite().all()
    assert transcripts(teacher, batch) and transcripts(student, batch)
    student.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == student.vocabulary()
    models.check_same_units(tmp_path / "saved", models.open_folder(config, tmp_path / "saved"))


def test_a_whisper_without_names_for_its_times_teaches_one_with_them(build, entries, clips):
    """As transformers of 2022 wrote fine-tuned ones: fewer names, as many outputs."""
    teacher, student = (copy.deepcopy(build("whisper", seed)) for seed in (1, 2))
    for family in (teacher, student):
        family.hf.resize_token_embeddings(len(family.vocabulary()) + 2)
    student.tokenizer.add_tokens(["<|0.00|>", "<|0.02|>"])
    assert len(student.vocabulary()) == len(teacher.vocabulary()) + 2
    models.check_same_units(teacher, student)
    models.check_same_units(student, teacher)
    batch = student.collate(entries, clips)
    assert distillation(student, teacher, batch, configuration.Distill()).isfinite().all()

    student.tokenizer.add_tokens(["word"])
    with pytest.raises(UserError, match="different units, for instance 'word'"):
        models.check_same_units(teacher, student)
    teacher.hf.resize_token_embeddings(len(teacher.vocabulary()) + 3)
    teacher.tokenizer.add_tokens(["<|0.02|>", "<|0.00|>"])  # the other way round
    with pytest.raises(UserError, match=re.escape("for instance '<|0.00|>', '<|0.02|>', 'word':")):
        models.check_same_units(teacher, student)


def test_models_of_unlike_numbers_of_outputs_are_told_apart(build):
    teacher, student = (copy.deepcopy(build("whisper", seed)) for seed in (1, 2))
    teacher.hf.resize_token_embeddings(len(teacher.vocabulary()) + 1)
    count = len(teacher.vocabulary())
    words = rf"Teacher \({count + 1} outputs\) and student \({count} outputs\) have the same units"
    with pytest.raises(UserError, match=words):
        models.check_same_units(teacher, student)


def test_large_and_small_whispers_are_told_apart_by_name(build):
    """large-v3's vocabulary has one language more than those of tiny to large-v2."""
    teacher, student = (copy.deepcopy(build("whisper", seed)) for seed in (1, 2))
    teacher.hf.resize_token_embeddings(51_866)
    student.hf.resize_token_embeddings(51_865)
    both = {unit: i for unit, i in student.vocabulary().items() if unit != "<|yue|>"}
    added = copy.deepcopy(teacher)  # a small one, which somebody gave another language
    for model, more in (
        (student, {}),
        (teacher, {"<|yue|>": 50_358}),
        (added, {"<|kab|>": 51_865}),
    ):
        model.vocabulary = lambda more=more: both | more
    for large, told in (
        (teacher, r"large-v3 and turbo have .*student.source teacher"),
        (added, r"different units: one alone has <\|kab\|>. Add the same .*student.source teacher"),
    ):
        for one, other in ((large, student), (student, large)):
            with pytest.raises(UserError, match=told):
                models.check_same_units(one, other)


def test_a_whisper_for_english_alone_is_told_by_name(build):
    teacher, student = (copy.deepcopy(build("whisper", seed)) for seed in (1, 2))
    student.hf.resize_token_embeddings(51_864)
    for outputs in (51_865, 51_866):
        teacher.hf.resize_token_embeddings(outputs)
        for pair, role in (((teacher, student), "student"), ((student, teacher), "teacher")):
            with pytest.raises(UserError, match=f"The {role} is a Whisper for English alone"):
                models.check_same_units(*pair)


def test_a_tokenizer_of_2022_keeps_its_prompt_out_of_the_text(saved, tmp_path):
    """Without tokenizer.json transformers 5 takes all special tokens but one for text."""
    from transformers import AutoTokenizer

    from adakd import export

    known = AutoTokenizer.from_pretrained(saved["whisper"])
    prompt = [token for token in known.all_special_ids if token != known.eos_token_id]
    said = [*prompt, *known.encode("नमस्ते , दुनिया", add_special_tokens=False), known.eos_token_id]

    shutil.copytree(saved["whisper"], tmp_path / "hub")
    export.write_for_others(tmp_path / "hub")
    settings = read_json(tmp_path / "hub" / "tokenizer_config.json")
    assert len(settings["additional_special_tokens"]) > 3
    assert not {"is_local", "local_files_only"} & settings.keys()
    write_json(
        tmp_path / "hub" / "special_tokens_map.json",
        {"additional_special_tokens": settings.pop("additional_special_tokens")},
    )
    del settings["added_tokens_decoder"]
    (tmp_path / "hub" / "tokenizer.json").unlink()
    write_json(
        tmp_path / "hub" / "tokenizer_config.json",
        settings | {"clean_up_tokenization_spaces": True},
    )
    write_json(tmp_path / "hub" / "normalizer.json", {"colour": "color"})
    of_transformers = AutoTokenizer.from_pretrained(tmp_path / "hub")
    assert "<|" in of_transformers.decode(said, skip_special_tokens=True)  # what this is about

    config = tiny.config("whisper", teacher=configuration.Model(source=str(tmp_path / "hub")))
    family = models.load(config, "teacher")
    assert family.vocabulary() == known.get_vocab()
    decoded = family.tokenizer.batch_decode([said], skip_special_tokens=True)  # as `transcribe`
    assert decoded == ["नमस्ते , दुनिया"]
    family.save(tmp_path / "saved")
    opened = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert opened.decode(said, skip_special_tokens=True) == "नमस्ते , दुनिया"
    assert opened.get_vocab() == known.get_vocab()
    assert (
        read_json(tmp_path / "saved/tokenizer_config.json")["clean_up_tokenization_spaces"] is False
    )
    assert opened.normalize("colour") == "color"


def test_what_training_writes_may_be_said(build, entries, clips):
    """OpenAI's lists suppress the apostrophe and the colon, which some languages write."""
    family = copy.deepcopy(build("whisper"))
    labels = [family._units(entry) for entry in entries]
    used, unused = labels[0][1], next(iter(set(range(256)) - set(itertools.chain(*labels))))
    family.hf.generation_config.suppress_tokens = [used, unused]
    family.permit(entries)
    assert family.hf.generation_config.suppress_tokens == [unused]
    family.permit(entries[:0])
    assert family.hf.generation_config.suppress_tokens == [unused]
    family.hf.generation_config.suppress_tokens = [used]
    family.permit(entries)  # of an empty list transformers before 4.50 dies
    assert family.hf.generation_config.suppress_tokens is None


def test_an_empty_list_of_suppressed_tokens_is_none_in_an_export(build, saved, tmp_path):
    shutil.copytree(saved["whisper"], tmp_path / "hub")
    path = tmp_path / "hub/generation_config.json"
    empty = {"suppress_tokens": [], "begin_suppress_tokens": []}
    write_json(path, read_json(path) | empty)
    models.open_folder(tiny.config("whisper"), tmp_path / "hub").save(tmp_path / "export")
    written = read_json(tmp_path / "export/generation_config.json")
    assert all(written.get(name) is None for name in empty)


def test_texts_begin_without_a_space_where_the_teacher_has_none(folder, build, entries, clips):
    language = configuration.Language(code="hi", leading_space=False)
    bare = models.load(
        replace(
            tiny.config("whisper", student=configuration.Model(config=_settings("whisper"))),
            language=language,
        ),
        "student",
        tiny.bpe_folder(folder),
    )
    for entry in entries:
        plain = bare.tokenizer(entry.text, add_special_tokens=False).input_ids
        spaced = bare.tokenizer(f" {entry.text}", add_special_tokens=False).input_ids
        assert bare._units(entry) == plain != spaced == build("whisper")._units(entry)


# ---- saved models --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_hugging_faces_pipeline_gives_the_same_text(saved, build, entries, clips, kind):
    from transformers import pipeline

    texts = transcripts(build(kind), build(kind).collate(entries, clips))
    recognise = pipeline("automatic-speech-recognition", str(saved[kind]), device=-1)
    for clip, text in zip(clips, texts, strict=True):
        found = recognise({"raw": clip, "sampling_rate": 16000})["text"]
        assert found.strip() == text


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_model_opens_as_it_was(saved, build, entries, clips, kind):
    family = build(kind)
    again = models.open_folder(tiny.config(kind), saved[kind]).eval()
    models.check_same_units(family, again)
    batches = [model.collate(entries, clips) for model in (family, again)]
    torch.testing.assert_close(batches[1].labels, batches[0].labels)
    torch.testing.assert_close(task_loss(again, batches[1]), task_loss(family, batches[0]))
    assert transcripts(again, batches[1]) == transcripts(family, batches[0])
    assert again.parameters_count == family.parameters_count
    if kind == "whisper":  # constants, which transformers' `from_pretrained` lets be trained
        constants = {n for n, value in again.named_parameters() if not value.requires_grad}
        assert constants == {"hf.model.encoder.embed_positions.weight"}
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", FAMILIES)
def test_half_precision_is_for_the_disk_only(build, entries, clips, tmp_path, kind):
    family = build(kind)
    before = {name: value.clone() for name, value in family.state_dict().items()}
    family.save(tmp_path, torch.float16)
    weights = (tmp_path / "model.safetensors").stat().st_size
    assert weights < 2.6 * family.parameters_count
    again = models.open_folder(tiny.config(kind), tmp_path)
    for name, value in again.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before[name].half().float())
        torch.testing.assert_close(family.state_dict()[name], before[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_rounded_weights_say_the_same_under_autocast(build, entries, clips, kind):
    family = copy.deepcopy(build(kind)).eval().requires_grad_(False)
    batch = family.collate(entries, clips)

    def said():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return family(batch).logits

    before = said()
    family.round_weights_()
    assert torch.equal(said(), before)
    kinds = {name: value.dtype for name, value in family.named_parameters()}
    assert any(kind == torch.bfloat16 for kind in kinds.values())
    whole = {name for name, kind in kinds.items() if kind == torch.float32}
    assert all(re.search("norm|embed", name) for name in whole), whole


def test_whispers_generation_settings_survive_the_disk(saved):
    from transformers import WhisperForConditionalGeneration

    opened = WhisperForConditionalGeneration.from_pretrained(saved["whisper"])
    tokenizer = models.open_folder(tiny.config("whisper"), saved["whisper"]).tokenizer
    index = tokenizer.convert_tokens_to_ids
    generation = opened.generation_config
    assert generation.is_multilingual is True
    assert generation.lang_to_id["<|hi|>"] == index("<|hi|>")
    assert len(generation.lang_to_id) == 100
    assert generation.task_to_id["transcribe"] == index("<|transcribe|>")
    assert generation.no_timestamps_token_id == index("<|notimestamps|>")
    assert generation.decoder_start_token_id == index("<|startoftranscript|>")
    assert generation.language == "hi" and generation.task == "transcribe"
    assert generation.max_length == 40 and generation.num_beams == 1


def test_known_characters_keep_their_outputs_under_a_new_tokenizer(saved, build, tmp_path):
    before = build("wav2vec2")
    units.train_characters(["दूसरे शब्द", *tiny.TEXTS[:2]], tmp_path / "other")
    # As many units as the source has, most of them others: nothing may stay by accident.
    letters = "".join(map(chr, range(0x0B85, 0x0B85 + len(before.vocabulary()) - 4))) + "न"
    units.train_characters([letters], tmp_path / "same")
    # As Hugging Face's training script names a blank and an unknown unit.
    shutil.copytree(saved["wav2vec2"], tmp_path / "theirs")
    for path in (tmp_path / "theirs").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("<pad>", "[PAD]").replace("<unk>", "[UNK]"), encoding="utf-8")
    sources = saved["wav2vec2"], tmp_path / "theirs"
    for name, path in itertools.product(("other", "same"), sources):
        config = tiny.config("wav2vec2", student=source(path), teacher=source(path))
        assert not {"<pad>", "<unk>", "|"} & set(models.untrained_units(config, tmp_path / name))
        after = models.load(config, "student", tmp_path / name)
        old, new = before.vocabulary(), after.vocabulary()
        assert (len(old) == len(new)) == (name == "same")
        assert {"<pad>", "<unk>", "|", "न"} <= old.keys() & new.keys() != new.keys()
        heads = before.hf.lm_head, after.hf.lm_head
        assert heads[1].out_features == after.hf.config.vocab_size == len(new)
        for unit, row in new.items():
            if unit in old:
                assert torch.equal(heads[1].weight[row], heads[0].weight[old[unit]])
                assert torch.equal(heads[1].bias[row], heads[0].bias[old[unit]])
            else:
                assert not (heads[1].weight[row] == heads[0].weight).all(dim=1).any()
                assert heads[1].weight[row].abs().max() < 5 * after.hf.config.initializer_range
        body = before.hf.wav2vec2.state_dict()
        for key, value in after.hf.wav2vec2.state_dict().items():
            assert torch.equal(value, body[key])


def test_a_vocabulary_may_leave_numbers_out(saved, build, tmp_path):
    """Whoever deletes letters from vocab.json seldom renumbers the others."""
    before = build("wav2vec2")
    shutil.copytree(saved["wav2vec2"], tmp_path / "gap")
    vocabulary = read_json(tmp_path / "gap" / "vocab.json")
    gone, last = sorted(vocabulary, key=vocabulary.get)[-2:]
    del vocabulary[gone]
    write_json(tmp_path / "gap" / "vocab.json", vocabulary)
    own = source(tmp_path / "gap")
    config = tiny.config("wav2vec2", teacher=own, student=own)
    after = models.load(config, "student", tmp_path / "gap")
    assert after.hf.lm_head.out_features == 1 + vocabulary[last]
    row, known = vocabulary[last], before.vocabulary()[last]
    assert torch.equal(after.hf.lm_head.weight[row], before.hf.lm_head.weight[known])


def test_letters_in_upper_case_stand_for_those_in_lower_case(folder, tmp_path, capsys):
    """wav2vec2-base-960h and other English models of 2020 write capitals alone."""
    block = configuration.Model(config=_settings("wav2vec2"))
    for name, text in {"capitals": "AB'É", "letters": "abc'é"}.items():
        units.train_characters([text], tmp_path / name)
    before = models.load(
        tiny.config("wav2vec2", "en", student=block), "student", tmp_path / "capitals"
    )
    before.save(tmp_path / "hub")
    config = tiny.config("wav2vec2", "en", student=source(tmp_path / "hub"))
    after = models.load(config, "student", tmp_path / "letters")
    old, new = before.vocabulary(), after.vocabulary()
    for unit, row in new.items():
        known = old.get(unit, old.get(unit.upper()))
        assert (known is None) == (unit == "c")
        if known is not None:
            assert torch.equal(after.hf.lm_head.weight[row], before.hf.lm_head.weight[known])
    said = f"{len(new) - 1} of {len(new)} outputs start from its own, the others at random"
    assert capsys.readouterr().out == f"'{tmp_path / 'hub'}': {said}\n"
    assert wav2vec2.Wav2Vec2.untrained_units(str(tmp_path / "hub"), tmp_path / "letters") == ["c"]
    before.hf.wav2vec2.save_pretrained(tmp_path / "hub")  # has a tokenizer, and no outputs
    models.load(config, "student", tmp_path / "letters")
    assert capsys.readouterr().out == ""


def test_an_export_names_the_blank_that_it_has(saved, tmp_path):
    """Some models of the hub have pad_token_id 0 in config.json, and [PAD] elsewhere."""
    shutil.copytree(saved["wav2vec2"], tmp_path / "hub")
    settings = read_json(tmp_path / "hub/config.json")
    blank, odd = settings["pad_token_id"], settings["vocab_size"] - 1
    assert blank != odd
    write_json(tmp_path / "hub/config.json", settings | {"pad_token_id": odd})
    models.open_folder(tiny.config("wav2vec2"), tmp_path / "hub").save(tmp_path / "export")
    assert read_json(tmp_path / "export/config.json")["pad_token_id"] == blank


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_layer_is_computed_twice(saved, entries, clips, tmp_path, kind):
    """The config.json of many a checkpoint of 2021 asks for gradient checkpointing."""
    shutil.copytree(saved[kind], tmp_path / "hub")
    path = tmp_path / "hub/config.json"
    write_json(path, read_json(path) | {"gradient_checkpointing": True})
    family = models.open_folder(tiny.config(kind), tmp_path / "hub")
    family.prepare_training(configuration.Train(mask_time=0.0))
    family.train()
    calls = []
    inside = next(family.stacks()["encoder"][0].layers[0].children())  # not of what is run twice
    inside.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = family.collate(entries, clips)
    family.task_loss(family(batch), batch).sum().backward()
    assert calls == [1]


# ---- decoding ------------------------------------------------------------------------------------


def greedy(family, features, prompt, limit=40):
    """The most probable token, one after the other, without a cache."""
    tokens = list(prompt)
    while len(tokens) < limit:
        with torch.inference_mode():
            logits = family.hf(features, decoder_input_ids=torch.tensor([tokens])).logits
        tokens.append(int(logits[0, -1].argmax()))
        if tokens[-1] == family.end:
            break
    return family.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_whisper_decodes_greedily_from_the_prompt_that_it_was_trained_with(build, entries, clips):
    family = build("whisper")
    batch = family.collate(entries, clips)
    for row, text in enumerate(transcripts(family, batch)):
        assert text == greedy(family, batch.inputs[row : row + 1], family.prompt("hi"))


def test_an_utterance_says_its_language_in_a_multilingual_recipe(folder, entries, clips):
    family = tiny.family("whisper", folder, model=tiny.whisper_config())
    several = models.open_folder(tiny.config("whisper", "multilingual"), _save(family, folder))
    several.eval()
    codes = ["hi", "ta", "zh-CN", "ta", "en_GB"]
    mixed = [replace(e, language=code) for e, code in zip(entries, codes, strict=True)]
    batch = several.collate(mixed, clips)
    index = family.tokenizer.convert_tokens_to_ids
    assert batch.labels[:, 1].tolist() == [index(f"<|{code[:2]}|>") for code in codes]
    texts = transcripts(several, batch)
    for row, code in enumerate(codes):
        assert texts[row] == greedy(several, batch.inputs[row : row + 1], several.prompt(code[:2]))
    assert texts != transcripts(family, family.collate(entries, clips))
    assert several.hf.generation_config.language is None


def _save(family, folder):
    family.save(folder / "several")
    return folder / "several"


def test_an_english_only_whisper_has_a_prompt_of_two(folder, entries, clips, tmp_path):
    family = fresh("whisper", folder)
    generation = family.hf.generation_config
    generation.is_multilingual, generation.language, generation.task = False, None, None
    del generation.lang_to_id, generation.task_to_id
    family.save(tmp_path)
    english = models.open_folder(tiny.config("whisper", "en"), tmp_path).eval()
    index = english.tokenizer.convert_tokens_to_ids
    assert english.prompt("en") == [index("<|startoftranscript|>"), index("<|notimestamps|>")]
    batch = english.collate(entries, clips)
    with torch.inference_mode():
        assert english(batch).logits.shape[1] == batch.label_lengths.max()
    for row, text in enumerate(transcripts(english, batch)):
        assert text == greedy(english, batch.inputs[row : row + 1], english.prompt("en"))
    with pytest.raises(UserError, match="knows English only, and the language is 'hi'"):
        english.prompt("hi")


def test_a_whisper_that_does_not_know_the_language_is_told_before_the_data_are_made(
    saved, build, monkeypatch
):
    from transformers import WhisperTokenizer

    def limit(code):
        models.limit(tiny.config("whisper", code, student=source(saved["whisper"])), "student")

    limit("hi")
    limit("yue")
    known = WhisperTokenizer.get_vocab
    older = lambda self: {unit: i for unit, i in known(self).items() if unit != "<|yue|>"}  # noqa: E731
    monkeypatch.setattr(WhisperTokenizer, "get_vocab", older)
    limit("hi")
    words = re.escape(f"'{saved['whisper']}' has no token <|yue|>: take another checkpoint")
    with pytest.raises(UserError, match=words):
        limit("yue")
    monkeypatch.setattr(whisper, "ENGLISH_ONLY", len(known(build("whisper").tokenizer)))
    with pytest.raises(UserError, match="knows English only, and the language is 'hi'"):
        limit("hi")


def test_an_english_only_export_takes_no_prompt_from_its_configuration(
    folder, entries, clips, tmp_path
):
    from transformers import WhisperForConditionalGeneration

    family = fresh("whisper", folder)
    generation = family.hf.generation_config
    generation.is_multilingual, generation.language, generation.task = False, None, None
    del generation.lang_to_id, generation.task_to_id
    family.hf.config.forced_decoder_ids = [[1, 7]]
    family.save(tmp_path / "source")
    english = models.open_folder(tiny.config("whisper", "en"), tmp_path / "source").eval()
    english.save(tmp_path / "export")
    batch = english.collate(entries, clips)
    opened = WhisperForConditionalGeneration.from_pretrained(tmp_path / "export").eval()
    with torch.inference_mode():
        said = english.tokenizer.batch_decode(opened.generate(batch.inputs), True)
    assert [text.strip() for text in said] == transcripts(english, batch)


def test_a_whisper_older_than_its_generation_settings_gets_them(
    folder, clips, entries, tmp_path, monkeypatch
):
    family = fresh("whisper", folder)
    family.hf.config.suppress_tokens = [5, 300, 50_000]  # and of a larger vocabulary
    family.hf.config.begin_suppress_tokens = [7]
    family.save(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    old = models.open_folder(tiny.config("whisper"), tmp_path).eval()
    batch = old.collate(entries[:2], clips[:2])
    with torch.inference_mode():
        said = old.tokenizer.batch_decode(old.hf.generate(batch.inputs), True)
    assert transcripts(old, batch) == [text.strip() for text in said]
    generation = old.hf.generation_config
    assert generation.suppress_tokens == [5, 300] and generation.begin_suppress_tokens == [7]
    assert len(old.prompt("hi")) == 4
    monkeypatch.setattr("adakd.models.whisper.ENGLISH_ONLY", old.hf.config.vocab_size)
    english = models.open_folder(tiny.config("whisper", "en"), tmp_path)
    assert len(english.prompt("en")) == 2


@pytest.mark.parametrize("kept", [(), ("is_multilingual",), ("is_multilingual", "lang_to_id")])
def test_a_whisper_gets_what_its_generation_settings_lack(folder, tmp_path, kept):
    family = fresh("whisper", folder)
    family.save(tmp_path)
    path = tmp_path / "generation_config.json"
    whole = read_json(path)
    needed = ("is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id")
    needed += ("decoder_start_token_id",)
    assert whole.keys() >= set(needed)
    path.write_text(json.dumps({k: v for k, v in whole.items() if k in kept or k not in needed}))
    opened = models.open_folder(tiny.config("whisper"), tmp_path)
    for name in needed:
        assert getattr(opened.hf.generation_config, name) == whole[name], name


def test_a_whisper_starts_as_it_was_trained_whatever_its_configuration_says(
    folder, entries, clips, tmp_path
):
    """Old conversions have <|endoftext|> there, the default of transformers."""
    family = fresh("whisper", folder).eval()
    start = family.hf.generation_config.decoder_start_token_id
    family.save(tmp_path)
    for name in ("generation_config.json", "config.json"):
        settings = {**read_json(tmp_path / name), "decoder_start_token_id": family.end}
        (tmp_path / name).write_text(json.dumps(settings))
    opened = models.open_folder(tiny.config("whisper"), tmp_path).eval()
    assert opened.hf.generation_config.decoder_start_token_id == start != family.end
    batch = opened.collate(entries[:2], clips[:2])
    with torch.inference_mode():
        said = opened.tokenizer.batch_decode(opened.hf.generate(batch.inputs), True)
    assert transcripts(opened, batch) == [text.strip() for text in said]


@pytest.mark.parametrize("stale", [1, 5])
def test_a_whisper_shortened_with_transformers_4_has_the_layers_of_its_weights(
    folder, entries, clips, tmp_path, stale
):
    """There num_hidden_layers stayed what it was beside encoder_layers."""
    family = fresh("whisper", folder).eval()
    family.save(tmp_path)
    settings = read_json(tmp_path / "config.json")
    assert settings["encoder_layers"] == 2
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": stale}))
    opened = models.open_folder(tiny.config("whisper"), tmp_path).eval()
    batch = family.collate(entries[:2], clips[:2])
    with torch.inference_mode():
        assert torch.equal(opened(batch).logits, family(batch).logits)


def test_a_whisper_with_features_of_another_size_is_refused(folder, tmp_path):
    family = fresh("whisper", folder)
    bins = family.extractor.feature_size
    family.save(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace(f'"feature_size": {bins}', '"feature_size": 128'))
    with pytest.raises(UserError, match=f"has 128 mel bins by its .*, and its model takes {bins}:"):
        models.open_folder(tiny.config("whisper"), tmp_path)


def test_special_tokens_are_no_text(folder, entries, clips):
    """However often a model says one."""
    family = fresh("whisper", folder).eval()
    batch = family.collate(entries[:2], clips[:2])
    (task,) = family.tokenizer.convert_tokens_to_ids(["<|transcribe|>"])
    with torch.no_grad():
        family.hf.proj_out.weight[task] *= 100  # said at once, wherever it fits
        assert transcripts(family, batch) == ["", ""]


@pytest.fixture
def on_cpu(monkeypatch):
    """The numbers of the models above are those of a CPU, also where there is a GPU."""
    from adakd import brain, decode

    for module in (brain, decode):
        monkeypatch.setattr(module, "device", lambda: torch.device("cpu"))


def test_a_full_gpu_is_told_with_the_way_out(saved, folder, entries, on_cpu, monkeypatch):
    from adakd.decode import transcribe

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(whisper.Whisper, "transcribe", full)
    with pytest.raises(UserError, match="^test set: the GPU's memory is full.*batch_seconds makes"):
        transcribe(tiny.config("whisper"), saved["whisper"], entries, folder, "test set")


@pytest.mark.parametrize("kind", FAMILIES)
def test_decode_gives_rows_in_the_manifests_order_whatever_the_batches(
    saved, folder, build, entries, clips, kind, on_cpu, monkeypatch
):
    from adakd import decode

    family, config = build(kind), tiny.config(kind)
    raw = [replace(entry, raw=f"{entry.text}!") for entry in entries]
    batch = family.collate(entries, clips)
    texts, losses = transcripts(family, batch), task_loss(family, batch).tolist()
    for model, batch_seconds, with_loss in [
        (saved[kind], 0.1, True),
        (saved[kind], 3.9, True),
        (family, 3.9, True),  # itself
        (saved[kind], 100.0, False),
    ]:
        monkeypatch.setattr(decode, "fitting", lambda config, held=batch_seconds: held)
        rows = decode.transcribe(config, model, raw, folder, "test", with_loss)
        for row, entry, text, loss in zip(rows, raw, texts, losses, strict=True):
            assert row == {
                "id": entry.id,
                "speaker": "nobody",
                "reference": entry.text,
                "raw": f"{entry.text}!",
                "hypothesis": text,
                "seconds": entry.seconds,
                "difficulty": pytest.approx(loss, rel=1e-5) if with_loss else None,
            }


def test_decoding_takes_twice_a_batch_of_training_and_no_less_than_it_took():
    """As many clips at once as stage 4 on a GPU; the embedded recipes, for CPUs, what they did."""
    from adakd.decode import fitting

    def decoded(recipe, family, **overrides):
        folder = configuration.REPOSITORY / "recipes" / recipe
        return fitting(configuration.load(folder, family, overrides))

    for recipe in ("espeak/hi", "espeak/ta", "espeak/zh", "fsdd/en", "audio_cmn/zh", "kaldi/any"):
        for family in FAMILIES:
            assert decoded(recipe, family, **{"language.code": "hi"}) == 240
    assert decoded("aishell2/zh", "whisper") == 1920
    assert decoded("commonvoice/hi", "whisper") == 960
    assert decoded("commonvoice/hi", "wav2vec2") == 240
    assert decoded("aishell2/zh", "wav2vec2", **{"train.batch_seconds": "200"}) == 400
    # Either model may be who decodes: the smaller batch is what surely fits.
    options = {"teacher.train.batch_seconds": "150"}
    assert decoded("commonvoice/hi", "whisper", **options) == 300


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_export_is_written_once_the_pipeline_agrees(
    saved, folder, entries, tmp_path, kind, on_cpu, monkeypatch
):
    from adakd.decode import transcribe
    from adakd.export import write_export
    from adakd.place import Place

    config = tiny.config(kind, recipe="tiny/hi")
    # A line separator, as transcripts have it at times, ends no line of a hypothesis file.
    rows = transcribe(
        config, saved[kind], [replace(e, raw="one\u2028two") for e in entries], folder, "test"
    )
    test = [replace(e, audio=str(folder / e.audio)) for e in entries]
    place = Place(tmp_path, config)
    manifest.write(place.data / "test.jsonl", test)
    experiment, target = place.experiment("adakd"), place.export
    shutil.copytree(saved[kind], experiment / "model")
    finished.mark_done(experiment / "decode", {}, device="cpu")
    score = {"test": {"cer": 0.25, "interval": [0.2, 0.3], "utterances": 5}}
    (experiment / "score.json").write_text(json.dumps(score))

    def write_hypotheses():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (experiment / "hyp.test.jsonl").write_text("".join(lines), encoding="utf-8")

    write_hypotheses()
    assert write_export(place, "adakd") == (5, [])
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "tiny/hi" in card and "adakd" in card and "25.00% [20.00%, 30.00%]" in card
    assert models.open_folder(config, target).parameters_count
    rows[3]["hypothesis"] += "x"
    write_hypotheses()
    (target / "mine").touch()
    with pytest.raises(UserError) as error:
        write_export(place, "adakd")
    check_sentence(error, "'utterance-3'", "x'", str(target))
    assert (target / "mine").exists()  # the one before
    # Texts of another device do not count: those of this one are made.
    finished.mark_done(experiment / "decode", {}, device="cuda")
    assert write_export(place, "adakd") == (5, [])
    finished.mark_done(experiment / "decode", {}, device="cpu")

    if kind == "whisper":  # a student that writes timestamps, after which generate begins anew
        monkeypatch.setattr("adakd.export._writes_times", lambda *_: True)
        with pytest.raises(UserError, match="'utterance-3'.* since it writes timestamps, .*longer"):
            write_export(place, "adakd")

    # With units in pairs of the same output rounding decides everywhere, and the same text passes.
    model = models.open_folder(config, experiment / "model")
    output = model.hf.lm_head if kind == "wav2vec2" else model.hf.proj_out
    with torch.no_grad():
        for parameter in output.parameters():
            pairs = len(parameter) // 2
            parameter[1 : 2 * pairs : 2] = parameter[0 : 2 * pairs : 2]
    model.save(experiment / "model")
    compared, tipped = write_export(place, "adakd")
    assert compared == 5 and "utterance-3" in tipped


def test_an_export_of_several_languages_is_told_which(
    saved, folder, entries, tmp_path, on_cpu, monkeypatch
):
    """Stage 7 has it in the prompt; what Whisper guesses by itself nobody has trained."""
    from adakd import export
    from adakd.decode import transcribe
    from adakd.place import Place

    place = Place(tmp_path, tiny.config("whisper", language="multilingual", recipe="tiny/all"))
    config, experiment, target = place.config, place.experiment("kd"), place.export
    finished.mark_done(experiment / "decode", {}, device="cpu")
    model = models.open_folder(config, saved["whisper"])
    model.save(experiment / "model")
    spoken = [
        replace(entry, language=code, audio=str(folder / entry.audio))
        for entry, code in zip(entries, ["hi", "ta", "zh-CN", "ta", "zh"], strict=True)
    ]
    rows = transcribe(config, experiment / "model", spoken, folder, "test")
    manifest.write(place.data / "test.jsonl", spoken)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (experiment / "hyp.test.jsonl").write_text("".join(lines), encoding="utf-8")
    score = {"test": {"cer": 0.25, "interval": [0.2, 0.3], "utterances": 5}}
    (experiment / "score.json").write_text(json.dumps(score))
    assert export.write_export(place, "kd") == (5, [])
    card = (target / "README.md").read_text(encoding="utf-8")
    told = 'generate_kwargs={"language": "LANGUAGE", "num_beams": 1})["text"]'
    assert told in card and "for LANGUAGE" in card
    monkeypatch.setattr(export, "_spoken", lambda config, language: {})
    with pytest.raises(UserError, match="report this"):
        export.write_export(place, "kd")


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_code_of_the_card_needs_no_ffmpeg(
    saved, folder, entries, clips, build, tmp_path, kind, monkeypatch, capsys
):
    import soundfile
    import torchaudio
    import transformers

    from adakd import export

    target = tmp_path / "export"
    shutil.copytree(saved[kind], target)
    score = {"test": {"cer": 0.25, "interval": [0.2, 0.3], "utterances": 5}}
    (tmp_path / "score.json").write_text(json.dumps(score))
    export._write_card(tiny.config(kind, recipe="tiny/hi"), tmp_path, target, "kd")
    card = (target / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(target))
    monkeypatch.setenv("PATH", str(tmp_path))  # no ffmpeg there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a card names no device
    monkeypatch.chdir(tmp_path)

    def said(samples, rate):
        soundfile.write("speech.wav", samples, rate, subtype="FLOAT")
        exec(code, {})
        return capsys.readouterr().out.strip()

    family = build(kind)
    for entry, clip in zip(entries[:2], clips, strict=False):
        (text,) = transcripts(family, family.collate([entry], [clip]))
        assert text and said(clip, audio.SAMPLE_RATE) == text
        assert said(np.stack([clip, 0 * clip, 2 * clip], axis=1), audio.SAMPLE_RATE) == text
    recognise = transformers.pipeline("automatic-speech-recognition", str(target))
    heard = torchaudio.functional.resample(torch.from_numpy(clips[0]), 48_000, audio.SAMPLE_RATE)
    assert said(clips[0], 48_000) == recognise(heard)["text"].strip()
    with pytest.raises(ValueError, match="ffmpeg"):
        recognise("speech.wav")


# ---- limits --------------------------------------------------------------------------------------

# Ours, and the seven layers of the published checkpoints.
PUBLISHED = {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
LAYERS = [{}, {**PUBLISHED, "conv_dim": [8] * 7, "num_feat_extract_layers": 7}]


@pytest.mark.parametrize("layers", LAYERS)
def test_the_frames_of_the_limit_are_the_models_own(folder, entries, layers):
    settings = tiny.wav2vec2_config(**layers)
    own = tiny.characters_folder(folder)
    config = tiny.config("wav2vec2", student=configuration.Model(config=settings))
    why = models.limit(config, "student", own)
    family = models.load(config, "student", own).eval()
    for samples in [400, 1039, 1040, 1041, 2000, 3999, 4000, 4001, *range(8000, 8700, 37)]:
        frames = int(family.hf._get_feat_extract_output_lengths(samples))
        assert family.hf(torch.randn(1, samples)).logits.shape[1] == frames if frames else True
        text = ("नम" * (frames + 1))[: frames + 1]
        seconds = samples / audio.SAMPLE_RATE
        if frames:
            assert why(replace(entries[0], text=text[:-1], seconds=seconds)) is None
        reason = why(replace(entries[0], text=text, seconds=seconds))
        assert "target longer than the frames that CTC has" in reason
        assert f"{frames + 1} needed for the transcript, {frames} in {seconds:.2f} s" in reason


@pytest.mark.parametrize("text", ["न", "नन", "नमन", "नननन", "नन मम", "अच्छा"])
def test_a_target_is_rejected_exactly_when_no_alignment_exists(folder, entries, text):
    own = tiny.characters_folder(folder)
    config = tiny.config("wav2vec2", student=configuration.Model(config=tiny.wav2vec2_config()))
    family = models.load(config, "student", own).eval()
    why = models.limit(config, "student", own)
    repeats = sum(a == b for a, b in itertools.pairwise(text))
    for frames in range(1, 12):
        clip = tiny.noise((720 + 320 * (frames - 1)) / 16000, seed=frames)
        entry = replace(entries[0], text=text, seconds=len(clip) / 16000)
        batch = family.collate([entry], [clip])
        assert family.positions(batch).tolist() == [frames]
        fits = frames >= len(text) + repeats
        assert (why(entry) is None) == fits
        assert math.isfinite(task_loss(family, batch).item()) == fits


def test_whispers_limits_are_the_encoders_seconds_and_the_decoders_tokens(folder, entries, build):
    own = tiny.bpe_folder(folder)
    config = tiny.config("whisper", student=configuration.Model(config=tiny.whisper_config()))
    why = models.limit(config, "student", own)
    family = build("whisper")
    assert why(replace(entries[0], seconds=2.0)) is None
    reason = why(replace(entries[0], seconds=2.01))
    assert reason == "audio over the model's length: 2.01 s, the encoder takes 2 s"
    clip = tiny.noise(0.5, 1)
    text = "".join(map(chr, range(0x30, 0x30 + 34)))  # the leading space makes it 35 tokens
    entry = replace(entries[0], text=text, seconds=0.5)
    batch = family.collate([entry], [clip])
    assert batch.labels.shape[1] == family.hf.config.max_target_positions
    assert why(entry) is None and task_loss(family, batch).isfinite().all()
    reason = why(replace(entry, text=text + "x"))
    assert reason.startswith("target over the decoder's length: 41 tokens with prompt and end")
    assert "takes 40" in reason


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_limits_of_a_saved_model_are_those_of_its_configuration(saved, folder, entries, kind):
    own = tiny.bpe_folder(folder) if kind == "whisper" else tiny.characters_folder(folder)
    whys = [
        models.limit(tiny.config(kind, teacher=model), "teacher", units_folder)
        for model, units_folder in [
            (configuration.Model(config=_settings(kind)), own),
            (source(saved[kind]), None),
        ]
    ]
    for seconds in (0.05, 0.2, 1.9, 3.0):
        for text in ("न", "नमस्ते दुनिया" * 4):
            entry = replace(entries[0], text=text, seconds=seconds)
            assert whys[0](entry) == whys[1](entry)


# ---- what cannot be built ------------------------------------------------------------------------


def check_sentence(error, *words):
    """One sentence for a person: what, where, what to do."""
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text and text.endswith(".") and len(text) < 400


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_without_a_model_is_one_sentence(saved, tmp_path, kind):
    other = saved["whisper" if kind == "wav2vec2" else "wav2vec2"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no model")
    cases = [
        (tmp_path / "missing", ["no such folder"]),
        (tmp_path / "empty", ["cannot be loaded"]),
        (tmp_path / "file", ["cannot be loaded"]),
        (other, ["holds a model of type", f"the family is {kind}"]),
    ]
    for path, words in cases:
        config = tiny.config(kind, teacher=source(path))
        for attempt in (
            lambda config=config: models.load(config, "teacher"),
            lambda config=config: models.limit(config, "teacher"),
            lambda config=config, path=path: models.open_folder(config, path),
        ):
            with pytest.raises(UserError) as error:
                attempt()
            check_sentence(error, str(path), *words)


@pytest.mark.parametrize(
    ("file", "content", "lost", "words"),
    [
        (
            "model.safetensors",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "",
            ["model.safetensors is a pointer of git-lfs", "run git lfs pull"],
        ),
        ("adapter_config.json", "{}", "config.json", ["it holds an adapter", "merge_and_unload"]),
        ("checkpoint-20/config.json", "{}", "config.json", ["no config.json", "checkpoint-20"]),
        ("model.bin", "x", "config.json", ["no config.json of Hugging Face's", "CTranslate2"]),
        ("config.json", '{"lang_ids": [50259]}', "", ["no config.json of", "CTranslate2"]),
        ("x", "", "preprocessor_config.json", ["no preprocessor_config.json", "copy that of"]),
        (
            "config.json",
            '{"model_type"',
            "",
            ["config.json is cut or damaged", "download it again"],
        ),
        ("config.json", "", "", ["config.json is cut or damaged", "download it again"]),
        ("generation_config.json", '{"su', "", ["generation_config.json is cut or damaged"]),
        ("tf_model.h5", "x", "model.safetensors", ["no weights that PyTorch reads", "save or"]),
        (
            "checkpoint-20/model.safetensors",
            "x",
            "model.safetensors",
            ["no weights that PyTorch reads", "those of checkpoint-20"],
        ),
    ],
)
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_people_take_for_a_model_is_told(
    saved, folder, tmp_path, kind, file, content, lost, words
):
    shutil.copytree(saved[kind], tmp_path / "mine")
    if lost:
        (tmp_path / "mine" / lost).unlink()
    (tmp_path / "mine" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "mine" / file).write_text(content)
    config = tiny.config(kind, student=source(tmp_path / "mine"))
    with pytest.raises(UserError) as error:
        models.load(config, "student")
    check_sentence(error, str(tmp_path / "mine"), *words)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_quantised_model_is_told(saved, tmp_path, kind):
    shutil.copytree(saved[kind], tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    write_json(path, read_json(path) | {"quantization_config": quantised})
    with pytest.raises(
        UserError, match=r"\(it is quantised\): take the checkpoint that it was made"
    ):
        models.load(tiny.config(kind, student=source(tmp_path / "mine")), "student")


def test_a_whisper_without_its_added_tokens_is_told(saved, tmp_path):
    from transformers import WhisperTokenizer

    from adakd import export
    from adakd.models.whisper import own_tokenizer

    shutil.copytree(saved["whisper"], tmp_path / "mine")
    export.write_for_others(tmp_path / "mine")
    known = WhisperTokenizer.from_pretrained(tmp_path / "mine").get_vocab()
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    for name in names:
        (tmp_path / "mine" / name).unlink(missing_ok=True)
    added = tmp_path / "mine" / "added_tokens.json"
    added.rename(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match="has the text units only: copy tokenizer.json or added_"):
        own_tokenizer(str(tmp_path / "mine"))
    (tmp_path / "elsewhere.json").rename(added)
    assert own_tokenizer(str(tmp_path / "mine")).get_vocab() == known, "with it all is there"


def test_of_a_processor_with_a_language_model_the_tokenizer_alone_is_taken(saved, tmp_path):
    """Saved on with its name, AutoProcessor would look for the language model in an export."""
    from transformers import AutoProcessor

    shutil.copytree(saved["wav2vec2"], tmp_path / "mine")
    path = tmp_path / "mine" / "tokenizer_config.json"
    write_json(path, read_json(path) | {"processor_class": "Wav2Vec2ProcessorWithLM"})
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (other := tmp_path / "mine" / name).exists():
            write_json(other, {k: v for k, v in read_json(other).items() if k != "processor_class"})
    config = tiny.config("wav2vec2", student=source(tmp_path / "mine"), units={"kind": "source"})
    models.load(config, "student").save(tmp_path / "saved")
    found = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert type(found).__name__ == "Wav2Vec2Processor"


@pytest.mark.parametrize("kept", [3, 0.5, 0.999])
@pytest.mark.parametrize("kind", FAMILIES)
def test_weights_that_were_cut_are_told(saved, tmp_path, kind, kept):
    shutil.copytree(saved[kind], tmp_path / "mine")
    path = tmp_path / "mine" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    config = tiny.config(kind, student=source(tmp_path / "mine"))
    with pytest.raises(UserError, match=r"model.safetensors is cut or damaged\): copy or download"):
        models.load(config, "student")
    path.write_bytes(whole)
    models.load(config, "student")


def test_a_model_of_neither_family_is_not_sent_to_the_other(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "hubert"})
    for kind in FAMILIES:
        with pytest.raises(UserError) as error:
            models.limit(tiny.config(kind, student=source(tmp_path)), "student")
        check_sentence(error, "type hubert, which is not supported: take a wav2vec2")


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("vocab.json", "The tokenizer cannot be loaded"),
        ("lm_head", "no weights for 2 of"),
    ],
)
def test_what_was_pretrained_alone_needs_units_of_the_recipe(saved, tmp_path, lost, words):
    """As XLS-R comes: without a tokenizer, or with one and without an output layer."""
    from transformers import Wav2Vec2ForCTC

    shutil.copytree(saved["wav2vec2"], tmp_path / "hub")
    if lost == "lm_head":
        Wav2Vec2ForCTC.from_pretrained(tmp_path / "hub").wav2vec2.save_pretrained(tmp_path / "hub")
    else:
        (tmp_path / "hub" / lost).unlink()
    with pytest.raises(UserError) as error:
        models.load(tiny.config("wav2vec2", student=source(tmp_path / "hub")), "student")
    check_sentence(error, words, "set units.kind to characters")


@pytest.mark.parametrize("path", ["", "/nonexistent", "./no", "no/such/folder"])
def test_what_is_no_hub_id_is_a_folder_that_is_missing(path):
    with pytest.raises(UserError) as error:
        models.limit(tiny.config("wav2vec2", student=source(path)), "student")
    check_sentence(error, f"from '{path}' (no such folder)", "give a hub id")


def test_a_stages_own_model_that_lost_a_file_is_to_be_made_again(saved, tmp_path):
    shutil.copytree(saved["wav2vec2"], tmp_path / "model")
    (tmp_path / "model" / "vocab.json").unlink()
    write_json(tmp_path / "done.json", {})
    with pytest.raises(UserError) as error:
        models.open_folder(tiny.config("wav2vec2"), tmp_path / "model")
    check_sentence(error, "one of its files", f"delete {tmp_path / 'done.json'} and run the stage")
    assert "hub" not in str(error.value)


def test_units_of_the_recipe_are_no_model(folder, tmp_path):
    """They lie in a folder without a config.json, which is not what is wrong with them."""
    shutil.copytree(tiny.bpe_folder(folder), tmp_path / "units")
    path = tmp_path / "units/tokenizer.json"
    path.write_bytes(path.read_bytes()[:100])
    config = tiny.config("whisper", student=configuration.Model(config=_settings("whisper")))
    for attempt in (models.load, models.limit, models.outline):
        with pytest.raises(UserError, match="The units cannot be loaded from") as error:
            attempt(config, "student", tmp_path / "units")
        assert "config.json" not in str(error.value)


def test_a_vocabulary_of_no_numbers_lacks_no_file(saved, tmp_path):
    shutil.copytree(saved["wav2vec2"], tmp_path / "model")
    units = read_json(tmp_path / "model" / "vocab.json")
    write_json(tmp_path / "model" / "vocab.json", {**units, "x": [1]})
    with pytest.raises(UserError) as error:
        models.open_folder(tiny.config("wav2vec2"), tmp_path / "model")
    check_sentence(error, "The tokenizer cannot be loaded")
    assert "missing" not in str(error.value)


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_outline_has_the_layers_and_rates_of_the_model_and_no_weights(
    saved, folder, tmp_path, kind
):
    own = tiny.bpe_folder(folder) if kind == "whisper" else tiny.characters_folder(folder)
    shutil.copytree(saved[kind], tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    for model in (configuration.Model(config=_settings(kind)), source(tmp_path / "model")):
        units = own if model.source is None or kind == "wav2vec2" else None
        config = tiny.config(kind, teacher=model, student=source("teacher"))
        outline = models.outline(config, "teacher", units)
        for name, (stack, _) in outline.stacks().items():
            assert len(stack.layers) == 2 and next(stack.parameters()).is_meta
            short = replace(source("teacher"), layers=configuration.Layers(**{name: 3}))
            with pytest.raises(UserError, match=f"layers.{name} is 3, and .* has 2 layers"):
                models.outline(replace(config, student=short), "student", units)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_damaged_model_is_one_sentence(saved, tmp_path, kind):
    tokenizer = "tokenizer.json" if kind == "whisper" else "vocab.json"
    for name, content in [
        ("model.safetensors", None),
        ("model.safetensors", "torn"),
        ("config.json", "{"),
        ("preprocessor_config.json", None),
        (tokenizer, None),
    ]:
        path = tmp_path / f"{name}-{content}"
        shutil.copytree(saved[kind], path)
        if content is None:
            (path / name).unlink()
        else:
            (path / name).write_text(content)
        with pytest.raises(UserError) as error:
            models.open_folder(tiny.config(kind), path)
        check_sentence(error, str(path))


@pytest.mark.parametrize("kind", FAMILIES)
def test_weights_that_a_source_lacks_are_not_made_up(saved, tmp_path, kind):
    from safetensors.torch import load_file, save_file

    def changed(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        path = tmp_path / name
        shutil.copytree(saved[kind], path)
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        return path

    head = "lm_head.weight" if kind == "wav2vec2" else "model.decoder.layer_norm.weight"
    inner = {
        "wav2vec2": "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense.weight",
        "whisper": "model.encoder.layers.1.fc1.weight",
    }[kind]
    for path, weight in [
        (changed("head", lambda weights: weights.pop(head)), head),
        (changed("inner", lambda weights: weights.pop(inner)), inner),
        (changed("shape", lambda weights: weights.update({inner: weights[inner][:7]})), inner),
    ]:
        with pytest.raises(UserError) as error:
            models.open_folder(tiny.config(kind), path)
        check_sentence(error, str(path), weight)
    if kind == "wav2vec2":  # a new output layer is what new units ask for, and nothing else
        config = tiny.config(kind, student=source(tmp_path / "head"))
        models.load(config, "student", tiny.characters_folder(tmp_path))
        config = tiny.config(kind, student=source(tmp_path / "shape"))
        with pytest.raises(UserError, match="layers.1"):
            models.load(config, "student", tiny.characters_folder(tmp_path))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"adapter_attn_dim": 4}, "has adapters"),
        ("config.json", {"add_adapter": True}, "layers that shorten its output"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "hears audio of 8000 Hz"),
    ],
)
def test_a_wav2vec2_that_would_be_taken_wrongly_is_refused(saved, tmp_path, file, change, words):
    shutil.copytree(saved["wav2vec2"], tmp_path / "model")
    path = tmp_path / "model" / file
    write_json(path, read_json(path) | change)
    with pytest.raises(UserError) as error:
        models.open_folder(tiny.config("wav2vec2"), tmp_path / "model")
    check_sentence(error, str(tmp_path / "model"), words)


@pytest.mark.parametrize("kind", FAMILIES)
def test_random_weights_need_units(kind):
    config = tiny.config(kind, student=configuration.Model(config=_settings(kind)))
    for attempt in (models.load, models.limit):
        with pytest.raises(UserError) as error:
            attempt(config, "student")
        check_sentence(error, "units.kind", "bpe" if kind == "whisper" else "characters")


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("wav2vec2", {"hiden_size": 24}, ["unknown key 'hiden_size'", "mean 'hidden_size'?"]),
        ("whisper", {"d_modle": 8}, ["unknown key 'd_modle'", "did you mean 'd_model'?"]),
        ("wav2vec2", {"model_type": "hubert"}, ["is 'hubert', and the family is wav2vec2"]),
        ("wav2vec2", {"hidden_size": "wide"}, ["'hidden_size' expected int, got str"]),
        ("wav2vec2", {"num_conv_pos_embedding_groups": 5}, ["divisible by groups", "mend"]),
        ("whisper", {"encoder_attention_heads": 3}, ["makes no model", "divisible by num_heads"]),
    ],
)
def test_a_mistake_in_a_config_block_is_one_sentence(folder, kind, change, words):
    own = tiny.bpe_folder(folder) if kind == "whisper" else tiny.characters_folder(folder)
    block = {**_settings(kind), **change}
    config = tiny.config(kind, student=configuration.Model(config=block))
    with pytest.raises(UserError) as error:
        models.load(config, "student", own)
    with pytest.raises(UserError) as outlined:
        models.outline(config, "student", own)
    text = str(error.value)
    assert str(outlined.value) == text, "told without weights, too"
    assert text.startswith("student.config") and "\n" not in text
    assert all(word in text for word in words), text
    if "unknown key" in text:  # also where no model is built: in stage 1
        with pytest.raises(UserError, match="student.config: unknown key"):
            models.limit(config, "student", own)


def test_whisper_keeps_the_tokenizer_of_its_checkpoint(saved, folder):
    config = tiny.config("whisper", student=source(saved["whisper"]))
    for attempt in (models.load, models.outline, models.limit):
        with pytest.raises(UserError) as error:
            attempt(config, "student", tiny.bpe_folder(folder))
        check_sentence(error, "units.kind to source")


def test_an_encoder_of_odd_length_is_an_error(folder):
    settings = tiny.whisper_config(max_source_positions=70)
    config = tiny.config("whisper", student=configuration.Model(config=settings))
    with pytest.raises(UserError) as error:
        models.load(config, "student", tiny.bpe_folder(folder))
    check_sentence(error, "max_source_positions is 70", "multiple of 50")


def test_a_language_that_whisper_lacks_is_told_by_its_limit_already(folder):
    """Stage 1 asks for the limit, hours before a model is built."""
    own = tiny.bpe_folder(folder)
    model = configuration.Model(config=_settings("whisper"))
    with pytest.raises(UserError, match="Whisper has no language 'rw': set language.whisper"):
        models.limit(tiny.config("whisper", "rw", student=model), "student", own)
    for code in ("sw", "zh-CN", "multilingual"):
        models.limit(tiny.config("whisper", code, student=model), "student", own)
    near = configuration.Language(code="rw", whisper="sw")
    models.limit(replace(tiny.config("whisper", student=model), language=near), "student", own)


@pytest.mark.parametrize("code", ["qq", "dhivehi", ""])
def test_a_language_that_whisper_lacks_is_an_error(build, entries, clips, code):
    family = build("whisper")
    with pytest.raises(UserError) as error:
        family.prompt(code)
    check_sentence(error, f"no language '{code}'", "language.whisper")
    assert family.prompt("hi") == family.prompt("Hindi")


# ---- training ------------------------------------------------------------------------------------


def gradients(family, batch):
    family.zero_grad()
    family.task_loss(family(batch), batch).sum().backward()
    return [p.grad for p in family.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_spec_augment_masks_in_training_only_and_only_where_asked(folder, entries, clips, kind):
    settings = tiny.wav2vec2_config("group") if kind == "group" else None
    name = "wav2vec2" if kind == "group" else kind
    family = tiny.family(name, folder, model=settings)
    batch = family.collate(entries[:2], clips[:2])
    clean = task_loss(family, batch)
    for mask, changed in [(0.0, False), (0.5, True), (0.0, False)]:
        family.prepare_training(configuration.Train(mask_time=mask))
        without_dropout(family)
        np.random.seed(1)
        with torch.no_grad():
            assert torch.allclose(family.task_loss(family(batch), batch), clean) != changed
        # The batch stays as it was: a live teacher hears clean audio, as the cached one did.
        torch.testing.assert_close(task_loss(family.eval(), batch), clean)


@pytest.mark.parametrize("encode", ["full", "speech"])
def test_whispers_masks_stay_within_the_speech(folder, entries, clips, monkeypatch, encode):
    family = fresh("whisper", folder, audio=configuration.Audio(encode=encode))
    family.prepare_training(configuration.Train(mask_time=0.3))
    batch = family.collate(entries, clips)
    heard = []
    monkeypatch.setattr(family, "_encode", heard.append)
    family.train()(batch)
    masked = (heard[0] != batch.inputs).any(dim=1)  # (B, frames)
    for row, length in zip(masked, batch.lengths.tolist(), strict=True):
        assert row[:length].any() and not row[length:].any()


def without_dropout(family):
    for module in family.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return family.train()


@pytest.mark.parametrize("asked", [0.3, 0.6])
def test_as_many_frames_are_masked_as_asked(folder, entries, clips, monkeypatch, asked):
    """Spans of 10 frames that may overlap: of n frames, n asked / 10 spans are drawn."""
    family = fresh("whisper", folder)
    family.prepare_training(configuration.Train(mask_time=asked))
    batch = family.collate(entries[3:4], clips[3:4])
    frames, heard = int(batch.lengths.item()), []
    monkeypatch.setattr(family, "_encode", heard.append)
    family.train()
    for _ in range(40):
        family(batch)
    masked = [(each != batch.inputs).any(dim=1).float().sum().item() / frames for each in heard]
    spans = int(asked * frames / 10)
    assert np.mean(masked) == pytest.approx(1 - (1 - 10 / frames) ** spans, abs=0.04)


@pytest.mark.parametrize("kind", FAMILIES)
def test_features_are_masked_where_asked(folder, entries, clips, kind):
    family = without_dropout(fresh(kind, folder))
    batch = family.collate(entries[:2], clips[:2])
    clean = task_loss(family.eval(), batch)
    family.prepare_training(configuration.Train(mask_time=0.0, mask_feature=0.4))
    settings = family.hf.config
    settings.mask_feature_length = 2  # of models this narrow
    assert not torch.allclose(family.train().task_loss(family(batch), batch), clean)


def test_whispers_encoder_drops_what_hugging_faces_drops(folder, entries, clips):
    settings = tiny.whisper_config(dropout=0.2, encoder_layerdrop=0.5)
    family = tiny.family("whisper", folder, model=settings).train()
    batch = family.collate(entries[:2], clips[:2])
    found = []
    for seed in range(6):
        torch.manual_seed(seed)
        found.append(family._encode(batch.inputs))
        torch.manual_seed(seed)
        torch.testing.assert_close(found[-1], family.hf.model.encoder(batch.inputs)[0])
    assert not torch.allclose(found[0], found[1])


def test_a_batch_of_very_short_clips_trains(folder, entries):
    """A span of SpecAugment is longer than the whole input."""
    for norm in ("layer", "group"):
        family = tiny.family("wav2vec2", folder, model=tiny.wav2vec2_config(norm))
        family.prepare_training(configuration.Train(mask_time=0.5))
        family.train()
        short = [replace(entries[4], text="न", seconds=0.1)] * 2
        batch = family.collate(short, [tiny.noise(0.1, 1), tiny.noise(0.12, 2)])
        assert family.positions(batch).max() < family.hf.config.mask_time_length
        assert all(g.isfinite().all() for g in gradients(family, batch))


def test_a_model_trained_without_masks_can_go_on_with_them(folder, entries, clips, tmp_path):
    first = fresh("wav2vec2", folder)
    first.prepare_training(configuration.Train(mask_time=0.0))
    first.save(tmp_path)
    again = models.open_folder(tiny.config("wav2vec2"), tmp_path)
    again.prepare_training(configuration.Train(mask_time=0.5))
    again.train()
    gradients(again, again.collate(entries, clips))
    assert again.hf.wav2vec2.masked_spec_embed.grad.abs().sum() > 0


def test_the_auxiliary_ctc_head_joins_the_loss_in_training_only(folder, entries, clips):
    family = fresh("whisper", folder)
    batch = family.collate(entries, clips)
    clean = task_loss(family, batch)
    deployable = family.parameters_count
    torch.manual_seed(3)
    family.prepare_training(configuration.Train(ctc_weight=0.4, mask_time=0.0))
    assert family.parameters_count == deployable
    torch.testing.assert_close(task_loss(family.eval(), batch), clean)
    batch = family.collate(entries, clips)
    family.train()
    losses = family.task_loss(family(batch), batch)
    with torch.no_grad():
        hidden = family.hf.model.encoder(batch.inputs).last_hidden_state
        for row, (entry, clip) in enumerate(zip(entries, clips, strict=True)):
            frames = math.ceil(len(clip) * 100 // 16000 / 2)
            log = family.ctc_head(hidden[row, :frames]).log_softmax(dim=-1).unsqueeze(1)
            # Unit 0 is the blank; a character's unit comes from its code point.
            target = torch.tensor([[ord(character) % 2039 + 1 for character in entry.text]])
            sizes = torch.tensor([frames]), torch.tensor([len(entry.text)])
            total = functional.ctc_loss(log, target, *sizes, reduction="sum")
            truth = 0.6 * clean[row] + 0.4 * total / len(entry.text)
            torch.testing.assert_close(losses[row], truth, **NOISE)


def test_text_that_the_auxiliary_ctc_cannot_align_does_no_harm(folder, entries, clips):
    family = fresh("whisper", folder)
    hopeless = family.collate([entries[0], entries[1]], [clips[0][:1600], clips[1]])
    torch.manual_seed(3)
    clean = task_loss(family, hopeless)
    family.prepare_training(configuration.Train(ctc_weight=0.4, mask_time=0.0))
    hopeless = family.collate([entries[0], entries[1]], [clips[0][:1600], clips[1]])
    family.train()
    losses = family.task_loss(family(hopeless), hopeless)
    torch.testing.assert_close(losses[0], 0.6 * clean[0], **NOISE)
    assert losses[1] > 0.6 * clean[1]
    assert all(g.isfinite().all() for g in gradients(family, hopeless))


def test_a_frozen_feature_encoder_stays_as_it_is(folder, entries, clips):
    family = fresh("wav2vec2", folder)
    family.prepare_training(configuration.Train(freeze_feature_encoder=True))
    family.train()
    gradients(family, family.collate(entries, clips))
    encoder = list(family.hf.wav2vec2.feature_extractor.parameters())
    assert encoder and all(p.grad is None for p in encoder)
    assert all(p.grad is not None for p in family.hf.lm_head.parameters())
    assert family.hf.config.layerdrop == 0.0


def test_no_gradient_of_the_waveform_is_computed_and_the_others_stay_equal(folder, entries, clips):
    found = []
    for asked in (True, False):
        family = fresh("wav2vec2", folder)
        family.prepare_training(configuration.Train(mask_time=0.0))
        encoder = family.hf.wav2vec2.feature_extractor
        assert not encoder._requires_grad
        encoder._requires_grad = asked
        seen = []
        encoder.conv_layers[0].register_forward_hook(
            lambda _, inputs, __, seen=seen: seen.append(inputs[0].requires_grad)
        )
        family.train()
        found.append(gradients(family, family.collate(entries, clips)))
        assert set(seen) == {asked}
    assert len(found[0]) == len(found[1])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain)


# ---- the mel-spaced first convolution ------------------------------------------------------------


def filters(count=96, kernel=400):
    conv = torch.nn.Conv1d(1, count, kernel)
    mel_filters_(conv)
    return conv


def centres(count):
    """Hz; evenly spaced in mel (2595 log10(1 + f / 700)) from 80 Hz to 7600 Hz."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (80, 7600))
    return [700 * (10 ** (m / 2595) - 1) for m in np.linspace(low, high, count)]


def test_each_filter_peaks_at_its_centre_frequency():
    conv = filters()
    response = np.abs(np.fft.rfft(conv.weight[:, 0].detach().numpy(), 16000))  # a bin a hertz
    for band, centre in enumerate(centres(32)):
        peaks = response[3 * band : 3 * band + 3].argmax(axis=1)
        # The window resolves 16000 / 400 = 40 Hz; the lowest tones hardly fit into it.
        assert np.abs(peaks - centre).max() < (40 if centre < 200 else 2)
        gains = np.linalg.norm(conv.weight[3 * band : 3 * band + 3, 0].detach(), axis=1)
        np.testing.assert_allclose(gains, (centre / 1000) ** 0.5, rtol=1e-4)
    assert not conv.bias.any()


def test_the_three_phases_together_follow_a_tones_envelope_whatever_its_phase():
    conv = filters()
    time = torch.arange(400) / 16000
    for band, centre in list(enumerate(centres(32)))[4:]:
        tones = [torch.cos(2 * math.pi * (centre * time + p / 48)) for p in range(48)]
        with torch.no_grad():
            rectified = conv(torch.stack(tones).unsqueeze(1)).relu()[:, :, 0]  # (phases, filters)
        three = rectified[:, 3 * band : 3 * band + 3]
        together = three.sum(dim=1)
        # Half-wave rectified cosines 120 degrees apart: sqrt(3) / 2 to 1 of the peak.
        assert together.max() / together.min() < 1.05 * 2 / math.sqrt(3)
        assert three.min(dim=0).values.max() < 0.05 * three.max()  # a single one falls silent
        assert rectified.reshape(48, -1, 3).sum(dim=(0, 2)).argmax() in (band, band + 1)


def test_what_follows_the_filters_rectifies(folder):
    """GELU bends within about 1 of zero: normalised outputs are drawn four times as wide."""
    first = fresh("wav2vec2", folder).hf.wav2vec2.feature_extractor.conv_layers[0]
    assert (first.layer_norm.weight == 4).all()


def test_speech_outweighs_positions_in_a_random_whisper(folder):
    encoder = tiny.family("whisper", folder, model=tiny.whisper_config(d_model=64)).hf.model.encoder
    for conv in (encoder.conv1, encoder.conv2):
        fan_in = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx(2 / fan_in**0.5, rel=0.1)
    time, rates = torch.arange(100.0)[:, None], 10_000 ** -(torch.arange(32.0) / 31)
    waves = torch.cat([(time * rates).sin(), (time * rates).cos()], dim=1)  # as OpenAI has them
    torch.testing.assert_close(encoder.embed_positions.weight.detach(), 0.2 * waves)


def test_filters_beyond_a_multiple_of_three_and_narrow_kernels_keep_their_weights(folder):
    conv = torch.nn.Conv1d(1, 11, 400)
    before = conv.weight.clone()
    mel_filters_(conv)
    assert torch.equal(conv.weight[9:], before[9:])
    assert not any(torch.equal(a, b) for a, b in zip(conv.weight[:9], before[:9], strict=True))


def test_random_weights_start_from_the_filterbank(folder):
    family = fresh("wav2vec2", folder)
    conv = family.hf.wav2vec2.feature_extractor.conv_layers[0].conv
    expected = filters(24)
    torch.testing.assert_close(conv.weight, expected.weight)


# ---- students from the layers of another model ---------------------------------------------------


def deep(kind, folder, layers):
    """A tiny model with so many layers in each of its parts."""
    settings = (
        tiny.whisper_config(encoder_layers=layers, decoder_layers=layers)
        if kind == "whisper"
        else tiny.wav2vec2_config(num_hidden_layers=layers)
    )
    return tiny.family(kind, folder, model=settings)


def student_of(kind, path, **counts):
    model = replace(source(path), layers=configuration.Layers(**counts))
    return models.load(tiny.config(kind, student=model), "student").eval()


def parts_of(kind):
    return ("encoder", "decoder") if kind == "whisper" else ("encoder",)


@pytest.mark.parametrize(
    ("there", "count", "kept"),
    # As Distil-Whisper maps them: its large students keep 2 of 32 decoder layers.
    [(32, 2, [0, 31]), (12, 4, [0, 3, 7, 11]), (24, 6, [0, 4, 9, 13, 18, 23]), (5, 1, [4])],
)
def test_layers_are_evenly_spaced(there, count, kept):
    assert models.evenly_spaced(there, count) == kept


@pytest.mark.parametrize("there", range(1, 13))
def test_any_number_of_layers_can_be_kept(there):
    for count in range(1, there + 1):
        kept = models.evenly_spaced(there, count)
        assert len(set(kept)) == count and kept == sorted(kept) and kept[-1] == there - 1
        gaps = [b - a for a, b in itertools.pairwise(kept)]
        assert not gaps or (kept[0] == 0 and max(gaps) - min(gaps) <= 1)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_of_all_layers_is_the_teacher_bit_for_bit(folder, tmp_path, entries, clips, kind):
    teacher = deep(kind, folder, 3)
    teacher.save(tmp_path)
    student = student_of(kind, tmp_path, **dict.fromkeys(parts_of(kind), 3))
    ours, theirs = student.hf.state_dict(), teacher.hf.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    batch = teacher.collate(entries, clips)
    with torch.inference_mode():
        assert torch.equal(student(batch).logits, teacher(batch).logits)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_has_the_named_layers_and_all_the_rest(folder, tmp_path, kind):
    teacher = deep(kind, folder, 5)
    teacher.save(tmp_path)
    counts = {"encoder": 3, "decoder": 2} if kind == "whisper" else {"encoder": 3}
    kept = {"encoder": [0, 2, 4], "decoder": [0, 4]}
    student = student_of(kind, tmp_path, **counts)
    ours, theirs = student.hf.state_dict(), teacher.hf.state_dict()
    compared = set()
    for name in ours:
        of_teacher = name
        for part in counts:
            before, found, rest = name.partition(f"{part}.layers.")
            if found:
                number, _, inner = rest.partition(".")
                of_teacher = f"{before}{part}.layers.{kept[part][int(number)]}.{inner}"
        assert torch.equal(ours[name], theirs[of_teacher]), name
        compared.add(of_teacher)
    dropped = {name.split(".layers.")[1].split(".")[0] for name in theirs.keys() - compared}
    assert dropped == {"1", "3"} | ({"2"} if kind == "whisper" else set())
    settings, full = student.hf.config.to_dict(), teacher.hf.config.to_dict()
    keys = {"encoder_layers", "decoder_layers"} if kind == "whisper" else {"num_hidden_layers"}
    assert {key for key in full if settings[key] != full[key]} - {"_name_or_path"} == keys
    assert student.parameters_count < teacher.parameters_count


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_computes_what_its_layers_do_in_the_teacher(
    folder, tmp_path, entries, clips, kind
):
    class Passed(torch.nn.Module):
        def forward(self, states, *arguments, **options):
            return states

    teacher = deep(kind, folder, 4)
    teacher.save(tmp_path)
    student = student_of(kind, tmp_path, encoder=3, **({"decoder": 1} if kind == "whisper" else {}))
    student.save(tmp_path / "student")
    opened = models.open_folder(tiny.config(kind), tmp_path / "student").eval()
    encoder, _ = teacher.stacks()["encoder"]
    encoder.layers[2] = Passed()
    batch = teacher.collate(entries, clips)
    if kind == "whisper":
        for place in range(3):
            teacher.hf.model.decoder.layers[place] = Passed()
    with torch.inference_mode():
        expected = teacher(batch).logits
        for each in (student, opened):
            assert torch.equal(each(batch).logits, expected)
    assert transcripts(student, batch) == transcripts(opened, batch)
    if kind == "whisper":  # its cache of keys and values goes by the layers' numbers
        said = student.hf.generate(batch.inputs, num_beams=1, do_sample=False)
        theirs = student.tokenizer.batch_decode(said, skip_special_tokens=True)
        assert transcripts(student, batch) == [text.strip() for text in theirs]


def test_word_times_that_name_dropped_layers_are_forgotten(folder, tmp_path):
    teacher = deep("whisper", folder, 2)
    teacher.hf.generation_config.alignment_heads = [[1, 0]]
    teacher.save(tmp_path)
    assert student_of("whisper", tmp_path, encoder=1).hf.generation_config.alignment_heads
    student = student_of("whisper", tmp_path, decoder=1)
    assert not hasattr(student.hf.generation_config, "alignment_heads")


@pytest.mark.parametrize("kind", FAMILIES)
def test_more_layers_than_there_are_is_an_error(saved, kind):
    with pytest.raises(UserError) as error:
        student_of(kind, saved[kind], encoder=3)
    check_sentence(error, "student.layers.encoder is 3", "has 2 layers")


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_of_the_teacher_has_its_limits(kind, folder):
    block = _settings(kind)
    config = tiny.config(kind, teacher=configuration.Model(config=block), student=source("teacher"))
    units = tiny.bpe_folder(folder) if kind == "whisper" else tiny.characters_folder(folder)
    entry = replace(manifest.Entry("a", "a", 1.0, "आम" * 200, "", "", "hi"))
    assert models.limit(config, "student", units)(entry)
    assert models.limit(config, "student", units)(entry) == (
        models.limit(config, "teacher", units)(entry)
    )


def test_a_model_that_may_not_be_read_is_not_to_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's teacher, say; its files are all there. What has lost a file is to be made."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "done.json").write_text("{}")

    class Loader:
        error: Exception = OSError("no file named model.safetensors")

        @classmethod
        def from_pretrained(cls, source: str) -> None:
            raise cls.error

    def told() -> str:
        with pytest.raises(UserError) as told:
            sources.pretrained(Loader, str(folder), "The model")
        return str(told.value)

    assert f"delete {tmp_path / 'done.json'} and run the stage again" in told()
    Loader.error = MemoryError("no room")
    assert "delete" not in told()
    monkeypatch.setattr("os.access", lambda *_: False)
    assert f"({folder / 'config.json'} may not be read): have its owner let you." in told()
