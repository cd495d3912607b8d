"""Conversations as pages show them: turns with the attempts that failed, and two assistants side by side.

A report shows a few conversations; all of them go to pages beside it, so that it opens at once however many there are.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.report.page import page_templates, write_page
from simgym.report.results import MatrixResults, short_name
from simgym.report.turns import ENDINGS, cut_turns, format_cut
from simgym.transcripts import Outcome, Transcript, outcomes

_PER_PAGE = 25
"""Scenarios on a page of conversations."""

TranscriptsByCell = Mapping[tuple[str, str], Sequence[Transcript]]
"""Conversations by (assistant, simulator), in the order of the scenarios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One chat bubble."""

    role: str
    """Who speaks."""
    text: str | None
    """What was said; None if nothing usable came."""
    faults: Mapping[str, int]
    """Attempts at this turn that were not used: why, and how many."""
    cut: str = ""
    """That it was cut at its token limit, in words."""


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as it is shown."""

    transcript: Transcript
    """Where it comes from."""
    turns: tuple[Turn, ...]
    """In order; turns that failed for good come last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One scenario with two assistants."""

    reference: str
    """The assistant that others are compared with."""
    assistant: str
    """The other one."""
    simulator: str
    """Environment id."""
    chosen_as: str
    """Why it is shown, in words."""
    difference: float | None
    """Reward x 100 of the assistant minus that of the reference; None if one of them does not count."""
    first: ConversationView
    """The reference's."""
    second: ConversationView
    """The other assistant's."""
    classes: str
    """What the filters go by."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice between pairs."""

    name: str
    """In the page; the classes of a pair begin with it."""
    title: str
    """What is chosen."""
    choices: tuple[str, ...]
    """In words."""


@dataclass(frozen=True, slots=True)
class PageLink:
    """A page of conversations."""

    path: str
    """Relative to the report."""
    title: str
    """What is on it."""


def lay_out(transcript: Transcript) -> ConversationView:
    """Put every unused attempt under the turn it was an attempt at."""
    failed: dict[tuple[str, int], Counter[str]] = {}
    for call in transcript.calls:
        if call.fault is not None and call.role != "judge":
            failed.setdefault((call.role, call.turn), Counter())[call.fault] += 1
    spoken: Counter[str] = Counter()
    turns = []
    for message, cut in zip(transcript.conversation.messages, cut_turns(transcript), strict=True):
        faults = failed.pop((message.role, spoken[message.role]), Counter())
        cut_text = format_cut(cut) if cut is not None else ""
        turns.append(Turn(role=message.role, text=message.content, faults=faults, cut=cut_text))
        spoken[message.role] += 1
    turns += [Turn(role=role, text=None, faults=faults) for (role, _), faults in failed.items()]
    return ConversationView(transcript, tuple(turns))


def choose_pairs(results: MatrixResults, transcripts: TranscriptsByCell) -> list[Pair]:
    """Pairs worth reading: of each assistant and simulator at most four.

    They are the scenarios with the largest gain, the largest loss and the median difference from the reference, and
    the first in which either conversation does not count. Empty if nothing is compared.
    """
    if results.comparisons is None:
        return []
    reference = results.comparisons.reference
    others = [name for name in results.assistants if name != reference]
    return [
        Pair(
            reference=reference,
            assistant=assistant,
            simulator=simulator,
            chosen_as=choice.reason,
            difference=choice.difference,
            first=lay_out(transcripts[reference, simulator][choice.number]),
            second=lay_out(transcripts[assistant, simulator][choice.number]),
            classes=f"who-{row} with-{column} kind-{choice.kind}",
        )
        for row, assistant in enumerate(others)
        for column, simulator in enumerate(results.simulators)
        for choice in _choices(
            outcomes(transcripts.get((reference, simulator), ())), outcomes(transcripts.get((assistant, simulator), ()))
        )
    ]


def pair_filters(results: MatrixResults) -> list[Filter]:
    """What the pairs can be chosen by."""
    reference = results.comparisons.reference if results.comparisons is not None else None
    return [
        Filter("who", "Assistant", tuple(name for name in results.assistants if name != reference)),
        Filter("with", "Simulator", tuple(short_name(name) for name in results.simulators)),
        Filter("kind", "Outcome", ("gain", "loss", "median", "does not count")),
    ]


def filter_rules(filters: Sequence[Filter]) -> str:
    """Style rules that hide what was not chosen; the names in them are ours, none comes from the results."""
    return "\n".join(
        f"main:has(#{group.name}-{number}:checked) .pair:not(.{group.name}-{number}) {{ display: none; }}"
        for group in filters
        for number in range(len(group.choices))
    )


def write_conversation_pages(
    report: str | Path, results: MatrixResults, transcripts: TranscriptsByCell
) -> list[PageLink]:
    """Write all conversations to pages in a folder beside the report, up to 25 scenarios of one simulator on each.

    The folder has the report's name, with `-conversations` instead of `.html`.

    Raises:
        TranscriptError: a page cannot be written.
    """
    report = Path(report)
    folder = report.with_name(f"{report.stem}-conversations")
    plans = _plan_pages(results, transcripts)
    template = page_templates().get_template("conversations.html.j2")
    for number, plan in enumerate(plans):
        text = template.render(
            title=plan.title,
            report=report.name,
            before=plans[number - 1].name if number else None,
            after=plans[number + 1].name if number + 1 < len(plans) else None,
            scenarios=[
                [(name, lay_out(transcripts[name, plan.simulator][number])) for name, number in group]
                for group in plan.scenarios
            ],
            endings=ENDINGS,
        )
        write_page(folder / plan.name, text)
    return [PageLink(f"{folder.name}/{plan.name}", plan.title) for plan in plans]


@dataclass(frozen=True, slots=True)
class _PagePlan:
    """One page of conversations."""

    name: str
    """Of the file."""
    title: str
    """Heading."""
    simulator: str
    """Environment id."""
    scenarios: list[list[tuple[str, int]]]
    """For each scenario the assistants, and the places of their conversations in the cells."""


def _plan_pages(results: MatrixResults, transcripts: TranscriptsByCell) -> list[_PagePlan]:
    plans = []
    for column, simulator in enumerate(results.simulators, 1):
        by_key: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for assistant in results.assistants:
            for number, outcome in enumerate(outcomes(transcripts.get((assistant, simulator), ()))):
                by_key.setdefault(outcome.key, []).append((assistant, number))
        groups = list(by_key.values())
        for page, start in enumerate(range(0, len(groups), _PER_PAGE), 1):
            scenarios = groups[start : start + _PER_PAGE]
            title = f"{short_name(simulator)}, scenarios {start + 1} to {start + len(scenarios)}"
            plans.append(_PagePlan(f"{column:02}-{page:04}.html", title, simulator, scenarios))
    return plans


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A scenario worth reading."""

    reason: str
    """Why, in words."""
    kind: int
    """Index of the filter's choice."""
    number: int
    """Place of both conversations in their cells."""
    difference: float | None
    """Reward x 100 of the other assistant minus that of the reference; None if one of them does not count."""


def _choices(references: Sequence[Outcome], others: Sequence[Outcome]) -> list[_Choice]:
    differences = {
        number: _difference(first, second)
        for number, (first, second) in enumerate(zip(references, others, strict=False))
        if first.key == second.key
    }
    counted = sorted(
        ((difference, number) for number, difference in differences.items() if difference is not None),
        key=lambda entry: entry[0],
    )
    chosen: list[tuple[str, int, tuple[float | None, int]]] = []
    if counted:
        middle = statistics.median_low([difference for difference, _ in counted])
        if counted[-1][0] > 0:
            chosen.append(("the largest gain", 0, counted[-1]))
        if counted[0][0] < 0:
            chosen.append(("the largest loss", 1, counted[0]))
        chosen.append(("the median difference", 2, next(entry for entry in counted if entry[0] == middle)))
    if uncounted := [number for number, difference in differences.items() if difference is None]:
        chosen.append(("does not count", 3, (None, uncounted[0])))
    return [
        _Choice(reason=reason, kind=kind, number=number, difference=difference)
        for reason, kind, (difference, number) in chosen
    ]


def _difference(first: Outcome, second: Outcome) -> float | None:
    if not (first.counts and second.counts) or first.reward is None or second.reward is None:
        return None
    return 100 * (second.reward - first.reward)
