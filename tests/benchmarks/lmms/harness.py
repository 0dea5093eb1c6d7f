"""lmms-eval for tests: the environment of its processes, and small local data in the shape of its tasks."""

from __future__ import annotations

import io
import os
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.lmms.command import TASK_FILES
from benchmarks.pope.scenes import pope_scenes
from benchmarks.pope.types import SPLITS

ROOT = Path(__file__).resolve().parents[3]
GROUP = "lmms_eval.models"
needs_lmms_eval = pytest.mark.skipif(
    find_spec("lmms_eval") is None, reason='lmms-eval is not installed (pip install "agevlm[lmms]")'
)


def declared() -> str:
    """The entry point as pyproject.toml declares it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]["agevlm"]


def write_distribution(folder: Path, name: str, entries: dict[str, str]) -> Path:
    """A folder that, on the path, is an installed distribution with these plug-ins."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Of a process that runs lmms-eval: offline, caches of its own, our plug-in visible even before a new install."""
    path = [str(ROOT)]
    if not any(e.value == declared() for e in metadata.entry_points(group=GROUP)):
        path.insert(0, str(write_distribution(folder / "installed", "agevlm", {"agevlm": declared()})))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def builtin(task: str) -> Path:
    """lmms-eval's own file of a task."""
    spec = find_spec("lmms_eval")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "tasks" / task


@dataclass(frozen=True)
class Document:
    """A question about a scene, with yes or no for an answer."""

    image: str
    text: str
    yes: bool
    number: int


@dataclass(frozen=True)
class Local:
    """Parquet files of every task, task files that point at them, and what is in them."""

    folder: Path
    pictures: dict[str, bytes]
    pope: dict[str, list[dict[str, Any]]]
    cvbench: dict[str, list[dict[str, Any]]]
    mmvp: list[dict[str, Any]]

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks"

    def picture(self, row: dict[str, Any]) -> Image.Image:
        return Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")


def make_local(folder: Path, images: int = 8) -> Local:
    """Rendered scenes as POPE, CV-Bench and MMVP."""
    questions, pictures = pope_scenes(f"scenes:{images}")

    def encoded(name: str) -> dict[str, Any]:
        return {"bytes": pictures[name], "path": None}

    pope = {
        split: [
            {
                "id": str(n),
                "question_id": q.question_id,
                "question": q.text,
                "answer": "yes" if q.label else "no",
                "image_source": Path(q.image).stem,
                "category": split,
                "image": encoded(q.image),
            }
            for n, q in enumerate(q for q in questions if q.split == split)
        ]
        for split in SPLITS
    }
    first = [q for q in questions if q.split == "random"]
    cvbench: dict[str, list[dict[str, Any]]] = {"2d": [], "3d": []}
    for n, q in enumerate(first):
        source = ("ADE20K", "COCO", "COCO", "Omni3D", "Omni3D")[n % 5]
        choices = ["yes", "no"] if n % 2 else ["no", "yes"]
        cvbench["3d" if source == "Omni3D" else "2d"].append(
            {
                "idx": n,
                "source": source,
                "prompt": f"{q.text} Select from the following choices.\n(A) {choices[0]}\n(B) {choices[1]}",
                "choices": choices,
                "answer": "(A)" if (choices[0] == "yes") == q.label else "(B)",
                "source_filename": q.image,
                "image": encoded(q.image),
            }
        )
    mmvp = [
        {
            "Index": n + 1,
            "Question": q.text,
            "Options": "(a) Yes (b) No",
            "Correct Answer": "(a)" if q.label else "(b)",
            "image": encoded(q.image),
        }
        for n, q in enumerate(first[:8])
    ]
    local = Local(folder, pictures, pope, cvbench, mmvp)
    local.tasks.mkdir(parents=True)
    for split, rows in pope.items():
        _parquet(folder / "pope" / f"{split}.parquet", rows)
        _task(
            local, f"local_pope_{split}", TASK_FILES / f"agevlm_pope_{split}.yaml", {split: f"../pope/{split}.parquet"}
        )
    _group(local, "local_pope", TASK_FILES / "agevlm_pope.yaml", [f"local_pope_{s}" for s in SPLITS])
    for part, rows in cvbench.items():
        _parquet(folder / "cvbench" / f"{part}.parquet", rows)
        file = TASK_FILES / f"agevlm_cvbench_{part}.yaml"
        _task(local, f"local_cvbench_{part}", file, {"test": f"../cvbench/{part}.parquet"})
    _group(local, "local_cvbench", TASK_FILES / "agevlm_cvbench.yaml", [f"local_cvbench_{p}" for p in cvbench])
    _parquet(folder / "mmvp" / "mmvp.parquet", mmvp)
    _task(local, "local_mmvp", builtin("mmvp/mmvp.yaml"), {"train": "../mmvp/mmvp.parquet"})
    return local


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(path)


def _task(local: Local, name: str, file: Path, parts: dict[str, str]) -> None:
    lines = [f"include: {file}", f"task: {name}", "dataset_path: parquet", "dataset_name: null", "dataset_kwargs:"]
    lines += ["  data_files:", *(f"    {split}: {path}" for split, path in parts.items())]
    (local.tasks / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def _group(local: Local, name: str, file: Path, members: list[str]) -> None:
    (local.tasks / f"{name}.yaml").write_text(f"include: {file}\ngroup: {name}\ntask: [{', '.join(members)}]\n")


PYTHON = sys.executable
