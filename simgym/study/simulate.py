"""Scripted participants who play a whole study through its real pages: to test app and analysis together.

Each fetches pages and posts forms as a browser would, reads which source wrote a reply (only scripted assistants say
so) and prefers one as drawn beforehand: win rate, ties and the correlation of a participant's choices are known. Some
forms can be sent twice at once. `Ledger` is what the participants know they did; `disagreements` compares it with what
the study exported: every choice there exactly once, and none besides. Everything that comes of it is labelled
synthetic.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simgym.seeding import generator
from simgym.statistics.votes import VoteDistribution, draw_votes
from simgym.study.browser import Answer, Browser
from simgym.study.config import Study
from simgym.study.records import PREFERENCES, ParticipantRecord
from simgym.study.scripted import MARK

_SOURCE = re.compile(rf"{MARK} (\d+)")
_FORM = re.compile(r'<form\b[^>]*\baction="([^"]*)"[^>]*>(.*?)</form>', re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')
_TAG = re.compile(r"<[^>]*>")
_TEXT = "I would like to know what to write about this and how to begin, number"


@dataclass(frozen=True, slots=True)
class Traffic:
    """How scripted participants come."""

    at_once: int = 10
    """Participants at the same time, >= 1."""
    doubled: float = 0.0
    """Share of forms that are sent twice at the same time, in [0, 1]."""
    think: float = 0.0
    """Mean pause before a form, seconds."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What one scripted participant did and was told."""

    number: int
    """Which participant."""
    outcomes: dict[tuple[str, int], float] = field(default_factory=dict)
    """By phase and turn: outcome of the pair's first assistant, once the study had acknowledged it."""
    messages: dict[tuple[str, int], str] = field(default_factory=dict)
    """By phase and turn: what was sent."""
    code: str | None = None
    """The completion code; None if it was never shown."""
    times: list[tuple[str, float]] = field(default_factory=list)
    """Kind (`page`, `form`, `state`) and seconds of every request."""


class _Page:
    """The forms of a page, its text, and whether it waits.

    The pages are ours, so patterns will do: a parser would take longer over a page than the server.
    """

    def __init__(self, page: str) -> None:
        self.forms: dict[str, dict[str, str]] = {}
        for action, content in _FORM.findall(page):
            hidden = {name: html.unescape(value) for name, value in _HIDDEN.findall(content)}
            self.forms.setdefault(action.rpartition("/")[2], {}).update(hidden)
        self.waits = " data-wait" in page
        self._page = page

    @property
    def text(self) -> str:
        """Without tags."""
        return html.unescape(_TAG.sub("", self._page))


class ScriptedParticipant:
    """One participant over HTTP."""

    def __init__(self, base_url: str, study: Study, number: int, outcomes: Sequence[float], traffic: Traffic) -> None:
        """Prepare one of a served study; `number` decides task, texts and pauses.

        `outcomes` are those of the pair's first assistant, an exchange each, training first.
        """
        self.study, self.outcomes, self.traffic = study, list(outcomes), traffic
        self.ledger = Ledger(number=number)
        self._rng = generator(study.seed, "scripted participant", number)
        self._web = Browser(base_url)

    async def play(self) -> Ledger:
        """From the first page to the code."""
        async with self._web:
            page = await self._get(f"/?PROLIFIC_PID=synthetic-{self.ledger.number}")
            while self.ledger.code is None:
                page = await self._step(page)
        return self.ledger

    async def _step(self, page: _Page) -> _Page:
        if page.waits:
            return await self._wait()
        for action in ("consent", "instructions", "task", "choice", "retry", "rating", "document", "finish", "message"):
            if action in page.forms:
                return await self._post(action, {**page.forms[action], **self._answer(action, page)})
        shown = re.search(r"completion code:\s*(\S+)", page.text)
        if shown is None:
            raise RuntimeError(f"Scripted participant {self.ledger.number} met an unknown page: {page.text[:300]!r}")
        self.ledger.code = shown.group(1)
        return page

    def _answer(self, action: str, page: _Page) -> dict[str, str]:
        words = self.study.minimum_words
        if action == "consent":
            return {"agree": "yes"}
        if action == "task":
            task = self.study.tasks[int(self._rng.integers(len(self.study.tasks)))]
            return {"task": task.id, "notes": "note " * max(1, words.notes)}
        if action == "message":
            phase, turn = _exchange(page.forms[action]["key"])
            text = f"{_TEXT} {self.ledger.number} {phase} {turn} " + "more " * words.message
            self.ledger.messages[phase, turn] = text.strip()
            return {"message": text}
        if action == "choice":
            return self._choose(page)
        if action == "rating":
            return {"rating": str(int(self._rng.integers(1, 11))), "reason": "reason " * max(1, words.reason)}
        if action == "document":
            return {"document": "text " * words.document}
        return {}  # instructions, retry, finish

    def _choose(self, page: _Page) -> dict[str, str]:
        phase, turn = _exchange(page.forms["choice"]["key"])
        shown = [int(number) for number in _SOURCE.findall(page.text)][-2:]
        names = sorted(self.study.assistants)
        pair = next(pair for pair in self.study.pairs if set(pair) == {names[number] for number in shown})
        outcome = self.outcomes[turn - 1 if phase == "training" else self.study.turns.training + turn - 1]
        first = "left" if names[shown[0]] == pair[0] else "right"
        pick = {1.0: first, 0.0: "right" if first == "left" else "left"}.get(outcome, "tie")
        self.ledger.outcomes[phase, turn] = outcome
        return {"pick": pick, "reason": "reason " * max(1, self.study.minimum_words.reason)}

    async def _wait(self) -> _Page:
        while True:
            state = json.loads((await self._timed("state", self._web.get("/state"))).text)
            if state["failed"] or not state["key"].endswith(":replies"):
                return await self._get("/")
            await asyncio.sleep(0.2)

    async def _get(self, path: str) -> _Page:
        return _Page((await self._timed("page", self._web.get(path))).text)

    async def _post(self, action: str, fields: Mapping[str, str]) -> _Page:
        if self.traffic.think:
            await asyncio.sleep(float(self._rng.exponential(self.traffic.think)))
        times = 2 if self._rng.random() < self.traffic.doubled else 1
        send = [self._timed("form", self._web.post(f"/do/{action}", fields)) for _ in range(times)]
        answer = (await asyncio.gather(*send))[0]
        return await self._get(answer.headers["location"])

    async def _timed(self, kind: str, request: Awaitable[Answer]) -> Answer:
        started = time.perf_counter()
        answer = await request  # redirects are followed by hand: each request has its own time
        self.ledger.times.append((kind, time.perf_counter() - started))
        if answer.status >= 400:
            raise RuntimeError(
                f"Scripted participant {self.ledger.number}: a {kind} was answered with {answer.status}: "
                f"{_Page(answer.text).text.strip()[:300]!r}"
            )
        return answer


async def play(
    base_url: str,
    study: Study,
    *,
    participants: int,
    truth: VoteDistribution,
    traffic: Traffic | None = None,
    seed: int = 0,
) -> list[Ledger]:
    """Let scripted participants play a study that is served with `--synthetic`; `seed` decides what they prefer."""
    traffic = traffic or Traffic()
    turns = study.turns.training + study.turns.maximum
    outcomes = draw_votes(participants, turns, truth, rng=np.random.default_rng(seed))
    gate = asyncio.Semaphore(traffic.at_once)

    async def take_part(number: int) -> Ledger:
        async with gate:
            return await ScriptedParticipant(base_url, study, number, outcomes[number].tolist(), traffic).play()

    return list(await asyncio.gather(*(take_part(number) for number in range(participants))))


def disagreements(
    ledgers: Sequence[Ledger], records: Sequence[Mapping[str, object]], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """How the export differs from what the participants did; empty if every choice is there once and none besides."""
    problems = []
    by_number: dict[int, list[Mapping[str, object]]] = {}
    for record in records:
        if (number := _number_of(record)) is not None:
            by_number.setdefault(number, []).append(record)
    known = {ledger.number for ledger in ledgers}
    problems += [f"participant {number} is not known" for number in sorted(set(by_number) - known)]
    for ledger in ledgers:
        own_records = by_number.get(ledger.number, [])
        if len(own_records) != 1:
            problems.append(f"participant {ledger.number} has {len(own_records)} records")
            continue
        outcomes, messages = _done(own_records[0], pairs)
        if outcomes != ledger.outcomes:
            problems.append(f"participant {ledger.number} chose {ledger.outcomes}, the record has {outcomes}")
        if messages != ledger.messages:
            problems.append(f"participant {ledger.number} wrote {ledger.messages}, the record has {messages}")
    return problems


def _number_of(record: ParticipantRecord) -> int | None:
    for talk in record["conversations"]:
        for turn in talk["turns"]:
            return int(turn["message"].removeprefix(_TEXT).split()[0])
    return None


def _done(
    record: ParticipantRecord, pairs: Sequence[tuple[str, str]]
) -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], str]]:
    outcomes, messages = {}, {}
    for talk in record["conversations"]:
        phase = "training" if talk["is_training"] else "turn"
        turned = "model2_name" in talk and (talk["model1_name"], talk["model2_name"]) not in map(tuple, pairs)
        for turn in talk["turns"]:
            messages[phase, turn["turn"]] = turn["message"]
            if "preference" in turn:
                value = PREFERENCES[turn["preference"]]
                outcomes[phase, turn["turn"]] = 1 - value if turned else value
    return outcomes, messages


def _exchange(key: str) -> tuple[str, int]:
    phase, number, _ = key.split(":")
    return phase, int(number)
