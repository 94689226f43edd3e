"""The command line: `adakd STEP [STEP ...] --recipe espeak/hi ...`, one step for each stage.

Several steps run in one process, since importing torch, transformers and SpeechBrain costs seconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shlex
import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from adakd.errors import UserError, suggest
from adakd.files import FULL, full_disk
from adakd.methods import METHODS
from adakd.processes import STOPPED, another_stopped, rank

if TYPE_CHECKING:
    from adakd.config import Config
    from adakd.place import Place

Value = TypeVar("Value")

STEPS = {
    "corpus": "0  download, generate or locate the corpus",
    "prepare": "1  manifests, text normalisation, audio to 16 kHz mono, text units",
    "teacher": "2  fine-tune the teacher, or take one that is already fine-tuned",
    "finetune": "3  fine-tune the student: the baseline to beat",
    "teacher-pass": "4  the teacher's losses and soft outputs of the training set",
    "kd": "5  standard KD: one weight for all utterances",
    "adakd": "6  AdaKD, and the other methods named by --methods",
    "decode": "7  hypotheses of dev and test with every trained model",
    "score": "8  CER with confidence intervals",
    "report": "9  the table and the plots",
    "export": "10 the best student as a Hugging Face folder",
}
OPTIONS = {
    "recipe": "the folder below recipes/, such as espeak/hi",
    "family": 'wav2vec2, whisper, or "wav2vec2 whisper" (default: both)',
    "methods": f'"finetune kd adakd" (the default), of {", ".join(METHODS)}',
    "seed": 'seed of training, or several: "1 2 3" (default: that of conf/*.yaml, else 1)',
    "fold": 'test fold, several ("0 1 2"), or all, where the corpus has folds',
    "tag": "a name for this variant of the students, added to the experiments' folders",
    "root": "where corpus/, data/, exp/ and export/ go (default: the repository)",
}
OPEN_FILES = 65_536  # at a time, where the system allows it
# Steps that train students: by the method of their name, the last by all other methods.
TRAINING = ("finetune", "kd", "adakd")
# Steps whose work a launcher's processes share; any other each of them would do in full.
SHARED = ("teacher", "teacher-pass", *TRAINING)
# Steps that use the teacher, or tell of it.
OF_TEACHER = ("teacher-pass", "kd", "adakd", "decode", "score", "report", "export")
BENCHMARKS = [
    "prepare", "steps", "training", "growth", "teacher", "size", "decode", "store", "loading",
    "profile", "start", "allocator", "deploy",
]  # fmt: skip


def usage() -> str:
    """The text of --help."""
    lines = ["Usage: adakd STEP [STEP ...] --recipe NAME [options]", "", "Steps (with their stage)"]
    lines += [f"  {name:13} {text}" for name, text in STEPS.items()]
    lines += ["", "Options"]
    lines += [f"  --{name:11} {text}" for name, text in OPTIONS.items()]
    lines += [
        "  --publish     copy the table to recipes/NAME/RESULTS.md as well",
        "  --A.B VALUE   any value of the configuration, such as --train.epochs 3",
        "",
        "adakd new-recipe CORPUS/LANGUAGE --kind KIND starts a recipe of your own.",
        "adakd benchmark GRID.yaml runs a study, such as study/tier-a.yaml, and reports it.",
        f"adakd bench NAME [--help] measures: {', '.join(BENCHMARKS)}; see docs/PERFORMANCE.md.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; 0 on success, 1 after a sentence on standard error."""
    if arguments is None:  # this process is for nothing else
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # what a launcher stops is to die at once
            _stop_when_asked_to()
        arguments = sys.argv[1:]
    arguments = list(arguments)
    _let_threads_sleep()
    _keep_numpy_to_one_thread()
    _allow_open_files()
    others = arguments[:1] in (["new-recipe"], ["bench"], ["benchmark"])
    if not arguments or not others and ("--help" in arguments or "-h" in arguments):
        try:
            print(usage(), flush=True)
        except BrokenPipeError:  # `| head` has seen enough, also of what Python would flush at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    try:
        _check_text(arguments)
        if arguments[0] == "new-recipe":
            options = new_recipe_options(arguments[1:])
            from adakd.new_recipe import main as new_recipe

            return new_recipe(options)
        if arguments[0] == "bench":
            return bench(arguments[1:])
        if arguments[0] == "benchmark":
            from adakd.study.benchmark import main as benchmark

            return benchmark(arguments[1:])
        run(arguments)
    except (Exception, KeyboardInterrupt) as error:
        # First: libraries, and we, make another error of the interrupt where it hits them.
        if _asked_to_stop or isinstance(error, KeyboardInterrupt):
            if rank() == 0:
                _complain("stopped; the same command goes on from here")
            return 128 + (_asked_to_stop or [signal.SIGINT])[0]
        if isinstance(error, UserError):
            _complain(str(error))
        elif isinstance(error, OSError):
            # The disk, a path, a permission: for the user to mend, as a UserError is.
            what = error.strerror or " ".join(str(error).split()) or type(error).__name__
            where = f": {error.filename}" if error.filename else ""
            _complain(f"{what}{where}; mend that, then run the same command again")
        elif another_stopped(error):
            reason = str(error).strip().split("\n")[0]
            _complain(f"{STOPPED}, or cannot be reached ({reason})")
        else:
            raise
        return 1
    return 0


_asked_to_stop: list[int] = []  # the signals that did


def _complain(sentence: str) -> None:
    """A line on standard error, in one piece: of several processes each may write one."""
    sys.stderr.write(f"adakd: {sentence}\n")
    sys.stderr.flush()


def _allow_open_files() -> None:
    """Let this process have as many files open as it may: often 1,024 unless it asks for more.

    A store takes one for each of up to 600 arrays, and a process that loads audio one for each
    tensor that it hands over: 650 where 32 micro-batches make a step.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _let_threads_sleep() -> None:
    """Let threads that wait for others sleep sooner; read when torch is imported.

    As libgomp comes, a thread of torch spins for a millisecond or so before it sleeps. On a core
    that has other work it spins where the one that it waits for should run: a training beside
    others took up to eighteen times as long (docs/PERFORMANCE.md, What makes a step cheap). Where
    nothing else runs, this costs nothing that shows; sleeping at once would cost a fifth.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _keep_numpy_to_one_thread() -> None:
    """Let NumPy's matrix products round alike on any number of cores; read when it is imported.

    One of them resamples audio. OpenBLAS rounds otherwise where two threads share it, a few samples
    of a clip come out one step higher or lower, and all that was trained on the clip is made anew.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def _stop_when_asked_to() -> None:
    """Let `kill` (SIGTERM) and a terminal that is closed (SIGHUP) stop the work as Ctrl-C does.

    And note that they came, Ctrl-C too, whatever becomes of the KeyboardInterrupt.
    """
    process = os.getpid()
    # Where one is ignored, as nohup has it, it stays so.
    heeded = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]

    def stop(number: int, frame: Any) -> NoReturn:
        if os.getpid() != process:  # a process that loads audio, say
            if number == signal.SIGINT:  # which the terminal sends to all: as without us
                raise KeyboardInterrupt
            os._exit(128 + number)
        for each in heeded:  # one is enough: a second would cut the sentence, but for Ctrl-C
            again = signal.default_int_handler if each == signal.SIGINT else signal.SIG_IGN
            signal.signal(each, again)
        _asked_to_stop.append(number)
        raise KeyboardInterrupt

    for number in heeded:
        signal.signal(number, stop)


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse names in other bytes than UTF-8: neither JSON nor soundfile takes them."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{argument!a} is not UTF-8: give that file or folder another name."
            ) from None


def new_recipe_options(arguments: Sequence[str]) -> Namespace:
    """The options of `adakd new-recipe`. Its --help needs the standard library alone."""
    from adakd import corpora
    from adakd.options import Parser

    parser = Parser(prog="adakd new-recipe")
    parser.add_argument("name", help="CORPUS/LANGUAGE: the folder, and the language's code")
    parser.add_argument("--kind", required=True, help=f"the corpus: {', '.join(corpora.kinds())}")
    parser.add_argument("--whisper", help="Whisper's code of the language, where it differs")
    return parser.parse_args(list(arguments))


def bench(arguments: Sequence[str]) -> int:
    """One of the benchmarks, by its name."""
    import importlib

    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        print(usage().splitlines()[-1])
        return 0
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark '{name}': {suggest(name, BENCHMARKS)}")
    return importlib.import_module(f"adakd.bench.{name}").main(arguments[1:])


def parse(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str], bool]:
    """Split a command line into steps, options, configuration overrides and --publish.

    Raises:
        UserError: no step, no recipe, a step or an option that is not known, or one without value.
    """
    steps: list[str] = []
    options: dict[str, str] = {}
    overrides: dict[str, str] = {}
    publish = False
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if word not in STEPS:
                raise UserError(f"Unknown step '{word}': {suggest(word, STEPS)}")
            steps.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name == "publish":
            if equals:
                raise UserError("--publish takes no value.")
            publish = True
            continue
        if "." not in name and name not in OPTIONS:
            from difflib import get_close_matches

            near = get_close_matches(name, [*OPTIONS, "publish"], n=1)
            hint = f"did you mean --{near[0]}?" if near else "see adakd --help"
            raise UserError(f"Unknown option --{name}: {hint}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value.")
            value = rest.pop(0)
        (overrides if "." in name else options)[name] = value
    if not steps:
        raise UserError(f"No step given: choose from {', '.join(STEPS)}.")
    if "recipe" not in options:
        raise UserError("--recipe is missing, such as --recipe espeak/hi.")
    return steps, options, overrides, publish


def run(arguments: Sequence[str]) -> None:
    """Run the steps of a command line in their order, each for every fold, seed and family."""
    from adakd import config as configuration
    from adakd.place import Place
    from adakd.processes import world

    steps, options, overrides, publish = parse(arguments)
    recipe_folder = configuration.REPOSITORY / "recipes" / options["recipe"]
    if not (recipe_folder / "conf").is_dir():
        raise UserError(f"There is no recipe '{options['recipe']}': look into recipes/.")
    root = Path(os.path.expanduser(options.get("root", configuration.REPOSITORY))).resolve()
    families = _words("family", options.get("family", " ".join(configuration.FAMILIES)))
    methods = _methods(options.get("methods", "finetune kd adakd"))
    if world() > 1:
        if alone := [step for step in steps if step not in SHARED]:
            raise UserError(
                f"{alone[0]} is not for several processes: start it without the launcher, which "
                f"{', '.join(SHARED)} may have."
            )
        _join_processes()
    else:
        # A launcher's only process is like one without: SpeechBrain would take it for one of many.
        os.environ.pop("RANK", None)
        os.environ.pop("LOCAL_RANK", None)

    configs = [configuration.load(recipe_folder, family, overrides) for family in families]
    seeded = configs
    if "seed" in options:
        seeds = _numbers("seed", options["seed"])
        seeded = [replace(config, seed=seed) for seed in seeds for config in configs]
    test_folds = _folds(options.get("fold"), configs[0])
    places = [
        Place(root, replace(config, fold=fold, tag=options.get("tag", config.tag)))
        for fold in test_folds
        for config in seeded
    ]
    command = ["./run.sh"]
    for name, value in {**options, **overrides}.items():
        command += [f"--{name}", value]
    if publish:
        command.append("--publish")
    with _full_disk_named(root):
        _run_steps(steps, places, methods, shlex.join(command), publish)
    if world() > 1:
        import torch

        torch.distributed.destroy_process_group()  # NCCL warns at exit of one that is left


def _run_steps(
    steps: Sequence[str],
    places: list[Place],
    methods: list[str],
    command: str,
    publish: bool,
) -> None:
    from adakd.finished import done
    from adakd.inputs import check_settings_of_teacher, check_shared
    from adakd.processes import say
    from adakd.stages import checks, preparation, results, teacher_pass, training

    trained_by: dict[str, list[str]] = {step: [] for step in TRAINING}
    for method in methods:
        trained_by[method if method in TRAINING else "adakd"].append(method)
    asked = [name for step in TRAINING if step in steps for name in trained_by[step]]
    for place in places:
        training.check_methods(place, asked)
        if "teacher" not in steps and any(step in OF_TEACHER for step in steps):
            check_settings_of_teacher(place)
        if "teacher" in steps and not done(place.experiment("teacher")):
            training.check_units(place)
    if not asked and set(steps) <= set(TRAINING):
        for step in steps:
            number = list(STEPS).index(step)
            named = " ".join(methods)
            say(f"stage {number} ({step}): trains none of --methods {named}, nothing to do")
    of_each_place: dict[str, Callable[[Place], None]] = {
        "prepare": preparation.prepare,
        "teacher": training.teacher,
        "teacher-pass": teacher_pass.teacher_pass,
        "decode": lambda place: results.decode(place, methods),
        "score": lambda place: results.score(place, methods),
    }
    first = next((step for step in steps if step in SHARED), None)
    for step in steps:
        if step == "corpus":
            preparation.corpus(places[0])
        elif step == "report":
            results.report(places, methods, command, publish)
        elif step == "export":
            for folder in dict.fromkeys(place.export for place in places):
                results.export([place for place in places if place.export == folder], methods)
        else:
            for place in places if step == first else ():  # stage 1 has made the units by now
                checks.check_models(place, steps, asked)
            for place in places:
                check_shared(place, step)
                for method in trained_by.get(step, ()):
                    training.train(place, method)
                if step in of_each_place:
                    of_each_place[step](place)


@contextlib.contextmanager
def _full_disk_named(root: Path) -> Iterator[None]:
    """Name a full disk, and where it is, whatever a library says."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            if error.errno in FULL and not error.filename:
                error.filename = str(root)
            raise
        full = full_disk(error, root)
        if full is None and root.exists() and shutil.disk_usage(root).free < 2**20:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
        if full is not None:
            raise full from error
        raise


def _words(name: str, text: str) -> list[str]:
    words = text.replace(",", " ").split()
    if not words:
        raise UserError(f"--{name} is empty: give a value, or leave it out.")
    return _once_each(name, words)


def _once_each(name: str, values: list[Value]) -> list[Value]:
    """The values; `UserError` where one stands twice, which would count as two runs."""
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"--{name}: {value} stands there twice; it is one run.")
    return values


def _methods(text: str) -> list[str]:
    methods = _words("methods", text)
    for method in methods:
        if method not in METHODS:
            hint = suggest(method, METHODS)
            raise UserError(f"Unknown method '{method}' in --methods: {hint}")
    return methods


def _numbers(name: str, text: str) -> list[int]:
    words = _words(name, text)
    try:
        return _once_each(name, [int(word) for word in words])
    except ValueError:
        raise UserError(f"--{name} is '{text}': give whole numbers, such as \"1 2 3\".") from None


def _folds(text: str | None, config: Config) -> list[int | None]:
    from adakd.stages.preparation import folds

    asked: list[int] | Literal["all"] | None = None
    if text is not None:
        asked = "all" if text == "all" else _numbers("fold", text)
    try:
        return folds(asked, config)
    except UserError as error:
        raise UserError(f"--{error}") from None


def _join_processes() -> None:
    """Join the other processes that torchrun or Slurm started."""
    import torch

    from adakd.device import device
    from adakd.processes import wait_for_all

    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(device())
    torch.distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        timeout=timedelta(hours=1),  # more than processes are ever apart, but for `wait_for_all`
        # What is not told has barriers guess by the rank, wrong on several uneven machines.
        device_id=device() if on_gpus else None,
    )
    wait_for_all()  # here they meet for the first time, before one of them waits for a lock


if __name__ == "__main__":
    sys.exit(main())
