"""What the results of the stages depend on, and where the results that fit are found.

Whether something is to be done is decided in finished.py, by what stands here as inputs; where
results lie is in place.py, and what makes them in stages/. What scores, the report and the export
depend on is little, and stands in stages/results.py. Nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd.data import manifest, text
from adakd.errors import UserError
from adakd.files import another, fingerprint, fingerprint_of_files, read_json, read_jsonl, shown
from adakd.finished import ON_DISK, begun, changed_sources, changes, done, needed
from adakd.methods import METHODS
from adakd.place import Place
from adakd.teacher_store import parts_of_begun

if TYPE_CHECKING:
    from adakd.teacher_store import Store


# What `weighting.wrong_transcript` does, by the name that it has on disk: both change together.
DOUBT = "a half at z = 1"

# What `adakd.data.text.RULES` is called where it has changed.
TEXT_RULES = "version of the text rules"


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
                digest.update(file.read(1 << 16))
                # Both ends may be frozen weights, so of a large file some of each MiB counts, too.
                # Large is over 8 MiB: the fingerprints of embedded checkpoints stand.
                for start in range(1 << 20, size if size > 8 << 20 else 0, 1 << 20):
                    file.seek(start)
                    digest.update(file.read(1 << 12))
                file.seek(max(0, size - (1 << 16)))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def prompt(config: configuration.Config) -> dict[str, Any]:
    """Whisper's language token, if it does not follow from the corpus's language."""
    named = config.family == "whisper" and config.language.whisper
    return {"prompt": config.whisper_language} if named else {}


def beginning(config: configuration.Config) -> dict[str, bool]:
    """How the texts of Whisper begin, if not with a space, though the language writes spaces."""
    if config.family != "whisper" or config.language.leading_space:
        return {}
    return {"leading_space": False} if text.spaces_count(config.language.code) else {}


# ------------------------------------------------------------------ corpus and prepared data


def corpus_fingerprint(place: Place) -> str:
    """Changes whenever stage 0 made another corpus: its markers tell."""
    markers = sorted(place.corpus.glob("*.json"))
    if not markers:
        raise UserError(f"{place.config.recipe}: no corpus at {place.corpus}: run --stage 0 first.")
    for path in markers:
        read_json(path)  # what is damaged is told
    return fingerprint([path.read_text(encoding="utf-8") for path in markers])


def data_inputs(place: Place) -> dict[str, Any]:
    """What the prepared data depend on."""
    config = place.config
    return {
        "corpus": corpus_fingerprint(place),
        TEXT_RULES: text.RULES,
        **data_settings(config),
        "teacher": source_fingerprint(config.teacher),
        "student": source_fingerprint(config.student),
        "fold": config.fold,
    }


def data_settings(config: configuration.Config) -> dict[str, dict[str, Any]]:
    """What the prepared data depend on that stands in the configuration."""
    data = dataclasses.asdict(config.data) | {"jobs": None}  # as many as one likes
    if config.data.label_noise == configuration.LabelNoise():
        del data["label_noise"]
    if not config.data.untranscribed:
        del data["untranscribed"]
    language = dataclasses.asdict(config.language)
    del language["leading_space"]  # of models, not of manifests
    return {
        "data": data,
        "language": language,
        "units": dataclasses.asdict(config.units),
    }


def learnt_from(facts: dict[str, Any]) -> dict[str, Any]:
    """What stands for the data that trainings learn from: its "data" and its "samples"."""
    return facts.get("learnt") or {"data": facts["manifests"], "samples": facts.get("samples")}


# Settings of the groups above that change nothing in prepared data.
OF_NO_DATA = ("data.max_rejected", "language.whisper")


def changed_data(place: Place, facts: dict[str, Any]) -> list[str]:
    """Dotted names of the settings with which prepared data differ from this place's.

    Of those that change what is learnt from them; what the corpus and the models say, stage 1 asks.
    """
    made, found = facts["inputs"], []
    for group in ("data", "language", "units"):
        if group in made:
            now = data_settings(place.config)[group]
            found += changes(made[group], now, f"{group}.")
    return [name for name in found if name not in OF_NO_DATA]


def prepared(place: Place) -> dict[str, Any]:
    """What is to be added to the inputs of whatever is trained on the prepared data.

    The manifests hold text: other text units make other targets of the same manifests. Those of a
    checkpoint count with the checkpoint.

    Raises:
        UserError: there are none, or of other settings, or a manifest was edited.
    """
    facts = needed(place.data, "The prepared data", 1)
    if changed := changed_data(place, facts):
        raise UserError(
            f"{shown(place.data)} was prepared with {another(changed)}: give "
            "the settings it was prepared with, or run --stage 1 first."
        )
    check_files(place.data, facts)
    found = {**learnt_from(facts), "units": facts.get("units")}
    return {name: value for name, value in found.items() if value}


def check_files(folder: Path, facts: dict[str, Any]) -> None:
    """Raise `UserError` where a manifest, or the text units, were edited.

    What they give would pass for what stage 1 made. What is gone is told by whoever reads it.
    Before 2026-11-29 done.json had no `files`.
    """
    manifests = [folder / f"{split}.jsonl" for split in facts.get("counts", {})]
    units = folder / "units"
    for what, made, paths in (
        ("A manifest", facts.get("files"), manifests),
        ("A file of the text units", facts.get("units"), sorted(units.glob("*"))),
    ):
        if not made or not paths or not all(path.exists() for path in paths):
            continue
        files = tuple((path, (at := path.stat()).st_size, at.st_mtime_ns) for path in paths)
        if _fingerprint_of(files) != made:
            newest = max(files, key=lambda file: file[2])[0].name
            raise UserError(
                f"{what} in {shown(paths[0].parent)} is not as stage 1 left it ({newest} was "
                f"written last): put it back, or delete {shown(folder / 'done.json')} and run "
                "--stage 1, which makes it from the corpus; transcripts are corrected in the "
                "corpus."
            )


@functools.cache  # a second for a million lines, and stages and studies ask again and again
def _fingerprint_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """`fingerprint` of files, given with size and time: each is read once."""
    return fingerprint_of_files(path for path, *_ in files)


def units_of(place: Place) -> Path | None:
    """The folder of the recipe's tokenizer, None where checkpoints bring theirs."""
    own = place.config.family == "wav2vec2" or place.config.units.kind == "bpe"
    return place.units if own else None


# ------------------------------------------------------------------ the teacher


def code(config: configuration.Config) -> dict[str, str]:
    """What of our own code a training depends on, where older runs had it otherwise.

    Without it, until 2026-11-29, the positions of Whisper's encoder were trained along, and
    SpecAugment masked what follows the speech as well. Not that adakd-learned takes its held-out
    batches in mixed order since 2026-11-30: the study that had some without says so.
    """
    return {"code": "fixed positions, masks in speech"} if config.family == "whisper" else {}


def same_code(config: configuration.Config, facts: Mapping[str, Any]) -> bool:
    """Whether a finished training was made as one of this configuration would be now."""
    return facts["inputs"].get("code") == code(config).get("code")


def teacher_settings(place: Place) -> dict[str, Any]:
    """The `training_settings` of the teacher; none where it is taken as it is."""
    return {} if place.config.teacher.finetuned else training_settings(place, "teacher")


def teacher_inputs(place: Place) -> dict[str, Any]:
    """What the teacher depends on."""
    return {
        **teacher_settings(place),
        **({} if place.config.teacher.finetuned else code(place.config)),
        **prepared(place),
        "source": source_fingerprint(place.config.teacher),
    }


def check_teacher(place: Place) -> None:
    """Raise `UserError` where the teacher that is here is none of these settings.

    Whatever trains more of them would train others than it.
    """
    folder = place.experiment("teacher")
    facts = needed(folder, f"{place.title}: the teacher", 2)
    if changed := changes(facts["inputs"], teacher_inputs(place)):
        raise _other_teacher(place, changed)


def check_settings_of_teacher(place: Place) -> None:
    """Raise `UserError` where the teacher that is here was made from another model, or otherwise.

    Of data and units what trains on them tells. A teacher that is not here is told by whatever
    needs it.
    """
    folder = place.experiment("teacher")
    if (facts := done(folder)) is None:
        return
    now = {"source": source_fingerprint(place.config.teacher)}
    if changes({"source": facts["inputs"].get("source")}, now):
        raise UserError(
            f"{place.title}: the teacher ({shown(folder)}) was made from another teacher.source: "
            "give the one that it was made from, or run --stage 2 first."
        )
    made = {name: value for name, value in facts["inputs"].items() if name not in ON_DISK}
    if changed := changes(made, teacher_settings(place)):
        raise _other_teacher(place, changed)


def _other_teacher(place: Place, changed: list[str]) -> UserError:
    return UserError(
        f"{place.title}: the teacher ({shown(place.experiment('teacher'))}) was made with "
        f"{another(changed)}: give the settings it was made with, or run --stage 2 "
        "first; settings of the students alone begin with --student.train."
    )


# ------------------------------------------------------------------ what the teacher hears


def teacher_key(place: Place) -> str:
    """Which trained teacher lies here; `UserError` where none does."""
    return str(needed(place.experiment("teacher"), "The teacher", 2)["fingerprint"])


def heard_inputs(place: Place) -> dict[str, Any]:
    """What the teacher's hypotheses of the training set depend on."""
    return {
        "teacher": teacher_key(place),
        "data": prepared(place)["data"],
        "audio": dataclasses.asdict(place.config.audio),
        **prompt(place.config),
    }


def transcripts_inputs(place: Place) -> dict[str, Any]:
    """What the transcripts that are chosen from those hypotheses depend on."""
    heard = fingerprint(heard_inputs(place))
    return {"hypotheses": heard, **_choosing(place)}


def _choosing(place: Place) -> dict[str, Any]:
    """How transcripts are chosen from the hypotheses."""
    return {
        "max_cer": place.config.transcripts.max_cer,
        "student": source_fingerprint(place.config.student),
        "normalise": place.config.data.normalise,
        TEXT_RULES: text.RULES,
    }


def transcripts_of(place: Place) -> Path:
    """The folder of those transcripts: one for all tags, but for a tag that asks for others."""
    return _for_tag(place, place.transcripts, transcripts_inputs, _inputs_of)


def lessons(place: Place) -> manifest.Manifest:
    """The utterances that students learn from."""
    if not place.config.learns_hypotheses:
        return place.transcribed()
    return manifest.read(transcripts_of(place) / "train.jsonl")


def lessons_count(place: Place) -> int:
    """How many these are, as counted when they were written."""
    if place.config.learns_hypotheses:
        what = "The teacher's transcripts of the training set"
        counts = needed(transcripts_of(place), what, 2)["counts"]
    else:
        counts = needed(place.data, "The prepared data", 1)["counts"]["train"]
    return int(counts["kept"])


def lessons_inputs(place: Place) -> dict[str, Any]:
    """What is to be added to the inputs of whatever depends on the transcripts students learn.

    Raises:
        UserError: the teacher's transcripts are not there, or were chosen otherwise.
    """
    if not place.config.learns_hypotheses:
        return {}
    folder = transcripts_of(place)
    found = needed(folder, "The teacher's transcripts of the training set", 2)
    now = _choosing(place)
    if changed := changes({name: found["inputs"].get(name) for name in now}, now):
        keys = {
            "max_cer": "transcripts.max_cer",
            "student": "student.source",
            "normalise": "data.normalise",
            TEXT_RULES: TEXT_RULES,
        }
        raise UserError(
            f"{place.title}: the teacher's transcripts ({shown(folder)}) were chosen with "
            f"{another(keys[name] for name in changed)}: give the settings they were "
            "chosen with, or run --stage 2 first."
        )
    return {"transcripts": found["fingerprint"]}


# ------------------------------------------------------------------ students and trainings


def start_inputs(place: Place) -> dict[str, Any]:
    """What the untrained student depends on."""
    student = place.config.student
    inputs = {
        **prepared(place),
        "student": source_fingerprint(student),
        "seed": place.config.seed,
    }
    if student.source == configuration.TEACHER:
        inputs["teacher"] = teacher_key(place)
    if student.layers != configuration.Layers():
        inputs["layers"] = dataclasses.asdict(student.layers)
    return inputs


def untrained(place: Place) -> Path:
    """The folder of the untrained student: one for all tags, but for a tag with another start."""
    shared, tag = place.experiment("untrained"), place.config.tag
    facts = done(shared) if tag else None
    if facts is None:
        return shared
    own = shared.parents[1] / f"untrained-{tag}" / shared.name
    if start_stands(place):
        return own if done(own) else shared
    return shared if facts["fingerprint"] == fingerprint(start_inputs(place)) else own


def start_stands(place: Place) -> bool:
    """Whether the untrained student, if it is there, is to be taken as it is.

    The teacher whose layers it has was removed, to make room.
    """
    of_teacher = place.config.student.source == configuration.TEACHER
    return of_teacher and not done(place.experiment("teacher"))


def folder_of(place: Place, name: str) -> Path:
    """Where what is decoded, scored and reported lies."""
    return untrained(place) if name == "untrained" else place.experiment(name)


def training_settings(place: Place, method: str) -> dict[str, Any]:
    """What a training depends on that stands in the configuration; see `training_inputs`."""
    config = place.config
    role = "teacher" if method == "teacher" else "student"
    options = config.methods.get(method) or {}
    guarded = options.get("guard") is not None
    found: dict[str, Any] = {
        "audio": dataclasses.asdict(config.audio),
        "train": dataclasses.asdict(config.train_of(role)),
        "seed": place.seed_of(method),
        **prompt(config),
        **beginning(config),
    }
    if role == "student":
        found["method"] = options
        if guarded:
            found["doubt"] = DOUBT
    if method not in ("teacher", "finetune"):
        found["distill"] = dataclasses.asdict(config.distill)
        if config.distill.teacher == "cached":
            found["distill"]["top_k"] = kept_units(config.distill)
        # They change what looks at x or at the doubt, and nothing else.
        source, passes = (found["distill"].pop(key) for key in ("difficulty", "dropout_passes"))
        if (METHODS[method].uses_difficulty or guarded) and source != "insample":
            found["difficulty"] = [source, passes] if source == "dropout" else source
    return found


def training_inputs(place: Place, method: str, half: list[int] | None = None) -> dict[str, Any]:
    """All that a training depends on; ``half``: the utterances of a teacher of some of them."""
    if method == "teacher":
        part = {} if half is None else {"half": fingerprint(half)}
        return teacher_inputs(place) | part
    inputs = training_settings(place, method)
    inputs["start"] = fingerprint(start_inputs(place))
    inputs |= prepared(place) | lessons_inputs(place) | code(place.config)
    if method != "finetune":
        inputs["teacher"] = teacher_key(place)
    return inputs


def changed_settings(place: Place, method: str, facts: dict[str, Any]) -> list[str]:
    """Dotted names of the settings with which a finished training differs from this place's."""
    made = {name: value for name, value in facts["inputs"].items() if name not in ON_DISK}
    return changes(made, training_settings(place, method))


def changed_start(place: Place, method: str, facts: dict[str, Any]) -> list[str]:
    """Dotted names of the settings of its untrained student with which a finished training differs.

    None where only contents have changed: see `changed_sources`.
    """
    try:
        same = facts["inputs"].get("start") in (
            None,
            fingerprint(start_inputs(place)),
        )
    except UserError:  # the data or the teacher are no longer there
        return []
    if same:
        return []
    settings = dataclasses.asdict(place.config)
    return changed_sources(place.experiment(method), ["start"], settings)


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
    if place.config.learns_hypotheses != ("transcripts" in made):
        return ["transcripts"]
    if "transcripts" in made and teacher and done(place.data):
        if found := done(transcripts_of(place)):
            now["transcripts"] = found["fingerprint"]
    both = [name for name in now if name in made or name == "samples"]
    return changes({name: made.get(name) for name in both}, {name: now[name] for name in both})


# ------------------------------------------------------------------ the teacher store, and x


def kept_units(distill: configuration.Distill) -> str | int:
    """What a store holds of each token, in the words of its fingerprint; 0 is all of it."""
    return f"{distill.top_k} and as many drawn" if distill.top_k else 0


def store_parts(place: Place) -> dict[str, Any]:
    """All that the teacher store depends on, by the name that an error message gives it."""
    config, distill = place.config, place.config.distill
    return {
        "teacher": teacher_key(place),
        "manifest": prepared(place)["data"],
        "units": dataclasses.asdict(config.units),
        "prompt": config.whisper_language,
        **beginning(config),
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
    return _for_tag(place, place.store, store_parts, parts_of_begun)


def difficulty_of(place: Place) -> Path:
    """The folder of x that is not the store's own: one for all tags, as with the store."""
    return _for_tag(place, place.difficulty, difficulty_parts, _inputs_of)


def open_store(place: Place) -> Store:
    """The finished store of this place, checked against what it should depend on."""
    from adakd.teacher_store import Store

    return Store(store_of(place), store_parts(place))


def difficulty_parts(place: Place) -> dict[str, Any]:
    """All that x depends on where it is not the store's own: the store's parts, and its source."""
    soft = ("top_k", "temperature", "dtype")
    distill = place.config.distill
    return {
        **{name: value for name, value in store_parts(place).items() if name not in soft},
        "difficulty": distill.difficulty,
        "dropout_passes": distill.dropout_passes if distill.difficulty == "dropout" else None,
    }


def difficulties(
    place: Place, doubt: bool = False, store: Store | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """x of every training utterance by id, from the source that the configuration names.

    And, with ``doubt``, how likely each transcript is wrong, else {}. ``store``: this place's, for
    whoever has it open; that of a million utterances takes seconds to open.
    """
    if place.config.distill.difficulty == "insample" and not doubt:
        return (store or open_store(place)).difficulties(), {}
    folder = difficulty_of(place)
    facts = needed(folder, "The difficulty", 4)
    changed = changes(facts["inputs"], difficulty_parts(place))
    if doubt and facts["guard"] != DOUBT:
        changed.append("guard")
    if changed:
        raise UserError(
            f"{folder} was made with {another(changed)}: run stage 4 (teacher-pass) again."
        )
    rows = read_jsonl(folder / "x.jsonl", needs=("id", "x", *(("doubt",) if doubt else ())))
    x: dict[str, float] = {}
    doubts: dict[str, float] = {}
    for row in rows:
        x[row["id"]] = row["x"]
        if doubt:
            doubts[row["id"]] = row["doubt"]
    return x, doubts


# ------------------------------------------------------------------ hypotheses


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
    of_test = samples is not None and samples != learnt_from(data)["samples"]
    return {
        "model": model["fingerprint"],
        "data": data["manifests"],
        **({"samples": samples} if of_test else {}),
        # Its losses x stand beside every hypothesis.
        "teacher": (done(place.experiment("teacher")) or {}).get("fingerprint"),
        "audio": dataclasses.asdict(deployed(place.config)),
        **prompt(place.config),
        **(beginning(place.config) if name == "teacher" else {}),  # its losses; texts stay
    }


def decoded(place: Place, name: str) -> str:
    """The fingerprint of a model's hypotheses; `UserError` if they are none of this place's."""
    facts = needed(folder_of(place, name) / "decode", f"{place.title}: decoding of {name}", 7)
    changed = changes(facts["inputs"], decoding_inputs(place, name))
    # The teacher only gives x beside them, and data that are no longer there have not changed.
    apart = {"teacher"} if done(place.data) else {"teacher", "data", "samples"}
    if others := [each for each in changed if each not in apart]:
        raise UserError(
            f"{place.title}: {name} was decoded with {another(others)}: give "
            "the settings it was decoded with, or run --stage 7 first."
        )
    return facts["fingerprint"]


# ------------------------------------------------------------------ what all tags share


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
            f"{place.title}: the {what} ({shown(folder)}) would be made anew for "
            f"{another(changed)}, and runs with a --tag share the {what} with all "
            "others: give such a variant a --root DIR of its own, or leave out --tag to replace "
            f"the {what}; settings of the students alone begin with --student.train."
        )


def of_the_student(changed: str) -> bool:
    """Whether this input of the data only says which student they were prepared for."""
    return changed.split(".")[0] == "student"


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
    """Of what is finished there, or is being made: a pass that was cut goes on."""
    return (done(folder) or begun(folder) or {}).get("inputs")
