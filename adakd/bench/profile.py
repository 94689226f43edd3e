"""`adakd bench profile`: where the time of an AdaKD step goes, by torch's profiler.

The step of `adakd bench steps` with cached outputs, or with --live. Shares are of the time that
each of torch's operations spent itself, without what it called: on a CPU wall time, on a GPU its
kernels'. Time between operations counts nowhere. The profiler itself costs time, above all where
operations are small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adakd.bench import measure, steps
from adakd.options import Parser, natural

REST = "rest"
# The first part that claims the name of an operation, or of one that it ran within, gets its time.
PARTS = {
    "token_losses, without its matrix products": ("_TokenLosses",),
    "gradient of the token embedding": ("_Tied", "EmbeddingBackward", "embedding_sparse_backward"),
    "gradient norm and optimiser": ("Optimizer.", "vector_norm", "_foreach_norm"),
    "attention": ("scaled_dot_product", "ScaledDotProduct", "softmax", "Softmax"),
    "convolutions": ("aten::conv", "ConvolutionBackward"),
    "normalisation": ("layer_norm", "LayerNorm", "group_norm", "GroupNorm"),
    "activation functions": ("gelu", "Gelu"),
    "matrix products": ("aten::linear", "aten::mm", "addmm", "AddmmBackward", "MmBackward", "bmm"),
}


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from adakd.bench import made

    parser = Parser(prog="adakd bench profile")
    steps.add_options(parser)
    parser.add_argument("--live", action="store_true", help="with a live teacher")
    parser.add_argument("--rounds", type=natural, default=3, help="steps in the profile (3)")
    options = parser.parse_args(list(arguments))
    measure.print_heading("profile", arguments)
    name = steps.LIVE if options.live else steps.cached(options)
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with made.scratch() as folder:
        step = steps.contenders(options, folder, [name])[name]
        step()  # the optimiser's states are made here
        with profile(activities=activities, acc_events=True) as found:
            for _ in range(options.rounds):
                step()
    taken = by_part(found.events(), torch.cuda.is_available())
    total = sum(taken.values())
    rows = [
        [part, f"{microseconds / options.rounds / 1000:.1f}", f"{100 * microseconds / total:.1f}"]
        for part, microseconds in taken.items()
    ]
    measure.print_table([name, "ms a step", "share, %"], rows)
    return 0


def by_part(events: Iterable[Any], device: bool) -> dict[str, float]:
    """Microseconds of each part of PARTS and of the rest, from the events of a profile.

    ``device`` asks for the time of kernels instead of that on the CPU.
    """
    from torch.autograd import DeviceType

    taken = {part: 0.0 for part in (*PARTS, REST)}
    for event in events:
        # A kernel is an event of its own as well; its time is that of the operation it belongs to.
        if event.device_type != DeviceType.CPU:
            continue
        own = event.self_device_time_total if device else event.self_cpu_time_total
        names = []
        while event is not None:
            names.append(event.name)
            event = event.cpu_parent
        taken[part_of(names)] += own
    return taken


def part_of(names: Sequence[str]) -> str:
    """The part of an operation: ``names`` are its own and those that it ran within."""
    for part, words in PARTS.items():
        if any(word in name for word in words for name in names):
            return part
    return REST
