"""`adakd new-recipe` makes recipes whose configuration loads, and refuses in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adakd import cli, corpora, new_recipe
from adakd import config as configuration
from adakd.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What a new recipe is made from."""
    for part in ("recipes/TEMPLATE", "recipes/espeak/hi/conf", "local"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "path.sh", tmp_path / "path.sh")
    return tmp_path


@pytest.mark.parametrize("kind", corpora.kinds())
@pytest.mark.parametrize("family", configuration.FAMILIES)
def test_every_kind_of_corpus_gives_a_recipe_that_loads(
    repository: Path, kind: str, family: str
) -> None:
    folder = new_recipe.make("mine/sw", kind, None, repository)
    assert folder == repository / "recipes" / "mine" / "sw"
    config = configuration.load(folder, family)
    assert config.language.code == config.whisper_language == "sw"
    assert config.corpus == {"kind": kind}
    assert config.demonstration == (kind == "espeak")
    embedded = "recipes/espeak/pretrain/checkpoints" in (config.teacher.source or "")
    assert embedded == (kind == "espeak")
    # Every option stands there with its default, and is valid once it is uncommented.
    path = folder / "conf" / "recipe.yaml"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text(
        "\n".join(line.replace("  # ", "  ", 1) if ": " in line else line for line in lines),
        encoding="utf-8",
    )
    written = yaml.safe_load(path.read_text(encoding="utf-8"))["corpus"]
    assert written.pop("kind") == kind
    options = corpora.module(kind).Options
    assert configuration.from_dict(options, written, "here") == options()


def test_nothing_of_the_template_is_left_to_replace(repository: Path) -> None:
    folder = new_recipe.make("common-words/sw", "espeak", None, repository)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md", "run.sh", "conf/recipe.yaml", "conf/wav2vec2.yaml", "conf/whisper.yaml",
    }  # fmt: skip
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        for word in ("CORPUS", "LANGUAGE", "CODE", "WHISPER", "KIND", "OPTIONS"):
            assert word not in text, name
    assert os.access(folder / "run.sh", os.X_OK)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# common-words/sw\n")
    assert "## Results" in readme and "licence" in readme


def test_its_run_sh_runs_its_stages(repository: Path) -> None:
    folder = new_recipe.make("mine/sw", "espeak", None, repository)
    done = subprocess.run(
        [folder / "run.sh", "--stage", "1", "--stop-stage", "1"],
        env={**os.environ, "ADAKD_DRY_RUN": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "adakd.cli prepare --recipe mine/sw" in done.stdout


@pytest.mark.parametrize(("code", "whisper", "expected"), [
    ("no", None, "no"), ("zh-TW", None, "zh"), ("yue", None, "yue"), ("rw", "sw", "sw"),
])  # fmt: skip
def test_codes(repository: Path, code: str, whisper: str | None, expected: str) -> None:
    folder = new_recipe.make(f"mine/{code}", "fsdd", whisper, repository)
    config = configuration.load(folder, "whisper")
    # "no" without quotes would be false
    assert (config.language.code, config.whisper_language) == (code, expected)


@pytest.mark.parametrize(("code", "kept"), [
    *((code, 64) for code in ("zh", "zh-TW", "yue", "ja", "ko")),
    *((code, 0) for code in ("sw", "hi", "th")),  # all logits of an alphabet are few
])  # fmt: skip
def test_thousands_of_characters_keep_few_logits(repository: Path, code: str, kept: int) -> None:
    folder = new_recipe.make(f"mine/{code}", "fsdd", None, repository)
    assert configuration.load(folder, "wav2vec2").distill.top_k == kept
    assert configuration.load(folder, "whisper").distill.top_k == 64
    assert configuration.load(folder, "wav2vec2").distill.temperature == (1.0 if kept else 2.0)
    lines = (folder / "conf" / "wav2vec2.yaml").read_text(encoding="utf-8").splitlines()
    comments = {line.index("  # ") for line in lines if re.match(r"  \w.*  # ", line)}
    assert len(comments) == 1, "comments stand in one column"


@pytest.mark.parametrize(
    ("name", "kind", "whisper", "message"),
    [
        ("sw", "espeak", None, "'sw' is no name of a recipe: write CORPUS/LANGUAGE.*espeak/sw"),
        ("../sw", "espeak", None, "no name of a recipe"),
        ("a/b/c", "espeak", None, "no name of a recipe"),
        ("Mine/sw", "espeak", None, "small letters"),
        ("TEMPLATE/sw", "espeak", None, "no name of a recipe"),
        ("espeak/hi", "espeak", None, "recipes/espeak/hi exists already"),
        ("mine/sw", "espaek", None, "no corpus kind 'espaek'; did you mean 'espeak'"),
        ("mine/swa", "espeak", None, "language.code is 'swa': write sw"),
        ("mine/swahili", "espeak", None, "language.code is 'swahili': write sw"),
        # ur, sa, uk are other languages.
        ("mine/tur", "fsdd", None, "language.code is 'tur': write tr"),
        ("mine/spa", "fsdd", None, "language.code is 'spa': write es"),
        ("mine/kok", "fsdd", None, "no language 'kok'; if it is right, name"),
        ("mine/rw", "fsdd", "swa", "no language 'swa'; did you mean 'sw'.*--whisper"),
        ("mine/cmn", "fsdd", None, "no language 'cmn'; did you mean 'zh'"),
        ("mine/nb", "fsdd", None, "no language 'nb'; did you mean 'no'"),
        ("mine/zho", "fsdd", "zh", "language.code is 'zho': write zh"),
        ("mine/rw", "fsdd", None, "no language 'rw'.*--whisper"),
        ("mine/rw", "fsdd", "swahil", "no language 'swahil'; did you mean 'sw'"),
        ("mine/qqq", "espeak", "sw", "eSpeak NG has no language 'qqq'"),
    ],
)
def test_what_is_refused(
    repository: Path, name: str, kind: str, whisper: str | None, message: str
) -> None:
    before = sorted(repository.rglob("*"))
    with pytest.raises(UserError, match=message) as raised:
        new_recipe.make(name, kind, whisper, repository)
    assert "\n" not in str(raised.value)
    assert sorted(repository.rglob("*")) == before


def test_help_needs_the_standard_library_alone() -> None:
    code = "import sys; sys.modules['yaml'] = None; from adakd import cli; cli.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "new-recipe", "--help"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0 and "kaldi_dir" in told.stdout and told.stderr == ""


def test_the_command_line(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_recipe, "REPOSITORY", repository)
    endings = {
        "kaldi_dir": " --corpus DIR\n",
        "fleurs": " [--corpus DIR]    # without it",
        "espeak": " --text FILE    # or without",
    }
    for kind, ending in endings.items():
        assert cli.main(["new-recipe", f"{kind}/sw", "--kind", kind]) == 0
        assert f"./run.sh --recipe {kind}/sw{ending}" in capsys.readouterr().out
    assert cli.main(["new-recipe", "mine/sw", "--kind", "fsdd"]) == 0
    assert cli.main(["new-recipe", "mine/sw", "--kind", "fsdd"]) == 1
    assert "exists already" in capsys.readouterr().err
    for arguments in ([], ["mine/ta"], ["mine/ta", "--kind"], ["mine/ta", "--knd", "fsdd"]):
        assert cli.main(["new-recipe", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("adakd: ") and error.count("\n") == 1
