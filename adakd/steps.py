"""What each stage does, and what its results depend on. The command line calls these in turn.

Whether something is to be done is decided in finished.py, by what stands here as inputs; where
results lie is in place.py. Nothing heavy is imported before there is something to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd import corpora
from adakd.corpora import marker
from adakd.data import manifest
from adakd.difficulty import DOUBT
from adakd.errors import UserError
from adakd.files import atomic_write, read_json, replaced_folder, write_json, write_text
from adakd.finished import (
    ON_DISK,
    begin,
    changes,
    done,
    foreign_below,
    is_current,
    key_of,
    mark_done,
    needed,
    one_at_a_time,
    rank,
    say,
    shown,
    spare,
    spare_below,
    wait_for_all,
    whose,
    world,
)
from adakd.place import INT8, Place
from adakd.progress import track
from adakd.workers import processors

if TYPE_CHECKING:
    from adakd.models import Batch, Family
    from adakd.teacher_store import Store


SCORED = ("dev", "test")
# Beside prepared data: what was prepared there before.
FIRST_CHECKSUMS, FIRST_PREPARED = "first_checksums.json", "first_prepared.json"


def source_fingerprint(model: configuration.Model) -> Any:
    """What a model starts from: the hub id, or the contents of a local folder."""
    if model.source is None:
        return model.config
    if model.source == configuration.TEACHER:
        return model.source  # its contents are known from stage 2 on: see `start_inputs`
    folder = Path(model.source)
    if not folder.is_dir():
        return model.source
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin"):
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                # Weights differ everywhere once trained: both ends of a huge file will do.
                digest.update(file.read(1 << 16))
                file.seek(max(0, size - (1 << 16)))
                digest.update(file.read())
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------ stages 0 and 1


def corpus_options(config: configuration.Config) -> tuple[Any, Any]:
    """The corpus's module and its options, validated."""
    module = corpora.module(str(config.corpus["kind"]))
    mapping = {key: value for key, value in config.corpus.items() if key != "kind"}
    return module, configuration.from_dict(module.Options, mapping, f"{config.recipe}: corpus")


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
    module.fetch(options, place.corpus, place.config.language.code, track)
    say(f"{place.config.recipe}: corpus ready ({shown(place.corpus)})")


def corpus_fingerprint(place: Place) -> str:
    """Changes whenever stage 0 made another corpus: its markers tell."""
    markers = sorted(place.corpus.glob("*.json"))
    if not markers:
        raise UserError(f"{place.config.recipe}: no corpus at {place.corpus}: run --stage 0 first.")
    return configuration.fingerprint([path.read_text(encoding="utf-8") for path in markers])


def data_inputs(place: Place) -> dict[str, Any]:
    """What the prepared data depend on."""
    config = place.config
    inputs = {
        "corpus": corpus_fingerprint(place),
        "data": dataclasses.asdict(config.data) | {"jobs": None},  # as many as one likes
        "language": dataclasses.asdict(config.language),
        "units": dataclasses.asdict(config.units),
        "teacher": source_fingerprint(config.teacher),
        "student": source_fingerprint(config.student),
        "fold": config.fold,
    }
    if config.data.label_noise == configuration.LabelNoise():
        del inputs["data"]["label_noise"]
    if not config.data.untranscribed:
        del inputs["data"]["untranscribed"]
    return inputs


@one_at_a_time(lambda place: place.data)
def prepare(place: Place) -> None:
    """Stage 1: manifests, text units, audio at 16 kHz mono, and what was rejected and why."""
    config, inputs, noise = place.config, data_inputs(place), place.config.data.label_noise
    splits = [*corpora.SPLITS, *(["untranscribed"] if config.data.untranscribed else [])]
    outputs = [place.data / f"{split}.jsonl" for split in splits]
    if own := units_of(place):
        outputs.append(own)
    title = f"{place.title}: data"
    if place.config.tag and (facts := done(place.data)):
        changed = changes(facts["inputs"], inputs)
        if changed and all(map(of_the_student, changed)):
            say(f"{title}: done for all tags ({shown(place.data)})")
            return
    if (facts := done(place.data)) and (changed := changes(facts["inputs"], inputs)):
        problem = f"{title} in {shown(place.data)} have another {' and another '.join(changed)}"
        spare_below(place.experiment("teacher").parents[1], problem)
    next(iter(Walk(place)), None)  # a corpus of other options is told where all is done, too
    if is_current(place.data, inputs, title, *outputs):
        _tell_rejected(place)
        return
    from adakd import models
    from adakd.data import label_noise
    from adakd.data import prepare as stage
    from adakd.files import fingerprint

    for name in (FIRST_CHECKSUMS, FIRST_PREPARED):  # a damaged one is told before hours of work
        if (place.data / name).exists():
            read_json(place.data / name)
    module, options = corpus_options(config)
    if facts and "learnt" not in facts:  # prepared before 2026-11-29, when `_first_alike` came
        with contextlib.suppress(FileNotFoundError, ValueError):  # a manifest is lost, or spoilt
            _first_alike(place.data, [*facts["counts"]], _learnt(facts))
    (place.data / "done.json").unlink(missing_ok=True)
    training = (
        stage.target(u.text, u.language or config.language.code, config.data.normalise)
        for u in module.utterances(options, place.corpus, config.fold)
        if isinstance(u, corpora.Utterance) and u.split == "train"
    )
    units = make_units(place, training)
    limits = [models.limit(config, role, units) for role in ("teacher", "student")]
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
    for split, count in counts.items():
        say(
            f"{place.title}: {split} {count['kept']} utterances, {count['seconds'] / 60:.1f} min"
            + (f", {count['rejected']} rejected" if count["rejected"] else "")
        )
    (place.data / label_noise.LISTING).unlink(missing_ok=True)
    if noise != configuration.LabelNoise():
        wrong = label_noise.corrupt(place.data, noise, limits)
        listed = ", ".join(f"{count} {kind}" for kind, count in wrong.items()) or "none"
        say(
            f"{place.title}: wrong transcripts in train: {listed} "
            f"({shown(place.data / label_noise.LISTING)})"
        )
    files = fingerprint(place.data / f"{split}.jsonl" for split in counts)
    of_units = fingerprint(sorted(units.iterdir())) if units is not None else None
    samples = _other_samples(place.data, files, fingerprint([place.data / stage.CHECKSUMS]))
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
    whole = known.setdefault(key_of(found), now)
    learnt = known.setdefault(key_of({**found, "test": None}), now)
    write_json(path, known)
    return whole, learnt


def _learnt(facts: dict[str, Any]) -> dict[str, Any]:
    """What stands for the data that trainings learn from: its "data" and its "samples"."""
    return facts.get("learnt") or {"data": facts["manifests"], "samples": facts.get("samples")}


def prepared(place: Place) -> dict[str, Any]:
    """What is to be added to the inputs of whatever is trained on the prepared data.

    The manifests hold text: other text units make other targets of the same manifests. Those of a
    checkpoint count with the checkpoint.
    """
    facts = needed(place.data, "The prepared data", 1)
    found = {**_learnt(facts), "units": facts.get("units")}
    return {name: value for name, value in found.items() if value}


def prompt(config: configuration.Config) -> dict[str, Any]:
    """Whisper's language token, if it does not follow from the corpus's language."""
    named = config.family == "whisper" and config.language.whisper
    return {"prompt": config.whisper_language} if named else {}


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


def make_units(place: Place, texts: Iterator[str]) -> Path | None:
    """Make the recipe's tokenizer; None where the checkpoint's own is used."""
    from adakd.models import pretrained, units

    config = place.config
    shutil.rmtree(place.units, ignore_errors=True)
    if config.units.kind == "characters":
        units.train_characters(texts, place.units)
    elif config.units.kind == "bpe":
        units.train_bpe(texts, place.units, config.units.size)
    elif config.family == "wav2vec2":
        from transformers import Wav2Vec2CTCTokenizer

        # The student takes over the teacher's characters, and gets an output layer for them.
        source = config.teacher.source or ""
        pretrained(Wav2Vec2CTCTokenizer, source, "The teacher's tokenizer").save_pretrained(
            place.units
        )
    return units_of(place)


def units_of(place: Place) -> Path | None:
    """The folder of the recipe's tokenizer, None where checkpoints bring theirs."""
    own = place.config.family == "wav2vec2" or place.config.units.kind == "bpe"
    return place.units if own else None


# ------------------------------------------------------------------ stages 2, 3, 5 and 6


def teacher(place: Place) -> None:
    """Stage 2: fine-tune the teacher, or take one that is already fine-tuned.

    With transcripts.source `teacher` it then transcribes the training set: students need that from
    stage 3 on.
    """
    if place.config.teacher.finetuned:
        ready_teacher(place)
    else:
        train(place, "teacher")
    if place.config.transcripts.source == "teacher":
        transcribe_training(place)


def teacher_inputs(place: Place) -> dict[str, Any]:
    """What the teacher depends on."""
    return {
        **({} if place.config.teacher.finetuned else training_settings(place, "teacher")),
        **prepared(place),
        "source": source_fingerprint(place.config.teacher),
    }


def of_the_student(changed: str) -> bool:
    """Whether this input of the data only says which student they were prepared for."""
    return changed.split(".")[0] == "student"


def check_shared(place: Place, step: str) -> None:
    """Raise `UserError` where a tagged run would make anew what it has in common with others."""
    shared: dict[str, tuple[str, Path, Callable[[Place], dict[str, Any]]]] = {
        "prepare": ("data", place.data, data_inputs),
        "teacher": ("teacher", place.experiment("teacher"), teacher_inputs),
    }
    if not place.config.tag or step not in shared:
        return
    what, folder, inputs = shared[step]
    facts = done(folder)
    changed = changes(facts["inputs"], inputs(place)) if facts else []
    if [name for name in changed if not of_the_student(name)]:
        raise UserError(
            f"{place.title}: the {what} ({shown(folder)}) would be made anew for another "
            f"{' and another '.join(changed)}, and runs with a --tag share the {what} with all "
            "others: give such a variant a --root DIR of its own, or leave out --tag to replace "
            f"the {what}; settings of the students alone begin with --student.train."
        )


def check_units(place: Place) -> None:
    """Raise `UserError` where nothing can be distilled, before the teacher is trained for days.

    Only where both models bring a tokenizer. A student of the teacher's layers has its units, and
    one that learns from its transcripts needs none of them.
    """
    config = place.config
    teacher, student = config.teacher.source, config.student.source
    if configuration.TEACHER in (student, config.transcripts.source) or units_of(place):
        return
    if teacher and student:
        from adakd import models

        models.check_same_units(teacher, student)


@one_at_a_time(lambda place: place.experiment("teacher"))
def ready_teacher(place: Place) -> None:
    """Take the teacher as its source has it."""
    folder, inputs = place.experiment("teacher"), teacher_inputs(place)
    spare(folder, inputs)
    if is_current(folder, inputs, f"{place.title}: teacher", folder / "model"):
        return
    from adakd import models

    family = models.load(place.config, "teacher") if rank() == 0 else None
    sources = place.config.student.source, place.config.transcripts.source
    if family is not None and configuration.TEACHER not in sources:
        # Told now, not after the student has been fine-tuned. Its transcripts need no units.
        models.check_same_units(family, models.load(place.config, "student", units_of(place)))
    begin(folder, inputs, place.config)  # what an earlier teacher has left is not this one's
    if family is not None:
        with replaced_folder(folder / "model") as fresh:
            family.save(fresh)
        size = family.parameters_count
        mark_done(folder, inputs, method="teacher", parameters=size, train_seconds=0, **whose())
    wait_for_all()


def heard_inputs(place: Place) -> dict[str, Any]:
    """What the teacher's hypotheses of the training set depend on."""
    return {
        "teacher": needed(place.experiment("teacher"), "The teacher", 2)["fingerprint"],
        "data": prepared(place)["data"],
        "audio": dataclasses.asdict(place.config.audio),
        **prompt(place.config),
    }


def transcripts_inputs(place: Place) -> dict[str, Any]:
    """What the transcripts that are chosen from those hypotheses depend on."""
    return {
        "hypotheses": key_of(heard_inputs(place)),
        "max_cer": place.config.transcripts.max_cer,
        "student": source_fingerprint(place.config.student),
        "normalise": place.config.data.normalise,
    }


def transcripts_of(place: Place) -> Path:
    """The folder of those transcripts: one for all tags, but for a tag that asks for others."""
    return _for_tag(place, place.transcripts, transcripts_inputs, _inputs_of)


def lessons(place: Place) -> manifest.Manifest:
    """The utterances that students learn from."""
    if place.config.transcripts.source == "corpus":
        return place.transcribed()
    return manifest.read(transcripts_of(place) / "train.jsonl")


@one_at_a_time(lambda place: place.transcripts)  # for all tags, as are the hypotheses
def transcribe_training(place: Place) -> None:
    """Sequence-level distillation: the teacher's transcripts of train and of untranscribed audio.

    The hypotheses are kept: another transcripts.max_cer decodes nothing anew.
    """
    config, folder = place.config, transcripts_of(place)
    names = ["train", *(["untranscribed"] if config.data.untranscribed else [])]
    heard, inputs = heard_inputs(place), transcripts_inputs(place)
    said = place.transcripts / "hypotheses"
    if not is_current(said, heard, f"{place.title}: hypotheses of train"):
        from adakd.decode import transcribe

        if rank() == 0:
            shutil.rmtree(said, ignore_errors=True)
        wait_for_all()
        for name in names:
            rows = transcribe(
                config,
                place.experiment("teacher") / "model",
                place.manifest(name)[rank() :: world()],
                place.root,
                f"{place.title}: the teacher transcribes {name}",
            )
            with atomic_write(said / f"{name}.{rank()}.jsonl") as file:
                for row in rows:
                    line = {"id": row["id"], "hypothesis": row["hypothesis"]}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        wait_for_all()
        if rank() == 0:
            mark_done(said, heard)
    title = f"{place.title}: transcripts of the teacher"
    # They name the audio, which may have been moved since.
    data = needed(place.data, "The prepared data", 1)
    files = data.get("files", data["manifests"])
    moved = (done(folder) or {}).get("files", heard["data"]) != files
    if rank() == 0 and (moved or not is_current(folder, inputs, title, folder / "train.jsonl")):
        from adakd import models
        from adakd.data import pseudo_labels

        (folder / "done.json").unlink(missing_ok=True)
        hypotheses: dict[str, str] = {}
        for path in said.glob("*.jsonl"):
            with path.open(encoding="utf-8") as file:
                hypotheses.update((row["id"], row["hypothesis"]) for row in map(json.loads, file))
        counts = pseudo_labels.choose(
            [place.manifest(name) for name in names],
            hypotheses,
            folder,
            [models.limit(config, role, units_of(place)) for role in ("teacher", "student")],
            config.transcripts.max_cer,
            config.data.normalise,
        )
        mark_done(folder, inputs, counts=counts, files=files)
        say(
            f"{title}: {counts['kept']} utterances, "
            f"{counts['seconds'] / 60:.1f} min, {counts['rejected']} left out "
            f"({shown(folder / 'rejected.tsv')})"
        )
    wait_for_all()


def lessons_inputs(place: Place) -> dict[str, Any]:
    """What is to be added to the inputs of whatever depends on the transcripts students learn."""
    if place.config.transcripts.source == "corpus":
        return {}
    found = needed(transcripts_of(place), "The teacher's transcripts of the training set", 2)
    return {"transcripts": found["fingerprint"]}


def start_inputs(place: Place) -> dict[str, Any]:
    """What the untrained student depends on."""
    student = place.config.student
    inputs = {
        **prepared(place),
        "student": source_fingerprint(student),
        "seed": place.config.seed,
    }
    if student.source == configuration.TEACHER:
        inputs["teacher"] = needed(place.experiment("teacher"), "The teacher", 2)["fingerprint"]
    if student.layers != configuration.Layers():
        inputs["layers"] = dataclasses.asdict(student.layers)
    return inputs


def untrained(place: Place) -> Path:
    """The folder of the untrained student: one for all tags, but for a tag with another start."""
    shared, tag = place.experiment("untrained"), place.config.tag
    facts = done(shared) if tag else None
    if facts is None or facts["fingerprint"] == key_of(start_inputs(place)):
        return shared
    return shared.parents[1] / f"untrained-{tag}" / shared.name


def folder_of(place: Place, name: str) -> Path:
    """Where what is decoded, scored and reported lies."""
    return untrained(place) if name == "untrained" else place.experiment(name)


@one_at_a_time(lambda place: untrained(place))
def student_start(place: Place) -> Path:
    """The untrained student from which every method of a seed starts; made once.

    With student.source `teacher` it has the layers of the teacher as stage 2 left it, as in
    Distil-Whisper: the student starts from the model that it is distilled from, whose output layer
    knows the recipe's units. Layers of the checkpoint before that: name the teacher's own source.
    """
    folder, inputs = untrained(place), start_inputs(place)
    current = (done(folder) or {}).get("fingerprint") == key_of(inputs)
    if not (current and (folder / "model").exists()) and rank() == 0:
        from adakd import models
        from adakd.brain import seed_everything

        seed_everything(place.config.seed, "weights")
        config, units = place.config, units_of(place)
        if config.student.source == configuration.TEACHER:
            source, units = str(place.experiment("teacher") / "model"), None  # it brings its own
            student = dataclasses.replace(config.student, source=source)
            config = dataclasses.replace(config, student=student)
        family = models.load(config, "student", units)
        (folder / "done.json").unlink(missing_ok=True)
        with replaced_folder(folder / "model") as fresh:
            family.save(fresh)
        mark_done(folder, inputs, method="untrained", parameters=family.parameters_count)
    wait_for_all()
    return folder


def training_settings(place: Place, method: str) -> dict[str, Any]:
    """What a training depends on that stands in the configuration; `train` adds what is on disk."""
    config = place.config
    role = "teacher" if method == "teacher" else "student"
    found: dict[str, Any] = {
        "audio": dataclasses.asdict(config.audio),
        "train": dataclasses.asdict(config.train_of(role)),
        "seed": place.seed_of(method),
        **prompt(config),
    }
    if role == "student":
        found["method"] = config.methods.get(method) or {}
        if found["method"].get("guard") is not None:
            found["doubt"] = DOUBT
    if method not in ("teacher", "finetune"):
        found["distill"] = dataclasses.asdict(config.distill)
        if config.distill.teacher == "cached":
            found["distill"]["top_k"] = kept_units(config.distill)
        # They change what looks at x, and nothing else.
        source, passes = (found["distill"].pop(key) for key in ("difficulty", "dropout_passes"))
        if method in configuration.ADAPTIVE and source != "insample":
            found["difficulty"] = [source, passes] if source == "dropout" else source
    return found


def changed_settings(place: Place, method: str, facts: dict[str, Any]) -> list[str]:
    """Dotted names of the settings with which a finished training differs from this place's."""
    made = {name: value for name, value in facts["inputs"].items() if name not in ON_DISK}
    return changes(made, training_settings(place, method))


def changed_on_disk(place: Place, facts: dict[str, Any]) -> list[str]:
    """What differs between what a finished training came from and what lies here now.

    Of "data", "units", "samples", "transcripts" and "teacher". What is no longer there, or was not
    asked for in that training, has not changed.
    """
    made, now = facts["inputs"], {}
    if done(place.data):
        now = {"samples": None, **prepared(place)}
    if teacher := done(place.experiment("teacher")):
        now["teacher"] = teacher["fingerprint"]
    if (place.config.transcripts.source == "teacher") != ("transcripts" in made):
        return ["transcripts"]
    if "transcripts" in made and teacher and done(place.data):
        if found := done(transcripts_of(place)):
            now["transcripts"] = found["fingerprint"]
    both = [name for name in now if name in made or name == "samples"]
    return changes({name: made.get(name) for name in both}, {name: now[name] for name in both})


def _folder_of_training(
    place: Place, method: str, half: tuple[int, list[int]] | None = None
) -> Path:
    return place.half(half[0]) if half else place.experiment(method)


@one_at_a_time(_folder_of_training)
def train(place: Place, method: str, half: tuple[int, list[int]] | None = None) -> None:
    """Train the student with a method, or the teacher (method ``teacher``), from start to end.

    ``half``, a number and its utterances, trains another teacher, on these alone.
    """
    config = place.config
    title = f"{place.title}: {method}" + (f" of half {half[0] + 1}" if half else "")
    role = "teacher" if method == "teacher" else "student"
    settings = config.train_of(role)
    name = "finetune" if method == "teacher" else method
    inputs = teacher_inputs(place) if role == "teacher" else training_settings(place, method)
    options = inputs.get("method", {})
    folder = _folder_of_training(place, method, half)
    if half:
        inputs["half"] = configuration.fingerprint(half[1])
    if role == "student":
        inputs["start"] = key_of(start_inputs(place))
        inputs |= prepared(place) | lessons_inputs(place)
    if name != "finetune":
        inputs["teacher"] = needed(place.experiment("teacher"), "The teacher", 2)["fingerprint"]
    if not half:  # halves go with the teacher
        spare(folder, inputs)
    if is_current(folder, inputs, title, folder / "model"):
        return

    import torch

    from adakd import models
    from adakd import weighting as weightings
    from adakd.brain import DistillationBrain, seed_everything
    from adakd.data.loader import Steps, StepSampler, evaluation_loader, training_loader
    from adakd.device import described, precision

    for each, its_options in config.methods.items():
        weightings.build(each, its_options)  # a wrong one is told now, not after hours of training
    weighting = weightings.build(name, options)
    if (
        weighting.logits_scale(0.0) is not None
        and config.distill.top_k
        and config.distill.teacher == "cached"
    ):
        raise UserError(
            f"{place.title}: {method} compares all logits, and the teacher store keeps the top "
            f"{config.distill.top_k}: set distill.top_k to 0 and run --stage 4 again, or set "
            "distill.teacher to online."
        )
    if weighting.learn_every and config.family == "whisper" and settings.ctc_weight > 0:
        raise UserError(
            f"{title} learns its weights from the task loss in eval mode, which is without the "
            "auxiliary CTC loss that the student is trained with: set student.train.ctc_weight to "
            "0, or take adakd."
        )

    if role == "teacher" and not half:
        check_units(place)
    entries = place.transcribed() if role == "teacher" else lessons(place)
    gc.collect()  # a brain and its checkpointer hold each other: the last model may still be there
    begin(folder, inputs, config)
    seed = place.seed_of(method)
    if role == "teacher":
        seed_everything(seed, "weights")
        family = models.load(config, "teacher", units_of(place))
    else:
        family = models.open_folder(config, student_start(place) / "model")
    live, extra = supervision(place, weighting, family)
    seed_everything(seed, "training")  # whatever else this process has done
    family.prepare_training(settings)
    if rank():  # what it has made is the same everywhere; dropout and masks are not to be
        seed_everything(seed, f"training {rank()}")
    if half:
        entries = entries.pick(half[1])
    held_out = None
    if weighting.held_out:
        held, entries = entries.split(weighting.held_out, config.seed)
        held_out = Steps(held, place.root, family)
    sampler = StepSampler(
        entries.seconds,
        settings.batch_seconds,
        settings.accumulate,
        seed,
        family.padded,
        rank(),
        world(),
    )
    say(f"{title}: trains {described()}, {precision(settings.precision)}")
    if world() > 1:
        say(f"{title}: {step_of_all(config, role)}")
    brain = DistillationBrain(
        family, weighting, settings, config.distill, folder, sampler, title, live, held_out
    )
    train_loader = training_loader(
        Steps(entries, place.root, family, extra, live), sampler, settings.workers
    )
    dev_loader = evaluation_loader(
        Steps(place.manifest("dev"), place.root, family),
        2 * settings.batch_seconds,
        family.padded,
        settings.workers,
    )
    try:
        outcome = brain.run(train_loader, dev_loader)
    except torch.OutOfMemoryError as error:
        raise too_little_memory(title, config, role, folder) from error
    wait_for_all()  # every process has read the best checkpoint, before they are removed
    if rank() == 0:
        with replaced_folder(folder / "model") as fresh:
            family.save(fresh)
        mark_done(
            folder,
            inputs,
            method=method,
            parameters=family.parameters_count,
            steps=brain.total_steps,
            alpha=weighting.summary(),
            **outcome,
            **whose(),
        )
        shutil.rmtree(folder / "ckpt", ignore_errors=True)
    wait_for_all()
    say(
        f"{title} trained in {outcome['train_seconds']:.0f} s, dev CER "
        f"{outcome['dev_cer']:.2%} at epoch {outcome['epoch']} of {settings.epochs}"
    )


def step_of_all(config: configuration.Config, role: str) -> str:
    """What several processes put into one optimiser step, and how to have the recipe's."""
    train, count = config.train_of(role), world()
    seconds = train.batch_seconds * train.accumulate
    batches = -(-train.accumulate // count)  # no batch is to be larger than the recipe's
    as_one = {"accumulate": batches, "batch_seconds": seconds / (count * batches)}
    options = options_of_training(config, role, as_one)
    return (
        f"{count} processes, {count * seconds:g} s of audio in a step where one has {seconds:g} s, "
        f"and so many times fewer steps; as with one: {options}"
    )


def options_of_training(config: configuration.Config, role: str, values: dict[str, float]) -> str:
    """What to type for other values of one model's ``train``; the other model keeps its own."""
    train = config.train_of(role)
    return " ".join(
        f"--{role}.train.{name} {value:g}"
        for name, value in values.items()
        if value != getattr(train, name)
    )


def too_little_memory(
    title: str, config: configuration.Config, role: str, folder: Path
) -> UserError:
    """What to say where a training, in ``folder``, does not fit on its GPU."""
    train = config.train_of(role)
    halved = {"batch_seconds": train.batch_seconds / 2, "accumulate": 2 * train.accumulate}
    return UserError(
        f"{title}: the GPU's memory is full. PYTORCH_ALLOC_CONF=expandable_segments:True in the "
        "environment saves some, and the training goes on; smaller batches make the same steps, "
        f"but begin it anew: remove {shown(folder)} and give "
        f"{options_of_training(config, role, halved)}."
    )


def supervision(
    place: Place, weighting: Any, student: Family
) -> tuple[Family | None, Callable[[Batch], Batch] | None]:
    """What a method gets from the teacher: the live model, and what is added to every batch."""
    if not (weighting.uses_distill or weighting.uses_difficulty):
        return None, None
    import torch

    from adakd import models

    config = place.config
    folder = place.experiment("teacher") / "model"
    if weighting.uses_distill:
        models.check_same_units(folder, student)
    live = None
    if config.distill.teacher == "online" and weighting.uses_distill:
        live = models.open_folder(config, folder)
        live.requires_grad_(False)
    cached = weighting.uses_distill and live is None
    store = open_store(place) if cached else None
    x = difficulties(place, weighting.uses_doubt) if weighting.uses_difficulty else None
    if x is not None:
        weighting.fit([x[entry.id] for entry in lessons(place)])

    def extra(batch: Batch) -> Batch:
        if x is not None:
            batch.difficulty = torch.tensor([x[i] for i in batch.ids])
        if store is not None:
            batch.soft = store.soft(batch.ids)
        return batch

    return live, extra


# ------------------------------------------------------------------ stage 4


def kept_units(distill: configuration.Distill) -> str | int:
    """What a store holds of each token, in the words of its fingerprint; 0 is all of it."""
    return f"{distill.top_k} and as many drawn" if distill.top_k else 0


def store_parts(place: Place) -> dict[str, Any]:
    """All that the teacher store depends on, by the name that an error message gives it."""
    config, distill = place.config, place.config.distill
    return {
        "teacher": needed(place.experiment("teacher"), "The teacher", 2)["fingerprint"],
        "manifest": prepared(place)["data"],
        "units": dataclasses.asdict(config.units),
        "prompt": config.whisper_language,
        "normaliser": config.data.normalise,
        "input length": config.audio.encode,
        "reduction": "per target unit",
        "top_k": kept_units(distill),
        # Dense logits serve any temperature.
        "temperature": distill.temperature if distill.top_k else None,
        "dtype": "float16",
        **lessons_inputs(place),
    }


def store_of(place: Place) -> Path:
    """The folder of the teacher store: one for all tags, but for a tag that asks for another."""
    return _for_tag(place, place.store, store_parts, _begun_parts)


def difficulty_of(place: Place) -> Path:
    """The folder of x that is not the store's own: one for all tags, as with the store."""
    return _for_tag(place, place.difficulty, difficulty_parts, _inputs_of)


def _for_tag(
    place: Place,
    shared: Path,
    wanted: Callable[[Place], dict[str, Any]],
    made: Callable[[Path], dict[str, Any] | None],
) -> Path:
    """The shared folder, unless it is of other parts than those wanted under a tag.

    ``made`` tells the parts of a folder, if there is anything in it.
    """
    if not place.config.tag:
        return shared
    own = shared.with_name(f"{shared.name}@{place.config.tag}")  # no tag holds an @
    parts = wanted(place)
    for folder in (own, shared):
        if (found := made(folder)) is not None and not changes(found, parts):
            return folder
    return shared if made(shared) is None else own


def _inputs_of(folder: Path) -> dict[str, Any] | None:
    return (done(folder) or {}).get("inputs")


def _parts_of(store: Path) -> dict[str, Any] | None:
    """What a finished store was made with; None if it is not finished."""
    meta = store / "meta.json"
    return read_json(meta)["parts"] if meta.exists() else None


def _begun_parts(store: Path) -> dict[str, Any] | None:
    """What a store was made with, or is being made: a pass that was cut goes on."""
    unfinished = store / "unfinished.json"
    return read_json(unfinished)["parts"] if unfinished.exists() else _parts_of(store)


def open_store(place: Place) -> Store:
    """The finished store of this place, checked against what it should depend on."""
    from adakd.teacher_store import Store

    return Store(store_of(place), store_parts(place))


def teacher_pass(place: Place) -> None:
    """Stage 4: the teacher's loss and soft outputs on every training utterance.

    And x from another source, and the losses for a guard, where the configuration asks for them.
    """
    guard = guarded(place.config)
    own = place.config.distill.difficulty != "insample" or guard
    if own:
        check_source_of_difficulty(place)
    write_store(place)
    if own:
        write_difficulty(place, guard)


def guarded(config: configuration.Config) -> bool:
    """Whether a method asks how likely each transcript is wrong."""
    return any((options or {}).get("guard") is not None for options in config.methods.values())


@one_at_a_time(lambda place: place.store)  # for all tags: which folder, is known inside
def write_store(place: Place) -> None:
    """The teacher store: the teacher's loss and soft outputs on every training utterance."""
    parts, folder = store_parts(place), store_of(place)
    if (found := _parts_of(folder)) is not None:
        if not (changed := changes(found, parts)):
            say(f"{place.title}: teacher store done ({shown(folder)})")
            return
        say(f"{place.title}: teacher store: {' and '.join(changed)} changed, made anew")
    elif (begun := _begun_parts(folder)) and (changed := changes(begun, parts)):
        say(f"{place.title}: teacher pass: cut, and {' and '.join(changed)} changed, begun anew")
    from adakd import models
    from adakd.data.loader import Steps, evaluation_loader
    from adakd.device import device
    from adakd.teacher_store import Store, Writer, begin, fill, finish, written

    config = place.config
    train = config.train_of("teacher")
    family = models.open_folder(config, place.experiment("teacher") / "model")
    family.to(device()).eval()
    title = f"{place.title}: teacher pass"
    if rank() == 0:
        begin(folder, parts, config.distill.top_k, config.distill.temperature)
    wait_for_all()
    there, entries = written(folder), lessons(place)
    if there:
        say(f"{title}: goes on, {len(there)} of {len(entries)} utterances are there")
        entries = entries.pick([i for i, entry in enumerate(entries) if entry.id not in there])
    wait_for_all()  # all know what was there, before more comes
    entries = entries[rank() :: world()]
    loader = evaluation_loader(
        Steps(entries, place.root, family),
        2 * train.batch_seconds,
        family.padded,
        train.workers,
    )
    writer = Writer(folder, rank())
    fill(writer, family, track(loader, len(loader), title))
    writer.flush()
    wait_for_all()
    if rank() == 0:
        finish(folder)
    wait_for_all()
    x = Store(folder).difficulties().values()
    say(
        f"{place.title}: teacher store written, mean loss x {sum(x) / max(1, len(x)):.4f} nats a "
        f"unit ({shown(folder)})"
    )


def difficulty_parts(place: Place) -> dict[str, Any]:
    """All that x depends on where it is not the store's own: the store's parts, and its source."""
    soft = ("top_k", "temperature", "dtype")
    distill = place.config.distill
    return {
        **{name: value for name, value in store_parts(place).items() if name not in soft},
        "difficulty": distill.difficulty,
        "dropout_passes": distill.dropout_passes if distill.difficulty == "dropout" else None,
    }


def difficulties(place: Place, doubt: bool = False) -> dict[str, Any]:
    """x of every training utterance by id, from the source that the configuration names.

    With ``doubt``: pairs of x and how likely the transcript is wrong.
    """
    if place.config.distill.difficulty == "insample" and not doubt:
        return open_store(place).difficulties()
    folder = difficulty_of(place)
    facts = needed(folder, "The difficulty", 4)
    changed = changes(facts["inputs"], difficulty_parts(place))
    if doubt and facts["guard"] != DOUBT:
        changed.append("guard")
    if changed:
        raise UserError(
            f"{folder} was made with another {' and another '.join(changed)}: run stage "
            "4 (teacher-pass) again."
        )
    with (folder / "x.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["id"]: (row["x"], row["doubt"]) if doubt else row["x"] for row in rows}


def check_source_of_difficulty(place: Place) -> None:
    """Raise `UserError` where the models cannot give the difficulty that is asked for."""
    config, source = place.config, place.config.distill.difficulty
    what = f"{place.title}: distill.difficulty {source} needs the teacher before fine-tuning"
    if source in ("crossfit", "pretrained") and config.teacher.finetuned:
        raise UserError(
            f"{what}, and teacher.finetuned takes it as it is: try insample or dropout."
        )
    if source != "pretrained":
        return
    if config.teacher.source is None:
        raise UserError(f"{what}, and it starts from random weights: try crossfit.")
    from adakd import models

    if new := models.untrained_units(config, units_of(place)):
        raise UserError(
            f"{what}, and that has no output yet for {len(new)} of the recipe's units, such as "
            f"{new[0]!r}, which get a new output layer: set units.kind to source, or try crossfit."
        )


@one_at_a_time(lambda place, guard: place.difficulty)
def write_difficulty(place: Place, guard: bool) -> None:
    """x of every training utterance from a source of its own, in x.jsonl: a line an utterance.

    With a ``guard`` a line also holds the doubt in the transcript, and the losses behind it.
    """
    folder, parts = difficulty_of(place), difficulty_parts(place)
    config, source = place.config, place.config.distill.difficulty
    title = f"{place.title}: difficulty {source}"
    rule = DOUBT if guard else False
    lacks_guard = guard and (done(folder) or {}).get("guard", rule) != rule
    if not lacks_guard and is_current(folder, parts, title, folder / "x.jsonl"):
        return
    from adakd import difficulty, models
    from adakd.brain import seed_everything
    from adakd.data import label_noise

    entries = place.transcribed()
    facts: dict[str, Any] = {"guard": rule}
    scorers = [(place.experiment("teacher"), list(range(len(entries))))]
    if source == "crossfit":
        speakers, sentences = zip(*((entry.speaker, entry.text) for entry in entries), strict=True)
        halves = difficulty.halves(speakers, sentences, entries.seconds)
        facts["halves"] = halves.describe()
        say(f"{title}: {facts['halves']}")
        for number in (0, 1):
            train(place, "teacher", (number, halves.trains(number)))
        scorers = [(place.half(number), halves.scored(number)) for number in (0, 1)]
    limit = models.limit(config, "teacher", units_of(place)) if guard else None
    train_settings = config.train_of("teacher")
    if rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    wait_for_all()
    for number, (model, scored) in enumerate(scorers):
        if source == "pretrained":
            seed_everything(config.seed, "weights")
            family = models.load(config, "teacher", units_of(place))
        else:
            family = models.open_folder(config, model / "model")
        rows = difficulty.score(
            family,
            entries.pick(scored[rank() :: world()]),
            place.root,
            2 * train_settings.batch_seconds,
            title,
            config.distill.dropout_passes if source == "dropout" else 0,
            limit,
            train_settings.workers,
        )
        write_json(folder / f"part.{number}.{rank()}.json", rows)
    wait_for_all()
    if rank() == 0:
        found = difficulty.combine(
            [
                {
                    utterance: row
                    for path in folder.glob(f"part.{number}.*.json")
                    for utterance, row in json.loads(path.read_text(encoding="utf-8")).items()
                }
                for number in range(len(scorers))
            ]
        )
        with atomic_write(folder / "x.jsonl") as file:
            for entry in entries:
                row = {"id": entry.id, **found[entry.id]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for path in folder.glob("part.*"):
            path.unlink()
        if guard:
            doubts = {utterance: row["doubt"] for utterance, row in found.items()}
            facts["taken_for_wrong"] = label_noise.taken_for_wrong(place.data, doubts)
            if facts["taken_for_wrong"]:
                say(f"{title}: taken for wrong: {facts['taken_for_wrong']}")
        mark_done(folder, parts, **facts)
    wait_for_all()
    say(f"{title}: written ({shown(folder)})")


# ------------------------------------------------------------------ stages 7 to 10


def trained(place: Place, methods: list[str]) -> list[str]:
    """The experiments that stand ready to be decoded, in the table's order."""
    students = [*methods]
    if place.config.decode.int8:
        students += [name + INT8 for name in methods]
    ready = [
        name
        for name in ("teacher", "untrained", *students)
        if (folder_of(place, name) / "model").is_dir()
    ]
    missing = [name for name in students if name not in ready]
    if missing and missing[0].endswith(INT8):
        raise UserError(
            f"{place.title}: {missing[0]} has not been made: run --stage 7 first, with "
            "--decode.int8 true."
        )
    stages = {"finetune": 3, "kd": 5}
    if missing:
        raise UserError(
            f"{place.title}: {missing[0]} has not been trained: run --stage "
            f"{stages.get(missing[0], 6)} first, or name the methods you want with --methods."
        )
    for name in methods:
        facts = done(place.experiment(name))
        if facts is None:
            continue
        if changed := changed_settings(place, name, facts):
            raise UserError(
                f"{place.title}: {name} was trained with another {' and another '.join(changed)}: "
                f"give the settings it was trained with, or run --stage {stages.get(name, 6)} "
                "first to train it with these."
            )
        if changed := changed_on_disk(place, facts):
            raise UserError(
                f"{place.title}: {name} was trained with another {' and another '.join(changed)} "
                f"than lies here now: run --stage {4 if changed == ['teacher'] else 2} first, and "
                "what is not of it is made anew."
            )
    return ready


@one_at_a_time(lambda place, name: place.experiment(name + INT8))
def quantise(place: Place, name: str) -> None:
    """A trained student's int8 weights, as an experiment of their own beside it."""
    student, folder = place.experiment(name), place.experiment(name + INT8)
    facts = needed(student, f"{place.title}: {name}", 6)
    inputs = {"model": facts["fingerprint"]}
    if is_current(folder, inputs, f"{place.title}: {name}{INT8}", folder / "model"):
        return
    from adakd import models
    from adakd import quantise as quantisation

    begin(folder, inputs, place.config)
    with replaced_folder(folder / "model") as fresh:
        quantisation.save(models.open_folder(place.config, student / "model").hf, fresh)
        size = (fresh / quantisation.FILE).stat().st_size
    mark_done(folder, inputs, method=name + INT8, parameters=facts["parameters"])
    say(f"{place.title}: {name}{INT8}, {size / 1e6:.2f} MB ({shown(folder / 'model')})")


def decode(place: Place, methods: list[str]) -> None:
    """Stage 7: hypotheses of dev and test with every trained model."""
    needed(place.data, "The prepared data", 1)
    if place.config.decode.int8:
        for name in methods:
            if (place.experiment(name) / "model").is_dir():
                quantise(place, name)
    if methods:
        trained(place, methods)  # what is missing is told before anything is made
        student_start(place)  # its row is what these methods started from
    for name in trained(place, methods):
        decode_one(place, name)


def deployed(config: configuration.Config) -> configuration.Audio:
    """What a finished model encodes, whatever it was trained on."""
    return configuration.Audio(encode=config.decode.encode)


def decoding_inputs(place: Place, name: str) -> dict[str, Any]:
    """What the hypotheses of a model depend on."""
    model = done(folder_of(place, name))
    if model is None:
        raise UserError(f"{place.title}: {name} is not finished: run its stage again.")
    data = done(place.data) or {"manifests": None}
    # Other audio of train or dev has made another model already, that of test alone has not.
    samples = data.get("samples")
    of_test = samples is not None and samples != _learnt(data)["samples"]
    return {
        "model": model["fingerprint"],
        "data": data["manifests"],
        **({"samples": samples} if of_test else {}),
        # Its losses x stand beside every hypothesis.
        "teacher": (done(place.experiment("teacher")) or {}).get("fingerprint"),
        "audio": dataclasses.asdict(deployed(place.config)),
        **prompt(place.config),
    }


def decoded(place: Place, name: str) -> str:
    """The fingerprint of a model's hypotheses; `UserError` if they are none of this place's."""
    facts = needed(folder_of(place, name) / "decode", f"{place.title}: decoding of {name}", 7)
    changed = changes(facts["inputs"], decoding_inputs(place, name))
    # The teacher only gives x beside them, and data that are no longer there have not changed.
    apart = {"teacher"} if done(place.data) else {"teacher", "data", "samples"}
    if others := [each for each in changed if each not in apart]:
        raise UserError(
            f"{place.title}: {name} was decoded with another {' and another '.join(others)}: give "
            "the settings it was decoded with, or run --stage 7 first."
        )
    return facts["fingerprint"]


@one_at_a_time(folder_of)
def decode_one(place: Place, name: str) -> None:
    """Hypotheses of dev and test with one model."""
    folder = folder_of(place, name)
    student = folder_of(place, name.removesuffix(INT8))
    inputs = decoding_inputs(place, name)
    outputs = [folder / f"hyp.{split}.jsonl" for split in SCORED]
    if is_current(folder / "decode", inputs, f"{place.title}: hypotheses of {name}", *outputs):
        return
    from adakd.decode import transcribe
    from adakd.device import device

    # Cut from here on, nothing stands for done whose hypotheses are not all of one decoding.
    for stale in ("decode/done.json", "score/done.json", "score.json"):
        (folder / stale).unlink(missing_ok=True)
    for split in SCORED:
        rows = transcribe(
            dataclasses.replace(place.config, audio=deployed(place.config)),
            student / "model",
            place.manifest(split),
            place.root,
            f"{place.title}: decoding {split} with {name}",
            with_loss=name == "teacher",
            int8=folder / "model" if name.endswith(INT8) else None,
        )
        difficulty = teacher_losses(place, split) if name != "teacher" else {}
        with atomic_write(folder / f"hyp.{split}.jsonl") as file:
            for row in rows:
                row["difficulty"] = difficulty.get(row["id"], row["difficulty"])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    mark_done(folder / "decode", inputs, device="cpu" if name.endswith(INT8) else device().type)


def teacher_losses(place: Place, split: str) -> dict[str, float]:
    """The teacher's loss x on dev or test, from its hypotheses; empty without a teacher."""
    path = place.experiment("teacher") / f"hyp.{split}.jsonl"
    if not path.exists():
        return {}
    from adakd.score import read_hypotheses

    return {row["id"]: row["difficulty"] for row in read_hypotheses(path)}


def score(place: Place, methods: list[str]) -> None:
    """Stage 8: CER with intervals, of dev and test."""
    for name in trained(place, methods):
        score_one(place, name)


@one_at_a_time(folder_of)
def score_one(place: Place, name: str) -> None:
    """CER with intervals of one model."""
    folder = folder_of(place, name)
    settings = dataclasses.asdict(place.config.score) | {"interval": "t", "raw": "NFC"}
    inputs = {"decode": decoded(place, name), "score": settings}
    what = f"{place.title}: score of {name}"
    if is_current(folder / "score", inputs, what, folder / "score.json"):
        return
    from adakd.score import score_file

    (folder / "score" / "done.json").unlink(missing_ok=True)
    for split in SCORED:
        summary = score_file(
            folder / f"hyp.{split}.jsonl",
            folder / "score.json",
            place.config.language.code,
            place.config.score.bootstrap,
        )
    say(f"{place.title}: {name} CER {summary['cer']:.2%} (test)")
    mark_done(folder / "score", inputs)


def other_baselines(place: Place, methods: list[str]) -> list[tuple[Place, str, Path]]:
    """What a tag is compared with, if not among the methods: scored, and on the same data.

    The tag's own baselines, or those without one.
    """
    if not place.config.tag:
        return []
    found = []
    plain = Place(place.root, dataclasses.replace(place.config, tag=""))
    for name in [each for each in ("finetune", "kd") if each not in methods]:
        for one in (place, plain):
            folder = one.experiment(name)
            with contextlib.suppress(UserError):
                decoded(one, name)
                if done(folder / "score"):
                    found.append((one, name, folder))
                    break
    return found


def report(places: list[Place], methods: list[str], command: str, publish: bool) -> None:
    """Stage 9: the table and the plots of all families, folds and seeds asked for."""
    from adakd import versions

    first = places[0]
    folder = first.results
    experiments = [
        (place, name, folder_of(place, name))
        for place in places
        for name in trained(place, methods)
    ]
    for place in places:
        experiments += other_baselines(place, methods)
    inputs = {
        "scores": [
            [str(path.relative_to(first.root)), needed(path / "score", f"Score of {name}", 8)]
            for _, name, path in experiments
        ],
    }
    for place, name, _ in experiments:
        decoded(place, name)
    what = f"{first.config.recipe}: report"
    shown_table, page = (folder / "report" / name for name in ("table.txt", "index.html"))
    if is_current(folder / "report", inputs, what, shown_table, page, folder / "RESULTS.md"):
        print(shown_table.read_text(encoding="utf-8"), end="")
    else:
        import numpy as np

        from adakd import report as reporting

        (folder / "report" / "done.json").unlink(missing_ok=True)
        told = marker.described(first.corpus)
        known = {}
        for place in reversed(places):
            with contextlib.suppress(UserError):  # none is here, or none of this teacher
                known[place.config.family] = np.array(list(difficulties(place).values()))
        table = reporting.write_report(
            first.config.recipe,
            [
                reporting.Experiment(c.family, path.parent.name, c.seed, c.fold, path)
                for c, path in ((place.config, path) for place, _, path in experiments)
            ],
            folder,
            {
                "command": command,
                "corpus": "; ".join(filter(None, (first.config.corpus["kind"], told))),
                **versions.describe(),
                "demonstration": first.config.demonstration,
            },
            known,
            first.config.score.bootstrap,
        )
        write_text(shown_table, table)
        mark_done(folder / "report", inputs)
        print(table, end="")
    if publish:
        target = configuration.REPOSITORY / "recipes" / first.config.recipe / "RESULTS.md"
        from adakd.report import publish as publish_results

        publish_results(folder / "RESULTS.md", target)
        say(f"Published: {shown(target)}")
    say(f"Report: {shown(page)}")


@one_at_a_time(lambda places, methods: places[0].export)
def export(places: list[Place], methods: list[str]) -> None:
    """Stage 10: the best student on dev, as a Hugging Face folder checked with the pipeline.

    The places differ in nothing but the seed.
    """
    scores: dict[str, float] = {}
    students: dict[str, tuple[Place, str]] = {}
    for place in places:
        for name in methods:
            path = place.experiment(name) / "score.json"
            if not path.exists():
                raise UserError(f"{place.title}: {name} has no scores: run --stage 8 first.")
            label = f"{name} of seed {place.config.seed}" if len(places) > 1 else name
            students[label] = place, name
            scores[label] = json.loads(path.read_text(encoding="utf-8"))["dev"]["cer"]
    best = min(scores, key=lambda label: scores[label])
    place, name = students[best]
    folder = place.experiment(name)
    inputs = {
        "model": needed(folder, best, 6)["fingerprint"],
        "dev": scores,
        "test": needed(folder / "score", f"{place.title}: score of {name}", 8)["fingerprint"],
        "files": 2,  # since 2026-11-29 with those that other programs ask for
    }
    if is_current(place.export, inputs, f"{place.title}: export of {best}"):
        return
    from adakd.export import write_export

    checked, tipped = write_export(place, name)
    facts = {"method": name, "seed": place.config.seed, "checked": checked, "by_rounding": tipped}
    mark_done(place.export, inputs, **facts)
    where = f"{checked} test utterances"
    if tipped:
        where += f" but {len(tipped)} that rounding decides, such as '{tipped[0]}'"
    say(
        f"{place.title}: exported {best}, the best on dev; Hugging Face's pipeline gives the same "
        f"text on {where} ({shown(place.export)})"
    )
