"""Which versions, revision and machine made a result. Reads, never imports, the packages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchaudio", "speechbrain", "transformers", "sentencepiece", "jiwer", "numpy",
    "scipy", "soundfile", "espeakng-loader", "pypinyin",
)  # fmt: skip
PAGES = (":(exclude)*.md", ":(exclude)docs")


def describe() -> dict[str, Any]:
    """{"versions", "revision", "machine", "time"} of here and now."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "revision": revision(),
        "machine": machine(),
        "time": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def revision() -> str:
    """The git commit of the code, with "+changes" where files that can change a result differ.

    What publishing writes cannot: pages, and what lies in docs/.
    """
    folder = Path(__file__).resolve().parents[1]

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
        )

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", ".", *PAGES)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (no git)"
    if commit.returncode:
        return "unknown (no git repository)"
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def machine() -> str:
    """Processor, cores, memory and GPUs, as a reader would name them."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        name += f", {os.cpu_count()} cores, {memory:.0f} GiB"
    except (OSError, ValueError):
        name += f", {os.cpu_count()} cores"
    return ", ".join([name, *_gpus()])


def _gpus() -> list[str]:
    """Nothing where torch, which would know, is not imported: it is not worth that."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    if not torch.cuda.is_available():
        return ["no GPU"]
    return [f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"]
