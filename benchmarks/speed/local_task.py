"""The fixture as lmms-eval reads it: one local task per image, rows and pictures in parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.questions import PER_IMAGE, picture, question_rows

TASK = "agevlm_speed_{}"
"""Names of its own: a built-in task wins over a local one of the same name."""


@dataclass(frozen=True)
class LocalTask:
    """One image with its questions, on disk."""

    name: str
    parquet: Path

    def read(self) -> tuple[bytes, list[str]]:
        """The picture's file and the questions, read from disk."""
        import pyarrow.parquet as pq

        columns = pq.read_table(self.parquet, columns=["question", "image"]).to_pydict()
        return columns["image"][0]["bytes"], columns["question"]


def write_task(folder: Path, index: int, limit: int, questions: int = PER_IMAGE) -> LocalTask:
    """Write an image's parquet file, each row with the picture as lmms-eval's POPE has it, and its task file.

    Args:
        folder: where; task files come to `folder/tasks`.
        index: of the fixture's image.
        limit: most new tokens of an answer.
        questions: so many of the image's questions.
    """
    import lmms_eval
    from datasets import Dataset, Features, Image, Value, disable_progress_bars

    disable_progress_bars()

    name = TASK.format(index)
    jpeg, rows = picture(index), question_rows(index)[:questions]
    text = dict.fromkeys(("id", "question_id", "question", "answer", "image_source", "category"), Value("string"))
    data = Dataset.from_dict(
        {
            "id": [str(n) for n in range(len(rows))],
            "question_id": [str(n) for n in range(len(rows))],
            "question": rows,
            # No label is scored here, but lmms-eval's POPE wants one.
            "answer": ["yes"] * len(rows),
            "image_source": [name] * len(rows),
            "category": ["random"] * len(rows),
            "image": [{"bytes": jpeg, "path": None}] * len(rows),
        },
        features=Features({**text, "image": Image()}),
    )
    parquet = folder / name / "data" / "test-00000-of-00001.parquet"
    parquet.parent.mkdir(parents=True)
    data.to_parquet(parquet)
    pope = Path(lmms_eval.__file__).parent / "tasks" / "pope" / "pope.yaml"
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / f"{name}.yaml").write_text(
        f"include: {pope}\ntask: {name}\ndataset_path: {folder / name}\n"
        f"generation_kwargs:\n  max_new_tokens: {limit}\n  temperature: 0\n  top_p: 1.0\n  num_beams: 1\n"
        "  do_sample: false\n"
    )
    return LocalTask(name, parquet)
