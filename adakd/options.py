"""Command lines read by argparse: complaints are one sentence, and what a value may be is named.

The functions below are argparse's `type`: they read a value, or say what it should have been.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from adakd.errors import UserError

Value = TypeVar("Value")


class Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations and raises a `UserError` of one sentence."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def natural(text: str) -> int:
    """A whole number from 1 on."""
    return _from(1, text)


def whole(text: str) -> int:
    """A whole number from 0 on."""
    return _from(0, text)


def _from(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from {least} on")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return value


def path(text: str) -> Path:
    """A file or folder; after --root= the shell leaves ~ as it is."""
    return Path(os.path.expanduser(text))


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(words)}")
        return text

    return read


def several(read: Callable[[str], Value], or_none: bool = False) -> Callable[[str], list[Value]]:
    """Values between spaces, at least one unless ``or_none``."""

    def read_all(text: str) -> list[Value]:
        values = [read(word) for word in text.split()]
        if not values and not or_none:
            raise argparse.ArgumentTypeError("it is empty: give at least one value")
        return values

    return read_all
