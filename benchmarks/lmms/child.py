"""lmms-eval itself, in a process of its own: `python -m benchmarks.lmms.child PARENT SETTINGS.json OUTCOME.json`.

SETTINGS holds what `command.Settings.for_child` writes. OUTCOME takes `{"results": ...}`, or `{"error", "code"}` where
it is something that a user can mend; a traceback goes to the log (stdout and stderr) besides.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agevlm.errors import AgeVlmError, DataError
from agevlm.vlm.peer.children import end_with
from benchmarks.lmms.plugin import MODEL
from benchmarks.lmms.wanted import token_budget

ALIASES = {"hallusion_bench": "hallusion_bench_image"}
"""Names that users write, and what lmms-eval 0.7 calls it."""
JUDGED = {"hallusion_bench_image": ("OPENAI_API_KEY", "AZURE_API_KEY")}
"""Tasks that ask a judge, and the variables one of which must hold its key; without one all is scored as unclear."""
BY_LIKELIHOOD = ("multiple_choice", "loglikelihood")
"""Output types that lmms-eval offers to simple models alone."""


def main() -> None:
    """Run and write the outcome."""
    parent, settings, outcome = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    end_with(parent)
    # Our caller ends us by this signal; one that a shell started in the background hands down that it be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        written: dict[str, Any] = {"results": run(settings)}
    except AgeVlmError as error:
        written = {"error": str(error), "code": error.exit_code}
    except KeyboardInterrupt:
        # Every answer is on disk; a task's or an engine's threads would be waited for otherwise.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
    except Exception as error:
        traceback.print_exc()
        written = {"error": f"lmms-eval: {_reason(error)}", "code": AgeVlmError.exit_code}
    outcome.write_text(json.dumps(written, default=str))


def _reason(error: BaseException) -> str:
    """The first cause in one line; lmms-eval retries failing scores and hides what they failed with."""
    attempt = getattr(error, "last_attempt", None)
    if attempt is not None and attempt.exception() is not None:
        error = attempt.exception()
    lines = str(error).strip().splitlines()
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"; a task needs it: pip install {(error.name or '').partition('.')[0]}"
    elif isinstance(error, ConnectionError):
        hint = "; without network give a task file that names local data with --include-path"
    return f"{type(error).__name__}: {lines[0] if lines else ''}{hint}"


def run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the tasks; the results as lmms-eval has them, without samples, with what the model remarks on them.

    Raises:
        DataError: unknown task names, a judge without a key, or generation settings that cannot be read.
        AnswersMissing, RunStopped, CheckpointError: see the plug-in's classes.
    """
    from lmms_eval import evaluator
    from lmms_eval.__main__ import parse_eval_args
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import get_datetime_str

    from benchmarks.lmms.model import AgeVlm, AgeVlmChat

    require_settings(settings["gen_kwargs"])
    manager = TaskManager("WARNING", include_path=list(settings["include"]), model_name=MODEL)
    tasks = known_tasks(settings["tasks"], manager.all_tasks)
    require_judges(tasks, os.environ)
    simple = any(kind in BY_LIKELIHOOD for kind in output_types(manager, tasks))
    options = settings["model"]
    model = (AgeVlm if simple else AgeVlmChat)(**options)

    sys.argv = [sys.argv[0]]
    _, arguments = parse_eval_args()
    arguments.model, arguments.tasks, arguments.output_path = MODEL, ",".join(tasks), settings["output"]
    arguments.limit, arguments.log_samples, arguments.verbosity = settings["limit"], True, "INFO"
    tracker = EvaluationTracker(output_path=settings["output"])
    described = f"pretrained={options['pretrained']}"
    tracker.general_config_tracker.log_experiment_args(MODEL, described, None, None, False)
    when = get_datetime_str(timezone="UTC")
    results = evaluator.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        limit=settings["limit"],
        bootstrap_iters=settings["bootstrap"],
        log_samples=True,
        gen_kwargs=settings["gen_kwargs"] or None,
        datetime_str=when,
        cli_args=arguments,
    )
    samples = results.pop("samples")
    results["config"] |= {"model": MODEL, "model_args": described, "interface": "simple" if simple else "chat"}
    results["n_recorded"] = {name: len(rows) for name, rows in samples.items()}
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str=when)
    for name in samples:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    _require_saved(Path(settings["output"]), samples, tracker.date_id)
    kept = ("results", "higher_is_better", "n-samples", "n_recorded", "versions", "config", "group_subtasks")
    return {
        **{key: results[key] for key in kept if key in results},
        "missing": model.missing,
        "remarks": model.remarks,
    }


def _require_saved(folder: Path, samples: Mapping[str, Any], date: str) -> None:
    """lmms-eval warns where it cannot save, and goes on."""
    names = [f"{date}_results.json", *(f"{date}_samples_{name}.jsonl" for name in samples)]
    if lost := [name for name in names if not any(folder.rglob(name))]:
        raise DataError(f"lmms-eval could not save {', '.join(lost)} in {folder}; the log says why")


def known_tasks(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The tasks' names as lmms-eval has them. Raises DataError with near matches for those that it does not have."""
    found, problems = [], []
    for name in names:
        name = name if name in known else ALIASES.get(name, name)
        if name in known:
            found.append(name)
            continue
        near = [n for n in known if n.startswith(name)][:5] or difflib.get_close_matches(name, known, 5, 0.5)
        problems.append(f"{name!r}" + (f" (near: {', '.join(near)})" if near else ""))
    if problems:
        raise DataError(f"lmms-eval has no task {'; '.join(problems)}; `lmms-eval tasks list` shows all it has")
    return list(dict.fromkeys(found))


def require_settings(text: str) -> None:
    """Raise DataError for generation settings that lmms-eval cannot read, or with a token budget that is none."""
    from lmms_eval.utils import simple_parse_args_string

    try:
        parsed = simple_parse_args_string(text)
    except ValueError:
        raise DataError(
            f"--gen-kwargs {text}: each setting is KEY=VALUE, as in max_new_tokens=16,temperature=0"
        ) from None
    token_budget(parsed, "--gen-kwargs")


def require_judges(tasks: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raise DataError for a task whose judge has no key: its scores would be of answers that nobody judged."""
    for task in tasks:
        keys = JUDGED.get(task, ())
        if keys and not any(variables.get(key) for key in keys):
            raise DataError(
                f"{task} asks a judge, and counts every answer as unclear without one: set {' or '.join(keys)}"
            )


def output_types(manager: Any, names: Sequence[str]) -> Iterator[str]:
    """The output types of tasks, groups and tags, from their files alone."""
    from lmms_eval.utils import load_yaml_config

    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            continue
        if entry["type"] == "tag":
            yield from output_types(manager, entry["task"])
            continue
        config = load_yaml_config(entry["yaml_path"], mode="simple")
        members = config.get("task")
        if entry["type"] == "group" and isinstance(members, list):
            for member in members:
                if isinstance(member, str):
                    yield from output_types(manager, [member])
                else:
                    yield member.get("output_type") or ""
                    yield from output_types(manager, [member["task"]] if isinstance(member.get("task"), str) else [])
        else:
            yield config.get("output_type", "generate_until")


if __name__ == "__main__":
    main()
