"""Plans of optimiser steps, for one process and for several, and the batches read from them."""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from itertools import chain, product

import numpy as np
import pytest
import tiny
import torch

from adakd.data import audio, manifest
from adakd.data.loader import Steps, StepSampler, bucket, evaluation_loader, training_loader
from adakd.errors import UserError

BATCH_SECONDS = 30.0
_DRAW = random.Random(5)
SECONDS = [_DRAW.choice([0.4, 2, 5, 9]) * _DRAW.uniform(0.5, 1.5) for _ in range(120)]


def sampler(accumulate=1, seed=1, padded=None, rank=0, world=1, epoch=1):
    made = StepSampler(SECONDS, BATCH_SECONDS, accumulate, seed, padded, rank, world)
    made.set_epoch(epoch)
    return made


def counted(steps):
    """The micro-batches of planned steps that count, in order."""
    return [indices for step in steps for indices, counts in step if counts]


def to_grid(seconds):
    return math.ceil(seconds)


SETTINGS = list(product([1, 3, 4], [1, 2, 3], [None, to_grid]))


@pytest.mark.parametrize("accumulate, world, padded", SETTINGS)
def test_every_utterance_comes_once_an_epoch(accumulate, world, padded):
    for epoch in (1, 2):
        shares = [list(sampler(accumulate, 1, padded, r, world, epoch)) for r in range(world)]
        indices = chain.from_iterable(chain.from_iterable(counted(share) for share in shares))
        assert sorted(indices) == list(range(len(SECONDS)))


@pytest.mark.parametrize("accumulate, world, padded", SETTINGS)
def test_the_shares_of_processes_partition_each_step_and_are_equally_long(
    accumulate, world, padded
):
    shares = [list(sampler(accumulate, 1, padded, rank, world)) for rank in range(world)]
    plan = sampler(accumulate, 1, padded, 0, world).plan(1)
    assert {len(share) for share in shares} == {len(plan)}
    for planned, *parts in zip(plan, *shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert sorted(counted(parts)) == sorted(planned)
        for indices, counts in chain.from_iterable(parts):
            assert counts or indices in planned  # what counts nothing is still real audio


def test_the_last_partial_group_is_kept_and_all_others_are_full():
    batches = len(sampler().plan(1))
    for accumulate in range(2, 8):
        sizes = [len(step) for step in sampler(accumulate)]
        assert sum(sizes) == batches
        assert set(sizes[:-1]) == {accumulate} and 1 <= sizes[-1] <= accumulate
    assert any(batches % accumulate for accumulate in range(2, 8))


@pytest.mark.parametrize("epoch", range(1, 9))
def test_no_batch_is_longer_than_asked_with_its_padding(epoch):
    for indices in counted(sampler(epoch=epoch)):
        padded = max(SECONDS[i] for i in indices) * len(indices)
        assert padded <= BATCH_SECONDS or len(indices) == 1


def test_no_batch_is_longer_than_asked_where_the_length_is_padded():
    sizes = [len(indices) for indices in counted(sampler(padded=lambda seconds: 10.0))]
    assert set(sizes[:-1]) <= {1, 2, 3} and sizes.count(3) >= len(SECONDS) // 3
    assert (
        max(len(b) for b in bucket([1.0] * 5, 20.0, lambda seconds: 30.0)) == 1
    )  # each is over by itself


def test_a_batch_holds_clips_of_one_padded_length():
    for indices in counted(sampler(padded=to_grid)):
        assert len({to_grid(SECONDS[i]) for i in indices}) == 1
        total = sum(to_grid(SECONDS[i]) for i in indices)
        assert total <= BATCH_SECONDS or len(indices) == 1


def test_batches_hold_clips_of_like_length():
    total = sum(SECONDS)
    padded = sum(max(SECONDS[i] for i in b) * len(b) for b in counted(sampler()))
    assert padded < 1.3 * total
    by_chance = np.array(SECONDS)[: 120 // 8 * 8].reshape(-1, 8)
    assert by_chance.max(axis=1).sum() * 8 > 1.5 * by_chance.sum()


@pytest.mark.parametrize("padded", [None, to_grid])
@pytest.mark.parametrize("epoch", [1, 2])
def test_the_plan_is_that_of_the_plain_loop(epoch, padded):
    """The plan as it was first written, without NumPy: recorded runs can be repeated."""
    draw = random.Random(f"1-{epoch}")
    keys = [s * (1 + draw.uniform(-0.15, 0.15)) for s in SECONDS]
    batches, batch = [], []
    group = padded or (lambda seconds: 0)
    length = padded or (lambda seconds: seconds)
    for index in sorted(range(len(SECONDS)), key=lambda i: (group(SECONDS[i]), keys[i])):
        longest = max(length(SECONDS[i]) for i in [*batch, index])
        other = batch and group(SECONDS[index]) != group(SECONDS[batch[-1]])
        if batch and (other or longest * (len(batch) + 1) > BATCH_SECONDS):
            batches.append(batch)
            batch = []
        batch.append(index)
    batches.append(batch)
    draw.shuffle(batches)
    plan = sampler(accumulate=2, padded=padded).plan(epoch)
    assert plan == [batches[i : i + 2] for i in range(0, len(batches), 2)]


def test_a_clip_longer_than_a_batch_gets_one_of_its_own():
    assert bucket([3.0, 50.0, 4.0, 60.0], 10.0, None) == [[0, 2], [1], [3]]
    assert bucket([], 10.0, None) == []


def test_the_same_seed_and_epoch_give_the_same_plan_and_others_another():
    plans = [sampler(seed=seed, epoch=epoch) for seed, epoch in [(1, 1), (1, 2), (2, 1)]]
    first, *others = [list(plan) for plan in plans]
    assert list(sampler()) == first
    for other in others:
        assert other != first
        # Not merely in another order: batches themselves vary.
        assert {tuple(sorted(b)) for b in counted(other)} != {
            tuple(sorted(b)) for b in counted(first)
        }


@pytest.mark.parametrize("world", [1, 2])
def test_a_resumed_epoch_goes_on_where_it_was_cut_and_the_next_is_whole(world):
    for rank in range(world):
        whole = list(sampler(2, rank=rank, world=world))
        for cut in (1, len(whole) - 1, len(whole)):
            resumed = sampler(2, rank=rank, world=world)
            resumed.skip = cut
            assert len(resumed) == len(whole) - cut
            assert list(resumed) == whole[cut:]
            resumed.set_epoch(2)
            assert list(resumed) == list(sampler(2, rank=rank, world=world, epoch=2))


# ---- batches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loader")


@pytest.fixture(scope="module")
def entries(folder):
    return tiny.entries(folder)


@pytest.fixture(scope="module")
def family(folder):
    return tiny.family("wav2vec2", folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_step_is_its_list_of_batches(folder, entries, family, workers):
    plan = StepSampler([entry.seconds for entry in entries], 2.5, accumulate=2)
    steps = Steps(entries, folder, family, lambda batch: replace(batch, difficulty="added"))
    loader = training_loader(steps, plan, workers)
    if workers:  # what makes a batch cannot be pickled, as other ways to start need
        assert loader.multiprocessing_context.get_start_method() == "fork"
    loaded = list(loader)
    assert [[batch.ids for batch in step] for step in loaded] == [
        [[entries[i].id for i in indices] for indices, _ in step] for step in plan
    ]
    for batch in chain.from_iterable(loaded):
        assert batch.counted and batch.difficulty == "added"
        lengths = [round(e.seconds * 16000) for i in batch.ids for e in entries if e.id == i]
        assert batch.lengths.tolist() == lengths
        assert batch.inputs.shape == (len(lengths), max(lengths))
        assert batch.seconds == pytest.approx(sum(lengths) / 16000)
        assert batch.inputs.dtype == torch.float32


def test_the_same_workers_read_every_epoch_and_where_it_was_cut(folder, entries, family):
    def read(workers: int) -> tuple[list[list[list[str]]], list[set[int]]]:
        plan = StepSampler([entry.seconds for entry in entries], 1.0)
        steps = Steps(entries, folder, family, lambda batch: replace(batch, difficulty=os.getpid()))
        loader = training_loader(steps, plan, workers)
        ids, processes = [], []
        for epoch, skip in ((1, 2), (2, 0), (3, 1)):
            plan.set_epoch(epoch)
            plan.skip = skip
            loaded = [batch for step in loader for batch in step]
            ids.append([batch.ids for batch in loaded])
            processes.append({batch.difficulty for batch in loaded})
        return ids, processes

    (plain, own), (ahead, others) = read(0), read(2)
    assert ahead == plain and len({str(epoch) for epoch in plain}) == 3
    assert own == [{os.getpid()}] * 3 and os.getpid() not in set().union(*others)
    assert len(set().union(*others)) == 2


def test_a_repeated_batch_counts_nothing(folder, entries, family):
    plan = StepSampler([entry.seconds for entry in entries], 100.0, rank=1, world=2)
    ((batch,),) = training_loader(Steps(entries, folder, family), plan)
    assert not batch.counted and len(batch.ids) == len(entries)


def test_evaluation_reads_every_utterance_once_within_the_batch_size(folder, entries, family):
    loader = evaluation_loader(Steps(entries, folder, family), 2.5)
    batches = [batch for (batch,) in loader]
    assert len(loader) == len(batches)
    assert sorted(i for batch in batches for i in batch.ids) == [entry.id for entry in entries]
    assert all(batch.inputs.numel() <= 2.5 * audio.SAMPLE_RATE for batch in batches)
    assert len(batches) < len(entries)
    lengths = [batch.inputs.shape[1] for batch in batches]
    assert lengths == sorted(lengths, reverse=True)  # what does not fit is met first


def test_a_manifest_is_read_as_the_list_of_its_entries(folder, entries, family):
    manifest.write(folder / "train.jsonl", entries)
    opened = manifest.read(folder / "train.jsonl")
    plain = evaluation_loader(Steps(entries, folder, family), 2.5)
    for (batch,), (expected,) in zip(
        evaluation_loader(Steps(opened, folder, family), 2.5), plain, strict=True
    ):
        assert batch.ids == expected.ids and torch.equal(batch.inputs, expected.inputs)


def test_audio_that_went_missing_is_named(folder, entries, family):
    gone = [replace(entries[0], audio="gone.flac")]
    with pytest.raises(
        UserError,
        match=r"gone\.flac: missing audio file; it was there .*: put it back",
    ):
        Steps(gone, folder, family).batch([0])
    converted = [replace(entries[0], audio="data/a/audio/gone.flac")]
    with pytest.raises(UserError, match=r"gone\.flac: missing .* delete the data's done\.json and"):
        Steps(converted, folder, family).batch([0])


def test_audio_of_another_length_than_stage_1_saw_is_refused(folder, entries, family):
    replaced = [entries[0], replace(entries[1], audio=entries[2].audio)]
    told = r"2\.flac: 0\.500 s, but utterance 'utterance-1' had 0\.900 s .*done\.json and run --st"
    with pytest.raises(UserError, match=told):
        Steps(replaced, folder, family).batch([0, 1])
    # A sample more is another length; what stage 1 writes is exact.
    longer = replace(entries[0], seconds=entries[0].seconds + 1 / audio.SAMPLE_RATE)
    with pytest.raises(UserError, match="utterance-0"):
        Steps([longer], folder, family).batch([0])


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_went_missing_is_one_sentence_from_a_worker_too(
    folder, entries, family, workers
):
    steps = Steps([*entries[:2], replace(entries[2], audio="gone.flac")], folder, family)
    plan = [[([number], True)] for number in range(3)]
    loader = training_loader(steps, plan, workers)
    read = []
    with pytest.raises(audio.AudioError) as raised:
        read.extend(step[0].ids[0] for step in loader)
    assert str(raised.value).startswith(f"{folder / 'gone.flac'}: missing audio file; it was there")
    assert read == [entry.id for entry in entries[:2]]


def test_a_live_teacher_whose_features_differ_gets_its_own(tmp_path):
    made = tiny.entries(tmp_path)
    student = tiny.family("whisper", tmp_path)
    wider = tiny.family("whisper", tmp_path, model=tiny.whisper_config(num_mel_bins=30))
    batch = Steps(made, tmp_path, student, teacher=wider).batch([0, 1])
    clips = [audio.read(tmp_path / entry.audio) for entry in made[:2]]
    assert batch.inputs.shape[1] == 20
    assert torch.equal(batch.teacher.inputs, wider.collate(made[:2], clips).inputs)
    assert Steps(made, tmp_path, student, teacher=student).batch([0, 1]).teacher is None
