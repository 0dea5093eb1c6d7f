"""POPE questions from every form they are published in.

`load_questions` reads POPE's own files (JSON lines and arrays), LLaVA's question file with its label files beside it,
RePOPE, POPEv2, the parquet tables of the hub's lmms-lab/POPE, and that hub data set itself. `relabel` puts RePOPE's
labels on official questions.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from agevlm.errors import DataError
from benchmarks.pope import scenes, versions
from benchmarks.pope.containers import NotQuestionsError, Row, hub_rows, image_name, json_rows, parquet_rows
from benchmarks.pope.types import LIMIT, PAIRED, SPLITS, Question, QuestionSet
from benchmarks.prompts import strip_suffix

_OBJECT = re.compile(r"\s*is there an? (.+?) in the (?:image|imange)\s*\?\s*$", re.IGNORECASE)
_FAMILY = re.compile(r"(?P<family>.+?)_(?P<repope>re)?pope(?=_|$)")
_SPLIT = re.compile(rf"(?:^|[_\-. ])({'|'.join(SPLITS)})(?=$|[_\-. ])")
_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILE_ENDINGS = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class _Part:
    """Questions of one family from one file, table or join; `provisional` names give way to a known version's."""

    name: str
    questions: tuple[Question, ...]
    source: str
    image_bytes: Mapping[str, bytes] | None = None
    provisional: bool = False


def load_questions(sources: Sequence[str | Path], *, splits: Sequence[str] | None = None) -> tuple[QuestionSet, ...]:
    """Load question files, folders of them, and hub data sets.

    Files of one family (coco, aokvqa, gqa, ...; told by the file name) make one set with a split per file. A folder
    that holds a LLaVA question file (no labels, a `category`) gives those questions under their own ids, with the
    labels of the coco_pope_*.json files beside it (or in its subfolder `coco`). In a folder, JSON files that are one
    object and no list of rows (manifests, annotations) are passed over.

    Args:
        sources: files, folders, hub ids such as "lmms-lab/POPE", or "scenes" (see `benchmarks.pope.scenes`).
        splits: names of the splits to keep; None keeps all.

    Raises:
        DataError: with file and line: a source that is missing or broken, a row without its fields, an unknown label,
            an id or a split that appears twice, a split that is not there.
    """
    if not sources:
        raise DataError("no question source given; give a question file, a folder of them, or a hub id")
    shards: dict[tuple[Path, str], list[Path]] = {}
    parts: list[_Part] = []
    for source in sources:
        path = Path(source)
        if isinstance(source, str) and scenes.is_selector(source):
            questions, pictures = scenes.pope_scenes(source)
            parts.append(_Part(scenes.SCENES, questions, source, pictures, provisional=True))
        elif path.is_dir():
            parts.extend(_folder(path))
        elif path.suffix == ".parquet" and path.exists():
            shards.setdefault((path.parent, _SHARD.sub("", path.stem)), []).append(path)
        elif path.exists():
            parts.append(_labelled(path))
        elif isinstance(source, str) and _is_hub_id(source):
            rows, images = hub_rows(source)
            parts.append(_table(rows, images, source, source.rsplit("/", 1)[1]))
        else:
            raise DataError(f"{source}: no such file; give a question file, a folder of them, or a hub id (org/name)")
    for (folder, stem), paths in shards.items():
        parts.append(_parquet(paths, _SPLIT.sub("", stem) or folder.resolve().name))
    return _filtered(_merged(parts), splits)


def object_name(text: str) -> str:
    """The object in "Is there a(n) X in the image?" (or "imange", as an old release has it); else the whole text."""
    match = _OBJECT.match(text)
    return match[1] if match else text


def load_repope(path: str | Path) -> dict[tuple[str, str], Question]:
    """RePOPE's questions by (split, question id) from one of its files or from the folder that holds them.

    Raises:
        DataError: there is no `*_repope_*` file of a known split, or one is broken.
    """
    path = Path(path)
    files = [p for p in _json_files(path) if "_repope" in p.stem] if path.is_dir() else [path]
    found: dict[tuple[str, str], Question] = {}
    for file in files:
        part = _labelled(file)
        for question in part.questions:
            if question.split not in SPLITS:
                raise DataError(f"{question.where}: the file name must end in _random, _popular or _adversarial")
            if found.setdefault((question.split, question.question_id), question) is not question:
                raise DataError(f"{question.where}: split {question.split} is given by two files; keep one of them")
    if not found:
        raise DataError(f"{path}: no RePOPE file here; it should hold coco_repope_random.json and the like")
    return found


def relabel(question_set: QuestionSet, repope_source: str | Path) -> QuestionSet:
    """The questions that RePOPE kept, with its labels, in the official order and under the official ids.

    Splits for which RePOPE has no file here are left out, and so are its labels of images that a limited set does not
    ask about. The name of the set becomes `repope-` and the old name.

    Raises:
        DataError: no split in common, or a RePOPE row whose id, image or question the set does not have.
    """
    labels = load_repope(repope_source)
    present = {question.split for question in question_set.questions}
    labels = {key: label for key, label in labels.items() if key[0] in present}
    if not labels:
        raise DataError(f"{repope_source}: none of the splits of {question_set.name} ({', '.join(sorted(present))})")
    version = versions.data_version(labels.values())
    _, limit, some = question_set.data_version.partition(LIMIT)
    if limit:
        asked = {versions.image_stem(question.image) for question in question_set.questions}
        labels = {key: label for key, label in labels.items() if versions.image_stem(label.image) in asked}
    official = {(question.split, question.question_id): question for question in question_set.questions}
    for key, label in labels.items():
        question = official.get(key)
        if question is None:
            raise DataError(
                f"{label.where}: id {label.question_id} is not in split {label.split} of {question_set.name} "
                f"({question_set.data_version}); RePOPE goes with the official release of POPE on COCO"
            )
        if versions.image_stem(question.image) != versions.image_stem(label.image) or question.text != label.text:
            raise DataError(
                f"{label.where}: id {label.question_id} is {label.text!r} on {label.image}, but "
                f"{question.text!r} on {question.image} at {question.where}; RePOPE goes with the official release"
            )
    kept = tuple(replace(q, label=labels[key].label) for key, q in official.items() if key in labels)
    name = question_set.name if question_set.name.startswith("repope-") else f"repope-{question_set.name}"
    return replace(_question_set(name, kept, question_set.image_bytes), data_version=version + limit + some)


# sources


def _is_hub_id(source: str) -> bool:
    # a folder of that name beside us means a path with a typing error, not a hub id
    return bool(_HUB_ID.fullmatch(source)) and not source.endswith(_FILE_ENDINGS) and not Path(source).parent.is_dir()


def _json_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jsonl") and p.is_file())


def _parquet_files(folder: Path, deep: bool) -> list[Path]:
    # lmms-lab/POPE holds its rows twice, in data/ and in Full/; a deeper search is for other layouts, and not for
    # folders of question files, which may have other tables (of a run, say) further down
    for pattern in ("*.parquet", "data/*.parquet", *(["**/*.parquet"] if deep else [])):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _folder(folder: Path) -> list[_Part]:
    labelled: list[_Part] = []
    asked: list[tuple[Path, list[Row]]] = []
    passed_over: list[str] = []
    for file in _json_files(folder):
        try:
            rows = json_rows(file)
        except NotQuestionsError:
            passed_over.append(file.name)
            continue
        if _is_asked(rows):
            asked.append((file, rows))
        else:
            labelled.append(_from_rows(file, rows))
    if asked:
        beside = [part for part in labelled if part.name == "coco"]
        labels = beside or [_labelled(file) for file in sorted((folder / "coco").glob("coco_pope_*.json"))]
        labelled = [part for part in labelled if part.name != "coco"]
        labelled.extend(_join(file, rows, labels) for file, rows in asked)
    tables = _parquet_files(folder, deep=not labelled)
    if tables:
        labelled.append(_parquet(tables, folder.resolve().name))
    if not labelled:
        seen = f" (passed over: {', '.join(passed_over)})" if passed_over else ""
        raise DataError(f"{folder}: no question files (*.json, *.jsonl, *.parquet) in this folder{seen}")
    return labelled


def _parquet(paths: Sequence[Path], name: str) -> _Part:
    rows, images = parquet_rows(paths)
    return _table(rows, images, ", ".join(map(str, paths)), name)


def _table(rows: Sequence[Row], images: Mapping[str, bytes] | None, source: str, name: str) -> _Part:
    return _Part(name, _questions(rows, None), source, images, provisional=True)


def _labelled(file: Path) -> _Part:
    rows = json_rows(file)
    if _is_asked(rows):
        raise DataError(
            f"{file}: questions without labels; give the folder that holds this file together with "
            "coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json of the same release"
        )
    return _from_rows(file, rows)


def _from_rows(file: Path, rows: Sequence[Row]) -> _Part:
    stem = file.stem
    # The last one: POPE's files end in their split, and a name before it may hold such a word too.
    words = _SPLIT.findall(stem)
    questions = _questions(rows, words[-1] if words else None, fallback=stem)
    if questions[0].split == PAIRED:
        return _Part(PAIRED, questions, str(file))
    if match := _FAMILY.match(stem):
        name = ("repope-" if match["repope"] else "") + match["family"]
    else:
        name = _SPLIT.sub("", stem) or file.resolve().parent.name
    return _Part(name, questions, str(file))


def _is_asked(rows: Sequence[Row]) -> bool:
    fields = rows[0].fields
    return {"question_id", "text", "category"} <= fields.keys() and not {"label", "answer"} & fields.keys()


def _join(file: Path, rows: Sequence[Row], parts: Sequence[_Part]) -> _Part:
    if not parts:
        raise DataError(
            f"{file}: questions without labels, and no coco_pope_*.json beside them; put "
            "coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json of the same release there"
        )
    labels: dict[tuple[str, str, str], Question] = {}
    for question in (q for part in parts for q in part.questions):
        other = labels.setdefault((question.split, question.image, question.text), question)
        if other.label != question.label:
            raise DataError(f"{question.where}: the same question has the other label at {other.where}")
    joined = []
    for row in rows:
        split, text = _text(row, "category").lower(), _asked_text(row, "text")
        key = (split, _text(row, "image"), text)
        identity = _identity(row, "question_id")
        if key not in labels:
            raise DataError(
                f"{row.where}: question_id {identity} ({text!r} on {key[1]}) has no label in split {split} of "
                f"{', '.join(part.source for part in parts)}; the label files must be of the same release"
            )
        joined.append(replace(labels[key], question_id=identity, where=row.where))
    _refuse_repeats(joined)
    return _Part("coco", tuple(joined), str(file))


# rows


def _questions(rows: Sequence[Row], split: str | None, fallback: str | None = None) -> tuple[Question, ...]:
    """Read rows by the form that the first one has; `split` is the file name's, `fallback` the file's stem."""
    fields = rows[0].fields
    if {"query", "target_object"} <= fields.keys():
        questions = [_popev2(row) for row in rows]
        _require_pairs(questions)
    elif {"question", "answer"} <= fields.keys():
        questions = [_hub_row(row, split) for row in rows]
    else:
        questions = [_pope_row(row, split, fallback) for row in rows]
    _refuse_repeats(questions)
    return tuple(questions)


def _pope_row(row: Row, split: str | None, fallback: str | None) -> Question:
    category = row.fields.get("category")
    if split is None and isinstance(category, str) and category.lower() in SPLITS:
        split = category.lower()
    return _question(
        row,
        split=split or fallback or "",
        identity=_identity(row, "question_id"),
        image=_text(row, "image"),
        text=_asked_text(row, "text"),
        label=_label(row, "label"),
    )


def _hub_row(row: Row, split: str | None) -> Question:
    return _question(
        row,
        split=_text(row, "category").lower() if "category" in row.fields or split is None else split,
        identity=_identity(row, "question_id"),
        image=image_name(_text(row, "image_source")),
        text=_asked_text(row, "question"),
        label=_label(row, "answer"),
    )


def _popev2(row: Row) -> Question:
    image = _text(row, "image_name").lstrip("/")
    target = _text(row, "target_object")
    pair = f"{_identity(row, 'image_id')}/{target}"
    question = _question(
        row,
        split=PAIRED,
        # original and edited image have the same file name in different folders
        identity=f"{pair}/{PurePosixPath(image).parent.name}",
        image=image,
        text=_asked_text(row, "query"),
        label=_label(row, "label"),
    )
    return replace(question, object_name=target, cluster=pair)


def _question(row: Row, *, split: str, identity: str, image: str, text: str, label: bool) -> Question:
    return Question(split, identity, image, text, label, object_name(text), image, row.where)


def _field(row: Row, key: str) -> Any:
    if key in row.fields:
        return row.fields[key]
    hint = ""
    if {"answer_id", "prompt", "model_id"} & row.fields.keys():
        hint = "; this looks like a file of answers: give the question file here and keep answers elsewhere"
    has = ", ".join(row.fields)
    raise DataError(f"{row.where}: no field {key!r} (the row has {has}){hint}")


def _text(row: Row, key: str) -> str:
    value = _field(row, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.where}: {key} must be a text that is not empty, not {value!r}")
    return value


def _asked_text(row: Row, key: str) -> str:
    text = strip_suffix(_text(row, key))
    if not text:
        raise DataError(f"{row.where}: {key} holds the prompt suffix alone, no question")
    return text


def _identity(row: Row, key: str) -> str:
    value = _field(row, key)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"{row.where}: {key} must be an integer or a text, not {value!r}")
    return str(value)


def _label(row: Row, key: str) -> bool:
    value = _field(row, key)
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in ("yes", "no"):
        raise DataError(f"{row.where}: {key} must be yes or no, not {value!r}")
    return word == "yes"


def _refuse_repeats(questions: Iterable[Question]) -> None:
    seen: dict[tuple[str, str], Question] = {}
    for question in questions:
        first = seen.setdefault((question.split, question.question_id), question)
        if first is not question:
            raise DataError(
                f"{question.where}: id {question.question_id} appears twice in split {question.split} (first at "
                f"{first.where}); ids must be unique"
            )


def _require_pairs(questions: Iterable[Question]) -> None:
    pairs: dict[str, list[Question]] = {}
    for question in questions:
        pairs.setdefault(question.cluster, []).append(question)
    for pair, members in pairs.items():
        if sorted(question.label for question in members) != [False, True]:
            labels = ", ".join("yes" if question.label else "no" for question in members)
            raise DataError(
                f"{members[-1].where}: pair {pair} has the labels {labels}; a POPEv2 pair is one yes (the original "
                "image) and one no (the edited image)"
            )


# sets


def _merged(parts: Sequence[_Part]) -> list[QuestionSet]:
    groups: dict[str, list[_Part]] = {}
    for part in parts:
        version = versions.data_version(part.questions) if part.provisional else ""
        groups.setdefault(versions.family(version) or part.name, []).append(part)
    sets = []
    for name, group in groups.items():
        owner: dict[str, str] = {}
        for part in group:
            for split in dict.fromkeys(question.split for question in part.questions):
                if split in owner:
                    raise DataError(
                        f"{part.source}: split {split} of {name} is also in {owner[split]}; give one of them"
                    )
                owner[split] = part.source
        questions = tuple(question for part in group for question in part.questions)
        images = [dict_like for part in group if (dict_like := part.image_bytes) is not None]
        # ChainMap only looks names up, the images stay unread
        pictures = ChainMap(*images) if len(images) > 1 else next(iter(images), None)  # type: ignore[arg-type]
        sets.append(_question_set(name, questions, pictures))
    return sets


def _filtered(sets: Sequence[QuestionSet], splits: Sequence[str] | None) -> tuple[QuestionSet, ...]:
    if splits is None:
        return tuple(sets)
    available = {s.name: list(dict.fromkeys(q.split for q in s.questions)) for s in sets}
    listing = "; ".join(f"{name}: {', '.join(names)}" for name, names in available.items())
    if unknown := [split for split in splits if not any(split in names for names in available.values())]:
        raise DataError(f"no split {', '.join(map(repr, unknown))}; there are {listing}")
    kept = []
    for question_set in sets:
        questions = tuple(q for q in question_set.questions if q.split in splits)
        if not questions:
            raise DataError(f"{question_set.name} has none of the splits {', '.join(splits)}; there are {listing}")
        kept.append(_question_set(question_set.name, questions, question_set.image_bytes))
    return tuple(kept)


def _question_set(name: str, questions: Iterable[Question], images: Mapping[str, bytes] | None) -> QuestionSet:
    # tables list random first whatever the order of the files was
    rank = {split: place for place, split in enumerate(SPLITS)}
    ordered = tuple(sorted(questions, key=lambda question: rank.get(question.split, len(rank))))
    return QuestionSet(name, versions.data_version(ordered), versions.content_sha256(ordered), ordered, images)
