"""Stages 7 to 10: hypotheses, scores, the report, and the export."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from adakd import config as configuration
from adakd.corpora import marker
from adakd.data import text
from adakd.errors import UserError
from adakd.files import (
    another,
    fingerprint_of_files,
    read_json,
    replaced_folder,
    sha256,
    shown,
    write_jsonl,
    write_text,
)
from adakd.finished import begin, done, is_current, mark_done, needed, one_at_a_time
from adakd.inputs import (
    changed_on_disk,
    changed_settings,
    changed_start,
    decoded,
    decoding_inputs,
    deployed,
    difficulties,
    folder_of,
    same_code,
)
from adakd.place import INT8, Place
from adakd.processes import say
from adakd.stages.training import student_start

SCORED = ("dev", "test")


def stage_of(method: str) -> int:
    """The stage that trains a method."""
    return {"finetune": 3, "kd": 5}.get(method, 6)


def trained(place: Place, methods: list[str]) -> list[str]:
    """The experiments that stand ready to be decoded, in the order of `methods`.

    Raises:
        UserError: a method that is not trained, not in int8, trained with other settings, or from
            other data or another teacher than lie here.
    """
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
    if missing:
        raise UserError(
            f"{place.title}: {place.experiment(missing[0]).parent.name} has not been trained: run "
            f"--stage {stage_of(missing[0])} first, or name the methods you want with "
            "--methods."
        )
    made = {name: facts for name in methods if (facts := done(place.experiment(name)))}
    old = [name for name, facts in made.items() if not same_code(place.config, facts)]
    if 0 < len(old) < len(made):
        raise UserError(
            f"{place.title}: {old[0]} was trained by an earlier version of this code, others by "
            f"this one: run --stage {stage_of(old[0])} first, which trains it like them."
        )
    for name, facts in made.items():
        changed = changed_settings(place, name, facts)
        changed += changed_start(place, name, facts)
        changed = [each.replace("method.", f"methods.{name}.") for each in changed]
        if f"methods.{name}.guard" in changed and "doubt" in changed:
            changed.remove("doubt")  # which comes with the guard
        if changed:
            raise UserError(
                f"{place.title}: {name} was trained with {another(changed)}: "
                f"give the settings it was trained with, or run --stage {stage_of(name)} "
                "first to train it with these."
            )
        if changed := changed_on_disk(place, facts):
            raise UserError(
                f"{place.title}: {name} was trained with {another(changed)} "
                f"than lies here now: run from --stage {4 if changed == ['teacher'] else 2} on, "
                "and what does not fit is made anew."
            )
    return ready


@one_at_a_time(lambda place, name: place.experiment(name + INT8))
def quantise(place: Place, name: str) -> None:
    """A trained student's int8 weights, as an experiment of their own beside it."""
    student, folder = place.experiment(name), place.experiment(name + INT8)
    facts = needed(student, f"{place.title}: {name}", stage_of(name))
    inputs = {"model": facts["fingerprint"]}
    weights = folder / "model" / "int8.pt"  # quantise.FILE, which takes long to import
    if is_current(folder, inputs, f"{place.title}: {name}{INT8}", weights):
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
        trained(place, methods)  # what is missing is told before anything is decoded
        student_start(place)  # its row is what these methods started from
    for name in trained(place, methods):
        decode_one(place, name)


@one_at_a_time(folder_of)
def decode_one(place: Place, name: str) -> None:
    """Hypotheses of dev and test with one model."""
    folder = folder_of(place, name)
    student = folder_of(place, name.removesuffix(INT8))
    inputs = decoding_inputs(place, name)
    outputs = {split: folder / f"hyp.{split}.jsonl" for split in SCORED}
    counts = needed(place.data, "The prepared data", 1).get("counts", {})
    lines = {outputs[split]: counts[split]["kept"] for split in SCORED if split in counts}
    what = f"{place.title}: hypotheses of {folder.parent.name}"
    if is_current(folder / "decode", inputs, what, *outputs.values(), lines=lines):
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
            f"{place.title}: decoding {split} with {folder.parent.name}",
            with_loss=name == "teacher",
            int8=folder / "model" if name.endswith(INT8) else None,
        )
        difficulty = teacher_losses(place, split) if name != "teacher" else {}
        for row in rows:
            row["difficulty"] = difficulty.get(row["id"], row["difficulty"])
        write_jsonl(outputs[split], rows)
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
    # It counts: another way makes scores anew.
    how = {"interval": "t", "raw": "NFC", "text": text.RULES}
    settings = dataclasses.asdict(place.config.score) | how
    inputs = {"decode": decoded(place, name), "score": settings}
    what = f"{place.title}: score of {folder.parent.name}"
    texts = [folder / f"hyp.{split}.jsonl" for split in SCORED]
    before = (done(folder / "score") or {}).get("files")  # done.json of before 2026-11-30 has none
    if before and all(path.exists() for path in texts) and before != fingerprint_of_files(texts):
        say(f"{what}: the hypotheses are not as they were scored, scored anew")
        (folder / "score" / "done.json").unlink()
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
    say(f"{place.title}: {folder.parent.name} CER {summary['cer']:.2%} (test)")
    mark_done(folder / "score", inputs, files=fingerprint_of_files(texts))


def other_baselines(place: Place, methods: list[str]) -> list[tuple[Place, str, Path]]:
    """What methods are compared with, if not among them: scored, and on the same data.

    A tag's own baselines, or those without one; its KD is compared with the KD without.
    """
    found = []
    plain = Place(place.root, dataclasses.replace(place.config, tag=""))
    tagged = [place] if place.config.tag else []
    for name in ("finetune", "kd"):
        for one in [*tagged, plain] if name not in methods else [plain] * len(tagged):
            folder = one.experiment(name)
            with contextlib.suppress(UserError):
                decoded(one, name)
                if done(folder / "score"):
                    found.append((one, name, folder))
                    break
    return found


def _families(scores: list[Any]) -> set[str]:
    """Those that a report's scores are of, by where they lie."""
    parts = {part for where, *_ in scores for part in Path(where).parts}
    return parts & set(configuration.FAMILIES)


@one_at_a_time(lambda places, *_: places[0].report)
def report(places: list[Place], methods: list[str], command: str, publish: bool) -> None:
    """Stage 9: the table and the plots of all families, folds and seeds asked for."""
    from adakd import versions

    first = places[0]
    folder = first.report
    experiments = [
        (place, name, folder_of(place, name))
        for place in places
        for name in trained(place, methods)
    ]
    for place in places:
        experiments += other_baselines(place, methods)
    scored = [needed(path / "score", f"Score of {name}", 8) for _, name, path in experiments]
    for place, name, _ in experiments:
        decoded(place, name)
    texts = [path / "hyp.test.jsonl" for *_, path in experiments]
    inputs: dict[str, Any] = {
        "layout": 4,  # raise it when the same scores would make another report
        "methods": methods,  # of what was not run
        # By what was said, too: a model that was deleted and trained again says something else.
        "scores": [
            [str(path.parent.relative_to(first.root)), facts, path.exists() and sha256(path)]
            for path, facts in zip(texts, scored, strict=True)
        ],
    }
    what = f"{first.config.recipe}: report"
    names = ("table.txt", "index.html", "RESULTS.md")
    shown_table, page, to_publish = (folder / name for name in names)
    made = (done(folder) or {}).get("text")  # done.json of before 2026-11-30 has none
    if made and to_publish.exists() and made != sha256(to_publish):
        say(f"{what}: {shown(to_publish)} is not as it was written, made anew")
        (folder / "done.json").unlink()
    if is_current(folder, inputs, what, shown_table, page, to_publish):
        print(shown_table.read_text(encoding="utf-8"), end="")
    else:
        import numpy as np

        from adakd import report as reporting

        before = (done(folder) or {"inputs": {}})["inputs"].get("scores", [])
        if gone := _families(before) - _families(inputs["scores"]):
            say(
                f"{what} is of {first.config.family} alone, and no longer of {' and '.join(gone)}: "
                'both take --family "wav2vec2 whisper" in one run, and what differs between them '
                f"in recipes/{first.config.recipe}/conf/"
            )
        (folder / "done.json").unlink(missing_ok=True)
        told = marker.described(first.corpus)
        known: dict[str, np.ndarray] = {}
        for place in places:
            if place.config.family not in known:
                with contextlib.suppress(UserError):  # none is here, or none of this teacher
                    known[place.config.family] = np.array(list(difficulties(place)[0].values()))
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
            methods,
            first.config.tag,
        )
        write_text(shown_table, table)
        mark_done(folder, inputs, text=sha256(to_publish))
        print(table, end="")
    say(f"Report: {shown(page)}")
    if publish:
        target = configuration.REPOSITORY / "recipes" / first.config.recipe / "RESULTS.md"
        from adakd import report as reporting

        reporting.publish(to_publish, target)
        say(f"Published: {shown(target)}")


@one_at_a_time(lambda places, methods: places[0].export)
def export(places: list[Place], methods: list[str]) -> None:
    """Stage 10: the best student on dev, as a Hugging Face folder checked with the pipeline.

    The places differ in nothing but the seed.

    Raises:
        UserError: a method has no scores, or the pipeline says other texts than were scored.
    """
    scores: dict[str, float] = {}
    students: dict[str, tuple[Place, str]] = {}
    for place in places:
        trained(place, methods)
        for name in methods:
            path = place.experiment(name) / "score.json"
            if not path.exists():
                raise UserError(f"{place.title}: {name} has no scores: run --stage 8 first.")
            decoded(place, name)
            label = f"{name} of seed {place.config.seed}" if len(places) > 1 else name
            students[label] = place, name
            scores[label] = read_json(path, needs=("dev",))["dev"]["cer"]
    best = min(scores, key=lambda label: scores[label])
    place, name = students[best]
    folder = place.experiment(name)
    inputs = {
        "model": needed(folder, best, stage_of(name))["fingerprint"],
        "dev": scores,
        "test": needed(folder / "score", f"{place.title}: score of {name}", 8)["fingerprint"],
        "files": 2,  # to be raised when other files are written
    }
    written = [place.export / name for name in (done(place.export) or {}).get("written", ())]
    if is_current(place.export, inputs, f"{place.title}: export of {best}", *written):
        return
    before = done(place.export)
    asked = [(name, each.config.seed) for each, name in students.values()]
    # done.json of before 2026-11-29 has no seed.
    if before and "seed" in before and (before["method"], before["seed"]) not in asked:
        if min(before["inputs"]["dev"].values()) < scores[best]:
            say(
                f"{place.title}: {before['method']} of seed {before['seed']}, which has been "
                "exported, had a lower dev CER: with its --methods and --seed as well the best of "
                "all is chosen"
            )
    from adakd.export import write_export

    checked, tipped = write_export(place, name)
    facts = {"method": name, "seed": place.config.seed, "checked": checked, "by_rounding": tipped}
    facts["written"] = sorted(path.name for path in place.export.iterdir())
    mark_done(place.export, inputs, **facts)
    where = f"{checked} test utterances"
    if tipped:
        where += f" but {len(tipped)} that rounding decides, such as '{tipped[0]}'"
    say(
        f"{place.title}: exported {best}, the best on dev; Hugging Face's pipeline gives the same "
        f"text on {where} ({shown(place.export)})"
    )
