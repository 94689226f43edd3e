"""Stages 0 and 1: the corpus, and the data prepared from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adakd import config as configuration
from adakd import corpora
from adakd.corpora import marker
from adakd.errors import UserError
from adakd.files import (
    another,
    fingerprint,
    fingerprint_of_files,
    read_json,
    replaced_folder,
    shown,
    write_json,
)
from adakd.finished import (
    changes,
    done,
    foreign_below,
    is_current,
    mark_done,
    needed,
    one_at_a_time,
    spare_below,
)
from adakd.inputs import data_inputs, learnt_from, of_the_student, units_of
from adakd.place import Place
from adakd.processes import say
from adakd.workers import processors

# Beside prepared data: what was prepared there before.
FIRST_CHECKSUMS, FIRST_PREPARED = "first_checksums.json", "first_prepared.json"


def corpus_options(config: configuration.Config) -> tuple[Any, Any]:
    """The corpus's module and its options, validated."""
    module = corpora.module(str(config.corpus["kind"]))
    mapping = {key: value for key, value in config.corpus.items() if key != "kind"}
    if "corpus" in mapping and not hasattr(module.Options, "corpus"):
        raise UserError(
            f"{config.recipe} makes its corpus itself and takes no --corpus: name the recipe that "
            "yours is for, such as --recipe fsdd/en, or give sentences of your own with --text."
        )
    return module, configuration.from_dict(module.Options, mapping, f"{config.recipe}: corpus")


def folds(
    asked: Sequence[int] | Literal["all"] | None, config: configuration.Config
) -> list[int | None]:
    """The folds asked for; None for a corpus without folds, fold 0 for one that has them.

    Raises:
        UserError: a fold that the corpus does not have.
    """
    module, _ = corpus_options(config)
    available: int | None = getattr(module, "FOLDS", None)
    if available is None:
        if asked is not None:
            named = asked if asked == "all" else " ".join(map(str, asked))
            raise UserError(f"fold {named}: this corpus has no folds; leave it out.")
        return [None]
    if asked == "all":
        return list(range(available))
    chosen = [config.fold or 0] if asked is None else list(asked)
    for fold in chosen:
        if not 0 <= fold < available:
            raise UserError(f"fold {fold}: the folds are 0 to {available - 1}.")
    return [*chosen]


@one_at_a_time(lambda place: place.corpus)
def corpus(place: Place) -> None:
    """Stage 0: download, generate or locate the corpus."""
    module, options = corpus_options(place.config)
    if any(place.corpus.glob("*.json")) and foreign_below(place.results):
        try:
            next(iter(Walk(place)), None)
        except UserError as error:  # stage 0 had other options
            spare_below(place.results, str(error).removesuffix("; run stage 0 again"))
        say(f"{place.config.recipe}: corpus as it was trained on ({shown(place.corpus)})")
        return  # even what would be made alike today: fetch may remove what it cannot know
    module.fetch(options, place.corpus, place.config.language.code)
    if not any((place.corpus / name).exists() for name in (marker.NAME, "corpus.json")):
        raise UserError(
            f"corpus.kind {place.config.corpus['kind']}: `fetch` has left no marker in "
            f"{shown(place.corpus)}, by which later steps know the corpus: let it end with "
            "marker.keep (adakd/corpora/marker.py)."
        )
    say(f"{place.config.recipe}: corpus ready ({shown(place.corpus)})")


@one_at_a_time(lambda place: place.data)
def prepare(place: Place) -> None:
    """Stage 1: manifests, text units, audio at 16 kHz mono, and what was rejected and why."""
    config, inputs = place.config, data_inputs(place)
    splits = [*corpora.SPLITS, *(["untranscribed"] if config.data.untranscribed else [])]
    outputs = [place.data / f"{split}.jsonl" for split in splits]
    if own := units_of(place):
        outputs.append(own)
    title = f"{place.title}: data"
    facts = done(place.data)
    changed = changes(facts["inputs"], inputs) if facts else []
    if config.tag and changed and all(map(of_the_student, changed)):
        say(f"{title}: done for all tags ({shown(place.data)})")
        return
    if changed:
        problem = f"{title} in {shown(place.data)} have {another(changed)}"
        spare_below(place.experiment("teacher").parents[1], problem)
    next(iter(Walk(place)), None)  # a corpus of other options is told where all is done, too
    if is_current(place.data, inputs, title, *outputs):
        _tell_rejected(place)
        return
    from adakd import models
    from adakd.data import label_noise
    from adakd.data import prepare as stage

    for name in (FIRST_CHECKSUMS, FIRST_PREPARED):  # a damaged one is told before hours of work
        if (place.data / name).exists():
            read_json(place.data / name)
    module, options = corpus_options(config)
    if facts and "learnt" not in facts:  # what was prepared before `_first_alike` came has none
        with contextlib.suppress(FileNotFoundError, UserError):  # a manifest is lost, or spoilt
            _first_alike(place.data, [*facts["counts"]], learnt_from(facts))
    # Of all the corpus's languages: those that data.languages leaves out may be learnt next.
    training = stage.training_texts(
        module.utterances(options, place.corpus, config.fold),
        config.language.code,
        config.data.normalise,
    )
    units = units_of(place)
    with replaced_folder(place.units) as fresh:
        make_units(config, training, fresh)
        of_models = fresh if units else None
        limits = [models.limit(config, role, of_models) for role in ("teacher", "student")]
        # Only here: what a wrong path would have cost stays.
        (place.data / "done.json").unlink(missing_ok=True)
    if units is None:
        place.units.rmdir()
    counts = stage.prepare(
        Walk(place),
        place.data,
        stage.Clips(
            folder=place.audio,
            root=place.root,
            language=config.language.code,
            min_seconds=config.data.min_seconds,
            max_seconds=config.data.max_seconds,
            normalise=config.data.normalise,
            untranscribed=config.data.untranscribed,
        ),
        limits,
        config.data.max_rejected,
        config.data.jobs or processors(),
        models.lacks(config, units),
    )
    _tell_counts(place, counts)
    listing = place.data / label_noise.LISTING
    listing.unlink(missing_ok=True)
    if (noise := config.data.label_noise) != configuration.LabelNoise():
        wrong = label_noise.corrupt(place.data, noise, limits)
        listed = ", ".join(f"{count} {kind}" for kind, count in wrong.items()) or "none"
        say(f"{place.title}: wrong transcripts in train: {listed} ({shown(listing)})")
    files = fingerprint_of_files(place.data / f"{split}.jsonl" for split in counts)
    of_units = fingerprint_of_files(sorted(units.iterdir())) if units is not None else None
    samples = _other_samples(
        place.data, files, fingerprint_of_files([place.data / stage.CHECKSUMS])
    )
    now = {"data": files, "samples": samples}
    first, learnt = _first_alike(place.data, [*counts], now)
    if learnt != now:
        say(f"{title}: train and dev are known here, and what was trained on them stands")
    facts = {
        "manifests": first["data"],  # what stands for all of it, and for its samples
        "samples": first["samples"],
        "learnt": learnt,  # what stands for both without test
        "files": files,  # the bytes of the manifests
        "units": of_units,
        "counts": counts,
    }
    mark_done(place.data, inputs, **facts)


def _tell_counts(place: Place, counts: dict[str, Any]) -> None:
    from adakd.data.prepare import UNTRANSCRIBED

    teaches = place.config.learns_hypotheses
    unused = "" if teaches else ", unused: only --transcripts.source teacher learns from them"
    for split, count in counts.items():
        say(
            f"{place.title}: {split} {count['kept']} utterances, {count['seconds'] / 60:.1f} min"
            + (f", {count['rejected']} rejected" if count["rejected"] else "")
            + (unused if split == UNTRANSCRIBED else "")
        )


def _tell_rejected(place: Place) -> None:
    """Of finished data: what was left out, which nobody looks at again unless asked to."""
    counts = needed(place.data, "The prepared data", 1)["counts"].values()
    if rejected := sum(count["rejected"] for count in counts):
        say(f"{place.title}: {rejected} rejected ({shown(place.data / 'rejected.tsv')})")


def _other_samples(folder: Path, manifests: str, samples: str) -> str | None:
    """The checksum of the audio, if these manifests were prepared here with other audio before.

    Manifests name clips and their lengths: of louder or cleaner clips they may be the same. Only
    what was made here from the first audio is out of date then. In a fresh folder manifests say
    enough, and what was published for them counts.
    """
    path = folder / FIRST_CHECKSUMS
    known = read_json(path) if path.exists() else {}
    if manifests not in known:
        write_json(path, {**known, manifests: samples})
    return samples if known.get(manifests, samples) != samples else None


def _first_alike(
    folder: Path, splits: list[str], now: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands for prepared data, and for what trainings learn from: what first did so here.

    ``now`` is what stands for them by the bytes of their manifests and `_other_samples`. But data
    are the same wherever their audio lies, for its samples are compared; and no training looks at
    test. So a corpus that was moved leaves all as it was, and another test set all but hypotheses.
    """
    from adakd.data.prepare import contents

    path = folder / FIRST_PREPARED
    known = read_json(path) if path.exists() else {}
    found = {split: contents(folder, split) for split in splits}
    whole = known.setdefault(fingerprint(found), now)
    learnt = known.setdefault(fingerprint({**found, "test": None}), now)
    write_json(path, known)
    return whole, learnt


@dataclass(frozen=True)
class Walk:
    """The utterances of a place's languages: read anew whenever one goes through them."""

    place: Place

    def __iter__(self) -> Iterator[corpora.Utterance | corpora.Rejected]:
        config = self.place.config
        module, options = corpus_options(config)
        for one in module.utterances(options, self.place.corpus, config.fold):
            languages = config.data.languages
            if isinstance(one, corpora.Rejected) or not languages:
                yield one
            elif (one.language or config.language.code) in languages:
                yield one


def make_units(config: configuration.Config, texts: Iterator[str], folder: Path) -> None:
    """Write the recipe's tokenizer to a folder; nothing where the checkpoint's own is used."""
    from adakd.models import units

    if config.units.kind == "characters":
        units.train_characters(texts, folder)
    elif config.units.kind == "bpe":
        units.train_bpe(texts, folder, config.units.size)
    elif config.family == "wav2vec2":
        from adakd.models.wav2vec2 import own_tokenizer

        # The student takes over the teacher's characters, and gets an output layer for them.
        if not config.teacher.source:
            raise UserError(
                "The teacher starts from random weights and has no units of its own: set "
                "units.kind to characters."
            )
        own_tokenizer(config.teacher.source).save_pretrained(folder)
