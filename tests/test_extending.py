"""docs/extending.md: a method and a corpus of one's own, with its code as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_corpora
import tiny_recipe
import torch

from adakd import cli, corpora, methods, plots, report, weighting
from adakd.errors import UserError
from adakd.files import read_json

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
METHOD, LINE, CORPUS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> type[weighting.Weighting]:
    """The method of the page, in both of its places."""
    names = dict(vars(weighting))
    exec(METHOD, names)
    monkeypatch.setitem(weighting.METHODS, "growing", names["Growing"])
    (shown,) = eval(f"{{{LINE}}}", {"Method": methods.Method}).values()
    taken = [*plots.STYLES.values(), *plots.SPARE_STYLES]
    assert not {shown.colour, shown.marker} & {each for pair in taken for each in pair}
    # Reports copy the registry when they are imported.
    monkeypatch.setitem(methods.METHODS, "growing", shown)
    monkeypatch.setitem(report.LABELS, "growing", shown.label)
    monkeypatch.setitem(plots.STYLES, "growing", (shown.colour, shown.marker))
    return names["Growing"]


Write = Callable[[str], None]


@pytest.fixture
def write_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Puts a module called folders among the corpora."""
    monkeypatch.setattr(corpora, "__path__", [*corpora.__path__, str(tmp_path / "more")])

    def write(code: str) -> None:
        sys.modules.pop("adakd.corpora.folders", None)
        path = tmp_path / "more" / "folders.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second
    yield write
    sys.modules.pop("adakd.corpora.folders", None)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs steps of a recipe of the corpus kind `folders`, by the command line."""
    for split, count in (("train", 8), ("dev", 2), ("test", 2)):
        rows = []
        for number in range(count):
            name = f"{number}.wav"
            tiny_corpora.clip(tmp_path / "mine" / split / name, number)
            rows.append(f"{name}\tann{number % 2}\tWord {'abcdefgh'[number]}")
        tiny_corpora.write_lines(tmp_path / "mine" / split / "transcripts.tsv", rows)
    monkeypatch.setattr("adakd.config.REPOSITORY", tmp_path / "repository")
    given = {"kind": "folders", "corpus": str(tmp_path / "mine")}
    tiny_recipe.write_recipe(tmp_path / "repository", "mine/en", "en", given)
    where = ["--recipe", "mine/en", "--root", str(tmp_path / "root"), "--family", "wav2vec2"]
    return lambda *arguments: cli.main([*arguments, *where])


def test_the_method(growing: type[weighting.Weighting]) -> None:
    made = weighting.build("growing", {"last": 0.8})
    made.fit(torch.arange(1000.0))
    task, distill = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])
    x = torch.tensor([250.0, 750.0])
    alpha = 0.8 * 0.5 * torch.tensor([0.75, 0.25])  # by its formula, a quarter is easier and so on
    again = growing()
    again.load_state_dict(made.state_dict())
    again.last = made.last
    for each in (made, again):
        weighted = each(task, distill, x, 0.5)
        torch.testing.assert_close(weighted.distill_weight, alpha, atol=0.01, rtol=0)
        torch.testing.assert_close(weighted.loss, 1 + weighted.distill_weight)
    assert made(task, distill, x, 0.0).loss.equal(task), "at the beginning it is fine-tuning"


def test_the_corpus_and_the_method_go_through_all_stages(
    growing: type[weighting.Weighting],
    write_corpus: Write,
    recipe: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_corpus(CORPUS)
    asked = ["--methods", "finetune kd growing", "--methods.growing.last", "0.5"]
    assert recipe(*cli.STEPS, *asked) == 0
    printed = capsys.readouterr().out
    assert "train 8 utterances" in printed and "Growing KD reaches a CER of" in printed
    exp = tmp_path / "root/exp/mine/en/wav2vec2"
    assert read_json(exp / "growing/seed1/done.json")["alpha"] == {"last": 0.5}
    assert read_json(exp / "growing/seed1/done.json")["inputs"]["method"] == {"last": 0.5}
    # Where x comes from matters to it.
    asked += ["--distill.difficulty", "crossfit", "--student.train.epochs", "1"]
    assert recipe("teacher-pass", "adakd", *asked) == 0
    assert read_json(exp / "growing/seed1/done.json")["inputs"]["difficulty"] == "crossfit"
    # The corpus notices other options, and a table that has changed.
    assert recipe("prepare", "--corpus.lower", "true") == 1
    assert "made with corpus.lower False, but now it is True" in capsys.readouterr().err
    tiny_corpora.append(tmp_path / "mine/train/transcripts.tsv", "0.wav\tbob\tonce more")
    before = (tmp_path / "root/corpus/mine/en/fetched.json").read_text()
    (tmp_path / "mine/test/transcripts.tsv").rename(tmp_path / "aside.tsv")
    assert recipe("corpus", "--root", str(tmp_path / "other")) == 1
    assert "transcripts.tsv is missing: give --corpus a folder with" in capsys.readouterr().err
    (tmp_path / "aside.tsv").rename(tmp_path / "mine/test/transcripts.tsv")
    options = corpora.module("folders").Options(str(tmp_path / "mine"))
    corpora.module("folders").fetch(options, tmp_path / "root/corpus/mine/en", "en")
    assert (tmp_path / "root/corpus/mine/en/fetched.json").read_text() != before


def test_a_method_that_contradicts_itself_is_not_trained(
    growing: type[weighting.Weighting],
    write_corpus: Write,
    recipe: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_corpus(CORPUS)
    asked = ["corpus", "prepare", "adakd", "--methods", "growing"]
    monkeypatch.setattr(growing, "uses_doubt", True)
    assert recipe(*asked) == 1
    assert "uses doubts without an option called guard" in capsys.readouterr().err
    monkeypatch.setitem(methods.METHODS, "growing", methods.Method("Growing KD", "#117733", "H"))
    assert recipe(*asked) == 1
    wrong = "growing: uses_difficulty is False in adakd/methods.py and True in its class"
    assert wrong in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("marker.keep(", "(lambda *a, **b: None)(", "`fetch` has left no marker in "),
        ("def utterances", "def each", "adakd/corpora/folders.py has no `utterances`"),
        ("text, speaker, \"\"", "text, None, \"\"", "has the speaker None, which is not text"),
        ("        for line in", "        for line in [] and", "has no utterance of train at all"),
    ],
)  # fmt: skip
def test_mistakes_in_a_corpus_are_sentences(
    write_corpus: Write,
    recipe: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    said: str,
) -> None:
    assert old in CORPUS
    write_corpus(CORPUS.replace(old, new))
    assert recipe("corpus", "prepare") == 1
    assert said in capsys.readouterr().err


def test_a_methods_name_is_no_tag(growing: type[weighting.Weighting], tmp_path: Path) -> None:
    methods.METHODS["kd-half"] = methods.METHODS["growing"]
    try:
        with pytest.raises(UserError, match="--tag half: .* folder of another one, kd-half"):
            tiny_recipe.place_of(tmp_path, tag="half")
    finally:
        del methods.METHODS["kd-half"]


def test_the_code_of_the_page_is_as_the_linters_want_it(tmp_path: Path) -> None:
    root = PAGE.parents[1]
    shutil.copytree(
        root / "adakd", tmp_path / "adakd", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "adakd" / "corpora" / "folders.py").write_text(CORPUS, encoding="utf-8")
    module = tmp_path / "adakd" / "weighting.py"
    code = module.read_text(encoding="utf-8")
    place = code.index("METHODS: dict[")
    module.write_text(f"{code[:place]}{METHOD}\n\n{code[place:]}", encoding="utf-8")
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        files = ["adakd/weighting.py", "adakd/corpora/folders.py"]
        found = subprocess.run(
            [sys.executable, "-m", *command, *files], cwd=tmp_path, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout
