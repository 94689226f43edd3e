"""The benchmarks run in miniature and print what they promise. What they measure is not tested."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import shlex
import signal
import subprocess
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adakd.bench import measure  # and no torch: spawned processes import this module
from adakd.bench.measure import Cost
from adakd.errors import UserError

TINY = ["--size", "tiny", "--rounds", "1", "--batch", "2"]


def run(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The rows of all tables that a benchmark prints."""
    module = importlib.import_module(f"adakd.bench.{name}")
    assert module.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"    adakd bench {shlex.join([name, *arguments])}"
    tables = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [row for row in tables if row[0] not in ("what", "store")]


def column(rows: list[list[str]], place: int) -> dict[str, float]:
    """The medians in a column, by the name of their row."""
    return {row[0]: float(row[place].split()[0]) for row in rows if len(row) > place}


def test_contenders_run_in_turn_and_each_is_first_once(capsys):
    order: list[str] = []
    costs = measure.interleaved({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert all(len(each) == 3 for each in costs.values())


def test_a_ratio_is_taken_within_a_round():
    costs = {
        "slow": [Cost(6.0, 4.0), Cost(20.0, 5.0)],
        "one": [Cost(1.0, 1.0), Cost(4.0, 2.0)],
        "other": [Cost(2.0, 1.0), Cost(1.0, 3.0)],
    }
    assert measure.ratios(costs, "slow", ["one", "other"], "wall") == [2.0, 4.0]
    assert measure.ratios(costs, "slow", ["one"], "processor") == [4.0, 2.5]
    assert measure.times(costs, "one", "slow") == "5.50 [5.00, 6.00]"
    assert measure.spread([4.0, 1.0, 2.0], 1) == "2.0 [1.0, 4.0]"


def held(megabytes: int) -> float:
    before = measure.peak()
    measure.forget_peak()
    block = bytearray(megabytes << 20)
    del block
    return measure.peak() - before


def test_the_peak_of_a_process_of_its_own():
    assert 190 < measure.alone(held, 200) < 230


def test_the_most_memory_is_that_of_the_process_named():
    with subprocess.Popen(["sleep", "600"]) as other:
        small = measure.high_water(str(other.pid))
        other.kill()
    assert 0 < small < 10 * 2**20 < measure.high_water() < 20 * 2**30
    assert measure.high_water(str(other.pid)) == 0


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"was killed, perhaps for want of memory: .*--batch"):
        measure.alone(killed)


@contextlib.contextmanager
def counting(options: argparse.Namespace, name: str) -> Iterator[Callable[[], tuple]]:
    calls: list[str] = []
    try:
        yield lambda: (calls.append(name), name, len(calls), os.getpid())[1:]
    finally:
        Path(options.folder, f"{name} closed").touch()


@pytest.mark.parametrize("gpu", [False, True])
def test_contenders_apart(gpu, tmp_path, monkeypatch):
    """On a CPU each round has new processes, on a GPU each contender one for all rounds."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    options = argparse.Namespace(folder=str(tmp_path))
    found = measure.apart(counting, options, ["a", "b"], 3)
    assert [name for name, rounds in found.items() for _ in rounds] == list("aaabbb")
    assert all(each[0] == name for name, rounds in found.items() for each in rounds)
    counts = [each[1] for each in found["a"]]
    assert counts == ([1, 2, 3] if gpu else [1, 1, 1])
    processes = {name: {each[2] for each in rounds} for name, rounds in found.items()}
    assert [len(each) for each in processes.values()] == ([1, 1] if gpu else [3, 3])
    assert not processes["a"] & processes["b"] and os.getpid() not in processes["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a closed", "b closed"]


@pytest.fixture
def in_place(monkeypatch):
    """What benchmarks run in processes of their own runs in this one: quicker."""
    monkeypatch.setattr(measure, "alone", lambda function, *given: function(*given))
    monkeypatch.setattr(measure, "leave_memory_to_libc", lambda: None)


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_steps(family, capsys):
    rows = run("steps", ["--family", family, "--no-memory", "--tokens", "5", *TINY], capsys)
    cached = ["AdaKD, cached, top 100"] if family == "whisper" else []
    names = ["fine-tuning", *cached, "AdaKD, cached, dense", "AdaKD, live teacher"]
    assert [row[0] for row in rows] == [*names, "teacher forward"]
    assert all(value > 0 for value in column(rows, 1).values())
    assert rows[-2][3] == "fine-tuning + teacher forward"


def test_peaks_of_steps(monkeypatch, capsys):
    for limit in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.setenv(limit, "")  # which the command sets: so it ends with this test
    arguments = ["--family", "wav2vec2", "--no-live", "--tokens", "5", "--size", "tiny"]
    rows = run("steps", [*arguments, "--rounds", "0", "--batch", "2"], capsys)
    assert [row[0] for row in rows] == ["fine-tuning", "AdaKD, cached, dense"]
    assert all(value > 0 for value in column(rows, 1).values())
    assert rows[0][2] == "1.000"


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_training(family, in_place, capsys):
    pytest.importorskip("accelerate")
    rows = run("training", ["--family", family, "--steps", "2", *TINY], capsys)
    kept = ["Hugging Face, freed memory kept"] if measure.memory_is_ours() else []
    names = ["Hugging Face", *kept, "AdaKD, live teacher", "AdaKD, cached"]
    assert [row[0] for row in rows] == names + names
    assert all(value > 0 for value in column(rows, 1).values())


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_training_half_as_precise_for_all(family, tmp_path):
    pytest.importorskip("accelerate")
    import torch

    from adakd.bench import training

    options = argparse.Namespace(
        family=family, size="tiny", batch=2, steps=1, workers=0, top_k=5, precision="bf16",
        encode="speech",
    )  # fmt: skip
    kinds = {name: set() for name in ("Hugging Face", "AdaKD, live teacher")}
    for name, found in kinds.items():

        def seen(module, given, output, found=found):
            if isinstance(module, torch.nn.Linear) and module.in_features in (32, 64):
                found.add((module.in_features == 64, output.dtype))  # teacher?, computed in

        hook = torch.nn.modules.module.register_module_forward_hook(seen)
        try:
            training.contender(options, name, tmp_path)(2)
        finally:
            hook.remove()
    assert kinds["Hugging Face"] == kinds["AdaKD, live teacher"]
    assert kinds["Hugging Face"] == {(True, torch.bfloat16), (False, torch.bfloat16)}


def test_training_with_workers_reads_one_clock(in_place, capsys):
    pytest.importorskip("accelerate")
    from adakd.bench import training

    assert training.main(["--steps", "2", "--epochs", "2", "--workers", "1", *TINY]) == 0
    text = capsys.readouterr().out
    assert "| wall, s |" in text and "processor" not in text


def test_models_are_gone_when_the_next_are_made():
    from adakd.bench import made

    def trained():
        with made.scratch() as folder:
            student = made.family("wav2vec2", "student", "tiny", folder)
            brain = made.brain(student, "finetune", folder / "experiment")
            made.optimiser_step(brain, made.speech([1.0]))()
            return weakref.ref(student), weakref.ref(brain)

    left = trained()
    with made.scratch():
        assert [each() for each in left] == [None, None]


def test_decode_says_the_same_as_generate(in_place, capsys):
    module = importlib.import_module("adakd.bench.decode")
    assert module.main(["--tokens", "6", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "adakd, encode full: 2 of 2 hypotheses are those of generate." in printed
    assert "Tokens of a hypothesis: " in printed


def test_decode_says_the_same_as_the_pipeline(in_place, capsys):
    module = importlib.import_module("adakd.bench.decode")
    assert module.main(["--family", "wav2vec2", *TINY]) == 0
    assert "8 of 8 hypotheses of adakd are those of the pipeline" in capsys.readouterr().out
    with pytest.raises(UserError, match="--model is for Whisper"):
        module.main(["--family", "wav2vec2", "--model", "somewhere"])


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_deploy(family, in_place, capsys):
    rows = run("deploy", ["--family", family, "--clips", "2", *TINY[:4]], capsys)
    assert [row[0] for row in rows] == ["teacher", "student", "student, int8"]
    parameters, megabytes = column(rows, 1), column(rows, 2)
    assert parameters["teacher"] > parameters["student"] == parameters["student, int8"]
    for name in ("teacher", "student"):  # four bytes each, and the names of the layers
        assert megabytes[name] == pytest.approx(4 * parameters[name], abs=0.1)
    assert megabytes["student, int8"] < megabytes["student"]
    assert rows[0][5] == "1.00 [1.00, 1.00]"


def test_deploy_of_a_recipe_that_has_been_run(tmp_path: Path, in_place, capsys):
    import tiny

    from adakd import config as configuration
    from adakd.data import manifest
    from adakd.place import Place

    recipe = configuration.REPOSITORY / "recipes" / "espeak" / "hi"
    place = Place(tmp_path, configuration.load(recipe, "whisper"))
    arguments = ["--recipe", "espeak/hi", "--root", str(tmp_path), "--clips", "2", *TINY[2:4]]
    with pytest.raises(UserError, match="There is no teacher of espeak/hi as whisper below"):
        run("deploy", arguments, capsys)
    for seed, name in enumerate(("teacher", "finetune")):
        tiny.family("whisper", tmp_path, seed).save(place.experiment(name) / "model")
    entries = tiny.entries(tmp_path)
    manifest.write(place.data / "test.jsonl", entries)
    module = importlib.import_module("adakd.bench.deploy")
    assert module.main(arguments) == 0
    seconds = sum(entry.seconds for entry in (entries[0], entries[len(entries) // 2]))
    printed = capsys.readouterr().out
    assert f"2 clips, {seconds:.0f} s of speech, one at a time" in printed
    assert ", 1 thread(s), load" in printed
    assert module.main([*arguments, "--clips", "99", "--threads", "2"]) == 0
    assert f"\n{len(entries)} clips, " in capsys.readouterr().out
    with pytest.raises(UserError, match="fold 1: this corpus has no folds"):
        module.main([*arguments, "--fold", "1"])
    with pytest.raises(UserError, match="There is no recipe 'espeak/xx'"):
        module.main(["--recipe", "espeak/xx"])


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_growth(family, in_place, capsys):
    arguments = ["--family", family, "--size", "tiny", "--rounds", "1", "--axes", "length student"]
    arguments += ["--pass-clips", "2 4", "--plan-hours", "10", "--gpus", "1 8"]
    rows = run("growth", arguments, capsys)
    assert [row[0] for row in rows] == [
        *["length", "1", "2", "student", "32x2", "48x3", "teacher pass", "2 clips", "4 clips"],
        "rate, one device",
        *["fine-tuning the teacher", "fine-tuning", "AdaKD, cached", "AdaKD, live teacher"],
        *["teacher pass", "10 h of speech"],
        "stage 2: fine-tuning the teacher, 3 epochs",
        "stage 3: fine-tuning, 10 epochs",
        "stage 4: teacher pass",
        "stage 5: KD, cached, 10 epochs",
        "stage 6: AdaKD, cached, 10 epochs",
        "all five stages",
        "all five, stages 5 and 6 with a live teacher",
    ]
    assert rows[2][1] == rows[4][1]  # the base point is measured once
    assert all(row[1].endswith("]") for row in rows[10:15])  # rates with their spread
    few, many = rows[7], rows[8]
    assert (few[1], many[1]) == ("4", "8") and float(few[4]) < float(many[4])
    assert all(float(row[5].split()[0]) > 0 for row in (rows[1], rows[2], rows[4], rows[5]))


def test_the_plan_is_hours_over_rates():
    from adakd.bench import growth

    rates = {
        "fine-tuning the teacher": 50.0,
        "fine-tuning": 200.0,
        "teacher pass": 125.0,
        "AdaKD, cached": 160.0,
        "AdaKD, live teacher": 80.0,
    }
    stages = growth.plan(rates, 1000.0, teacher_epochs=3, student_epochs=8)
    assert stages == {
        "stage 2: fine-tuning the teacher, 3 epochs": 60.0,
        "stage 3: fine-tuning, 8 epochs": 40.0,
        "stage 4: teacher pass": 8.0,
        "stage 5: KD, cached, 8 epochs": 50.0,
        "stage 6: AdaKD, cached, 8 epochs": 50.0,
        "all five stages": 208.0,
        "all five, stages 5 and 6 with a live teacher": 308.0,
    }


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_teacher(family, capsys):
    arguments = ["--family", family, "--size", "tiny", "--clips", "4", "--rounds", "1"]
    rows = run("teacher", [*arguments, "--batch-seconds", "6 20"], capsys)
    assert [row[0] for row in rows] == [
        "forward, 6 s",
        "stage 4, 6 s",
        "forward, 20 s",
        "stage 4, 20 s",
    ]
    assert max(column(rows[::2], 2).values()) == 1.0  # the best forward is what all are held to
    assert all(value > 0 for value in column(rows, 1).values())


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_profile(family, capsys):
    from adakd.bench import profile

    rows = run("profile", ["--family", family, "--tokens", "5", *TINY], capsys)[1:]
    assert [row[0] for row in rows] == [*profile.PARTS, "rest"]
    shares = column(rows, 2)
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    whispers = ("token_losses, without its matrix products", "gradient of the token embedding")
    for part in shares:
        assert (shares[part] > 0) == (family == "whisper" or part not in whispers)


def test_an_operation_belongs_to_what_it_ran_within():
    from adakd.bench.profile import part_of

    assert part_of(["aten::mm", "aten::linear"]) == "matrix products"
    assert part_of(["aten::copy_", "ConvolutionBackward0"]) == "convolutions"
    assert part_of(["aten::exp_", "_TokenLosses"]).startswith("token_losses")
    assert part_of(["aten::_fused_adamw_", "Optimizer.step#AdamW.step"]).endswith("optimiser")
    assert part_of(["aten::add"]) == "rest"


def test_a_kernel_counts_once():
    from torch.autograd import DeviceType

    from adakd.bench.profile import by_part

    def event(name: str, microseconds: float, device_type: DeviceType) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            name=name,
            device_type=device_type,
            self_device_time_total=microseconds,
            self_cpu_time_total=1.0,
            cpu_parent=None,
        )

    # As torch records it: an operation has its kernels' time, and every kernel is there besides.
    events = [
        event("aten::mm", 30.0, DeviceType.CPU),
        event("sm90_gemm", 30.0, DeviceType.CUDA),
        event("aten::add", 10.0, DeviceType.CPU),
        event("vectorized_elementwise_kernel", 10.0, DeviceType.CUDA),
    ]
    taken = by_part(events, device=True)
    assert (taken["matrix products"], taken["rest"], sum(taken.values())) == (30.0, 10.0, 40.0)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("steps", "--batch 0", "argument --batch: '0' is no whole number from 1 on"),
        ("loading", "--workers -1", "argument --workers: '-1' is no whole number from 0 on"),
        ("size", "--clip nan", "argument --clip: 'nan' is no number above 0"),
        ("size", "--stages 2,3", "argument --stages: '2,3' is none of 2, 3, 4, 6"),
        ("growth", "--axes depth", "argument --axes: 'depth' is none of length, vocabulary, batch"),
        ("growth", "--gpus", "argument --gpus: expected one argument"),
        ("growth", "--pass-clips=", "argument --pass-clips: it is empty: give at least one value"),
        ("teacher", "--batch-seconds x", "argument --batch-seconds: 'x' is no number above 0"),
        ("training", "--size huge", "argument --size: invalid choice: 'huge'"),
        ("prepare", "--processes 0", "argument --processes: '0' is no whole number from 1 on"),
        ("decode", "--batc 2", "unrecognized arguments: --batc 2"),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence(name, arguments, sentence):
    module = importlib.import_module(f"adakd.bench.{name}")
    with pytest.raises(UserError) as error:
        module.main(arguments.split())
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(f"; see adakd bench {name} --help")


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_loading(family, capsys):
    rows = run("loading", ["--family", family, "--steps", "2", *TINY], capsys)
    assert [row[0] for row in rows] == ["in memory", "loader"]


def test_store(tmp_path: Path, monkeypatch, capsys):
    import tiny

    from adakd import config as configuration
    from adakd.bench import made, store
    from adakd.data import manifest
    from adakd.place import Place

    recipe = configuration.REPOSITORY / "recipes" / "espeak" / "hi"
    place = Place(tmp_path, configuration.load(recipe, "whisper"))
    for seed, name in enumerate(("teacher", "finetune")):
        model = tiny.family("whisper", tmp_path, seed)
        model.save(place.experiment(name) / "model")
    manifest.write(place.data / "train.jsonl", tiny.entries(tmp_path))
    monkeypatch.setattr(made, "UNITS", 500)
    monkeypatch.setattr(store, "PARTS", 2)
    arguments = ["--size", "tiny", "--rounds", "1", "--clips", "16", "--root", str(tmp_path)]
    arguments += ["--top-k", "20 100"]
    rows = run("store", arguments, capsys)
    sizes = column(rows[:4], 1)
    assert list(sizes) == [
        "wav2vec2, dense",
        "whisper, dense",
        "whisper, top 20",
        "whisper, top 100",
    ]
    assert sizes["whisper, top 20"] < sizes["whisper, top 100"]
    synthetic = [row for row in rows if row[0].startswith("scale")]
    assert len(synthetic) == 8
    for row in synthetic:
        for over, spread in (row[3:5], row[5:7]):
            ratio, error = map(float, over.split(" ± "))
            assert abs(ratio - 1) <= 4 * error + 1e-4
            # 128 positions; 20 make an utterance
            assert float(spread) == pytest.approx(100 * error * (128 / 20) ** 0.5, abs=0.1)
    head, *trained = rows[-3:]
    assert head[0] == f"trained, {len(model.vocabulary())} units"
    assert [row[:2] for row in trained] == [["whisper", "1"], ["whisper", "2"]]
    for row in trained:
        assert float(row[2]) > 0.1  # the KL of two models that differ
        for over in row[3::2]:
            ratio, error = map(float, over.split(" ± "))
            assert abs(ratio - 1) <= 4 * error + 1e-4


def test_a_recipe_that_is_not_there_is_told_before_anything_is_measured(tmp_path: Path, capsys):
    from adakd.bench import store

    with pytest.raises(UserError, match="There is no recipe 'espeak/xx'"):
        store.main(["--recipe", "espeak/xx"])
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("family", "stages"), [("whisper", "2 3 4 6"), ("wav2vec2", "3 6")])
def test_size(family, stages, in_place, capsys):
    arguments = ["--family", family, "--size", "tiny", "--batch", "1", "--stages", stages]
    rows = run("size", arguments, capsys)
    assert [row[0] for row in rows if row[0][6] in "36"] == [
        "stage 3: fine-tuning the student",
        "stage 6: AdaKD, cached",
        "stage 6: AdaKD, live teacher",
    ]
    if family == "whisper":
        teacher, passing = rows[0], rows.pop(2)
        assert teacher[0] == "stage 2: fine-tuning the teacher"
        assert passing[:2] == ["stage 4: teacher pass", "1"] and float(passing[2]) > 0.1
    assert all(row[1] == "2 x 1" and float(row[2]) > 0.1 for row in rows)


def test_start(capsys):
    rows = run("start", ["--rounds", "1"], capsys)
    assert [row[0] for row in rows] == ["python, doing nothing", "adakd --help", "./run.sh --help"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
def test_allocator(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    rows = run("allocator", ["--lengths", "1", *TINY], capsys)
    assert [row[0] for row in rows] == ["glibc's defaults", "freed memory kept"]
    assert all(value > 0 for value in column(rows, 1).values())
