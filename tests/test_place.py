"""Where the results of a run lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_recipe
from tiny_recipe import place_of

from adakd.errors import UserError
from adakd.methods import method_of


def test_the_layout_on_disk(tmp_path: Path) -> None:
    here = place_of(tmp_path, seed=3)
    assert here.corpus == tmp_path / "corpus/tiny/en"
    assert here.data == tmp_path / "data/tiny/en/whisper"
    assert here.audio == tmp_path / "data/tiny/en/audio"
    assert here.experiment("kd") == tmp_path / "exp/tiny/en/whisper/kd/seed3"
    assert here.store == tmp_path / "exp/tiny/en/whisper/teacher/seed3/store"
    assert here.results == tmp_path / "exp/tiny/en"
    assert here.report == tmp_path / "exp/tiny/en/report"
    assert place_of(tmp_path, tag="a").report == tmp_path / "exp/tiny/en/report-a"
    assert here.export == tmp_path / "export/tiny/en/whisper"
    assert place_of(tmp_path, tag="a").export == tmp_path / "export/tiny/en/whisper-a"


def test_folds_lie_apart_and_share_corpus_audio_and_results(tmp_path: Path) -> None:
    one, other = place_of(tmp_path, fold=0), place_of(tmp_path, fold=5)
    assert one.experiment("kd") == tmp_path / "exp/tiny/en/fold0/whisper/kd/seed1"
    assert other.data == tmp_path / "data/tiny/en/fold5/whisper"
    assert other.export == tmp_path / "export/tiny/en/fold5/whisper"
    for shared in ("corpus", "audio", "results"):
        assert getattr(one, shared) == getattr(other, shared)


def test_a_tag_is_for_methods_alone(tmp_path: Path) -> None:
    here = place_of(tmp_path, tag="warm")
    assert here.experiment("kd").parent.name == "kd-warm"
    # All variants are distilled from one teacher and start from one student.
    assert here.experiment("teacher").parent.name == "teacher"
    assert here.experiment("untrained").parent.name == "untrained"


def test_one_teacher_may_serve_students_of_all_seeds(tmp_path: Path) -> None:
    teacher = {**tiny_recipe.family_settings("whisper")["teacher"], "seed": 1}
    here = place_of(tmp_path, seed=3, teacher=teacher)
    assert here.experiment("teacher").name == "seed1" and here.seed_of("teacher") == 1
    assert here.store.parent == here.experiment("teacher")
    for student in ("kd", "untrained"):
        assert here.experiment(student).name == "seed3" and here.seed_of(student) == 3
    assert place_of(tmp_path, seed=3).experiment("teacher").name == "seed3"


def test_a_tag_does_not_make_one_experiment_of_two(tmp_path: Path) -> None:
    assert place_of(tmp_path).experiment("adakd-learned").parent.name == "adakd-learned"
    # adakd-learned tagged foo, and kd in int8 tagged foo.
    for tag in ("learned", "learned-foo"):
        with pytest.raises(UserError, match=f"--tag {tag}: .* another one, adakd-learned"):
            place_of(tmp_path, tag=tag)
    for tag in ("int8", "int8-foo", "foo-int8"):
        with pytest.raises(UserError, match=f"--tag {tag}: a tag .* other experiments"):
            place_of(tmp_path, tag=tag)
    for tag in ("learnedly", "t-mean", "k_end.0", "größer", "2"):
        name = place_of(tmp_path, tag=tag).experiment("adakd").parent.name
        assert name == f"adakd-{tag}"
    assert (method_of("adakd-learned-x"), method_of("adakd-learnedly"), method_of("x")) == (
        *("adakd-learned", "adakd"), "",
    )  # fmt: skip


@pytest.mark.parametrize("tag", ["a/b", "..", "../../x", ".hidden", "a b", "it's", "a\n", " "])
def test_a_tag_is_a_plain_name(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UserError, match="a tag is made of letters"):
        place_of(tmp_path, tag=tag)
