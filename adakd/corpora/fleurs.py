"""FLEURS: read sentences in 102 languages, as published on the Hugging Face hub (google/fleurs).

    data/hi_in/{train,dev,test}.tsv            without a header, see COLUMNS
    data/hi_in/audio/{train,dev,test}.tar.gz   train/<file name>.wav, 16 kHz

The text is the raw transcription (with case, punctuation and numbers in digits), untouched. FLEURS
names no speakers, only a gender: the speaker is left empty, so that intervals are over utterances.
Several people read each sentence; an utterance's id is the sentence's with the file name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from adakd.corpora import SPLITS, Rejected, Utterance, marker
from adakd.corpora.archive import lies_in, record, replaced, unpack
from adakd.corpora.tables import TABLES, checksums, find_folder, rows
from adakd.data.text import primary
from adakd.errors import UserError
from adakd.progress import track

HUB = "google/fleurs"
COLUMNS = ("id", "file", "raw", "transcription", "spelled", "samples", "gender")
NAMES = """
    af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn
    cs_cz cy_gb da_dk de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es
    gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke
    kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug ln_cd lo_la lt_lt luo_ke lv_lv mi_nz mk_mk
    ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl nso_za ny_mw oc_fr om_et or_in pa_in
    pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in
    tg_tj th_th tr_tr uk_ua umb_ao ur_pk uz_uz vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za
""".split()
CODES = {"zh": "cmn", "zh-cn": "cmn", "zh-hk": "yue", "no": "nb"}  # ours -> FLEURS's


@dataclass(frozen=True)
class Options:
    """Where the corpus lies."""

    corpus: str | None = None  # folder that holds data/hi_in or hi_in; None: from the hub
    name: str | None = None  # such as hi_in; None: by language.code


def fetch(options: Options, folder: Path, language: str) -> None:
    """Stage 0: find or download the language's tables and archives; unpack the recordings.

    Writes audio/<split>/*.wav, unless the corpus has such folders itself, and last fetched.json:
    source, language folder, revision of the hub (`release`, None for a given folder), SHA-256 of
    tables and archives. Without --corpus, what was given before will do, and recordings that were
    unpacked before stay until all new ones are.

    Raises:
        UserError: no such language, no such folder, no network, unsafe or damaged archives,
            archives that lie where they would be unpacked.
    """
    name = options.name or default_name(language)
    before = marker.stored(folder, "name", "archives") or {}
    release = None
    if options.corpus is not None:
        root = Path(marker.absolute(options.corpus))
        source = str(root)
        if not root.is_dir():
            raise UserError(f"corpus.corpus: '{root}' is no folder; give the one that holds {name}")
    elif before.get("name") == name and Path(before["folder"]).is_dir():
        root, source, release = Path(before["folder"]), before["source"], before["release"]
    elif before.get("name") == name and before["source"] != HUB:
        raise UserError(
            f"'{before['source']}', which holds FLEURS by an earlier --corpus, is no longer there; "
            "mount it, or give --corpus"
        )
    else:
        root, source = _download(name), HUB
        release = root.name  # .../snapshots/<revision>
    place = find_folder(root, name, TABLES, root)
    facts: dict[str, Any] = {
        "source": source,
        "name": name,
        "folder": str(place),
        "release": release,
        "sha256": checksums(place),
    }
    packed = [split for split in SPLITS if not (place / "audio" / split).is_dir()]
    if facts.items() <= before.items() and all(
        (folder / "audio" / split).is_dir()
        and marker.same_size(_archive(place, split), before["archives"][split])
        for split in packed
    ):
        return
    facts["archives"] = {}
    unpacked = folder / "audio"
    sources = _sources(place)
    if "folder" in before:  # whose recordings may have been the user's own, in `unpacked`
        sources += _sources(Path(before["folder"]))
    if packed:
        with replaced(unpacked, *sources) as fresh:
            for split in packed:
                archive = _archive(place, split)
                wanted = {
                    PurePosixPath(split, row["file"])
                    for _, row, problem in _read(place, split)
                    if not problem
                }
                files = unpack(archive, fresh, wanted.__contains__)
                for _ in track(files, len(wanted), f"unpacking {split}"):
                    pass
                (fresh / split).mkdir(exist_ok=True)
                facts["archives"][split] = record(archive)
            marker.remove(folder)
    marker.write(folder, facts)
    if not packed and not any(lies_in(source, unpacked) for source in sources):
        shutil.rmtree(unpacked, ignore_errors=True)  # of an earlier corpus


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance | Rejected]:
    """Stage 1: the recordings of train, dev and test, in the order of the tables.

    A row that cannot be used comes as `Rejected`, with the table and the line.

    Raises:
        UserError: stage 0 not run, tables that have changed since.
    """
    facts = marker.stored(folder, "name", "archives")
    if facts is None:
        raise UserError(f"{folder}: no FLEURS corpus here; run stage 0 first")
    marker.check_given(folder, facts, options.corpus, options.name)
    place = Path(facts["folder"])
    marker.check_tables(place, facts["sha256"], checksums(place))
    for split in SPLITS:
        own = place / "audio" / split
        recordings = own if own.is_dir() else folder / "audio" / split
        line_of: dict[str, int] = {}
        for line, values, problem in _read(place, split):
            where = f"{place / split}.tsv:{line}"
            file = values.get("file", "")
            if not problem and file in line_of:
                problem = f"recording listed twice: {file}, first in line {line_of[file]}"
            elif not problem and not (recordings / file).is_file():
                problem = f"missing recording: {file}"
            if problem:
                yield Rejected(f"{split}.tsv:{line}", split, problem, where)
                continue
            line_of[file] = line
            yield Utterance(
                id=f"{values['id']}-{PurePosixPath(file).stem}",
                split=split,
                audio=recordings / file,
                text=values["raw"],
                speaker="",  # unknown
                language="",  # the recipe's
            )


def default_name(language: str) -> str:
    """FLEURS's folder for a language code ("hi", "zh-CN"), or a UserError."""
    code = primary(language)
    wanted = CODES.get(language.lower().replace("_", "-")) or CODES.get(code, code)
    if found := [name for name in NAMES if name.split("_")[0] == wanted]:
        return found[0]
    raise UserError(
        f"language.code: FLEURS has no folder for '{language}' that is known here; set corpus.name "
        "to its name there, such as hi_in"
    )


def _read(place: Path, split: str) -> Iterator[tuple[int, dict[str, str], str]]:
    """(line, values by column, why they cannot be used or "") of each row of a split's table."""
    for line, fields, problem in rows(place / f"{split}.tsv", len(COLUMNS)):
        values = {} if problem else dict(zip(COLUMNS, fields, strict=True))
        file = values.get("file", "")
        if not problem and (PurePosixPath(file).name != file or "\\" in file):
            problem, values = f"recording outside audio/: {file}", {}
        yield line, values, problem


def _sources(place: Path) -> list[Path]:
    """Where the recordings of each split lie: in a folder of the corpus itself, or an archive."""
    own = [place / "audio" / split for split in SPLITS]
    return [each if each.is_dir() else _archive(place, each.name) for each in own]


def _archive(place: Path, split: str) -> Path:
    return place / "audio" / f"{split}.tar.gz"


def _download(name: str) -> Path:
    """The hub's snapshot with the files of one language, in Hugging Face's cache."""
    from huggingface_hub import snapshot_download

    wanted = [f"data/{name}/{table}" for table in TABLES]
    wanted += [f"data/{name}/audio/{split}.tar.gz" for split in SPLITS]
    try:
        return Path(snapshot_download(HUB, repo_type="dataset", allow_patterns=wanted))
    except Exception as error:  # of the hub, of HTTP or of the disk; the advice is the same
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"cannot download {HUB} ({reason}); with a network, `.venv/bin/hf download {HUB} "
            f"--repo-type dataset --include 'data/{name}/*' --local-dir fleurs` gets it: then give "
            "--corpus fleurs"
        ) from None
