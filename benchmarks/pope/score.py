"""From answered questions to rows of scores. Pure: the same answers give the same rows, to the last bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.pope.floors import FLOORS, floor_answers
from benchmarks.pope.protocols import PROTOCOLS, Effect, Protocol, bounds_effects, undecided_bounds
from benchmarks.pope.rows import (
    FLOOR,
    IMAGE,
    MEAN,
    POOLED,
    Answer,
    Answered,
    Disagreement,
    QuestionKey,
    Row,
    RuleCount,
    Scores,
)
from benchmarks.pope.types import PAIRED, SPLITS, Question
from benchmarks.reading import Label, Reading
from benchmarks.statistics.bootstrap import mean_of_scores, score_with_intervals
from benchmarks.statistics.calibration import expected_calibration_error
from benchmarks.statistics.clusters import Interval, resampling_weights, score_interval
from benchmarks.statistics.paired import paired_gain
from benchmarks.statistics.ranking import clustered_auroc
from benchmarks.statistics.scores import FIELDS, Floats, divide

DRAWS = 2000


def score(answered: Sequence[Answered], protocols: Sequence[Protocol], *, draws: int = DRAWS, seed: int = 0) -> Scores:
    """Score answers under protocols.

    Args:
        answered: question sets with their answers.
        protocols: which rules to apply; `differs` is always against `default`.
        draws: bootstrap draws over images.
        seed: of the draws and of the folds of the object-name prior.
    """
    tables = [_Table(one, protocols, draws, seed) for one in answered]
    return Scores(
        rows=[row for table in tables for row in table.rows()],
        rules=[count for table in tables for count in table.rules()],
        disagreements=[one for table in tables for one in table.disagreements()],
    )


KnownReadings = dict[tuple[str | None, bool], Reading]
"""(answer, official label) -> reading, by one reading rule."""


class _Readings:
    """The readings of one condition's answers under one protocol, each distinct text read once.

    `known` holds what the same rule has read before (official and llava share theirs).
    """

    def __init__(
        self, protocol: Protocol, condition: _Condition, golds: Sequence[bool], known: KnownReadings | None = None
    ) -> None:
        known = {} if known is None else known
        texts = condition.texts
        if protocol.read_question is not None:
            given = zip(condition.questions, texts, strict=True)
            readings = [protocol.read_question(q, text) for q, text in given if text is not None]
        else:
            for pair in zip(texts, golds, strict=True):
                if pair not in known:
                    known[pair] = protocol.read(*pair)
            readings = [known[pair] for pair in zip(texts, golds, strict=True)]
        self.labels = [r.label for r in readings]
        self.rules = Counter((r.label.value, r.rule) for r in readings)
        self._golds, self._count = golds, protocol.count

    @property
    def effects(self) -> Floats:
        """What the labels do to the counts, (n, fields) in the order of `FIELDS`; made anew each time, being large."""
        return effects_of(self.labels, self._golds, self._count)


def effects_of(labels: Sequence[Label], golds: Sequence[bool], count: Callable[[Label, bool], Effect]) -> Floats:
    """The effects of labels as an array (n, fields) in the order of `FIELDS`; there are few distinct ones."""
    places: dict[tuple[Label, bool], int] = {}
    pairs = zip(labels, golds, strict=True)
    index = np.fromiter((places.setdefault(p, len(places)) for p in pairs), dtype=np.int64, count=len(labels))
    table = [[getattr(count(*pair), field) for field in FIELDS] for pair in places]
    return np.array(table, dtype=np.float64).reshape(-1, len(FIELDS))[index]


def probability_yes(answers: Sequence[Answer]) -> Floats | None:
    """P(yes) among yes and no of the first answer token; None unless every answer has both, as finite numbers."""
    if not answers or not all({"yes", "no"} <= a.logprobs.keys() for a in answers):
        return None
    margin = np.array([a.logprobs["yes"] - a.logprobs["no"] for a in answers])
    if not np.isfinite(margin).all():
        return None
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(margin, -700, 700))), dtype=np.float64)


class _Condition:
    """The answered questions of one set under one condition, as arrays."""

    def __init__(self, questions: Sequence[Question], answers: Mapping[QuestionKey, Answer], index: Mapping[str, int]):
        found = [(q, answers.get((q.split, q.question_id))) for q in questions]
        self.asked = Counter(q.split for q in questions)
        self.errors = Counter(q.split for q, a in found if a is not None and a.text is None)
        kept = [(q, a) for q, a in found if a is not None and a.text is not None]
        self.questions = [q for q, _ in kept]
        self.answers = [a for _, a in kept]
        self.splits = np.array([q.split for q in self.questions], dtype=object)
        self.clusters = np.array([index[q.cluster] for q in self.questions], dtype=np.int64)
        self.gold = np.array([q.label for q in self.questions], dtype=bool)
        self.texts = [a.text for a in self.answers]
        self.answered = Counter(q.split for q in self.questions)

    def of(self, split: str) -> Any:
        """Mask of a split's questions; all of them for pooled."""
        return np.ones(len(self.questions), bool) if split in (POOLED, MEAN) else self.splits == split

    def total(self, counter: Counter[str], split: str) -> int:
        return counter.total() if split in (POOLED, MEAN) else counter[split]


def _bound(which: int, label: Label, gold: bool) -> Effect:
    return bounds_effects(label, gold)[which]


class _Table:
    """All rows of one answered set."""

    def __init__(self, answered: Answered, protocols: Sequence[Protocol], draws: int, seed: int) -> None:
        self.set = answered.questions
        self.prompt = answered.prompt
        self.protocols = list(protocols)
        self.seed = seed
        clusters = sorted({q.cluster for q in self.set.questions})
        self.index = {c: i for i, c in enumerate(clusters)}
        self.weights = resampling_weights(len(clusters), draws, seed)
        present = {q.split for q in self.set.questions}
        self.splits = [s for s in SPLITS if s in present] + sorted(present - set(SPLITS))
        self.conditions = {
            name: _Condition(self.set.questions, answers, self.index) for name, answers in answered.answers.items()
        }
        known: dict[Callable[[str | None, bool], Reading], KnownReadings] = {}
        self.readings = {
            (name, p.name): _Readings(p, condition, condition.gold.tolist(), known.setdefault(p.read, {}))
            for name, condition in self.conditions.items()
            for p in {q.name: q for q in [PROTOCOLS["default"], *self.protocols]}.values()
        }

    def rows(self) -> list[Row]:
        rows = []
        for name, condition in self.conditions.items():
            for protocol in self.protocols:
                readings = self.readings[name, protocol.name]
                extra = self._extra(name, condition, protocol)
                rows += self._block(name, condition, protocol.name, readings.effects, readings.labels, extra)
        for floor in FLOORS:
            condition = self._floor(floor)
            readings = _Readings(PROTOCOLS["default"], condition, condition.gold.tolist())
            rows += self._block(f"{FLOOR}{floor}", condition, "default", readings.effects, readings.labels, {})
        return rows

    def rules(self) -> list[RuleCount]:
        """The rules that fired under each condition and protocol, most frequent first."""
        return [
            RuleCount(self.set.data_version, condition, protocol.name, label, rule, count)
            for condition in self.conditions
            for protocol in self.protocols
            for (label, rule), count in sorted(
                self.readings[condition, protocol.name].rules.items(), key=lambda item: (-item[1], item[0])
            )
        ]

    def disagreements(self, most: int = 20) -> list[Disagreement]:
        """The most frequent answers (own image) that the protocols read differently."""
        condition = self.conditions.get(IMAGE)
        # A judge's readings are of questions with answers: equal answers may be read differently.
        names = [p.name for p in self.protocols if p.read_question is None]
        if condition is None or len(names) < 2:
            return []
        answers = list(zip(condition.texts, condition.gold.tolist(), strict=True))
        counted = Counter(answers)
        read = dict(zip(answers, zip(*(self.readings[IMAGE, n].labels for n in names), strict=True), strict=True))
        found = []
        for (text, gold), labels in read.items():
            if len(set(labels)) > 1:
                readings = {n: label.value for n, label in zip(names, labels, strict=True)}
                found.append(Disagreement(self.set.data_version, text or "", gold, counted[text, gold], readings))
        return sorted(found, key=lambda d: (-d.count, d.answer, d.gold))[:most]

    def _floor(self, floor: str) -> _Condition:
        """A floor's answers to the questions that the model answered too (to all where nothing was answered)."""
        asked = self.conditions.get(IMAGE)
        questions = asked.questions if asked is not None and asked.questions else list(self.set.questions)
        answers = {}
        for split in self.splits:
            part = [q for q in questions if q.split == split]
            for q, yes in zip(part, floor_answers(floor, part, self.seed), strict=True):
                answers[q.split, q.question_id] = Answer("Yes" if yes else "No")
        return _Condition(questions, answers, self.index)

    def _block(
        self,
        name: str,
        condition: _Condition,
        protocol: str,
        effects: Floats,
        labels: Sequence[Label],
        extra: Mapping[str, Mapping[str, Interval]],
    ) -> list[Row]:
        """The rows of one condition and protocol: each answered split, then pooled and mean."""
        cells = {}
        for split in self.splits:
            mask = condition.of(split)
            if condition.asked[split]:
                cells[split] = self._cell(effects[mask], condition.clusters[mask])
        scored: dict[str, dict[str, Interval]] = score_with_intervals(cells, self.weights)
        if len(cells) > 1:
            total = np.sum(list(cells.values()), axis=0)
            scored |= score_with_intervals({POOLED: total}, self.weights)
            scored[MEAN] = mean_of_scores(list(cells.values()), self.weights)
        default = self.readings[name, "default"].labels if (name, "default") in self.readings else labels
        differs = Counter(q.split for q, a, b in zip(condition.questions, labels, default, strict=True) if a is not b)
        refused = Counter(q.split for q, a in zip(condition.questions, labels, strict=True) if a is Label.REFUSED)
        undecided = Counter(q.split for q, a in zip(condition.questions, labels, strict=True) if a is Label.UNDECIDED)
        empty = Counter(q.split for q, a in zip(condition.questions, labels, strict=True) if a is Label.EMPTY)
        rows = []
        for split, scores in scored.items():
            sums = effects[condition.of(split)].sum(axis=0)
            counts = {f: int(v) for f, v in zip(FIELDS, sums, strict=True)}
            n = condition.total(condition.answered, split)
            rows.append(
                Row(
                    dataset=self.set.name,
                    split=split,
                    condition=name,
                    protocol=protocol,
                    data_version=self.set.data_version,
                    prompt="none" if name.startswith(FLOOR) else self.prompt,
                    images=len(set(condition.clusters[condition.of(split)].tolist())),
                    n=n,
                    missing=condition.total(condition.asked, split) - n,
                    errors=condition.total(condition.errors, split),
                    counts={**{f: counts[f] for f in ("tp", "fp", "tn", "fn", "unparsed")}, "counted": counts["n"]}
                    | ({"undecided": condition.total(undecided, split)} if protocol not in PROTOCOLS else {}),
                    refused=condition.total(refused, split),
                    empty=condition.total(empty, split),
                    differs=condition.total(differs, split),
                    scores={**scores, **extra.get(split, {})},
                )
            )
        return rows

    def _cell(self, effects: Floats, clusters: Any) -> Floats:
        counts = np.zeros((len(self.index), len(FIELDS)))
        np.add.at(counts, clusters, effects)
        return counts

    def _extra(self, name: str, condition: _Condition, protocol: Protocol) -> dict[str, dict[str, Interval]]:
        """Scores beyond the five: bounds, ranking, calibration, pairs, gain over a control."""
        extra: dict[str, dict[str, Interval]] = {}
        splits = [s for s in self.splits if condition.asked[s]]
        for split in [*splits, *([POOLED] if len(splits) > 1 else [])]:
            mask = condition.of(split)
            scores: dict[str, Interval] = {}
            if protocol.name == "default":
                scores |= self._bounds(condition, self.readings[name, "default"].labels, mask)
                scores |= self._probability_scores(condition, mask)
            if protocol.read_question is not None:
                scores |= self._undecided_bounds(name, condition, protocol, mask)
            if split == PAIRED:
                readings = self.readings[name, protocol.name]
                decided = np.array([label is not Label.UNDECIDED for label in readings.labels], dtype=bool)
                scores["pair_accuracy"] = self._pairs(condition, mask & decided, readings.effects)
            if name != IMAGE and IMAGE in self.conditions:
                scores["gain_accuracy"] = self._gain(split, name, protocol.name)
            extra[split] = scores
        return extra

    def _bounds(self, condition: _Condition, labels: Sequence[Label], mask: Any) -> dict[str, Interval]:
        """Accuracy and F1 if every unreadable answer were wrong, and if it were right."""
        golds = condition.gold.tolist()
        cells = {
            bound: self._cell(effects_of(labels, golds, partial(_bound, i))[mask], condition.clusters[mask])
            for i, bound in enumerate(("if_unparsed_wrong", "if_unparsed_right"))
        }
        scored = score_with_intervals(cells, self.weights)
        return {f"{s}_{bound}": scored[bound][s] for bound in cells for s in ("accuracy", "f1")}

    def _undecided_bounds(self, name: str, condition: _Condition, protocol: Protocol, mask: Any) -> dict[str, Interval]:
        """Accuracy and F1 if every undecided answer were wrong, and if it were right."""
        labels, golds = self.readings[name, protocol.name].labels, condition.gold.tolist()
        cells = {}
        for place, bound in enumerate(("if_undecided_wrong", "if_undecided_right")):
            effects = effects_of(labels, golds, lambda *given, i=place: undecided_bounds(protocol.count, *given)[i])
            cells[bound] = self._cell(effects[mask], condition.clusters[mask])
        scored = score_with_intervals(cells, self.weights)
        return {f"{s}_{bound}": scored[bound][s] for bound in cells for s in ("accuracy", "f1")}

    def _probability_scores(self, condition: _Condition, mask: Any) -> dict[str, Interval]:
        p_yes = probability_yes(condition.answers)
        if p_yes is None or not mask.any():
            return {}
        gold, clusters = condition.gold[mask], condition.clusters[mask]
        return {
            "auroc": clustered_auroc(p_yes[mask], gold, clusters, self.weights),
            "ece": expected_calibration_error(p_yes[mask], gold, clusters, self.weights),
        }

    def _pairs(self, condition: _Condition, mask: Any, effects: Floats) -> Interval:
        """Share of pairs (original and edited image) of which both questions are right (POPEv2)."""
        right: dict[int, list[bool]] = {}
        kept = np.flatnonzero(mask)
        for cluster, correct in zip(condition.clusters[kept], effects[kept, FIELDS.index("correct")], strict=True):
            right.setdefault(int(cluster), []).append(bool(correct))
        both, pairs = np.zeros(len(self.index)), np.zeros(len(self.index))
        for cluster, outcomes in right.items():
            if len(outcomes) == 2:
                both[cluster] = all(outcomes)
                pairs[cluster] = 1
        return score_interval(
            float(divide(both.sum(), pairs.sum())),
            divide(self.weights @ both, self.weights @ pairs),
            int(np.count_nonzero(pairs)),
            0.95,
        )

    def _gain(self, split: str, control: str, protocol: str) -> Interval:
        """Accuracy with the image minus accuracy under the control, paired by question."""
        correct: list[dict[QuestionKey, float]] = []
        for name in (IMAGE, control):
            condition, effects = self.conditions[name], self.readings[name, protocol].effects
            keep = condition.of(split)
            correct.append(
                {
                    (q.split, q.question_id): float(e[FIELDS.index("correct")])
                    for q, e, k in zip(condition.questions, effects, keep, strict=True)
                    if k and e[FIELDS.index("n")]
                }
            )
        shared = [k for k in correct[0] if k in correct[1]]
        cluster = {(q.split, q.question_id): self.index[q.cluster] for q in self.set.questions}
        return paired_gain(
            np.array([correct[0][k] for k in shared]),
            np.array([correct[1][k] for k in shared]),
            np.array([cluster[k] for k in shared], dtype=np.int64),
            self.weights,
        )
