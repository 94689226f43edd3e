"""The methods that there are, told without importing torch: their names, and how reports show them.

What a method computes is a class in weighting.py, by the same name in its METHODS. How to add one:
docs/extending.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """How tables and figures show a method, and whether where x comes from matters to it."""

    label: str
    colour: str  # for figures; one of its own, told apart by colour-blind readers
    marker: str  # matplotlib's; one of its own
    uses_difficulty: bool = False  # as its class says


METHODS = {  # in the order of the tables
    "finetune": Method("Fine-tuning", "#0072B2", "o"),
    "kd": Method("KD", "#E69F00", "s"),
    "superloss": Method("SuperLoss", "#CC79A7", "v"),
    "focal": Method("Focal loss", "#56B4E9", "P"),
    "annealing": Method("Annealing KD", "#D55E00", "*"),
    "adakd": Method("AdaKD", "#009E73", "^", uses_difficulty=True),
    "adakd-learned": Method("AdaKD (learned)", "#882255", ">", uses_difficulty=True),
}


def method_of(name: str) -> str:
    """The method that a name begins with, as in 'adakd-learned-p25'; "" if with none."""
    begun = (method for method in METHODS if f"{name}-".startswith(f"{method}-"))
    return max(begun, key=len, default="")


def named_by(tag: str) -> str:
    """The method that another one's name with this tag would be: adakd-learned of 'learned'."""
    names = ((method, method_of(f"{method}-{tag}")) for method in METHODS)
    return next((name for method, name in names if name != method), "")
