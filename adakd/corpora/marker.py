"""What stage 0 leaves behind, `fetched.json`: where a corpus came from, and with which options.

Beside those a marker may hold what tells one release from another: `release`, `sha256` (what ->
checksum), `archive` or `archives` (each with its `bytes` and `sha256`); and what stage 1 rejects
(`rejected`).

Not a corpus. Stage 1 believes the marker, and later steps notice by its contents that a corpus has
changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adakd.errors import UserError
from adakd.files import read_json, write_json

NAME = "fetched.json"


def keep(folder: Path, source: str, settings: Mapping[str, Any], **facts: Any) -> None:
    """`write` a marker of the common form.

    source: where the corpus lies or came from. settings: the options that shape it.
    """
    write(folder, {"source": source, "settings": dict(settings), **facts})


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the marker; one that says the same already stays untouched."""
    if stored(folder) != content:
        write_json(folder / NAME, content)


def stored(folder: Path, *keys: str) -> dict[str, Any] | None:
    """The marker, or None where stage 0 has not finished.

    keys: what every marker of this corpus.kind has. One without them is of another kind, whose
    stage 0 ran here before: for this kind there is none.
    """
    found = read(folder / NAME)
    return found if found is not None and found.keys() >= set(keys) else None


def read(path: Path) -> dict[str, Any] | None:
    """What a marker of any name says, None where there is none. A damaged one is a UserError."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def settings_of(options: Any) -> dict[str, Any]:
    """The options that shape the utterances; where the corpus lies or comes from does not."""
    return {name: each for name, each in asdict(options).items() if name not in ("corpus", "url")}


def asked(folder: Path, options: Any) -> tuple[str, str]:
    """The option that says where the corpus comes from, `corpus` or `url`, and what it says.

    Without one of these, what was given before will do ("" where nothing was).
    """
    if options.corpus is not None:
        return "corpus", absolute(options.corpus)
    before = stored(folder, "settings") or {"source": "", "settings": {}}
    url = getattr(options, "url", None)
    if url is None:
        return "corpus", before["source"]
    ours = before["settings"].keys() == settings_of(options).keys()  # of this corpus.kind
    if ours and url == type(options).url:
        option = "corpus" if os.path.isabs(before["source"]) else "url"
        return before.get("given", option), before["source"]
    return "url", url


def given(option: str, source: str, usual: str) -> dict[str, Any]:
    """For the marker, that the source was given as a `url`; nothing for the usual one."""
    return {"given": option} if option == "url" and source != usual else {}


def may_differ(folder: Path, option: str, source: str) -> bool:
    """Whether there may be other files in a source than stage 0 saw; a `url` is cloned once.

    Always in a folder, if there is anything: an empty one is a disk that is not there. In an
    archive if its size is another. One that is gone does not matter.
    """
    if option == "url":
        return False
    if Path(source).is_dir():
        return any(Path(source).iterdir())
    known = (stored(folder) or {}).get("archive")
    return known is not None and not same_size(Path(source), known)


def same_size(archive: Path, known: Mapping[str, Any]) -> bool:
    """Whether an archive has the `bytes` that a marker tells, or is gone."""
    return not archive.exists() or archive.stat().st_size == known["bytes"]


def fits(folder: Path, source: str, settings: Mapping[str, Any], **facts: Any) -> bool:
    """Whether stage 0 has run with these options, on this source.

    facts: what the marker has to say besides; one from before there was such a fact does.
    """
    marker = stored(folder, "settings")
    if marker is None or (marker["source"], marker["settings"]) != (source, settings):
        return False
    return all(marker.get(name, fact) == fact for name, fact in facts.items())


def remove(folder: Path) -> None:
    """Take the marker away: what it speaks of is about to be made anew."""
    (folder / NAME).unlink(missing_ok=True)


def recall(folder: Path, name: str, options: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The marker, checked against the options of now, of which ``settings`` are those that count.

    Raises:
        UserError: stage 0 not run, or run with other options.
    """
    marker = stored(folder, "settings")
    if marker is None:
        raise UserError(f"{folder}: {name} is not here; run stage 0 first")
    option, source = asked(folder, options)
    made_with = {**marker["settings"], option: marker["source"]}
    check_options(folder, made_with, {**settings, option: source})
    return marker


def check_options(folder: Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse options of now that are not those of stage 0 (UserError)."""
    for key, value in wanted.items():
        if made_with.get(key) != value:
            raise UserError(
                f"{folder}: made with corpus.{key} {made_with.get(key)}, but now it is {value}; "
                "run stage 0 again"
            )


def check_given(
    folder: Path, facts: Mapping[str, Any], corpus: str | None, name: str | None
) -> None:
    """`check_options` of a marker that tells `source` and `name`; what is None is not given now."""
    made_with = {"corpus": facts["source"], "name": facts["name"]}
    now = {"corpus": absolute(corpus) if corpus is not None else None, "name": name}
    check_options(folder, made_with, {key: each for key, each in now.items() if each is not None})


def check_tables(place: str | Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse tables of a place, by name and SHA-256, that are not those of before (UserError)."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            done = "is gone" if name not in now else "has changed" if name in before else "is new"
            raise UserError(f"{place}: {name} {done} since stage 0; run stage 0 again")


def source_of(folder: Path, name: str, corpus: str | None) -> Path:
    """The folder of a corpus that is used where it lies: as given now, else as given before.

    Raises:
        UserError: never given, or no such folder.
    """
    marker = stored(folder, "settings")
    if corpus is None and marker is None:
        raise UserError(f"{name} is not downloaded here; give --corpus the folder that you have")
    place = Path(absolute(corpus) if corpus is not None else (marker or {})["source"])
    if not place.is_dir():
        problem = "is a file, unpack it first" if place.exists() else "does not exist"
        raise UserError(f"corpus.corpus: '{place}' {problem}; give the folder of {name}")
    return place


def described(folder: Path) -> str:
    """Release and checksums of the corpus in one line for the report; "" where none are known."""
    facts = stored(folder) or {}
    sums = dict(facts.get("sha256", {}))
    archives = {f"{name}.tar.gz": found for name, found in facts.get("archives", {}).items()}
    if "archive" in facts:
        archives["archive"] = facts["archive"]
    sums |= {name: found["sha256"] for name, found in archives.items()}
    parts = [f"release {facts['release']}"] if facts.get("release") else []
    if sums:
        parts.append("SHA-256 " + ", ".join(f"{name} {sums[name][:16]}" for name in sorted(sums)))
    return "; ".join(parts)


def absolute(path: str) -> str:
    """A path as typed, made absolute."""
    return os.path.abspath(os.path.expanduser(path))
