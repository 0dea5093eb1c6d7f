"""What `agevlm-eval lmms` does: lmms-eval's tasks on one of our models, filed in a run folder.

run.json            manifest: tasks, model fingerprint, versions, command, every launch
answers-*.jsonl     answer records, shared by all tasks of the folder
lmms-eval/ID/       lmms-eval's own results and samples; ID stands for the model and the generation settings
lmms-eval.log       what it said
scores.json         the rows of the table, how many answers are missing, and remarks
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from agevlm.errors import AgeVlmError, DataError
from agevlm.terminal import stoppable, write_json
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.peer.children import ended, finish, lmms_eval_version, start, tail
from benchmarks.progress import told_on_interrupt
from benchmarks.run_folder import SCHEMA, RunFolder, environment, now
from benchmarks.settings import chosen_folder

TASK_FILES = Path(__file__).parent / "tasks"
"""Our own task files, for `--include_path`."""
LOG, SETTINGS, OUTCOME = "lmms-eval.log", ".lmms-eval.settings.json", ".lmms-eval.outcome.json"
GRACE = 15.0
"""Seconds that an interrupted child has to end by itself."""


class LmmsFailed(AgeVlmError):
    """lmms-eval did not come to its end."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class LmmsSettings:
    """The options of `agevlm-eval lmms`."""

    model: ModelChoice
    chat_template: Path | None
    tasks: tuple[str, ...]
    include: tuple[Path, ...]
    join_images: bool
    limit: int | None
    gen_kwargs: str
    bootstrap: int
    out: Path | None
    json_out: str | None
    allow_partial: bool

    def folder(self) -> RunFolder:
        """The run's folder."""
        return chosen_folder(self.out, ["lmms", self.model.slug, *self.tasks], self.model.dtype, self.limit)

    def for_child(self, folder: RunFolder, fingerprint: Fingerprint) -> dict[str, Any]:
        """What the child process needs to know, as plain values.

        What decides the answers gets an output folder of its own: some tasks keep their judge's verdicts there by the
        number of the document alone.
        """
        decisive = json.dumps([fingerprint.digest, self.gen_kwargs, self.join_images])
        output = folder.path.resolve() / "lmms-eval" / hashlib.sha256(decisive.encode()).hexdigest()[:12]
        return {
            "tasks": self.tasks,
            "include": [str(TASK_FILES), *(str(path.resolve()) for path in self.include)],
            "limit": self.limit,
            "gen_kwargs": self.gen_kwargs,
            "bootstrap": self.bootstrap,
            "output": str(output),
            "model": {
                "pretrained": self.model.name,
                "dtype": self.model.dtype,
                "device": self.model.device,
                "batch_size": self.model.batch_size,
                "device_map": self.model.device_map,
                "concurrency": self.model.concurrency,
                "timeout": self.model.timeout,
                "chat_template": None if self.chat_template is None else str(self.chat_template),
                "records": str(folder.path.resolve()),
                "several_images": "join" if self.join_images else "refuse",
                "on_error": "empty" if self.allow_partial else "raise",
            },
        }


def run_lmms(settings: LmmsSettings, console: Console, notes: Console) -> int:
    """Run lmms-eval's tasks, or go on with them, and print their metrics. Returns the exit code.

    Raises:
        CheckpointError: lmms-eval is not installed, or the model cannot be used.
        DataError: an unknown task, or no such folder of task files.
        LmmsFailed: lmms-eval did not come to its end; what is answered is kept.
    """
    version = lmms_eval_version()
    for path in settings.include:
        if not path.is_dir():
            raise DataError(f"--include-path {path}: no such folder")
    fingerprint = settings.model.fingerprint()
    folder = settings.folder()
    folder.own()
    try:
        with stoppable(), told_on_interrupt(folder, notes):
            _open_launch(settings, folder, fingerprint, version)
            notes.print(f"{', '.join(settings.tasks)} by lmms-eval {version} → {folder.path}")
            results = _run_child(settings.for_child(folder, fingerprint), folder, notes)
            rows = metric_rows(results)
            told = {"missing": results["missing"], "remarks": results["remarks"]}
            folder.write_json("scores.json", {"rows": rows, **told})
            _close_launch(folder, results)
    finally:
        folder.release()
    write_json(rows, settings.json_out)
    if settings.json_out != "-":
        console.print(metric_table(rows, f"lmms-eval {version} · {settings.model.name}"))
    for remark in results["remarks"]:
        notes.print(f"warning: {remark}", style="yellow", markup=False)
    if settings.limit is not None:
        notes.print(
            f"limited to the first {settings.limit} documents of each task: no published number", style="yellow"
        )
    notes.print(f"run folder: {folder.path}")
    return 0


def _open_launch(settings: LmmsSettings, folder: RunFolder, fingerprint: Fingerprint, version: str) -> None:
    old = folder.manifest()
    known = environment()
    folder.write_json(
        "run.json",
        {
            "schema": SCHEMA,
            "benchmark": "lmms",
            "created": old.get("created", now()),
            "tasks": list(settings.tasks),
            "include": [str(path) for path in settings.include],
            "join_images": settings.join_images,
            "limit": settings.limit,
            "gen_kwargs": settings.gen_kwargs,
            "model": {
                **{k: v for k, v in asdict(settings.model).items() if k != "name"},
                "ckpt": settings.model.name,
                "fingerprint": fingerprint.digest,
                "parts": dict(fingerprint.parts),
            },
            **known,
            "packages": {**known["packages"], "lmms-eval": version},
            "launches": [*old.get("launches", []), {"started": now(), "answers_before": _answered(folder)}],
        },
    )


def _close_launch(folder: RunFolder, results: Mapping[str, Any]) -> None:
    manifest = folder.manifest()
    manifest["launches"][-1] |= {
        "ended": now(),
        "answers": _answered(folder),
        "missing": results["missing"],
        "remarks": results["remarks"],
    }
    manifest["lmms_eval"] = {"versions": results.get("versions"), "interface": results["config"].get("interface")}
    folder.write_json("run.json", manifest)


def _answered(folder: RunFolder) -> int:
    """Answers in a folder; a record of an error is none."""
    return sum(record.error is None for record in folder.answers().values())


def _run_child(settings: Mapping[str, Any], folder: RunFolder, notes: Console) -> dict[str, Any]:
    """Results of lmms-eval in a child process. Raises LmmsFailed."""
    outcome, log = folder.path / OUTCOME, folder.path / LOG
    outcome.unlink(missing_ok=True)
    folder.write_json(SETTINGS, settings)
    with log.open("ab") as written:
        process = start("benchmarks.lmms.child", [str(folder.path / SETTINGS), str(outcome)], written)
        try:
            with notes.status("lmms-eval starts") as status:
                while process.poll() is None:
                    time.sleep(0.5)
                    status.update(f"lmms-eval: {_recorded(folder)} answers recorded")
        except BaseException:
            _stop(process)
            raise
    try:
        said = json.loads(outcome.read_text())
    except (OSError, ValueError):
        raise LmmsFailed(f"lmms-eval {ended(process)} without a result; {log}: {tail(log)}", 2) from None
    finally:
        outcome.unlink(missing_ok=True)
        (folder.path / SETTINGS).unlink(missing_ok=True)
    if "error" in said:
        raise LmmsFailed(f"{said['error']} (log: {log})", int(said["code"]))
    results: dict[str, Any] = said["results"]
    return results


def _recorded(folder: RunFolder) -> int:
    """Lines of the answer files: cheap, and near enough for a progress line."""
    return sum(path.read_bytes().count(b"\n") for path in folder.answer_files)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    finish(process, GRACE)


def metric_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per task and metric, with lmms-eval's own standard errors (null where it has none) and n."""
    rows = []
    sizes = dict(results["n_recorded"])
    members = results.get("group_subtasks", {})
    for task, values in results["results"].items():
        if task not in sizes:  # a group, whose metrics lmms-eval has in no order
            values = dict(sorted(values.items()))
            sizes[task] = sum(sizes.get(member, 0) for member in members.get(task, ()))
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or "_stderr" in metric:
                continue
            errors = {
                name: _number(values.get(f"{metric}_{name},{filtered}"))
                for name in ("stderr", "stderr_clt", "stderr_clustered")
            }
            rows.append(
                {
                    "benchmark": "lmms",
                    "task": task,
                    "metric": metric,
                    "filter": filtered,
                    "value": _number(value) if not isinstance(value, (dict, list)) else value,
                    **errors,
                    "n": sizes[task],
                    "higher_is_better": results.get("higher_is_better", {}).get(task, {}).get(metric),
                }
            )
    return rows


def _number(value: Any) -> float | None:
    """A finite number, or None (lmms-eval writes "N/A" and NaN)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) != float("inf") else None


def metric_table(rows: list[dict[str, Any]], title: str) -> Table:
    """The rows as a table."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task")
    table.add_column("metric")
    for name in ("n", "value", "std. error", "clustered"):
        table.add_column(name, justify="right")
    for row in rows:
        error = row["stderr_clt"] if row["stderr"] is None else row["stderr"]
        direction = {True: " ↑", False: " ↓"}.get(row["higher_is_better"], "")
        filtered = "" if row["filter"] == "none" else f" ({row['filter']})"
        cells = [f"{row['metric']}{direction}{filtered}", str(row["n"])]
        cells += [_shown(row["value"]), _shown(error), _shown(row["stderr_clustered"])]
        table.add_row(row["task"], *cells)
    table.caption = "as lmms-eval scores them; – where it has no value or no standard error"
    return table


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
