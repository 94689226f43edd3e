"""Turn the trained mini and micro models into the committed checkpoints, each with its card.

Called by this recipe's run.sh after training, with --publish. Writes checkpoints/<family>-<size>/
in Hugging Face format, fp16, and a README.md with data, command, seed, time and the CER of every
language on the dev set: speakers and sentences that the model has not heard.

    python recipes/espeak/pretrain/publish.py ROOT FAMILY SEED [--A.B VALUE ...]
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import torch

from adakd import config as configuration
from adakd import models, score, versions
from adakd.decode import transcribe
from adakd.files import write_text
from adakd.finished import needed
from adakd.place import Place

HERE = Path(__file__).resolve().parent
SIZES = {"teacher": "mini", "finetune": "micro"}


def publish(place: Place, method: str) -> None:
    """Write one checkpoint and its card."""
    name = f"{place.config.family}-{SIZES[method]}"
    experiment = place.experiment(method)
    facts = needed(experiment, f"The {name} model", 2 if method == "teacher" else 3)
    target = HERE / "checkpoints" / name
    shutil.rmtree(target, ignore_errors=True)
    models.open_folder(place.config, experiment / "model").save(target, torch.float16)
    # What is measured is what is committed: the fp16 weights.
    entries = place.manifest("dev")
    config = dataclasses.replace(place.config, audio=configuration.Audio())  # as it is deployed
    rows = transcribe(config, target, entries, place.root, f"{name}: decoding dev")
    write_text(target / "README.md", card(place, name, facts, rows))
    print(f"{name}: {facts['parameters']:,} parameters, {target}")


def card(place: Place, name: str, facts: dict, rows: list[dict]) -> str:
    """The model card, in Markdown."""
    config, counts = place.config, needed(place.data, "The data", 1)["counts"]
    train = config.train_of("teacher" if name.endswith("mini") else "student")
    epochs = f"{train.epochs} epoch{'s' * (train.epochs != 1)}"
    languages = {entry.id: entry.language for entry in place.manifest("dev")}
    table: list[str] = []
    together: list[score.Counts] = []
    for language in sorted(set(languages.values())):
        own = [row for row in rows if languages[row["id"]] == language]
        errors = [each.normalised for each in score.score(own, language)]
        together += errors
        table.append(f"| {language} | {len(own)} | {score.total(errors).cer:.1%} |")
    about = versions.describe()
    data = counts["train"]
    return f"""# {name}

An embedded checkpoint of AdaKD: {facts["parameters"]:,} parameters, trained from random weights on
synthetic speech. It exists so that the recipes run on a bare machine; for people's speech it is a
starting point of fine-tuning and nothing else. Audio up to {config.data.max_seconds:g} s.

- **Data**: {data["seconds"] / 3600:.1f} hours ({data["kept"]:,} utterances) of eSpeak NG speech in
  {len(table)} languages, made by stage 0 from the grammars in `conf/grammar/`, with noise and
  reverberation. No speaker and no sentence of any recipe's dev or test set is in it.
- **Command**: `recipes/espeak/pretrain/run.sh` (seed {config.seed}, {epochs},
  {facts["steps"]:,} optimiser steps, {train.precision}).
- **Time**: {facts["train_seconds"] / 60:.0f} minutes of training, one thread of
  {about["machine"]}; finished {about["time"]}, revision {about["revision"]}.
- **Licence**: Apache-2.0. Weights in fp16.

CER on dev (unheard speakers and sentences, normalised): **{score.total(together).cer:.1%}**

| language | utterances | CER |
|---|---|---|
{chr(10).join(table)}
"""


if __name__ == "__main__":
    root, family, seed, *options = sys.argv[1:]
    names = [name.removeprefix("--") for name in options[::2]]
    given = dict(zip(names, options[1::2], strict=True))
    settings = dataclasses.replace(configuration.load(HERE, family, given), seed=int(seed))
    for trained in SIZES:
        publish(Place(Path(root).resolve(), settings), trained)
