"""Configuration: three layers, overrides, and a sentence for whatever is wrong in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from adakd import config as configuration
from adakd.data import text as rules_of
from adakd.errors import UserError
from adakd.files import fingerprint

RECIPE = """\
language:
  code: hi
corpus:
  kind: espeak
  hours: 2
data:
  max_seconds: 6
"""
FAMILY = """\
units:
  kind: characters
teacher:
  source: big
  train:
    epochs: 7
student:
  source: small
train:
  epochs: 3
  learning_rate: 1e-3
methods:
  adakd: {k: 1e-2, threshold: p50}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A sound recipe called corpus/xx."""
    folder = tmp_path / "recipes" / "corpus" / "xx"
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "recipe.yaml").write_text(RECIPE)
    (folder / "conf" / "wav2vec2.yaml").write_text(FAMILY)
    return folder


def load(recipe: Path, **overrides: str) -> configuration.Config:
    """Load with overrides whose dots are written as two underscores."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return configuration.load(recipe, "wav2vec2", dotted)


def refusal(recipe: Path, **overrides: str) -> str:
    """The sentence with which these settings are refused."""
    with pytest.raises(UserError) as caught:
        load(recipe, **overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(recipe: Path, name: str, old: str, new: str) -> Path:
    path = recipe / "conf" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_layers_are_merged_key_by_key(recipe: Path) -> None:
    edit(recipe, "recipe.yaml", "data:\n", "train:\n  epochs: 50\n  accumulate: 4\ndata:\n")
    found = load(recipe, train__batch_seconds="20")
    assert (found.recipe, found.family, found.language.code) == ("corpus/xx", "wav2vec2", "hi")
    assert found.corpus == {"kind": "espeak", "hours": 2}
    assert found.data == configuration.Data(max_seconds=6.0)
    # The family's 3 hides the recipe's 50, whose neighbour stays; the override hides the default.
    assert (found.train.epochs, found.train.accumulate) == (3, 4)
    assert found.train.batch_seconds == 20.0
    assert found.train.clip == configuration.Train().clip


def test_a_whole_number_passes_for_a_number_and_becomes_one(recipe: Path) -> None:
    found = load(recipe)
    assert found.data.max_seconds == 6.0 and isinstance(found.data.max_seconds, float)


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 1e-3), ("2E4", 2e4), ("+1.5e+2", 150.0), (".5", 0.5), ("7", 7.0)]
)
def test_numbers_as_people_write_them(recipe: Path, text: str, number: float) -> None:
    assert load(recipe, train__learning_rate=text).train.learning_rate == number
    # Also where no dataclass says that a number is meant.
    found = load(recipe, methods__adakd__k=text, student__config=f"{{layer_norm_eps: {text}}}")
    assert found.methods["adakd"]["k"] == number
    assert found.student.config == {"layer_norm_eps": number}


def test_numbers_in_files_are_read_alike(recipe: Path) -> None:
    found = load(recipe)
    assert found.train.learning_rate == 1e-3
    assert found.methods["adakd"] == {"k": 1e-2, "threshold": "p50"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=b", "a=b"),
        ("hub/name", "hub/name"),
        ("$(touch x)", "$(touch x)"),
        ("@odd", "@odd"),
        ("2026-13-45", "2026-13-45"),
        ("", ""),
        ("my #1 model", "my #1 model"),
        ("data: x", "data: x"),
        ("2024", "2024"),
        ("1e3", "1e3"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("[a", "[a"),
        ("'in quotes'", "in quotes"),  # which were needed once
    ],
)
def test_text_overrides_stay_as_they_are(recipe: Path, text: str, value: str) -> None:
    assert load(recipe, student__source=text).student.source == value


def test_text_of_the_corpus_and_of_a_group_stays_too(recipe: Path) -> None:
    assert load(recipe, corpus__text="/data/my #1.txt").corpus["text"] == "/data/my #1.txt"
    assert load(recipe, language__code="no").language.code == "no"
    assert load(recipe, tag="~").tag == "~"
    # The module named beside it says what is text.
    mine = {"corpus__corpus": "2024", "corpus__kind": "kaldi_dir"}
    assert load(recipe, **mine).corpus["corpus"] == "2024"
    assert load(recipe, teacher__train__precision="fp32").teacher.train["precision"] == "fp32"


@pytest.mark.parametrize(("text", "base"), [("010", 8), ("-017", 8), ("1:30", 60), ("1:30.5", 60)])
def test_a_number_in_another_base_is_refused(recipe: Path, text: str, base: int) -> None:
    expected = f"YAML reads {text} in base {base}; write a decimal number"
    for key in ("train__epochs", "train__learning_rate", "teacher__train__clip", "methods__kd"):
        assert refusal(recipe, **{key: text}).startswith(f"--{key.replace('__', '.')}: {expected}")
    path = edit(recipe, "wav2vec2.yaml", "epochs: 3", f"epochs: {text}")
    assert refusal(recipe).startswith(f"{path}, line 10: not valid YAML ({expected}")


def test_a_key_of_an_override_that_stands_twice_is_named(recipe: Path) -> None:
    expected = "--methods.kd: the key 'alpha' stands here for the second time."
    assert refusal(recipe, methods__kd="{alpha: 1, alpha: 2}") == expected


def test_a_group_is_merged_and_a_value_is_replaced(recipe: Path) -> None:
    def loaded(**groups: object) -> configuration.Config:
        return configuration.load(recipe, "wav2vec2", groups)

    assert loaded(train={"epochs": 9}).train == loaded(**{"train.epochs": 9}).train
    assert loaded(train={"epochs": 9}).train.learning_rate == 1e-3, "the recipe's"
    assert loaded(corpus={"hours": 9}).corpus == {"kind": "espeak", "hours": 9}
    adakd = {"k": 1e-2, "threshold": "p50"}
    assert loaded(methods={"kd": {"alpha": 1}}).methods == {"adakd": adakd, "kd": {"alpha": 1}}
    model = configuration.Model(source="mine", train={"epochs": 7})
    assert loaded(teacher={"source": "mine"}).teacher == model
    assert loaded(teacher={"config": {"x": 1}}).teacher.source is None, "from one place, as ever"
    noise = loaded(**{"data.label_noise.missing": 0.1}, data={"label_noise": {"seed": 2}}).data
    assert (noise.label_noise.missing, noise.label_noise.seed, noise.max_seconds) == (0.1, 2, 6.0)
    typed = {"data__label_noise__missing": "0.1", "data__label_noise": "{seed: 2}"}
    assert load(recipe, **typed).data == noise, "and on the command line"
    # A mapping that is the value of one key.
    assert loaded(**{"teacher.train": {}}).teacher.train == {}
    assert loaded(methods={"adakd": {"k": 1}}).methods["adakd"] == {"k": 1}
    with pytest.raises(UserError, match=r"unknown key 'train.epoch'; did you mean 'epochs'\?"):
        loaded(train={"epoch": 9})
    with pytest.raises(UserError, match="'train' must hold keys, found 9"):
        loaded(train=9)


def test_overrides_are_yaml(recipe: Path) -> None:
    found = load(
        recipe,
        data__normalise="false",
        train__max_steps="12",
        corpus__rate="[100, 120]",
        methods__kd="{alpha: 0.9}",
    )
    assert found.data.normalise is False and found.train.max_steps == 12
    assert found.corpus["rate"] == [100, 120]
    assert found.methods["kd"] == {"alpha": 0.9}
    assert load(recipe, train__max_steps="null").train.max_steps is None
    values = configuration.load(recipe, "wav2vec2", {"train.max_steps": 12, "teacher.seed": None})
    assert values.train.max_steps == 12 and values.teacher.seed is None


def test_a_student_has_no_seed_of_its_own(recipe: Path) -> None:
    assert load(recipe, teacher__seed="4").teacher.seed == 4
    assert "student.seed: a student has the seed of its run" in refusal(recipe, student__seed="4")


def test_a_role_has_training_settings_of_its_own(recipe: Path) -> None:
    found = load(recipe, teacher__train__learning_rate="7e-4", train__clip="3")
    teacher, student = found.train_of("teacher"), found.train_of("student")
    assert (teacher.epochs, teacher.learning_rate, teacher.clip) == (7, 7e-4, 3.0)
    assert student == found.train and student.epochs == 3


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "key", "meant"),
    [
        ("recipe.yaml", "language:", "langauge:", 1, "langauge", "language"),
        ("recipe.yaml", "max_seconds", "max_second", 7, "data.max_second", "max_seconds"),
        ("recipe.yaml", "hours", "hour", 5, "corpus.hour", "hours"),
        ("wav2vec2.yaml", "    epochs", "    epoch", 6, "teacher.train.epoch", "epochs"),
        ("wav2vec2.yaml", "\n  epochs", "\n  ephocs", 10, "train.ephocs", "epochs"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest(
    recipe: Path, name: str, old: str, new: str, line: int, key: str, meant: str
) -> None:
    path = edit(recipe, name, old, new)
    expected = f"{path}, line {line}: unknown key '{key}'; did you mean '{meant}'?"
    assert refusal(recipe) == expected


def test_an_unknown_override_suggests_too(recipe: Path) -> None:
    assert "'train.epoch'; did you mean 'epochs'?" in refusal(recipe, train__epoch="3")
    expected = "teacher.train: unknown key 'epoch'; did you mean 'epochs'?"
    assert refusal(recipe, teacher__train__epoch="3") == expected
    far = refusal(recipe, data__xyz="3")
    assert "unknown key 'data.xyz'; there are min_seconds, max_seconds" in far


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "expected"),
    [
        (
            "wav2vec2.yaml", "epochs: 3", "epochs: three", 10,
            "'train.epochs' must be a whole number, found 'three'",
        ),
        (
            "wav2vec2.yaml", "epochs: 3", "epochs: 3.5", 10,
            "'train.epochs' must be a whole number, found 3.5",
        ),
        (
            "wav2vec2.yaml", "epochs: 3", "epochs: true", 10,
            "'train.epochs' must be a whole number, found True",
        ),
        (
            "wav2vec2.yaml", "    epochs: 7", "    epochs: '7'", 6,
            "'teacher.train.epochs' must be a whole number, found '7'",
        ),
        (
            "recipe.yaml", "code: hi", "code: no", 2,
            "'language.code' must be text, found False",
        ),
        (
            "recipe.yaml", "max_seconds: 6", "max_seconds: six", 7,
            "'data.max_seconds' must be a number, found 'six'",
        ),
        (
            "recipe.yaml", "hours: 2", "rate: 2", 5,
            "'corpus.rate' must be a list, found 2",
        ),
        (
            "wav2vec2.yaml", "source: small", "source: [small]", 8,
            "'student.source' must be text or empty, found ['small']",
        ),
        (
            "recipe.yaml", "data:\n  max_seconds: 6", "data: 6", 6,
            "'data' must hold keys, found 6",
        ),
    ],
)  # fmt: skip
def test_an_ill_typed_value_is_shown_with_what_was_expected(
    recipe: Path, name: str, old: str, new: str, line: int, expected: str
) -> None:
    path = edit(recipe, name, old, new)
    assert refusal(recipe).rstrip(".") == f"{path}, line {line}: {expected}"


def test_an_ill_typed_override(recipe: Path) -> None:
    message = refusal(recipe, train__learning_rate="fast")
    assert "'train.learning_rate' must be a number, found 'fast'" in message
    assert "'epochs' is a value, not a group" in refusal(recipe, train__epochs__x="1")


@pytest.mark.parametrize(
    ("broken", "line", "mend"),
    [
        ("corpus:\n  kind: [a\n", "2, noticed at line 3", "that line"),
        ("a: b\nb: 'c\nd: e\n", "2, noticed at line 4", "that line"),
        ("a:\n  b: 1\n  c:3\n  d: 4\n", "3, noticed at line 4", "that line"),
        ("a: b\n  c: 4\n", "2", "that line or the one above"),
        ("a: b: c\n", "1", "that line or the one above"),
        ("a: 1\nb:\n  c: 2\n d: 3\n", "4", "that line"),
        ("x:\n\t- y\n", "2", "that line"),
    ],
)
def test_broken_yaml_is_a_sentence_with_file_and_line(
    recipe: Path, broken: str, line: str, mend: str
) -> None:
    path = recipe / "conf" / "recipe.yaml"
    path.write_text(broken)
    message = refusal(recipe)
    assert message.startswith(f"{path}, line {line}: not valid YAML (")
    assert message.endswith(f"); mend {mend}.")


def test_brackets_without_end_are_a_sentence(recipe: Path) -> None:
    path = recipe / "conf" / "recipe.yaml"
    path.write_text(f"a: {3000 * '['}\n")
    assert "brackets lie too deep in each other" in refusal(recipe)


def test_a_key_that_stands_twice_is_refused_and_a_merged_one_is_not(recipe: Path) -> None:
    path = recipe / "conf" / "wav2vec2.yaml"
    sound = path.read_text()
    path.write_text(sound + "train:\n  clip: 3\n")
    assert refusal(recipe) == (
        f"{path}, line 14: not valid YAML (the key 'train' stands here for the second time); "
        "mend that line."
    )
    path.write_text(sound.replace("epochs: 7", "epochs: 7\n    epochs: 8"))
    assert refusal(recipe).startswith(f"{path}, line 7: ")
    path.write_text(sound.replace("epochs: 3", "<<: {epochs: 8, clip: 2}\n  epochs: 3"))
    train = load(recipe).train
    assert (train.epochs, train.clip) == (3, 2.0)


def test_other_unreadable_files(recipe: Path) -> None:
    path = recipe / "conf" / "recipe.yaml"
    path.write_text("- a list\n")
    assert "expected 'key: value' lines, found list" in refusal(recipe)
    path.write_bytes(b"# \xc3\xa4\nlanguage: \xff\n")
    assert refusal(recipe).startswith(f"{path}, line 2: not valid YAML (not UTF-8 text)")
    path.write_text("# ä\nlanguage:\n  code: h\0i\n", encoding="utf-8")
    problem = r"'\x00' is a character that YAML does not take"
    assert refusal(recipe).startswith(f"{path}, line 3: not valid YAML ({problem})")
    path.unlink()
    assert f"{path} is missing" in refusal(recipe)


@pytest.mark.parametrize("date", ["2020-13-01", "2020-01-02"])
def test_a_date_is_text(recipe: Path, date: str) -> None:
    edit(recipe, "recipe.yaml", "hours: 2", f"text: {date}")
    assert load(recipe).corpus["text"] == date
    assert load(recipe, methods__kd__since=date).methods["kd"] == {"since": date}


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "group", "key"),
    [
        ("wav2vec2.yaml", "adakd: {", "1: {", 13, "methods", "1"),
        ("wav2vec2.yaml", "  source: small", "  config: {2.5: 1}", 8, "student.config", "2.5"),
        ("recipe.yaml", "hours: 2", "languages: {no: a}", 5, "corpus.languages", "False"),
        ("recipe.yaml", "hours: 2", "null: 2", 3, "corpus", "None"),
    ],
)
def test_a_name_is_text(
    recipe: Path, name: str, old: str, new: str, line: int, group: str, key: str
) -> None:
    path = edit(recipe, name, old, new)
    expected = f"{path}, line {line}: in '{group}' YAML reads a key as {key}, which is no name: "
    assert refusal(recipe).startswith(expected)


def test_a_number_with_too_many_digits_is_a_sentence(recipe: Path) -> None:
    rate = refusal(recipe, train__learning_rate="9" * 400)
    assert rate == "the configuration: 'train.learning_rate' has too many digits."
    assert refusal(recipe, train__learning_rate="9" * 5000) == (
        f"--train.learning_rate: {'9' * 20} is no number that can be read."
    )
    path = edit(recipe, "wav2vec2.yaml", "epochs: 3", "epochs: 0x_")
    assert refusal(recipe).startswith(f"{path}, line 10: not valid YAML (0x_ is no number")


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a//x", "a/./x", "a/x/", "a/../../x"])
def test_the_name_of_a_recipe_stays_below_its_folders(recipe: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        configuration.load(recipe, "wav2vec2", {"recipe": name})
    assert str(caught.value).startswith(f"'{name}' is no name of a recipe: name a folder below")
    assert configuration.load(recipe, "wav2vec2", {"recipe": "a"}).recipe == "a"


def test_a_way_to_a_recipe_that_leads_elsewhere_names_none(recipe: Path) -> None:
    with pytest.raises(UserError, match=r"'conf/\.\.' is no name of a recipe"):
        configuration.load(recipe / "conf" / "..", "wav2vec2")


def test_an_empty_file_is_an_empty_layer(recipe: Path) -> None:
    (recipe / "conf" / "recipe.yaml").write_text("# nothing yet\n")
    assert "language.code is missing; give it, e.g. --language.code sw, or" in refusal(recipe)
    assert "for a study: --set corpus/xx language.code sw" in refusal(recipe)


def test_a_model_comes_from_one_place(recipe: Path) -> None:
    assert "student needs either" in refusal(recipe, student__source="null")
    edit(recipe, "wav2vec2.yaml", "source: small", "source: small\n  config: {hidden_size: 8}")
    assert "and not both" in refusal(recipe)
    # An override that names one takes the other away.
    assert load(recipe, student__source="mine").student == configuration.Model(source="mine")
    made = load(recipe, student__source="mine", teacher__config="{hidden_size: 4}")
    assert (made.teacher.source, made.teacher.config) == (None, {"hidden_size": 4})


def test_a_student_may_start_from_the_layers_of_the_teacher(recipe: Path) -> None:
    found = load(recipe, student__source="teacher", student__layers__encoder="6").student
    layers = configuration.Layers(encoder=6)
    assert found == configuration.Model(source="teacher", layers=layers)
    assert "source 'teacher' and layers are for the student" in refusal(
        recipe, teacher__source="teacher"
    )
    assert "for the student" in refusal(recipe, teacher__layers__encoder="2")
    assert "has no decoder" in refusal(recipe, student__layers__decoder="2")
    assert "from 1 on" in refusal(recipe, student__layers__encoder="0")
    message = refusal(recipe, student__config="{hidden_size: 8}", student__layers__encoder="2")
    assert "give a source" in message


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("distill__teacher", "on-line", "online"),
        ("distill__frames", "nonblanks", "nonblank"),
        ("distill__difficulty", "cross-fit", "crossfit"),
        ("train__precision", "fp-32", "fp32"),
        ("teacher__train__precision", "fp16", "bf16"),
        ("units__kind", "character", "characters"),
    ],
)
def test_choices_suggest_the_nearest(recipe: Path, key: str, value: str, meant: str) -> None:
    message = refusal(recipe, **{key: value})
    assert f"{key.replace('__', '.')} is '{value}'" in message
    assert f"(perhaps '{meant}')" in message


def test_an_unknown_family_or_corpus_suggests(recipe: Path) -> None:
    with pytest.raises(UserError, match=r"'wisper'.*\(perhaps 'whisper'\)"):
        configuration.load(recipe, "wisper")
    edit(recipe, "recipe.yaml", "kind: espeak", "kind: espeek")
    assert "did you mean 'espeak'?" in refusal(recipe)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__epochs", "0"),
        ("train__accumulate", "0"),
        ("train__max_steps", "0"),
        ("train__batch_seconds", "0"),
        ("teacher__train__epochs", "-1"),
        ("distill__temperature", "0"),
        ("distill__temperature", "1e300"),
        ("data__label_noise__shuffled", "1.5"),
        ("data__label_noise__misspelt", "-0.1"),
        ("distill__dropout_passes", "1"),
        ("distill__temperature", ".nan"),
        ("distill__top_k", "-3"),
        ("score__bootstrap", "0"),
        ("data__max_rejected", "5"),
        ("data__max_seconds", "0"),
        ("data__min_seconds", "-1"),
        ("data__jobs", "-4"),
        ("units__size", "0"),
        ("transcripts__max_cer", "-0.1"),
        ("train__learning_rate", "-1"),
        ("train__learning_rate", ".nan"),
        ("train__learning_rate", ".inf"),
        ("train__weight_decay", "-1"),
        ("train__workers", "-1"),
        ("train__mask_time", "2"),
        ("train__mask_feature", "-0.1"),
        ("train__warmup", "2"),
        ("train__clip", "0"),
        ("train__ctc_weight", "3"),
        ("train__checkpoint_minutes", "-1"),
    ],
)
def test_values_that_cannot_be_used(recipe: Path, key: str, value: str) -> None:
    message = refusal(recipe, **{key: value})
    assert key.split("__")[-1] in message and "give a number " in message


def test_a_range_says_where_it_ends(recipe: Path) -> None:
    message = "student.train.warmup is 2.0: give a number of at least 0 and at most 1."
    assert refusal(recipe, student__train__warmup="2") == message
    assert refusal(recipe, train__clip="0") == "train.clip is 0.0: give a number above 0."
    assert "no clip would be left" in refusal(recipe, data__min_seconds="7")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__max_rejected", "1"),
        ("data__max_seconds", ".inf"),
        ("train__clip", ".inf"),
        ("train__warmup", "0"),
        ("train__learning_rate", "0"),
        ("train__ctc_weight", "1"),
    ],
)
def test_values_at_the_end_of_a_range_can_be_used(recipe: Path, key: str, value: str) -> None:
    load(recipe, **{key: value})


def test_what_the_teacher_wrote_is_neither_doubted_nor_cut_in_halves(recipe: Path) -> None:
    own = {"transcripts__source": "teacher"}
    assert load(recipe, **own).transcripts.source == "teacher"
    assert "insample" in refusal(recipe, **own, distill__difficulty="crossfit")
    assert "no guard" in refusal(recipe, **own, methods__adakd__guard="0.95")


def test_a_source_is_found_from_anywhere(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    (repository / "recipes" / "models" / "big").mkdir(parents=True)
    (elsewhere / "small").mkdir(parents=True)
    monkeypatch.setattr(configuration, "REPOSITORY", repository)
    monkeypatch.chdir(elsewhere)
    found = load(recipe, teacher__source="recipes/models/big", student__source="small")
    assert found.teacher.source == str(repository / "recipes" / "models" / "big")
    assert found.student.source == "small"
    assert load(recipe, student__source="org/model").student.source == "org/model"


def test_recipes_are_those_of_this_repository(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standing in another clone, whose checkpoints may be others."""
    here, other = tmp_path / "here", tmp_path / "other"
    for clone in (here, other):
        for name in ("recipes/big", "mine/small"):
            (clone / name).mkdir(parents=True)
    monkeypatch.setattr(configuration, "REPOSITORY", here)
    monkeypatch.chdir(other)
    sources = {"teacher__source": "recipes/big", "student__source": "mine/small"}
    found = load(recipe, **sources)
    assert found.teacher.source == str(here / "recipes" / "big")
    assert found.student.source == "mine/small", "what one has typed"
    monkeypatch.chdir(here)
    found = load(recipe, **sources)
    assert (found.teacher.source, found.student.source) == ("recipes/big", "mine/small")


def test_a_source_may_lie_at_home(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after --student.source=, where the shell leaves ~ as it is."""
    (tmp_path / "small").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(recipe, student__source="~/small").student.source == str(tmp_path / "small")
    assert load(recipe, student__source="~/none").student.source == "~/none"


def test_fingerprints_follow_the_content_alone() -> None:
    content = {"b": [1, 2.5, None], "a": {"ä": "ह", "path": Path("x")}}
    shuffled = {"a": {"path": "x", "ä": "ह"}, "b": [1, 2.5, None]}
    # Pinned: markers written by one version must be understood by the next.
    found = fingerprint(content)
    assert found == "71e6cfc44310ff2d"
    assert fingerprint(shuffled) == found
    for change in ({"b": [1, 2.5]}, {"b": [2.5, 1, None]}, {"c": 1}):
        assert fingerprint({**content, **change}) != found


@pytest.mark.parametrize("code", ["zh", "zh-CN", "zh_TW", "ZH"])
def test_whispers_language_is_that_of_the_code(recipe: Path, code: str) -> None:
    assert load(recipe, language__code=code).whisper_language == "zh"
    assert load(recipe, language__code=code, language__whisper="yue").whisper_language == "yue"


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("zho", "zh"), ("chi", "zh"), ("tur", "tr"), ("jpn", "ja"), ("JP", "ja"), ("npi", "ne"),
        ("chinese", "zh"), ("Turkish", "tr"), ("zho_TW", "zh"),
        ("klingon", "its ISO 639 code, such as sw"),
    ],
)  # fmt: skip
def test_a_code_that_the_text_rules_do_not_know_is_refused(
    recipe: Path, code: str, meant: str
) -> None:
    assert refusal(recipe, language__code=code) == f"language.code is '{code}': write {meant}."


@pytest.mark.parametrize("code", ["yue", "cmn", "bho", "haw", "fil", "zh-Hant-TW", "sah"])
def test_a_code_without_a_shorter_one_is_taken(recipe: Path, code: str) -> None:
    assert load(recipe, language__code=code).language.code == code


def test_no_language_of_the_text_rules_is_missed() -> None:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    rules = {*rules_of.WITHOUT_SPACES, *rules_of._DOTLESS, *rules_of._WITH_EYELASH}
    rules |= {*rules_of._BY_LANGUAGE, *rules_of._OKINA, *rules_of._TYPED, *LANGUAGES}
    two = {code for code in rules if len(code) == 2} - {"jw"}  # Whisper's own code of jv
    assert two <= set(configuration.MEANT.values())
    assert not rules & set(configuration.MEANT)
    assert all(code.isalpha() and len(two) == 2 for code, two in configuration.MEANT.items())


def test_a_configuration_survives_its_own_yaml(recipe: Path, tmp_path: Path) -> None:
    found = load(recipe)
    path = tmp_path / "config.yaml"
    path.write_text(configuration.dump_yaml(dataclasses.asdict(found)))
    again = configuration.from_dict(configuration.Config, configuration.read_yaml(path), str(path))
    assert again == found
