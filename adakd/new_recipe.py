"""`adakd new-recipe CORPUS/LANGUAGE --kind KIND`: a recipe that runs, from recipes/TEMPLATE.

A language needs a code and, where Whisper's differs, Whisper's; text rules fit every script. The
corpus's options are written out with their comments, so that conf/recipe.yaml is all there is to
fill in. Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml

from adakd import config as configuration
from adakd import corpora
from adakd.config import REPOSITORY
from adakd.data.text import CHINESE, primary
from adakd.errors import UserError
from adakd.files import write_text

EMBEDDED = "espeak/hi"  # synthetic speech gets the models that have heard it
WHISPERS = {"cmn": "zh", "nb": "no", "fil": "tl", "jv": "jw"}  # Whisper's codes of these
DOWNLOADED = {"audio_cmn", "fleurs", "fsdd"}  # kinds that stage 0 can fetch itself
THOUSANDS = CHINESE | {"ja", "ko"}  # languages that are written in thousands of characters


def main(options: Namespace) -> int:
    """Make the recipe and say what comes next. Errors are `UserError`s; nothing is written then.

    options: name, kind and whisper, as `make` takes them.
    """
    folder = make(options.name, options.kind, options.whisper, REPOSITORY)
    given = "--corpus DIR"
    if options.kind == "espeak":
        given = "--text FILE    # or without it, with a grammar in conf/recipe.yaml"
    elif options.kind in DOWNLOADED:
        given = f"[{given}]    # without it stage 0 downloads it"
    print(
        f"Made {folder.relative_to(REPOSITORY)}. Look through conf/recipe.yaml, then\n\n"
        f"    ./run.sh --recipe {options.name} {given}"
    )
    return 0


def make(name: str, kind: str, whisper: str | None, repository: Path) -> Path:
    """Write recipes/`name`; returns its folder.

    kind: of `adakd.corpora`. whisper: Whisper's code of the language, None: its own.

    Raises:
        UserError: a name that is no CORPUS/LANGUAGE, a folder that exists, a kind or a language
            that is not known.
    """
    match = re.fullmatch(r"([a-z0-9][a-z0-9_-]*)/([A-Za-z0-9][A-Za-z0-9-]*)", name)
    if not match:
        raise UserError(
            f"'{name}' is no name of a recipe: write CORPUS/LANGUAGE, the corpus in small letters "
            "and the language by its code, such as espeak/sw"
        )
    corpus, language = match.groups()
    folder = repository / "recipes" / corpus / language
    if folder.exists():
        raise UserError(f"recipes/{name} exists already: remove it, or choose another name")
    options = corpora.module(kind).Options
    check_language(language, kind, whisper)

    template = repository / "recipes" / "TEMPLATE"
    values = {
        "CORPUS": corpus,
        "LANGUAGE": language,
        "CODE": json.dumps(language),  # quoted: Norwegian's code means false in YAML
        "WHISPER": json.dumps(whisper) if whisper else "null",
        "KIND": kind,
        "OPTIONS": described(options),
    }
    for source in sorted(path for path in template.rglob("*") if path.is_file()):
        text = source.read_text(encoding="utf-8")
        if kind == "espeak" and source.parent.name == "conf":
            text = for_espeak(source, text, repository)
        elif source.name == "wav2vec2.yaml" and primary(language) in THOUSANDS:
            text = text.replace("# top_k: 64", "top_k: 64  ")
            # As the Chinese recipes that keep the top k have it.
            text = text.replace("temperature: 2.0", "temperature: 1.0")
        text = re.sub(rf"\b({'|'.join(values)})\b", lambda found: values[found[1]], text)
        target = folder / source.relative_to(template)
        write_text(target, text)
        shutil.copymode(source, target)
    for family in configuration.FAMILIES:
        configuration.load(folder, family)
    return folder


def for_espeak(source: Path, text: str, repository: Path) -> str:
    """A file of conf/ as synthetic speech wants it: the embedded models, and their 6 s."""
    if source.name != "recipe.yaml":
        return (repository / "recipes" / EMBEDDED / "conf" / source.name).read_text("utf-8")
    text = text.replace("Whisper's window", "what the embedded models take").replace("30.0", "6.0")
    return text.replace("language:\n", "demonstration: true  # synthetic speech\n\nlanguage:\n", 1)


def described(options: Any) -> str:
    """A dataclass's fields as commented YAML with their defaults and their own comments."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(options), re.M))
    lines = []
    for field in dataclasses.fields(options):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        value = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True)
        line = f"  # {field.name}: {value.removesuffix('...' + chr(10)).strip()}"
        comment = comments.get(field.name)
        lines.append(f"{line:<32}  # {comment}" if comment else line)
    return "\n".join(lines)


def check_language(language: str, kind: str, whisper: str | None) -> None:
    """Refuse a code that Whisper, the text rules, or eSpeak where it is to speak, do not know."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    configuration.check_language(language)
    code = whisper or primary(language)
    if code not in LANGUAGES:
        names = {**TO_LANGUAGE_CODE, **configuration.MEANT, **WHISPERS}
        # A name may be misspelt; of codes that are like each other every one is a language.
        spelt = {name for name in names if len(name) > 3} if len(code) > 3 else {code.lower()}
        near = difflib.get_close_matches(code.lower(), spelt & names.keys(), n=1)
        hint = f"did you mean '{names[near[0]]}'? If not," if near else "if it is right,"
        raise UserError(
            f"Whisper has no language '{code}'; {hint} name the language nearest to it with "
            "--whisper CODE, such as --whisper sw"
        )
    if kind == "espeak":
        from adakd.corpora.espeak import espeak_code

        espeak_code(language)
