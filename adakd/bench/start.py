"""`adakd bench start`: how long one waits for help, and for a `./run.sh` that has nothing to do."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from adakd.bench import measure
from adakd.config import REPOSITORY
from adakd.errors import UserError
from adakd.options import Parser, natural


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench start")
    parser.add_argument("--rounds", type=natural, default=5, help="times that all start (5)")
    parser.add_argument(
        "--finished", help='arguments of a ./run.sh that has finished before, "" for none'
    )
    options = parser.parse_args(list(arguments))
    measure.print_heading("start", arguments)
    commands = {
        "python, doing nothing": [sys.executable, "-c", ""],
        "adakd --help": [sys.executable, "-m", "adakd.cli", "--help"],
        "./run.sh --help": ["./run.sh", "--help"],
    }
    if options.finished is not None:
        words = shlex.split(options.finished)
        commands[shlex.join(["./run.sh", *words]) + ", finished"] = ["./run.sh", *words]
    work: dict[str, Callable[[], Any]] = {
        name: partial(_run, command) for name, command in commands.items()
    }
    measure.print_costs(measure.interleaved(work, options.rounds), {})
    if options.finished is None:
        print("A finished ./run.sh: not measured (--finished).")
    return 0


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed: {done.stderr.strip()[-300:]}")
