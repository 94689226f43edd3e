"""What goes into the teacher store comes out, whatever the shards, processes and order."""

from __future__ import annotations

import math
import os
import random
import re
import zlib

import numpy as np
import pytest
import tiny
import torch

from adakd import teacher_store
from adakd.data import audio
from adakd.data.loader import Steps, evaluation_loader
from adakd.errors import UserError
from adakd.objectives import Dense, TopK, top_k
from adakd.teacher_store import Store, Writer, begin, fill, finish, is_whole, written

UNITS = 11
PARTS = {"teacher": "abc", "manifest": "def", "temperature": None, "top_k": 0}


def teacher_logits(count: int = 12) -> dict[str, torch.Tensor]:
    """Logits (T, V) of utterances of 1 to 9 positions."""
    draw = torch.Generator().manual_seed(7)
    return {
        f"speaker/उच्चार {n}": 5 * torch.randn(1 + n * 5 % 9, UNITS, generator=draw)
        for n in range(count)
    }


def add_one(writer, utterance, x, logits):
    writer.add(writer.reduce([utterance], [len(logits)], logits), [x])


def add(folder, outputs, rank=0):
    """One process's pass, its store not finished."""
    with Writer(folder, rank) as writer:
        for number, (utterance, logits) in enumerate(outputs.items()):
            add_one(writer, utterance, number / 7, logits)


def write(folder, outputs, k=0):
    begin(folder, PARTS, k, 2.0)
    add(folder, outputs)
    finish(folder, len(outputs))


def check(store, outputs, k=0):
    """Every batch of the store holds the logits that went in, as fp16, then zeros."""
    names = list(outputs)
    random.Random(3).shuffle(names)
    for ids in (names, names[:1], names[2:5]):
        soft = store.soft(ids)
        longest = max(len(outputs[i]) for i in ids)
        if k == 0:
            assert isinstance(soft, Dense) and soft.logits.dtype == torch.float16
            assert soft.logits.shape == (len(ids), longest, UNITS)
        else:
            assert isinstance(soft, TopK) and soft.temperature == store.temperature
            assert soft.values.shape == soft.indices.shape == (len(ids), longest, k)
        for row, utterance in enumerate(ids):
            size = len(outputs[utterance])
            if k == 0:
                torch.testing.assert_close(soft.logits[row, :size], outputs[utterance].half())
                assert not soft.logits[row, size:].any()
            else:
                draw = torch.Generator().manual_seed(zlib.crc32(utterance.encode()))
                starts = torch.rand(size, generator=draw)
                truth = top_k(outputs[utterance], k, store.temperature, starts)
                torch.testing.assert_close(soft.values[row, :size], truth.values.half())
                for name in ("indices", "tail", "drawn", "level"):
                    kept = getattr(soft, name)[row]
                    torch.testing.assert_close(kept[:size], getattr(truth, name))
                    assert not kept[size:].any()


@pytest.mark.parametrize("k", [0, 1, 4, UNITS])
@pytest.mark.parametrize("shard_bytes", [1 << 20, 100])
def test_round_trip(tmp_path, monkeypatch, k, shard_bytes):
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", shard_bytes)
    outputs = teacher_logits()
    write(tmp_path, outputs, k)
    store = Store(tmp_path, PARTS)
    shards = len(list(tmp_path.glob("logits.*" if k == 0 else "values.*")))
    assert (shards == 1) == (shard_bytes > 100)
    assert store.top_k == k and store.temperature == 2.0
    # To the bit: x decides alpha.
    assert store.difficulties() == {u: n / 7 for n, u in enumerate(outputs)}
    check(store, outputs, k)


@pytest.mark.parametrize("units", [256, 257, 65_536, 65_537])
def test_the_last_unit_of_any_vocabulary_comes_back(tmp_path, units):
    """Indices are stored in as many bytes as the vocabulary needs."""
    logits = torch.zeros(2, units)
    logits[0, -1], logits[1, 0] = 9.0, 9.0
    write(tmp_path, {"one": logits}, 2)
    soft = Store(tmp_path).soft(["one"])
    assert soft.best().tolist() == [[units - 1, 0]]
    assert 0 <= soft.drawn.min() and soft.drawn.max() < units


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_processes_write_side_by_side_in_any_order(tmp_path, monkeypatch, order):
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", 200)
    outputs = teacher_logits()
    names = list(outputs)
    begin(tmp_path, PARTS, 0, 2.0)
    for rank in order:
        add(tmp_path, {i: outputs[i] for i in names[rank::2]}, rank)
    finish(tmp_path, len(names))
    store = Store(tmp_path)
    assert sorted(store.difficulties()) == sorted(names)
    check(store, outputs)


def test_reading_maps_the_shards_and_leaves_them_on_disk(tmp_path):
    outputs = teacher_logits()
    write(tmp_path, outputs)
    store = Store(tmp_path)
    store.soft(list(outputs))
    arrays = [array for arrays in store._maps.values() for array in arrays]
    assert arrays and all(isinstance(array, np.memmap) for array in arrays)


def test_no_more_shards_are_open_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", 1)
    monkeypatch.setattr(teacher_store, "OPEN_SHARDS", 3)
    outputs = teacher_logits()
    write(tmp_path, outputs)
    store = Store(tmp_path)
    check(store, outputs)
    assert len(list(tmp_path.glob("logits.*"))) == len(outputs)
    assert 1 <= len(store._maps) <= 3
    first, second, third, fourth = list(outputs)[:4]
    store = Store(tmp_path)
    for name in (first, second, third, first, fourth):
        store.soft([name])
    opened = [store._lines[name][1] for name in (third, first, fourth)]
    assert list(store._maps) == opened, "the one that was used longest ago has gone"


def test_utterances_of_a_shard_share_the_name_of_it(tmp_path, monkeypatch):
    """Of a million, names of their own would take as much memory as their ids."""
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", 300)
    begin(tmp_path, PARTS, 0, 2.0)
    outputs = teacher_logits()
    for rank in (0, 1):
        add(tmp_path, dict(list(outputs.items())[rank::2]), rank)
    finish(tmp_path, len(outputs))
    places = [place for _, place, _, _ in Store(tmp_path)._lines.values()]
    assert len({id(place) for place in places}) == len(set(places)) < len(places)


@pytest.mark.parametrize("k", [0, 4])
def test_what_is_reduced_together_is_stored_as_each_by_itself(tmp_path, k):
    outputs = teacher_logits() | {"silent": torch.zeros(0, UNITS)}
    stored = []
    for size in (1, 5, len(outputs)):
        folder = tmp_path / str(size)
        begin(folder, PARTS, k, 2.0)
        names = list(outputs)
        with Writer(folder) as writer:
            for first in range(0, len(names), size):
                some = names[first : first + size]
                rows = [len(outputs[name]) for name in some]
                logits = torch.cat([outputs[name] for name in some])
                writer.add(writer.reduce(some, rows, logits), [0.1 * len(name) for name in some])
        finish(folder, len(names))
        stored.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert stored[0] == stored[1] == stored[2]


def test_of_what_is_reduced_together_the_bad_one_is_named(tmp_path):
    begin(tmp_path, PARTS, 0, 1.0)
    writer, logits = Writer(tmp_path), torch.zeros(6, UNITS)
    with pytest.raises(UserError, match="'two'.* is inf"):
        writer.add(writer.reduce(["one", "two"], [2, 4], logits), [1.0, math.inf])
    logits[2] = 1e6
    with pytest.raises(UserError, match="'two'.*fp16"):
        writer.add(writer.reduce(["one", "two"], [2, 4], logits), [1.0, 1.0])


def test_utterances_to_reduce_together():
    parts = teacher_store._parts([3, 4, 9, 0, 2, 2], 7)
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 3), (3, 6)]
    assert len(list(teacher_store._parts([3, 4, 9], 1))) == 3


@pytest.mark.parametrize("x", [math.inf, math.nan])
def test_a_loss_that_is_no_number_names_its_utterance(tmp_path, x):
    begin(tmp_path, PARTS, 0, 1.0)
    with pytest.raises(UserError, match=f"'hi-17'.* is {x}"):
        add_one(Writer(tmp_path), "hi-17", x, torch.zeros(2, UNITS))


def test_an_unfinished_store_is_an_error_that_names_the_stage(tmp_path):
    begin(tmp_path, PARTS, 0, 2.0)
    add(tmp_path, teacher_logits())
    with pytest.raises(UserError, match="no finished teacher store: run stage 4"):
        Store(tmp_path)
    finish(tmp_path, len(teacher_logits()))
    Store(tmp_path)
    begin(tmp_path, PARTS, 0, 2.0)  # a pass that has begun again
    with pytest.raises(UserError, match="no finished teacher store: run stage 4"):
        Store(tmp_path)


def test_a_changed_fingerprint_names_what_changed_and_the_stage(tmp_path):
    write(tmp_path, teacher_logits())
    Store(tmp_path, dict(reversed(PARTS.items())))
    for expected, words in [
        (PARTS | {"teacher": "xyz"}, "another teacher:"),
        (PARTS | {"manifest": "", "temperature": 2.0}, "another manifest and another temperature:"),
        (PARTS | {"normaliser": 2}, "another normaliser:"),
        ({k: v for k, v in PARTS.items() if k != "top_k"}, "another top_k:"),
    ]:
        with pytest.raises(UserError) as error:
            Store(tmp_path, expected)
        assert words in str(error.value) and "stage 4" in str(error.value)


def test_an_unknown_utterance_is_named(tmp_path):
    write(tmp_path, teacher_logits())
    store = Store(tmp_path)
    with pytest.raises(UserError, match="'nobody' is not in .*stage 4"):
        store.soft(["nobody"])


@pytest.mark.parametrize("k", [0, 4])
def test_a_finished_store_that_lost_something_is_not_whole(tmp_path, monkeypatch, k):
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", 300)
    write(tmp_path, teacher_logits(), k)
    assert is_whole(tmp_path, 12) and not is_whole(tmp_path, 13)
    for path in [*tmp_path.glob("*.npy"), *tmp_path.glob("index.*")]:
        content = path.read_bytes()
        path.unlink()
        assert not is_whole(tmp_path, 12), path.name
        path.write_bytes(content)
    indices = sorted(tmp_path.glob("index.*"))
    indices[0].write_text(indices[0].read_text().split("\n", 1)[1])
    assert not is_whole(tmp_path, 12)


@pytest.mark.parametrize("size", [None, 0, 50, 200])
def test_a_shard_that_was_cut_short_is_named(tmp_path, size):
    write(tmp_path, teacher_logits())
    path = tmp_path / "logits.0.0.npy"
    path.unlink() if size is None else os.truncate(path, size)
    told = f"{path} is damaged: delete {tmp_path / 'meta.json'} and run --stage 4, which makes it "
    with pytest.raises(UserError, match=re.escape(told)):
        Store(tmp_path).soft(["speaker/उच्चार 1"])


@pytest.mark.parametrize("k", [0, 4])
def test_a_store_that_is_made_anew_while_it_is_read_is_told(tmp_path, monkeypatch, k):
    """Shards are opened one by one: the rest would be of another store, or not be there."""
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", 300)
    outputs = teacher_logits()
    write(tmp_path, outputs)
    first, *_, last = outputs
    read = Store(tmp_path)
    read.soft([first])
    write(tmp_path, outputs, k)
    with pytest.raises(UserError, match="is made anew by another run while this one reads it"):
        read.soft([last])
    Store(tmp_path).soft([last])
    read = Store(tmp_path)
    (tmp_path / "meta.json").unlink()  # as `begin` does first of all
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    with pytest.raises(UserError, match="is made anew by another run"):
        read.soft([last])


@pytest.mark.parametrize("name", ["meta.json", "index.0.0.jsonl"])
def test_what_a_store_says_of_itself_may_be_damaged(tmp_path, name):
    write(tmp_path, teacher_logits())
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} is damaged: delete"):
        Store(tmp_path, PARTS)


@pytest.mark.parametrize("k", [0, 4])
def test_a_pass_that_was_cut_goes_on_where_it_was(tmp_path, monkeypatch, k):
    monkeypatch.setattr(teacher_store, "SHARD_BYTES", 300)
    outputs = teacher_logits(20)
    begin(tmp_path, PARTS, k, 2.0)
    cut = Writer(tmp_path)
    for number, (utterance, logits) in enumerate(list(outputs.items())[:14]):
        add_one(cut, utterance, number / 7, logits)  # and never closed
    there = written(tmp_path)
    assert 0 < len(there) < 14
    before = {path: path.read_bytes() for path in tmp_path.glob("*.npy")}

    begin(tmp_path, PARTS, k, 2.0)
    assert written(tmp_path) == there
    rest = {each: logits for each, logits in outputs.items() if each not in there}
    for rank in (0, 1):  # as many processes as one likes
        add(tmp_path, dict(list(rest.items())[rank::2]), rank)
    finish(tmp_path, 20)
    assert all(path.read_bytes() == content for path, content in before.items())
    store = Store(tmp_path, PARTS)
    assert store.difficulties().keys() == outputs.keys()
    check(store, outputs, k)


def test_what_is_missing_or_twice_in_a_store_is_told(tmp_path):
    outputs = teacher_logits()
    with pytest.raises(UserError, match="is not ready for a teacher pass: `begin` it first"):
        Writer(tmp_path / "none")
    begin(tmp_path, PARTS, 0, 2.0)
    with pytest.raises(ValueError, match="the teacher fails"), Writer(tmp_path) as writer:
        add_one(writer, "lost", 0.1, torch.zeros(2, UNITS))
        raise ValueError("the teacher fails")
    assert written(tmp_path) == set()
    add(tmp_path, outputs)
    with pytest.raises(UserError, match=f"holds {len(outputs)} of {len(outputs) + 1} utterances"):
        finish(tmp_path, len(outputs) + 1)
    name = list(outputs)[3]
    add(tmp_path, {name: outputs[name]})
    with pytest.raises(UserError, match="utterances, and there are .*: delete it"):
        finish(tmp_path, len(outputs))
    finish(tmp_path, len(outputs) + 1)
    with pytest.raises(UserError, match=f"holds utterance '{name}', which another line has"):
        Store(tmp_path)


def test_half_a_shard_of_a_pass_that_was_killed_is_swept_away(tmp_path):
    begin(tmp_path, PARTS, 0, 2.0)
    add(tmp_path, teacher_logits())
    before = {path.name for path in tmp_path.iterdir()}
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half a shard")
    begin(tmp_path, PARTS, 0, 2.0)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_what_a_pass_for_another_store_has_left_is_removed(tmp_path):
    outputs = teacher_logits()
    for before, now in [
        ((PARTS | {"teacher": "xyz"}, 0, 2.0), (PARTS, 0, 2.0)),
        ((PARTS, 2, 2.0), (PARTS, 0, 2.0)),
        ((PARTS, 2, 1.0), (PARTS, 2, 2.0)),
    ]:
        begin(tmp_path, *before)
        add(tmp_path, outputs)
        begin(tmp_path, *now)
        assert written(tmp_path) == set() and not list(tmp_path.glob("*.npy"))
    begin(tmp_path, PARTS, 0, 1.0)
    add(tmp_path, outputs)
    begin(tmp_path, PARTS, 0, 2.0)
    assert written(tmp_path) == outputs.keys(), "all logits serve any temperature"


def test_a_store_on_another_disk_is_emptied_as_well(tmp_path):
    outputs, disk = teacher_logits(), tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "store").symlink_to(disk)
    begin(tmp_path / "store", {"data": "a"}, 3, 1.0)
    add(tmp_path / "store", outputs)
    finish(tmp_path / "store", len(outputs))
    begin(tmp_path / "store", {"data": "a"}, 3, 2.0)
    assert not written(tmp_path / "store") and (tmp_path / "store").is_symlink()
    assert [path.name for path in disk.iterdir()] == ["unfinished.json"]


def test_what_was_computed_goes_to_disk_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_store, "SHARD_SECONDS", -1)
    begin(tmp_path, PARTS, 0, 2.0)
    outputs = teacher_logits(3)
    writer = Writer(tmp_path)
    for utterance, logits in outputs.items():
        add_one(writer, utterance, 0.5, logits)
    assert written(tmp_path) == outputs.keys()


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("value", [70_000.0, float("nan"), float("-inf")])
def test_logits_beyond_fp16_are_an_error_that_names_the_utterance(tmp_path, k, value):
    logits = torch.zeros(3, UNITS)
    logits[1] = value
    begin(tmp_path, PARTS, k, 2.0)
    with pytest.raises(UserError, match="'loud'.*fp16.*distill.teacher to online"):
        add_one(Writer(tmp_path), "loud", 0.1, logits)


@pytest.mark.parametrize("kind, k", [("whisper", 5), ("whisper", 0), ("wav2vec2", 0)])
def test_the_store_holds_what_the_teacher_says_of_each_utterance_alone(tmp_path, kind, k):
    teacher, entries = tiny.family(kind, tmp_path), tiny.entries(tmp_path)
    begin(tmp_path / "store", {}, k, 2.0)
    steps = Steps(entries, tmp_path, teacher)
    with Writer(tmp_path / "store") as writer:
        count = fill(writer, teacher, evaluation_loader(steps, 4.0, 0))
    assert count == len(entries)
    finish(tmp_path / "store", count)
    store = Store(tmp_path / "store")
    for entry in entries:
        batch = teacher.collate([entry], [audio.read(tmp_path / entry.audio)])
        with torch.inference_mode():
            output = teacher(batch)
            loss = teacher.task_loss(output, batch).item()
        said = output.logits[0, : teacher.positions(batch)]
        assert store.difficulties()[entry.id] == pytest.approx(loss, rel=1e-4)
        soft = store.soft([entry.id])
        near = {"rtol": 2e-3, "atol": 2e-3}  # fp16
        if k == 0:
            torch.testing.assert_close(soft.logits[0].float(), said, **near)
        else:
            highest = said.topk(k)
            assert torch.equal(soft.indices[0].long(), highest.indices)
            torch.testing.assert_close(soft.values[0].float(), highest.values, **near)
            others = said.scatter(1, highest.indices, -math.inf)
            torch.testing.assert_close(soft.tail[0], (others / 2).logsumexp(dim=1), **near)


@pytest.mark.parametrize("kind, k", [("whisper", 5), ("wav2vec2", 0)])
def test_processes_that_read_ahead_change_nothing_in_the_store(tmp_path, kind, k):
    teacher, entries = tiny.family(kind, tmp_path), tiny.entries(tmp_path)
    written = []
    for workers in (0, 2):
        folder = tmp_path / f"store-{workers}"
        steps = Steps(entries, tmp_path, teacher)
        begin(folder, {}, k, 2.0)
        with Writer(folder) as writer:
            count = fill(writer, teacher, evaluation_loader(steps, 4.0, workers))
        finish(folder, count)
        assert set(Store(folder).difficulties()) == {entry.id for entry in entries}
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
