"""From cases to verdicts: what is recorded is not asked again, what is no verdict is asked once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from agevlm.errors import AgeVlmError
from benchmarks.judge.backends import Chat, Judge, JudgeChoice, Said
from benchmarks.judge.cases import PROMPT_VERSION, Case, Message, again, messages, read_verdict
from benchmarks.judge.log import Call, JudgeLog

SAME_ERRORS = 3
"""After so many errors of one kind in a row the judge is given up; those of answers that failed before do not count."""
TRIES = 2
"""Replies asked for until an answer is undecided."""
TOKENS = ("prompt", "completion")

State = Literal["verdict", "undecided", "over the cap", "not judged"]


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    state: State
    """verdict; undecided (no reply was a verdict); over the cap on calls; not judged (the judge failed)."""
    option: int | None = None
    """Place of the option, from 0; None for the verdict "none" and where there is no verdict."""


@dataclass(frozen=True)
class Judged:
    """Outcomes of all cases."""

    outcomes: Mapping[Case, Outcome]
    judge: str
    fingerprint: str
    trouble: str | None
    """Why not all cases could be put to the judge; None if they could. A cap is no trouble."""
    new_calls: int
    """Calls that this command made."""

    def count(self, state: State) -> int:
        """Cases of a state."""
        return sum(outcome.state == state for outcome in self.outcomes.values())


def judge_cases(
    cases: Iterable[Case],
    choice: JudgeChoice,
    log: JudgeLog,
    *,
    max_calls: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    advance: Callable[[int, int], None] = lambda _, __: None,
) -> Judged:
    """Verdicts on all cases, each distinct one asked once.

    Args:
        cases: what to judge.
        choice: the judge; loaded only if something is left to ask.
        log: earlier calls, and where new ones go.
        max_calls: most calls to this judge that brought a reply, those in the log included; None: as many as it takes.
        say: told what is about to be asked.
        advance: told after every call how many of how many answers that are to be asked about are settled.

    Raises:
        RunFolderError: the log cannot be written.
        CheckpointError: the judge is not there, and the log has no verdicts of it.
    """
    wanted = list(dict.fromkeys(cases))
    try:
        fingerprint = choice.fingerprint().digest
    except AgeVlmError:
        if (known := log.fingerprint_of(choice.name)) is None:
            raise
        fingerprint = known
        say(f"the judge {choice.name} is not here; verdicts are those that it gave before")
    if others := log.other_names(choice.name, fingerprint):
        say(f"verdicts that the log has from {', '.join(others)} count as this judge's: it has the same name")
    asking = _Asking(choice, fingerprint, log, max_calls, advance)
    left = [case for case in wanted if not _done(_replies(log, case, fingerprint))]
    # What failed before comes last and gives up no judge: hopeless answers are not to keep it from the rest for ever.
    left.sort(key=asking.failed_before)
    if left:
        say(f"judge {choice.name}: {len(wanted) - len(left)} of {len(wanted)} answers judged before, {len(left)} to go")
        asking.run(left)
        if asking.remark:
            say(asking.remark)
        if asking.calls:
            tokens = ", ".join(f"{sum(call.usage.get(name, 0) for call in asking.calls)} {name}" for name in TOKENS)
            say(f"{len(asking.calls)} calls to the judge, tokens: {tokens}")
    outcomes = {case: _outcome(_replies(log, case, fingerprint), case, asking) for case in wanted}
    return Judged(outcomes, choice.name, fingerprint, asking.trouble, len(asking.calls))


def _replies(log: JudgeLog, case: Case, fingerprint: str) -> Sequence[Call]:
    return log.replies(case.key(fingerprint))


def _done(replies: Sequence[Call]) -> bool:
    return any(call.attempt >= TRIES for call in replies) or any(call.verdict is not None for call in replies)


def _outcome(replies: Sequence[Call], case: Case, asking: _Asking) -> Outcome:
    verdict = next((call.verdict for call in replies if call.verdict is not None), None)
    if verdict is not None:
        place = case.letters.find(verdict)
        return Outcome("verdict", place if place >= 0 else None)
    if _done(replies):
        return Outcome("undecided")
    return Outcome("over the cap" if case in asking.capped else "not judged")


class _Asking:
    """Puts cases to a judge and writes every call down."""

    def __init__(
        self,
        choice: JudgeChoice,
        fingerprint: str,
        log: JudgeLog,
        max_calls: int | None,
        advance: Callable[[int, int], None],
    ) -> None:
        self.choice, self.fingerprint, self.log, self.max_calls = choice, fingerprint, log, max_calls
        self.advance, self.settled, self.total = advance, 0, 0
        self.remark = ""
        self._failed = frozenset(log.failed)
        self.trouble: str | None = None
        self.given_up = False
        self.calls: list[Call] = []
        """Those that brought a reply."""
        self.capped: set[Case] = set()

    def failed_before(self, case: Case) -> bool:
        """Whether an earlier command had an error in place of a reply about it."""
        return case.key(self.fingerprint) in self._failed

    def run(self, left: Sequence[Case]) -> None:
        allowed = self._allowed(left)
        self.total = len(allowed)
        if not allowed:
            return
        try:
            judge = self.choice.load()
        except AgeVlmError as error:
            self.trouble = str(error)
            return
        with closing(judge):
            while allowed and not self.given_up:
                open_cases = self._round(judge, allowed)
                allowed = self._allowed(open_cases)
            self.remark = judge.remark()

    def _allowed(self, cases: Sequence[Case]) -> Sequence[Case]:
        """The cases that the cap on calls leaves room for."""
        if self.max_calls is None:
            return cases
        room = max(0, self.max_calls - self.log.count.get(self.fingerprint, 0))
        self.capped.update(cases[room:])
        return cases[:room]

    def _round(self, judge: Judge, cases: Sequence[Case]) -> list[Case]:
        """Ask about every case once; those to be asked once more."""
        attempts = [1 + len(_replies(self.log, case, self.fingerprint)) for case in cases]
        chats = [self._chat(case, attempt) for case, attempt in zip(cases, attempts, strict=True)]
        failures: list[str] = []
        more: list[int] = []
        for place, said in judge.ask(chats):
            case = cases[place]
            call = self._call(case, attempts[place], chats[place], said)
            self.log.append(call)
            if call.error is None:
                self.calls.append(call)
                failures.clear()
                if _done(_replies(self.log, case, self.fingerprint)):
                    self.settled += 1
                    self.advance(self.settled, self.total)
                else:
                    more.append(place)
                continue
            self.trouble = self.trouble or call.error
            if self.failed_before(case):
                continue
            failures.append(said.kind)
            if failures[-SAME_ERRORS:] == [said.kind] * SAME_ERRORS:
                self.given_up = True
                break
        return [cases[place] for place in sorted(more)]

    def _chat(self, case: Case, attempt: int) -> Chat:
        if attempt == 1:
            return messages(case)
        return again(case, _replies(self.log, case, self.fingerprint)[-1].reply or "")

    def _call(self, case: Case, attempt: int, chat: Sequence[Message], said: Said) -> Call:
        return Call(
            key=case.key(self.fingerprint),
            judge=self.choice.name,
            fingerprint=self.fingerprint,
            prompt_version=PROMPT_VERSION,
            attempt=attempt,
            messages=chat,
            reply=said.text,
            verdict=None if said.text is None else read_verdict(said.text, case),
            finish=said.finish,
            usage=said.usage,
            latency=said.latency,
            model=said.model,
            error=said.error,
        )
