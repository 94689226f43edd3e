"""run.sh, path.sh, local/ and the recipes' run.sh: options, stages, launchers, logs, set-up.

Nothing is installed and nothing trained: commands are printed (ADAKD_DRY_RUN), or run by a fake
interpreter in a copy of the shell files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.sh", "local/*.sh", "recipes/*/*/run.sh", "recipes/TEMPLATE/run.sh")
    for path in ROOT.glob(pattern)
) + [Path("tests/run.sh"), Path(".ci/run")]

# What path.sh and the recipes ask of an interpreter; FAKE is a folder for what it is told.
FAKE_PYTHON = r"""#!/usr/bin/env bash
work() { # for ten seconds, or until it is stopped, which takes a moment
    for name in INT TERM HUP; do
        trap "sleep 0.3; echo 'stopped by $name' >&2; exit $(cat "$FAKE/works")" "$name"
    done
    echo "$$" >"$FAKE/pid"
    for _ in {1..500}; do sleep 0.02; done
}
case "$*" in
    *"check_python.py version") [[ ! -f $FAKE/old ]] || { cat "$FAKE/old" >&2; exit 1; } ;;
    *"check_python.py imports") [[ ! -f $FAKE/unfit ]] || { cat "$FAKE/unfit" >&2; exit 1; } ;;
    "-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip install "*)
        echo "$*" >>"$FAKE/pip"
        echo "Collecting everything"
        sleep 0.3
        [[ ! -f $FAKE/offline ]] || { echo "ERROR: no network" >&2; exit 1; }
        ;;
    "-m adakd.cli "*)
        echo "PYTHONPATH=$PYTHONPATH $PYTHONSAFEPATH $PYTHONUTF8" >"$FAKE/environment"
        echo "a table"
        [[ ! -f $FAKE/works ]] || work
        printf 'half\rwhole\nwhy it failed\n' >&2
        exit "$(cat "$FAKE/status" 2>/dev/null || echo 0)"
        ;;
esac
"""


def run(
    *command: str | Path, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ADAKD_")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def planned(*options: str, **environment: str) -> list[list[str]]:
    """The commands that ./run.sh would run with these options, each as its list of arguments."""
    result = run("./run.sh", *options, ADAKD_DRY_RUN="1", ADAKD_PYTHON="PYTHON", **environment)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def refusal(*options: str) -> str:
    """The one sentence with which ./run.sh refuses these options."""
    result = run("./run.sh", *options, ADAKD_DRY_RUN="1", ADAKD_PYTHON="PYTHON")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def steps(command: list[str]) -> list[str]:
    return command[command.index("adakd.cli") + 1 : command.index("--recipe")]


def option(command: list[str], name: str) -> str:
    assert command.count(name) == 1
    return command[command.index(name) + 1]


ALL = "corpus prepare teacher finetune teacher-pass kd adakd decode score report export".split()


def test_all_stages_of_the_embedded_recipe_share_one_process() -> None:
    (command,) = planned()
    assert command[:3] == ["PYTHON", "-m", "adakd.cli"]
    assert steps(command) == ALL
    assert option(command, "--recipe") == "espeak/hi"
    assert option(command, "--family") == "wav2vec2 whisper"
    assert option(command, "--methods") == "finetune kd adakd"
    assert "--seed" not in command  # it would hide the configuration's


@pytest.mark.parametrize("spelling", ["--stop-stage 4", "--stop_stage 4", "--stop-stage=4"])
def test_three_spellings_of_an_option(spelling: str) -> None:
    (command,) = planned(*spelling.split())
    assert steps(command) == ALL[:5]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--stage 3", ALL[3:]),
        ("--stage 5 --stop-stage 6", ["kd", "adakd"]),
        ("--stage 08 --stop_stage=08", ["score"]),
    ],
)
def test_stages(options: str, expected: list[str]) -> None:
    (command,) = planned(*options.split())
    assert steps(command) == expected


def test_options_reach_the_program_whole() -> None:
    (command,) = planned(
        *("--recipe", "fsdd/en", "--family=whisper", "--seed", "2", "--fold", "all"),
        *("--methods", "finetune kd", "--corpus", "my corpus.tar.xz", "--root=/some where"),
        *("--student.source", "a=b", "--train.epochs=3", "--train.note=x=y", "--publish"),
    )
    expected = {
        "--recipe": "fsdd/en",
        "--family": "whisper",
        "--seed": "2",
        "--fold": "all",
        "--methods": "finetune kd",
        "--corpus.corpus": "my corpus.tar.xz",
        "--root": "/some where",
        "--student.source": "a=b",
        "--train.epochs": "3",
        "--train.note": "x=y",
    }
    assert {name: option(command, name) for name in expected} == expected
    assert "--publish" in command


def test_values_are_never_evaluated(tmp_path: Path) -> None:
    evil = [f"$(touch {tmp_path}/a)", f"`touch {tmp_path}/b`", f"x; touch {tmp_path}/c", "a[$(id)]"]
    for value in evil:
        for name in ("--student.source", "--corpus", "--methods", "--tag", "--root", "--fold"):
            (command,) = planned(name, value)
            assert value in command
        for name in ("--stage", "--stop-stage", "--launcher", "--recipe"):
            assert value in refusal(name, value)
        assert value in refusal("--launcher", "slurm", "--nproc", value)
    assert "no option" in refusal("--stage stop-stage", "1")
    assert "no recipe" in refusal("--recipe", "espeak/hi espeak/ta")
    assert "no option" in refusal(f"--$(touch {tmp_path}/d)", "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--stpstage 3", "no option --stpstage; did you mean --stop-stage?"),
        ("--familly whisper", "no option --familly; did you mean --family?"),
        ("--epochs 3", "no option --epochs; write --train.epochs, its name in the configuration"),
        ("--batch-seconds 3", "write --train.batch_seconds"),
        ("--language ta", "write --language.code"),
        ("--ngpu 2", "no option --ngpu; several GPUs: --launcher torchrun --nproc N"),
        ("--beam 2", "no option --beam; see ./run.sh --help"),
        ("--recpie fsdd/en", "no option --recpie; did you mean --recipe?"),
        ("--recipe espeak/hj", "no recipe 'espeak/hj'; did you mean espeak/hi?"),
        ("--recipe ../run", "no recipe '../run'"),
        ("--stage 11", "--stage is '11', but the stages are 0 to 10"),
        ("--stop-stage two", "--stop-stage is 'two', but the stages are 0 to 10"),
        ("--stage -1", "--stage is '-1', but the stages are 0 to 10"),
        ("--stage 5 --stop-stage 4", "--stage 5 comes after --stop-stage 4"),
        ("--stage", "--stage needs a value"),
        ("--seed= --stage 1", "--seed needs a value"),
        ("--seed --stage 1", "--seed needs a value"),
        ("stage 3", "unexpected argument 'stage'"),
        ("--nproc 2", "--nproc needs --launcher"),
        ("--launcher torchrum", "choose torchrun, slurm or none"),
        ("--launcher torchrun --nproc 0", "--nproc is '0'"),
        ("--publish=yes", "--publish takes no value"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: str, sentence: str) -> None:
    assert sentence in refusal(*options.split())


def test_the_nearest_word_has_the_smallest_edit_distance() -> None:
    script = '. local/common.sh; nearest "$@"'
    for word, expected in {"kitten": "sitting", "abc": "abd", "": "b", "flaw": "lawn"}.items():
        found = run("bash", "-c", script, "bash", "9", word, "sitting", "abd", "lawn", "b")
        assert found.stdout.strip() == expected
    for limit, expected in (("3", "sitting"), ("2", "")):
        found = run("bash", "-c", script, "bash", limit, "kitten", "sitting")
        assert found.stdout.strip() == expected


def test_a_launcher_starts_training_stages_and_no_others() -> None:
    commands = planned("--launcher", "torchrun", "--nproc", "2")
    assert [steps(command) for command in commands] == [
        ["corpus", "prepare"],
        ["teacher", "finetune", "teacher-pass", "kd", "adakd"],
        ["decode", "score", "report", "export"],
    ]
    launched = [f"{ROOT}/local/torchrun.py" in command for command in commands]
    assert launched == [False, True, False]
    assert all("--nproc-per-node=2" in command for command in commands if "--standalone" in command)


def test_slurm_tasks_get_the_variables_of_torch_distributed(tmp_path: Path) -> None:
    (command,) = planned("--launcher", "slurm", "--nproc", "4", "--stage", "3", "--stop-stage", "3")
    assert command[:3] == ["srun", "--ntasks=4", "--kill-on-bad-exit=1"]
    names = "RANK WORLD_SIZE LOCAL_RANK OMP_NUM_THREADS MASTER_ADDR MASTER_PORT".split()

    def variables(**slurm: str) -> list[str]:
        result = run(
            *(command[3], "bash", "-c", "echo " + " ".join(f"${name}" for name in names)),
            PATH=f"{tmp_path}:{os.environ['PATH']}",
            **{"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"},
            **{"SLURM_JOB_ID": "40017", "SLURM_STEP_ID": "2", **slurm},
        )
        return result.stdout.split()

    port = str(20000 + (40017 * 37 + 2) % 20000)
    alone = {"SLURM_JOB_NUM_NODES": "1"}  # a container without scontrol will do
    assert variables(**alone) == ["3", "4", "1", "1", "127.0.0.1", port]
    # The GPUs of the node, all of them seen by each task, or its own alone.
    assert variables(CUDA_VISIBLE_DEVICES="0,1", **alone)[2] == "1"
    assert variables(CUDA_VISIBLE_DEVICES="0", OMP_NUM_THREADS="3", **alone)[2:4] == ["0", "3"]
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho node7\necho node8\n")
    scontrol.chmod(0o755)
    found = variables(SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="node[7-8]", SLURM_STEP_ID="3")
    assert found[4:] == ["node7", str(int(port) + 1)]


def test_srun_is_told_how_many_cores_a_task_has() -> None:
    options = ("--launcher", "slurm", "--nproc", "4", "--stage", "3", "--stop-stage", "3")
    (command,) = planned(*options, SLURM_CPUS_PER_TASK="8")
    assert "--cpus-per-task=8" in command[:4]


def test_without_slurm_its_launcher_is_a_sentence(copy: Path) -> None:
    if shutil.which("srun"):
        pytest.skip("Slurm is here")
    result = run_copy(copy, "--launcher", "slurm", ADAKD_PYTHON="false")
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no srun here: ")


def test_torchrun_says_no_more_than_its_processes(tmp_path: Path) -> None:
    def launched(*words: str) -> tuple[int, str]:
        (tmp_path / "work.py").write_text("import os, sys\n" + words[0])
        done = run(
            *(sys.executable, ROOT / "local/torchrun.py", "--standalone", "--nproc-per-node=1"),
            *(tmp_path / "work.py", *words[1:]),
        )
        return done.returncode, done.stderr

    assert launched("sys.exit(len(sys.argv) - 1)") == (0, "")
    assert launched("sys.exit('adakd: ' + sys.argv[1])", "why") == (1, "adakd: why\n")
    ctrl_c = "import signal as s; s.signal(2, s.SIG_DFL); os.kill(os.getppid(), 2); s.pause()"
    assert launched(ctrl_c) == (130, "adakd: stopped; the same command goes on from here\n")
    ended = "adakd: a process was ended by signal 9\n"
    assert launched("os.kill(os.getpid(), 9)") == (137, ended)


def test_the_users_choice_of_gpus_is_left_alone() -> None:
    for path in SCRIPTS:
        text = (ROOT / path).read_text()
        assert "CUDA_VISIBLE_DEVICES=" not in text and "eval " not in text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The shell files alone, with a fake python3.11 that is found first. No .venv."""
    folder = tmp_path / "a copy"
    for path in [*SCRIPTS, Path("pyproject.toml"), Path("local/check_python.py")]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "python3.11"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    return folder


def run_copy(
    copy: Path, *options: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    fakes = copy.parent / "bin"
    path = f"{fakes}:{os.environ['PATH']}"
    return run(copy / "run.sh", *options, cwd=copy, PATH=path, FAKE=str(fakes), **environment)


def installations(copy: Path) -> int:
    calls = copy.parent / "bin" / "pip"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_needs_no_environment(copy: Path, option: str) -> None:
    result = run_copy(copy, "--recipe", "fsdd/en", option)
    assert result.returncode == 0 and result.stderr == ""
    for word in ("fsdd/en", "espeak/hi", "to run (10)", "10  export", "get the Free Spoken Digit"):
        assert word in result.stdout
    assert installations(copy) == 0 and not (copy / ".venv").exists()
    new_recipe = copy / "local" / "new_recipe.sh"
    fakes = copy.parent / "bin"
    result = run(
        new_recipe, option, cwd=copy, PATH=f"{fakes}:{os.environ['PATH']}", FAKE=str(fakes)
    )
    assert result.stdout == "a table\n", "what adakd.cli says"
    assert installations(copy) == 0 and not (copy / ".venv").exists()


def test_the_environment_is_made_once_and_again_when_its_inputs_change(copy: Path) -> None:
    first = run_copy(copy)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "a table\n" and "Installing" in first.stderr
    assert installations(copy) == 1
    assert "[espeak,test]" in (copy.parent / "bin" / "pip").read_text()
    environment = (copy.parent / "bin" / "environment").read_text()
    assert environment.startswith(f"PYTHONPATH={copy}") and environment.endswith(" 1 1\n")
    second = run_copy(copy)
    assert second.stdout == "a table\n" and "Installing" not in second.stderr
    os.utime(copy / "pyproject.toml")  # as a fresh checkout of the same file does
    run_copy(copy)
    assert installations(copy) == 1
    with open(copy / "pyproject.toml", "a") as file:
        file.write("\n")
    run_copy(copy)
    assert installations(copy) == 2


def test_a_failed_installation_shows_its_end_and_is_tried_again(copy: Path) -> None:
    (copy.parent / "bin" / "offline").touch()
    failed = run_copy(copy)
    assert failed.returncode == 1 and failed.stdout == ""
    assert "ERROR: no network" in failed.stderr
    assert f"error: the installation failed, see above (the whole log is {copy}" in failed.stderr
    assert f"if it fails again, remove {copy}/.venv first" in failed.stderr
    (copy.parent / "bin" / "offline").unlink()
    assert run_copy(copy).returncode == 0
    assert installations(copy) == 2


def test_two_runs_do_not_install_at_once(copy: Path) -> None:
    fakes = copy.parent / "bin"
    environment = {**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}", "FAKE": str(fakes)}
    environment.pop("ADAKD_PYTHON", None)
    runs = [
        subprocess.Popen([copy / "run.sh"], env=environment, stdout=-1, stderr=-1) for _ in range(3)
    ]
    said = [process.communicate(timeout=60) for process in runs]
    assert [out for out, _ in said] == [b"a table\n"] * 3
    assert sum(b"waiting for it" in errors for _, errors in said) == 2
    assert installations(copy) == 1


def test_too_little_disk_is_a_sentence(copy: Path) -> None:
    fake = copy.parent / "bin" / "df"
    fake.write_text('#!/bin/sh\n[ "$2" = --output=avail ] && echo Avail && echo 2097152\n')
    fake.chmod(0o755)
    result = run_copy(copy)
    assert result.returncode == 1 and result.stderr.startswith("error: 2 GB free on the disk of")
    assert installations(copy) == 0


def test_no_supported_python_is_a_sentence(copy: Path) -> None:
    fakes = copy.parent / "bin"
    (fakes / "old").write_text("this is Python 3.9; AdaKD needs Python 3.11 to 3.14")
    for name in ("python3", "python3.12", "python3.13", "python3.14"):
        shutil.copy(fakes / "python3.11", fakes / name)
    result = run_copy(copy)
    assert result.returncode == 1
    assert result.stderr.startswith("error: this is Python 3.9; AdaKD needs Python 3.11 to 3.14;")
    assert result.stderr.count("error:") == 1


def test_what_does_not_fit_is_not_believed_installed(copy: Path) -> None:
    unfit = copy.parent / "bin" / "unfit"
    unfit.write_text("torch 2.15 and torchaudio 2.11 do not import together\n")
    result = run_copy(copy)
    assert result.returncode == 1 and "torch 2.15 and torchaudio 2.11 do not" in result.stderr
    unfit.unlink()
    assert run_copy(copy).returncode == 0
    assert installations(copy) == 2


def test_a_named_interpreter_is_used_as_it_is(copy: Path) -> None:
    python = str(copy.parent / "bin" / "python3.11")
    result = run_copy(copy, ADAKD_PYTHON=python)
    assert result.returncode == 0 and result.stdout == "a table\n"
    assert installations(copy) == 0 and not (copy / ".venv").exists()
    (copy.parent / "bin" / "unfit").write_text("it lacks jiwer\n")
    assert run_copy(copy, ADAKD_PYTHON=python).returncode == 0  # checked before
    (copy / ".adakd-python").unlink()
    result = run_copy(copy, ADAKD_PYTHON=python)
    assert result.returncode == 1 and "lacks jiwer" in result.stderr
    (copy.parent / "bin" / "unfit").unlink()
    given = {"ADAKD_PYTHON": "bin/python3.11", "FAKE": str(copy.parent / "bin")}
    beside = run(copy / "tests" / "run.sh", cwd=copy.parent, **given)
    assert beside.returncode == 0, "a relative path counts from where one stands"
    result = run_copy(copy, ADAKD_PYTHON="/nowhere/python")
    assert result.returncode == 1 and "ADAKD_PYTHON is '/nowhere/python'" in result.stderr


def test_a_repository_that_cannot_be_written_runs_with_a_named_interpreter(copy: Path) -> None:
    (copy / ".adakd-python").mkdir()  # as good as read-only, for root too
    python = str(copy.parent / "bin" / "python3.11")
    result = run_copy(copy, "--root", copy.parent / "out", ADAKD_PYTHON=python)
    assert result.returncode == 0 and result.stdout == "a table\n"
    assert ".adakd-python" not in result.stderr


def test_a_study_gets_its_own_options(copy: Path) -> None:
    echo = shutil.which("echo") or "/bin/echo"
    options = ("--benchmark", "my study.yaml", "--jobs", "2")
    result = run(copy / "run.sh", *options, ADAKD_PYTHON=echo)
    assert result.stdout.splitlines()[-1] == "-m adakd.cli benchmark my study.yaml --jobs 2"
    shown = run(copy / "run.sh", *options, ADAKD_DRY_RUN="1", ADAKD_PYTHON="false")
    assert shown.returncode == 0
    assert shown.stdout == "false -m adakd.cli benchmark my\\ study.yaml --jobs 2 \n"
    shown = run(copy / "run.sh", "--benchmark=a b", ADAKD_DRY_RUN="1", ADAKD_PYTHON="false")
    assert shown.stdout == "false -m adakd.cli benchmark a\\ b \n"
    for options in (("--recipe", ""), ("--recipe=",)):
        assert "--recipe needs a value" in refusal(*options)
    shown = run(copy / "run.sh", "--benchmark", "--help", ADAKD_DRY_RUN="1", ADAKD_PYTHON="false")
    assert shown.stdout == "false -m adakd.cli benchmark --help \n"
    for options in (("--benchmark",), ("--benchmark=",)):
        assert "--benchmark needs a grid" in refusal(*options)
    assert (
        'leave out --recipe fsdd/en, or take some of its cells with --only "fsdd/en*"'
        in refusal("--recipe", "fsdd/en", "--benchmark", "study/own.yaml")
    )


def test_a_link_to_run_sh_and_a_cdpath_find_the_repository(tmp_path: Path) -> None:
    link = tmp_path / "distil"
    link.symlink_to(ROOT / "run.sh")
    environment = {"ADAKD_DRY_RUN": "1", "ADAKD_PYTHON": "PYTHON", "CDPATH": f".:{ROOT.parent}"}
    result = run(link, "--stage", "9", cwd=tmp_path, **environment)
    assert result.returncode == 0 and "--recipe espeak/hi" in result.stdout
    result = run("bash", f"{ROOT.name}/recipes/fsdd/en/run.sh", cwd=ROOT.parent, **environment)
    assert result.returncode == 0 and "--recipe fsdd/en" in result.stdout


def test_output_errors_and_status_come_through_and_are_logged(copy: Path) -> None:
    (copy.parent / "bin" / "status").write_text("3")
    result = run_copy(copy, "--tag", "it's", ADAKD_PYTHON=str(copy.parent / "bin" / "python3.11"))
    assert result.returncode == 3
    assert result.stdout == "a table\n"
    (log,) = (copy / "exp" / "espeak" / "hi" / "log").glob("*.log")
    # Text mode shows the progress bar's \\r as a line end.
    assert result.stderr == f"half\nwhole\nwhy it failed\nThe log is {log}\n"
    lines = log.read_text().splitlines()
    assert "adakd.cli" in lines[0] and "it\\'s" in lines[0]
    assert sorted(lines[1:]) == ["a table", "whole", "why it failed"]


@pytest.fixture
def working(copy: Path) -> Iterator[subprocess.Popen[str]]:
    """run.sh in a session of its own, as a terminal's is; its Python is at work."""
    fakes = copy.parent / "bin"
    (fakes / "works").write_text("7")
    environment = {**os.environ, "ADAKD_PYTHON": str(fakes / "python3.11"), "FAKE": str(fakes)}
    with subprocess.Popen(
        [copy / "run.sh"], env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        for _ in range(500):
            if (fakes / "pid").exists():
                break
            time.sleep(0.02)
        else:
            process.kill()
            pytest.fail("run.sh never got to its Python")
        yield process


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_who_stops_run_sh_stops_its_training(
    copy: Path, working: subprocess.Popen[str], name: str
) -> None:
    python = int((copy.parent / "bin" / "pid").read_text())
    working.send_signal(signal.Signals[f"SIG{name}"])
    output, errors = working.communicate(timeout=60)
    assert working.returncode == 7, "the status of Python, which had an end of its own"
    with pytest.raises(ProcessLookupError):
        os.kill(python, 0)
    (log,) = (copy / "exp" / "espeak" / "hi" / "log").glob("*.log")
    assert output == "a table\n"
    assert errors == f"stopped by {name}\nThe log is {log}\n"
    assert f"stopped by {name}" in log.read_text().splitlines()


def test_ctrl_c_reaches_python_once_and_its_last_words_are_heard(
    copy: Path, working: subprocess.Popen[str]
) -> None:
    os.killpg(working.pid, signal.SIGINT)  # as a terminal does: run.sh, Python and what logs
    _, errors = working.communicate(timeout=60)
    assert working.returncode == 7 and errors.count("stopped by INT\nThe log is ") == 1


def test_a_log_that_cannot_be_written_is_no_failure(copy: Path) -> None:
    """As when the disk fills up: tee and sed complain."""
    fakes = copy.parent / "bin"
    for name, script in {"tee": "cat; exit 1", "sed": "echo sed: full >&2; exit 4"}.items():
        (fakes / name).write_text(f"#!/bin/sh\n{script}\n")
        (fakes / name).chmod(0o755)
    options = ("--launcher", "torchrun", "--stage", "3", "--stop-stage", "9")
    result = run_copy(copy, *options, ADAKD_PYTHON=str(fakes / "python3.11"))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "a table\n" and "sed" not in result.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "| head -n 0"])
def test_a_stream_that_is_closed_does_not_end_a_run(copy: Path, closed: str) -> None:
    python = str(copy.parent / "bin" / "python3.11")
    script = f'set -o pipefail; "$0" {closed}'
    fakes = str(copy.parent / "bin")
    result = run("bash", "-c", script, copy / "run.sh", ADAKD_PYTHON=python, FAKE=fakes)
    assert result.returncode == 0 and "sed" not in result.stderr
    (log,) = (copy / "exp" / "espeak" / "hi" / "log").glob("*.log")
    assert sorted(log.read_text().splitlines()[1:]) == ["a table", "whole", "why it failed"]


def test_a_root_may_lie_at_home_or_begin_with_a_hyphen(copy: Path, tmp_path: Path) -> None:
    python = str(copy.parent / "bin" / "python3.11")
    for value, folder in (("~/out", tmp_path / "out"), ("-out", copy / "-out")):
        result = run_copy(copy, f"--root={value}", HOME=str(tmp_path), ADAKD_PYTHON=python)
        assert result.returncode == 0 and result.stderr == "half\nwhole\nwhy it failed\n"
        assert len(list((folder / "exp" / "espeak" / "hi" / "log").iterdir())) == 1
    shown = run_copy(copy, "--text=~/a b", HOME="/home/me", ADAKD_DRY_RUN="1", ADAKD_PYTHON="P")
    assert option(shlex.split(shown.stdout), "--corpus.text") == "/home/me/a b"


def test_what_lies_where_one_stands_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("print('not ours')")
    script = f'. "{ROOT}/path.sh" && "$python" -c "import yaml; print(yaml.__version__)"'
    result = run("bash", "-c", script, cwd=tmp_path, ADAKD_PYTHON=sys.executable, ADAKD_DRY_RUN="1")
    assert result.returncode == 0 and result.stdout[0].isdigit()


def test_a_colon_in_the_path_is_a_sentence(copy: Path) -> None:
    moved = copy.rename(copy.with_name("a:b"))
    result = run_copy(moved, ADAKD_PYTHON=str(copy.parent / "bin" / "python3.11"))
    assert result.returncode == 1
    assert result.stderr == f"error: rename {moved}: a ':' ends a folder in PYTHONPATH\n"


@pytest.mark.skipif(shutil.which("dash") is None, reason="sh is not dash everywhere")
def test_sh_hands_over_to_bash(copy: Path) -> None:
    result = run("dash", "run.sh", "--stage", "9", cwd=copy, ADAKD_DRY_RUN="1", ADAKD_PYTHON="P")
    assert result.returncode == 0 and "--recipe espeak/hi" in result.stdout


def test_root_moves_the_log_too(copy: Path, tmp_path: Path) -> None:
    python = str(copy.parent / "bin" / "python3.11")
    assert run_copy(copy, "--root", tmp_path / "out", ADAKD_PYTHON=python).returncode == 0
    assert len(list((tmp_path / "out" / "exp" / "espeak" / "hi" / "log").iterdir())) == 1
    assert not (copy / "exp").exists()


def test_two_runs_that_start_in_one_second_have_logs_of_their_own(copy: Path) -> None:
    clock = copy.parent / "bin" / "date"
    clock.write_text("#!/bin/sh\necho 2026-11-23T17-00-00\n")
    clock.chmod(0o755)
    for _ in range(2):
        assert run_copy(copy, ADAKD_PYTHON=str(copy.parent / "bin" / "python3.11")).returncode == 0
    assert len(list((copy / "exp" / "espeak" / "hi" / "log").glob("2026*.log"))) == 2


def test_the_pretraining_finds_its_corpus_below_a_relative_root(copy: Path) -> None:
    python = str(copy.parent / "bin" / "python3.11")
    options = ("--recipe", "espeak/pretrain", "--family", "whisper", "--root", "out")
    (copy / "out" / "corpus" / "espeak" / "pretrain").mkdir(parents=True)
    shown = run_copy(copy, *options, ADAKD_PYTHON=python, ADAKD_DRY_RUN="1")
    assert shown.stdout.count("-m adakd.cli ") == 3 and not (copy / "out" / "exp").exists()
    result = run_copy(copy, *options, ADAKD_PYTHON=python)
    assert result.returncode == 0, result.stderr
    link = copy / "out/exp/espeak/pretrain/hindi/corpus/espeak/pretrain"
    assert link.is_symlink() and link.is_dir()


def test_the_pretraining_replaces_the_checkpoints_only_when_told_to(copy: Path) -> None:
    def shown(*options: str) -> list[str]:
        options = ("--recipe", "espeak/pretrain", "--family", "whisper", *options)
        return run_copy(copy, *options, ADAKD_PYTHON="p", ADAKD_DRY_RUN="1").stdout.splitlines()

    assert not any("publish.py" in line for line in shown("--seed", "2"))
    last = shown("--seed", "2", "--train.epochs", "3", "--publish")[-1]
    assert shlex.split(last.split("publish.py ")[1])[:5] == [
        str(copy), "whisper", "2", "--train.epochs", "3",
    ]  # fmt: skip
    # The second round would start from models that are not there yet.
    assert [line for line in shown("--stop-stage", "1") if "--teacher.source" in line] == []


def test_a_copy_of_the_template_is_a_recipe(copy: Path) -> None:
    shutil.copytree(copy / "recipes" / "TEMPLATE", copy / "recipes" / "mine" / "xx")
    result = run_copy(copy, "--recipe", "mine/xx", ADAKD_DRY_RUN="1")
    assert result.returncode == 0 and "--recipe mine/xx " in result.stdout


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.match("recipes/*/*/run.sh")])
def test_every_recipe_answers_help(path: Path) -> None:
    result = run(path, "--help", cwd=ROOT)
    assert result.returncode == 0 and "Usage" in result.stdout


def test_check_python_names_the_pair_that_fits(tmp_path: Path) -> None:
    check = ROOT / "local" / "check_python.py"
    assert run(sys.executable, check, "version").returncode == 0
    for name in ("torch", "speechbrain", "transformers", "sentencepiece", "jiwer", "yaml"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "torchaudio.py").write_text("raise OSError('libcudart.so.13: undefined symbol')")
    result = run(sys.executable, check, "imports", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "libcudart.so.13" in result.stderr
    assert "of these two the pair that fits is torch 2.11.0 with torchaudio 2.11.0" in result.stderr
    result = run(sys.executable, "-S", "-I", check, "imports")
    assert result.returncode == 1 and "lacks torch, torchaudio" in result.stderr
    (tmp_path / "jiwer-1.0.dist-info").mkdir()
    (tmp_path / "jiwer-1.0.dist-info" / "METADATA").write_text("Name: jiwer\nVersion: 1.0\n")
    (tmp_path / "transformers-4.57.1.dist-info").mkdir()
    metadata = tmp_path / "transformers-4.57.1.dist-info" / "METADATA"
    metadata.write_text("Name: transformers\nVersion: 4.57.1\n")
    result = run(sys.executable, check, "imports", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "has transformers 4.57.1; AdaKD needs transformers>=5,<6" in result.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_scripts_parse_and_stop_at_errors(path: Path) -> None:
    assert run("bash", "-n", path).returncode == 0
    if os.access(ROOT / path, os.X_OK):
        assert "\nset -euo pipefail\n" in (ROOT / path).read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    # The template is checked as part of the recipes copied from it.
    result = run("shellcheck", *(path for path in SCRIPTS if "TEMPLATE" not in path.parts))
    assert result.returncode == 0, result.stdout
