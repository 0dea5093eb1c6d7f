"""The suite and its peer in turn on the same images: time, work, and whether they say the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.local_task import LocalTask, write_task
from benchmarks.speed.measuring import Measured, clocked, counted, spread
from benchmarks.speed.peer import LmmsEval, PeerFailed, PeerRun
from benchmarks.speed.questions import question_rows
from benchmarks.speed.sides import Said, decode_jpeg, distinct, session

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm

PEER = "lmms-eval"
OURS = {"agevlm": session, "agevlm, distinct questions": distinct}


@dataclass
class Beside:
    """What both sides did."""

    wrapper: str
    version: str
    sides: dict[str, Measured]
    """The peer first."""
    whole: list[float] = field(default_factory=list)
    """Wall seconds of the peer's whole evaluation of each image."""
    distinct_questions: int = 0
    differing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OURS, 0))
    """Per side of ours, answers whose tokens differ from the peer's."""
    flips: list[dict[str, Any]] = field(default_factory=list)
    """Differing answers with the margin between the two largest logits of plain `generate`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values: ratios are the peer's time over ours, image by image."""
        peer = self.sides[PEER]
        answers = [said.text.strip().lower() for image in peer.answers for said in image]
        rows = {}
        for name, side in self.sides.items():
            summary = side.summary(peer)
            rows[name] = {
                "questions_per_second": summary["questions_per_second"],
                "wall_ratio": _named(spread(peer.wall, side.wall)),
                "cpu_ratio": _named(spread(peer.cpu, side.cpu)),
                "vision_calls_per_question": summary["vision_calls_per_question"],
                "language_positions_per_question": summary["language_positions_per_question"],
                "wall_seconds": side.wall,
                "cpu_seconds": side.cpu,
            }
        return {
            "peer": {"name": PEER, "version": self.version, "wrapper": self.wrapper, "evaluate_seconds": self.whole},
            "questions": len(answers),
            "distinct_questions": self.distinct_questions,
            "sides": rows,
            "equality": {
                "input_ids": "equal",
                "differing": self.differing,
                "yes": sum(a.startswith("yes") for a in answers),
                "no": sum(a.startswith("no") for a in answers),
                "flips": self.flips,
            },
        }

    def problems(self, exact: bool) -> list[str]:
        """What makes the run a failure; differing answers do so only where arithmetic is `exact` enough."""
        return [f"{n} answers of {s!r} differ from lmms-eval's" for s, n in self.differing.items() if n and exact]


def _named(ratios: dict[str, float]) -> dict[str, float]:
    return {"min": ratios["low"], "median": ratios["median"], "max": ratios["high"]}


def measure_beside(vlm: HfVlm, checkpoint: Path, images: int, limit: int, advance: Callable[[str], None]) -> Beside:
    """Both sides on every image, the order reversed on every other one, after pictures that warm them up.

    Raises:
        PeerFailed: the peer raised or swallowed an exception, gave an empty answer, or its model was given other
            token ids than ours; also where ours gave an empty answer.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = [write_task(folder, i, limit) for i in range(images)]
        # Pictures that are not measured; ours meets every number of distinct questions, since it runs them together.
        counts = {len(set(question_rows(i))): i for i in range(images)}
        warm = [write_task(folder, images + i, limit, 2) for i in range(2)]
        advance("loading lmms-eval")
        peer = LmmsEval(vlm, checkpoint, folder / "tasks")
        found = Beside(peer.name, peer.version, {name: Measured() for name in (PEER, *OURS)})
        advance("warming up")
        for task in warm:
            peer.run(task)
        for place, index in enumerate(counts.values()):
            for side in OURS.values():
                side(vlm, warm[place % len(warm)].read()[0], _prompts(tasks[index].read()[1]), limit)
        for index, task in enumerate(tasks):
            advance(f"image {index + 1} of {images}")
            _one_image(vlm, peer, task, limit, found, reverse=index % 2 == 1)
    return found


def _prompts(questions: list[str]) -> list[str]:
    from benchmarks.prompts import load_prompt

    return [load_prompt("default").of(q) for q in questions]


def _one_image(vlm: HfVlm, peer: LmmsEval, task: LocalTask, limit: int, found: Beside, *, reverse: bool) -> None:
    peers: list[PeerRun] = []
    for name in list(found.sides)[:: -1 if reverse else 1]:
        into = found.sides[name]
        with counted(vlm) as work:
            if name == PEER:
                peers.append(peer.run(task))
                clocks = peers[0].clocks
            else:
                with clocked(vlm) as clocks:
                    jpeg, questions = task.read()
                    answers = OURS[name](vlm, jpeg, _prompts(questions), limit)
                into.answers.append(answers)
        into.wall.append(clocks.wall)
        into.cpu.append(clocks.cpu)
        into.vision_calls += work.vision_calls
        into.language_positions += work.language_positions
    found.whole.append(peers[0].whole)
    _compare(vlm, peers[0], task, limit, found)


def _compare(vlm: HfVlm, run: PeerRun, task: LocalTask, limit: int, found: Beside) -> None:
    """Check that both were asked the same, and note where they answered differently."""
    from agevlm.vlm.contract import Ask, Reply
    from agevlm.vlm.hf.reference import find_flips

    jpeg, questions = task.read()
    image = decode_jpeg(jpeg)
    encoded = vlm.encode([image])
    asks = [Ask(prompt, 0, limit) for prompt in _prompts(questions)]
    given = [tuple(vlm.row(encoded, ask)[1].ids) for ask in asks]
    if unknown := [q for q, ids in zip(questions, given, strict=True) if ids not in run.outputs]:
        raise PeerFailed(
            f"{task.name}: lmms-eval gave its model other token ids than ours for {len(unknown)} of {len(given)} "
            f"questions, the first {unknown[0]!r}: the two do not measure the same"
        )
    if run.calls != len(given):
        raise PeerFailed(f"{task.name}: lmms-eval called its model {run.calls} times for {len(given)} questions")
    theirs = [Said(run.outputs[ids], text) for ids, text in zip(given, run.texts, strict=True)]
    found.sides[PEER].answers.append(theirs)
    found.distinct_questions += len(set(questions))
    for name in OURS:
        answers = found.sides[name].answers[-1]
        if empty := sum(not said.text.strip() for said in answers):
            raise PeerFailed(f"{empty} of our {len(answers)} answers on {task.name} are empty ({name})")
        flipped: dict[str, tuple[Ask, Said]] = {}
        for question, ask, ours, other in zip(questions, asks, answers, theirs, strict=True):
            if ours.ids != other.ids:
                found.differing[name] += 1
                flipped[question] = ask, ours
        for question, (ask, ours) in flipped.items():
            for flip in find_flips(vlm, image, [ask], [Reply(ours.text, "eos", token_ids=ours.ids)]):
                facts = {k: v for k, v in asdict(flip).items() if k != "prompt"}
                found.flips.append({"side": name, "task": task.name, "question": question, **facts})
