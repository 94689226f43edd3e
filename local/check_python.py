"""Whether this interpreter can run AdaKD: `check_python.py version` or `check_python.py imports`.

Prints a sentence and exits with 1 where it cannot. Old interpreters must be able to read this file.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ("torch", "torchaudio", "speechbrain")  # most failures are of the first two


def check_version():
    pattern = r'requires-python = ">=3\.(\d+),<3\.(\d+)"'
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, beyond = map(int, re.search(pattern, text).groups())
    major, minor = sys.version_info[:2]
    if not (3, oldest) <= (major, minor) < (3, beyond):
        sys.exit(
            f"{sys.executable} is Python {major}.{minor}; AdaKD needs Python 3.{oldest} to "
            f"3.{beyond - 1} (tested on 3.11)"
        )


def check_imports():
    import tomllib
    from importlib import import_module, metadata

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = tomllib.loads(text)["project"]["dependencies"]
    found, missing = {}, []
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)[0]
        try:
            found[requirement] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        sys.exit(f"{sys.executable} lacks {', '.join(missing)}")
    from packaging.requirements import Requirement  # transformers brings it

    for requirement, version in found.items():
        if requirement.startswith("torch"):
            continue  # of others than those named, pairs may fit as well: importing them tells
        if not Requirement(requirement).specifier.contains(version, prereleases=True):
            name = Requirement(requirement).name
            sys.exit(f"{sys.executable} has {name} {version}; AdaKD needs {requirement}")
    try:
        for name in IMPORTED:
            import_module(name)
    except Exception as error:
        versions = " and ".join(f"{each} {metadata.version(each)}" for each in IMPORTED[:2])
        said = (str(error).strip().splitlines() or [repr(error)])[-1]
        pair = " with ".join(map(" ".join, re.findall(r'"(torch|torchaudio)==(.+?)"', text)))
        sys.exit(
            f"{name} cannot be imported beside {versions} ({said}); of these two the pair that "
            f"fits is {pair}"
        )


if __name__ == "__main__":
    {"version": check_version, "imports": check_imports}[sys.argv[1]]()
