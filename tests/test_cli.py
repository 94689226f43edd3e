"""The command line: parsing, the order of the work, exit codes, and a quick --help.

The stages themselves are replaced here; tests/recipes runs the real ones.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_recipe
import torch

from adakd import cli, files, inputs
from adakd.errors import UserError
from adakd.place import Place
from adakd.stages import checks, preparation, results, teacher_pass, training

HEAVY = ("torch", "transformers", "speechbrain", "numpy", "scipy", "matplotlib", "yaml")


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the recipes tiny/hi (no folds) and tiny/en (six folds)."""
    tiny_recipe.espeak_recipe(tmp_path)
    tiny_recipe.fsdd_recipe(tmp_path, tmp_path / "recordings")
    monkeypatch.setattr("adakd.config.REPOSITORY", tmp_path)
    return tmp_path


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the steps were called with: (step, family, fold, seed, argument)."""
    calls: list[tuple[Any, ...]] = []

    def record(name: str) -> Any:
        def step(place: Place, *argument: Any) -> None:
            config = place.config
            calls.append((name, config.family, config.fold, config.seed, *argument))

        return step

    stages = {
        preparation: ("corpus", "prepare"),
        training: ("teacher", "train"),
        teacher_pass: ("teacher_pass",),
        results: ("decode", "score"),
    }
    for module, names in stages.items():
        for name in names:
            monkeypatch.setattr(module, name, record(name))

    def record_all(name: str) -> Any:
        def step(places: list[Place], *argument: Any) -> None:
            whose = [(each.config.family, each.config.fold, each.config.seed) for each in places]
            calls.append((name, whose, *argument))

        return step

    for name in ("report", "export"):
        monkeypatch.setattr(results, name, record_all(name))
    return calls


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        cli.parse(arguments)
    return str(caught.value)


def test_a_command_line_is_split_into_its_parts() -> None:
    found = cli.parse(
        "prepare kd --recipe espeak/hi --seed=2 --train.epochs 3 --student.source=a=b --publish "
        "--methods".split()
        + ["kd adakd"]
    )
    assert found == (
        ["prepare", "kd"],
        {"recipe": "espeak/hi", "seed": "2", "methods": "kd adakd"},
        {"train.epochs": "3", "student.source": "a=b"},
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("prepair --recipe a", "Unknown step 'prepair': did you mean 'prepare'?"),
        ("prepare --receipe a", "Unknown option --receipe: did you mean --recipe?"),
        ("prepare --recipe a --publsh", "Unknown option --publsh: did you mean --publish?"),
        ("prepare --recipe a --wxyz 1", "Unknown option --wxyz: see adakd --help"),
        ("prepare --recipe a --publish=yes", "--publish takes no value."),
        ("prepare --recipe", "--recipe needs a value."),
        ("prepare --recipe --seed 1", "--recipe needs a value."),
        ("prepare --recipe a --train.epochs", "--train.epochs needs a value."),
        ("--recipe a", "No step given: choose from corpus, prepare, "),
        ("prepare", "--recipe is missing, such as --recipe espeak/hi."),
    ],
)
def test_what_cannot_be_parsed_is_a_sentence(arguments: str, sentence: str) -> None:
    assert refusal(*arguments.split()).startswith(sentence)


def test_an_abbreviation_is_no_option() -> None:
    # argparse would take --see for --seed, and --train for --train.epochs.
    assert "--seed" in refusal("prepare", "--recipe", "a", "--see", "1")


ALL = "corpus prepare teacher finetune teacher-pass kd adakd decode score report export"


def test_steps_come_in_their_order_each_for_both_families(
    recipes: Path, done: list[tuple[Any, ...]]
) -> None:
    assert cli.main([*ALL.split(), "--recipe", "tiny/hi", "--root", str(recipes / "out")]) == 0
    methods = ["finetune", "kd", "adakd"]
    expected: list[tuple[Any, ...]] = [("corpus", "wav2vec2", None, 1)]
    for name, argument in [
        ("prepare", ()),
        ("teacher", ()),
        ("train", ("finetune",)),
        ("teacher_pass", ()),
        ("train", ("kd",)),
        ("train", ("adakd",)),
        ("decode", (methods,)),
        ("score", (methods,)),
    ]:
        expected += [(name, family, None, 1, *argument) for family in ("wav2vec2", "whisper")]
    assert done[: len(expected)] == expected
    report, *exports = done[len(expected) :]
    assert report[:3] == ("report", [("wav2vec2", None, 1), ("whisper", None, 1)], methods)
    assert exports == [
        ("export", [("wav2vec2", None, 1)], methods), ("export", [("whisper", None, 1)], methods)
    ]  # fmt: skip


def test_an_export_is_of_all_seeds(recipes: Path, done: list[tuple[Any, ...]]) -> None:
    assert cli.main(["export", "--recipe", "tiny/hi", "--seed", "1 2", "--methods", "kd"]) == 0
    assert done == [
        ("export", [(family, None, 1), (family, None, 2)], ["kd"])
        for family in ("wav2vec2", "whisper")
    ]


def test_what_a_tag_would_replace_is_told_before_it_is_done(
    recipes: Path,
    done: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def check(place: Place, step: str) -> None:
        if place.config.tag and step == "teacher":
            raise UserError("shared")

    monkeypatch.setattr(inputs, "check_shared", check)
    assert cli.main(["prepare", "teacher", "--recipe", "tiny/hi", "--tag", "x"]) == 1
    assert [call[0] for call in done] == ["prepare", "prepare"]
    assert capsys.readouterr().err == "adakd: shared\n"


def test_a_launcher_is_for_what_processes_share(
    recipes: Path,
    done: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    joined: list[str] = []
    monkeypatch.setattr(cli, "_join_processes", lambda: joined.append("joined"))
    left = lambda: joined.append(f"left after {len(done)}")  # noqa: E731
    monkeypatch.setattr("torch.distributed.destroy_process_group", left)
    assert cli.main(["kd", "decode", "--recipe", "tiny/hi"]) == 1
    assert "decode is not for several processes: start it without" in capsys.readouterr().err
    assert not done and not joined
    assert cli.main(["teacher", "kd", "--recipe", "tiny/hi"]) == 0
    assert joined == ["joined", "left after 4"]


def test_a_process_that_is_left_alone_says_so(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As gloo and NCCL say it, in the midst of a step; any other error is our own fault."""
    errors = [
        RuntimeError("[gloo/transport/tcp/pair.cc:538] Read error: Connection reset by peer"),
        torch.distributed.DistBackendError("remote process exited"),
        RuntimeError("shapes cannot be multiplied"),
    ]

    def fail(_: list[str]) -> None:
        raise errors[0]

    monkeypatch.setattr(cli, "run", fail)
    with pytest.raises(RuntimeError, match="Connection reset"):
        cli.main(["kd", "--recipe", "tiny/hi"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for _ in range(2):
        assert cli.main(["kd", "--recipe", "tiny/hi"]) == 1
        told = "another process of this run has stopped, and says why, or cannot be reached"
        assert capsys.readouterr().err == f"adakd: {told} ({errors[0]})\n"
        del errors[0]
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main(["kd", "--recipe", "tiny/hi"])


def test_as_many_files_may_be_open_as_the_system_allows(
    recipes: Path, done: list[tuple[Any, ...]]
) -> None:
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, most))
        assert cli.main(["decode", "--recipe", "tiny/hi"]) == 0
        wanted = cli.OPEN_FILES if most == resource.RLIM_INFINITY else min(most, cli.OPEN_FILES)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, most) and wanted > 500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def test_a_launchers_only_process_is_like_one_without(
    recipes: Path, done: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import speechbrain
    import torch

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["kd", "decode", "--recipe", "tiny/hi"]) == 0 and len(done) == 4
    brain = speechbrain.Brain({"model": torch.nn.Linear(1, 1)}, run_opts={"device": "cpu"})
    assert not brain.distributed_launch  # else DDP would ask for a process group


def test_a_method_is_trained_in_its_own_stage_and_only_if_asked_for(
    recipes: Path, done: list[tuple[Any, ...]]
) -> None:
    arguments = ["finetune", "kd", "adakd", "--recipe", "tiny/hi", "--family", "whisper"]
    assert cli.main([*arguments, "--methods", "adakd"]) == 0
    assert done == [("train", "whisper", None, 1, "adakd")]
    done.clear()
    assert cli.main([*arguments, "--methods", "finetune,kd"]) == 0
    assert [call[-1] for call in done] == ["finetune", "kd"]


@pytest.mark.parametrize(
    ("step", "methods", "said"),
    [
        ("kd", "adakd", "stage 5 (kd): trains none of --methods adakd, nothing to do\n"),
        ("adakd", "finetune kd", "stage 6 (adakd): trains none of --methods finetune kd, noth"),
        ("kd score", "adakd", ""),
    ],
)
def test_a_stage_that_trains_nothing_says_so(
    recipes: Path,
    done: list[tuple[Any, ...]],
    capsys: pytest.CaptureFixture[str],
    step: str,
    methods: str,
    said: str,
) -> None:
    assert cli.main([*step.split(), "--recipe", "tiny/hi", "--methods", methods]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(said) and bool(printed) == bool(said)


def test_methods_that_cannot_be_trained_are_told_before_the_first_stage(
    recipes: Path, done: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["teacher", "kd", "adakd", "--recipe", "tiny/hi", "--distill.top_k", "8"]
    assert cli.main([*arguments, "--methods", "kd annealing"]) == 1
    assert "annealing compares all logits" in capsys.readouterr().err and not done
    assert cli.main([*arguments[:1], *arguments[3:], "--methods", "kd annealing"]) == 0


def test_the_models_are_looked_at_before_the_first_training(
    recipes: Path, done: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(place: Place, steps: list[str], methods: list[str]) -> None:
        done.append(("check", place.config.family, steps, methods))

    monkeypatch.setattr(checks, "check_models", check)
    steps = ["prepare", "teacher", "finetune", "score"]
    assert cli.main([*steps, "--recipe", "tiny/hi", "--methods", "finetune kd"]) == 0
    order = ["prepare", "check", "teacher", "train", "score"]
    assert [call[0] for call in done] == [name for name in order for _ in range(2)]
    assert done[2] == ("check", "wav2vec2", steps, ["finetune"])


def test_the_units_of_the_models_are_compared_before_the_corpus_is_fetched(
    recipes: Path,
    done: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def check(place: Place) -> None:
        raise UserError("other units")

    monkeypatch.setattr(training, "check_units", check)
    assert cli.main(["corpus", "prepare", "--recipe", "tiny/hi"]) == 0 and len(done) == 3
    done.clear()
    assert cli.main(["corpus", "prepare", "teacher", "--recipe", "tiny/hi"]) == 1
    assert "other units" in capsys.readouterr().err and not done


def test_folds_and_seeds_multiply(recipes: Path, done: list[tuple[Any, ...]]) -> None:
    arguments = ["teacher", "report", "--recipe", "tiny/en", "--family", "whisper"]
    assert cli.main([*arguments, "--fold", "0 4", "--seed", "1,2"]) == 0
    whose = [("whisper", 0, 1), ("whisper", 0, 2), ("whisper", 4, 1), ("whisper", 4, 2)]
    assert done[:4] == [("teacher", *each) for each in whose]
    assert done[4][:2] == ("report", whose)
    done.clear()
    assert cli.main([*arguments, "--fold", "all"]) == 0
    assert [call[2] for call in done[:-1]] == [0, 1, 2, 3, 4, 5]
    done.clear()
    # The corpus has folds, and none is named: the first.
    assert cli.main(["teacher", "--recipe", "tiny/en"]) == 0
    assert [call[:3] for call in done] == [("teacher", "wav2vec2", 0), ("teacher", "whisper", 0)]


def test_the_seed_of_the_configuration_holds_where_none_is_given(
    recipes: Path, done: list[tuple[Any, ...]]
) -> None:
    path = recipes / "recipes" / "tiny" / "hi" / "conf" / "recipe.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "seed: 7\n", encoding="utf-8")
    assert cli.main(["teacher", "--recipe", "tiny/hi", "--family", "whisper"]) == 0
    assert cli.main(["teacher", "--recipe", "tiny/hi", "--family", "whisper", "--seed", "2"]) == 0
    assert [call[3] for call in done] == [7, 2]
    done.clear()
    assert cli.main(["teacher", "--recipe", "tiny/hi", "--seed", "2 3"]) == 0
    assert [call[1::2] for call in done] == [
        ("wav2vec2", 2), ("whisper", 2), ("wav2vec2", 3), ("whisper", 3),
    ]  # fmt: skip
    done.clear()
    with path.with_name("wav2vec2.yaml").open("a", encoding="utf-8") as file:
        file.write("seed: 8\n")
    assert cli.main(["teacher", "--recipe", "tiny/hi"]) == 0
    assert [call[1::2] for call in done] == [("wav2vec2", 8), ("whisper", 7)]


def test_the_report_gets_the_command_that_repeats_it(
    recipes: Path, done: list[tuple[Any, ...]]
) -> None:
    arguments = ["score", "report", "--recipe", "tiny/hi", "--methods", "kd adakd"]
    assert cli.main([*arguments, "--train.epochs", "3", "--publish"]) == 0
    command, publish = done[-1][3:]
    assert publish is True
    assert command == ("./run.sh --recipe tiny/hi --methods 'kd adakd' --train.epochs 3 --publish")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--recipe", "tiny/xx"], "There is no recipe 'tiny/xx'"),
        (["--recipe", "tiny/hi", "--family", "wisper"], "(perhaps 'whisper')"),
        (["--recipe", "tiny/hi", "--family", ""], "--family"),
        (["--recipe", "tiny/hi", "--seed", "one"], "--seed is 'one'"),
        (["--recipe", "tiny/hi", "--seed", " "], "--seed"),
        (["--recipe", "tiny/hi", "--methods", "finetune adakdd"], "did you mean 'adakd'?"),
        (["--recipe", "tiny/hi", "--methods", "xyz"], "superloss, focal, annealing"),
        (["--recipe", "tiny/hi", "--methods.adakdd.k", "3"], "did you mean 'adakd'?"),
        (["--recipe", "tiny/hi", "--methods.kd", "0.5"], "'methods.kd' must be a mapping"),
        (["--recipe", "tiny/hi", "--methods", ","], "--methods"),
        (["--recipe", "tiny/hi", "--methods", "kd kd"], "--methods: kd stands there twice"),
        (["--recipe", "tiny/hi", "--family", "whisper,whisper"], "--family: whisper stands"),
        (["--recipe", "tiny/hi", "--seed", "1 2 01"], "--seed: 1 stands there twice; it is one"),
        (["--recipe", "tiny/en", "--fold", "0 0"], "--fold: 0 stands there twice"),
        (["--recipe", "tiny/hi", "--methods.1.k", "3"], "unknown method '1'"),
        (["--recipe", "../recipes"], "There is no recipe '../recipes'"),
        (["--recipe", "tiny/hi/conf/.."], "'conf/..' is no name of a recipe"),
        (["--recipe", "tiny/hi", "--corpus.grammar", "a\udcff"], "'a\\udcff' is not UTF-8: give"),
        (["--recipe", "tiny/hi", "--fold", "1"], "no folds; leave it out"),
        (["--recipe", "tiny/en", "--fold", "6"], "the folds are 0 to 5"),
        (["--recipe", "tiny/en", "--fold", "alle"], "--fold is 'alle'"),
        (["--recipe", "tiny/en", "--train.epoch", "3"], "did you mean 'epochs'?"),
        (["--recipe", "tiny/en", "--corpus.max_digit", "3"], "did you mean 'max_digits'?"),
        (["--recipe", "tiny/en", "--corpus.max_digits", "0"], "corpus.max_digits is 0"),
    ],
)
def test_nothing_runs_when_something_is_wrong(
    recipes: Path,
    done: list[tuple[Any, ...]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert cli.main([*ALL.split(), *arguments]) == 1
    output, errors = capsys.readouterr()
    assert output == "" and done == []
    assert errors.startswith("adakd: ") and sentence in errors
    assert errors.count("\n") == 1, "one sentence, no traceback"


def test_a_root_may_lie_at_home(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots: list[Path] = []
    monkeypatch.setattr(preparation, "corpus", lambda place: roots.append(place.root))
    monkeypatch.setenv("HOME", str(recipes))
    assert cli.main(["corpus", "--recipe", "tiny/hi", "--root=~/out"]) == 0
    assert roots == [recipes / "out"]


STOPPED = """
import os, signal, sys, time
from adakd import cli
from adakd.errors import UserError

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup

def run(arguments):
    if "fork" in arguments and os.fork():
        os.wait()
    print("at it", flush=True)
    try:
        while True:
            time.sleep(0.02)
    except KeyboardInterrupt:
        if "lazy" in arguments:
            raise RecursionError("as NumPy makes of it while it imports a part of itself")
        if "told" in arguments:
            raise UserError("as we make of what a library makes of it")
        raise

cli.run = run
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("number", "step"),
    [
        *itertools.product([signal.SIGTERM, signal.SIGHUP], ["kd", "fork", "lazy"]),
        *itertools.product([signal.SIGINT], ["kd", "lazy", "told"]),
    ],
)
def test_kill_stops_a_run_as_ctrl_c_does(number: int, step: str) -> None:
    """Of a process that it has forked, which is killed with it, there is no word."""
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, step], stdout=-1, stderr=-1, text=True,
        cwd=Path(cli.__file__).parents[1], start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "at it\n"
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said == "adakd: stopped; the same command goes on from here\n"


def test_what_nohup_ignores_is_ignored() -> None:
    program = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from adakd import cli; cli.run = lambda _: os.kill(os.getpid(), signal.SIGHUP);"
        "sys.argv = ['adakd', 'kd']; sys.exit(cli.main())"
    )
    root = Path(cli.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], timeout=60, cwd=root).returncode == 0


def test_a_stopped_run_says_how_to_go_on(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(place: Place) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "corpus", interrupted)
    assert cli.main(["corpus", "--recipe", "tiny/hi"]) == 130
    assert "goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), "No space left on device: ROOT"),
        (OSError(28, "No space left on device", "/a b"), "No space left on device: /a b"),
        (PermissionError(13, "Permission denied", "/a b"), "Permission denied: /a b"),
        (OSError("no model\nat all"), "no model at all"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    recipes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    sentence: str,
) -> None:
    def refused(place: Place) -> None:
        raise error

    monkeypatch.setattr(preparation, "corpus", refused)
    assert cli.main(["corpus", "--recipe", "tiny/hi", "--root", str(recipes)]) == 1
    errors = capsys.readouterr().err
    sentence = sentence.replace("ROOT", str(recipes))
    assert errors == f"adakd: {sentence}; mend that, then run the same command again\n"


def test_a_disk_that_is_full_is_named_with_its_file(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipes / "out" / "x.json"

    def fills_up(place: Place) -> None:
        with files.atomic_write(path) as file:
            file.write("{")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparation, "corpus", fills_up)
    assert cli.main(["corpus", "--recipe", "tiny/hi", "--root", str(recipes)]) == 1
    assert f"adakd: No space left on device: {path}; mend that" in capsys.readouterr().err
    assert not list(path.parent.iterdir())


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may else leave an empty done.json, which reads as work that is to be done."""
    path = tmp_path / "done.json"
    synced: list[tuple[str, bool]] = []

    def sync(number: int) -> None:
        content = Path(f"/proc/self/fd/{number}").read_text(encoding="utf-8")
        synced.append((content, path.exists()))

    monkeypatch.setattr(files.os, "fsync", sync)
    files.write_json(path, {"a": 1})
    assert synced == [(path.read_text(encoding="utf-8"), False)]
    with files.atomic_write(tmp_path / "one of thousands", durable=False) as file:
        file.write("a")
    assert len(synced) == 1 and (tmp_path / "one of thousands").read_text() == "a"


def test_a_root_that_is_a_file_is_a_sentence(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = recipes / "grammar.yaml"
    assert cli.main(["corpus", "--recipe", "tiny/hi", "--root", str(root)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"adakd: Not a directory: {root}/") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "free", "named"),
    [
        ("whatever", 0, "No space left on device"),
        ("whatever", 2**30, None),
        (
            "unexpected pos 576 vs 534",
            2**30,
            "Not all could be written: the disk is full",
        ),
        ("I/O error: Disk quota exceeded (os error 122)", 2**30, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_named_whatever_a_library_says(
    recipes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: str,
    free: int,
    named: str | None,
) -> None:
    def unwritten(place: Place) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(preparation, "corpus", unwritten)
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    command = ["corpus", "--recipe", "tiny/hi", "--root", str(recipes)]
    if named is None:
        with pytest.raises(RuntimeError):
            cli.main(command)
    else:
        assert cli.main(command) == 1
        errors = capsys.readouterr().err
        assert errors.startswith(f"adakd: {named}") and f": {recipes}; mend that" in errors


def test_a_programming_error_is_not_hidden(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Place) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(preparation, "corpus", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["corpus", "--recipe", "tiny/hi"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["prepare", "-h"]])
def test_help_names_every_step_and_option(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    for name in [*cli.STEPS, *(f"--{option}" for option in cli.OPTIONS), "--publish", "--A.B"]:
        assert f"  {name}" in text
    # Eleven stages, numbered like those of run.sh.
    assert [text.split()[0] for text in cli.STEPS.values()] == [str(i) for i in range(11)]


def test_help_may_be_cut_short() -> None:
    """`adakd --help | head` is no error."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "adakd.cli", "--help"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("program", "used"),
    [
        (
            "from adakd import cli; cli.main(['--help']); cli.parse(['prepare', '--recipe', 'a'])",
            "",
        ),
        ("import adakd.inputs, adakd.study.benchmark", "yaml"),  # and with it all stages
    ],
)
def test_nothing_heavy_is_imported_before_there_is_work(program: str, used: str) -> None:
    program = f"import json, sys; {program}; print(json.dumps(sorted(sys.modules)))"
    root = Path(cli.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=root
    )
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    assert not loaded & set(HEAVY) - {used}


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that all is as it was afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["--help"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_audio_is_resampled_alike_with_any_number_of_threads() -> None:
    program = """
import sys
from adakd import cli
cli.main(["--help"])
import numpy as np
from adakd.data import audio
noise = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 48000)).astype(np.float32)
print(*(hash(audio._resample(clip, 48000).tobytes()) for clip in noise))
"""
    said = []
    for threads in "12":
        threaded = {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": "0"}
        kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
            cwd=Path(cli.__file__).parents[1], env=kept | threaded,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        said.append(result.stdout.splitlines()[-1])
    assert said[0] == said[1]


def test_errors_reach_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "adakd.cli", "prepare", "--recipe", "espeak/hi"]
    root = Path(cli.__file__).parents[1]
    result = subprocess.run(
        [*command, "--root", str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=root
    )
    assert result.returncode == 1 and result.stdout == ""
    assert "run --stage 0 first" in result.stderr and result.stderr.count("\n") == 1


def test_every_benchmark_is_there_and_another_is_a_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in cli.BENCHMARKS:
        assert callable(importlib.import_module(f"adakd.bench.{name}").main)
    assert cli.main(["bench", "--help"]) == 0
    assert ", ".join(cli.BENCHMARKS) in capsys.readouterr().out
    assert cli.main(["bench", "stor"]) == 1
    assert "no benchmark 'stor': did you mean 'store'?" in capsys.readouterr().err
