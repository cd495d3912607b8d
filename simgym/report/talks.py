"""Conversations as a page shows them: turns with the attempts that failed, pairs side by side, all in pages.

A report holds some; the rest go to pages beside it, so that it opens at once however many there are.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.report.page import page_templates, write_page
from simgym.report.results import MatrixResults, short_name
from simgym.report.turns import cut_turns, format_cut
from simgym.transcripts import Transcript

ENDINGS = {
    "user_end": "the user ended it",
    "turn_limit": "the turn limit was reached",
    "context_overflow": "it outgrew the model's context",
    "simulator_fault": "the simulated user failed",
    "judge_fault": "the judge failed",
    "assistant_fault": "the assistant failed",
}
"""End reasons in words."""
_PER_PAGE = 25
"""Scenarios on a page of conversations."""

Talks = Mapping[tuple[str, str], Sequence[Transcript]]
"""Conversations by (assistant, simulator), in the order of the scenarios."""


@dataclass(frozen=True, slots=True)
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
class Talk:
    """A conversation as it is shown."""

    transcript: Transcript
    """Where it comes from."""
    turns: tuple[Turn, ...]
    """In order; turns that failed for good come last."""


@dataclass(frozen=True, slots=True)
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
    first: Talk
    """The reference's."""
    second: Talk
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


def lay_out(transcript: Transcript) -> Talk:
    """Put every unused attempt under the turn it was an attempt at."""
    failed: dict[tuple[str, int], Counter[str]] = {}
    for call in transcript.calls:
        if call.fault is not None and call.role != "judge":
            failed.setdefault((call.role, call.turn), Counter())[call.fault] += 1
    spoken: Counter[str] = Counter()
    turns = []
    for message, cut in zip(transcript.conversation.messages, cut_turns(transcript), strict=True):
        faults = failed.pop((message.role, spoken[message.role]), Counter())
        turns.append(Turn(message.role, message.content, faults, format_cut(cut) if cut is not None else ""))
        spoken[message.role] += 1
    turns += [Turn(role, None, faults) for (role, _), faults in failed.items()]
    return Talk(transcript, tuple(turns))


def choose_pairs(results: MatrixResults, talks: Talks) -> list[Pair]:
    """For each assistant and simulator the scenarios with the largest gain, the largest loss and the median difference
    from the reference, and one where either does not count; none if nothing is compared."""
    if results.comparisons is None:
        return []
    reference = results.comparisons.reference
    others = [name for name in results.assistants if name != reference]
    pairs = []
    for row, assistant in enumerate(others):
        for column, simulator in enumerate(results.simulators):
            both = list(zip(talks.get((reference, simulator), ()), talks.get((assistant, simulator), ()), strict=False))
            both = [(one, two) for one, two in both if one.key == two.key]
            for chosen_as, kind, one, two in _telling(both):
                pairs.append(
                    Pair(
                        reference,
                        assistant,
                        simulator,
                        chosen_as,
                        _difference(one, two),
                        lay_out(one),
                        lay_out(two),
                        f"who-{row} with-{column} kind-{kind}",
                    )
                )
    return pairs


def pair_filters(results: MatrixResults) -> list[Filter]:
    """What the pairs can be chosen by."""
    reference = results.comparisons.reference if results.comparisons is not None else None
    return [
        Filter("who", "Assistant", tuple(name for name in results.assistants if name != reference)),
        Filter("with", "Simulator", tuple(short_name(name) for name in results.simulators)),
        Filter("kind", "Outcome", ("gain", "loss", "in the middle", "does not count")),
    ]


def filter_rules(filters: Sequence[Filter]) -> str:
    """Style rules that hide what was not chosen; the names in them are ours, none comes from the results."""
    return "\n".join(
        f"main:has(#{one.name}-{number}:checked) .pair:not(.{one.name}-{number}) {{ display: none; }}"
        for one in filters
        for number in range(len(one.choices))
    )


def write_conversation_pages(report: str | Path, results: MatrixResults, talks: Talks) -> list[PageLink]:
    """Write all conversations to pages in a folder beside the report, some scenarios of one simulator on each.

    Args:
        report: Path of the report; the folder is called as it is, with `-conversations` for `.html`.
        results: What the report is about.
        talks: All conversations.

    Returns:
        The pages, for the report to link to.

    Raises:
        TranscriptError: a page cannot be written.
    """
    report = Path(report)
    folder = report.with_name(f"{report.stem}-conversations")
    plan: list[tuple[str, str, list[list[tuple[str, Transcript]]]]] = []
    for column, simulator in enumerate(results.simulators):
        by_key: dict[tuple[str, int], list[tuple[str, Transcript]]] = {}
        for assistant in results.assistants:
            for one in talks.get((assistant, simulator), ()):
                by_key.setdefault(one.key, []).append((assistant, one))
        groups = list(by_key.values())
        for start in range(0, len(groups), _PER_PAGE):
            some = groups[start : start + _PER_PAGE]
            title = f"{short_name(simulator)}, scenarios {start + 1} to {start + len(some)}"
            plan.append((f"{column + 1:02}-{start // _PER_PAGE + 1:04}.html", title, some))
    template = page_templates().get_template("conversations.html.j2")
    for number, (name, title, some) in enumerate(plan):
        text = template.render(
            title=title,
            report=report.name,
            before=plan[number - 1][0] if number else None,
            after=plan[number + 1][0] if number + 1 < len(plan) else None,
            scenarios=[[(assistant, lay_out(one)) for assistant, one in group] for group in some],
            endings=ENDINGS,
        )
        write_page(folder / name, text)
    return [PageLink(f"{folder.name}/{name}", title) for name, title, _ in plan]


def _telling(
    both: Sequence[tuple[Transcript, Transcript]],
) -> list[tuple[str, int, Transcript, Transcript]]:
    counted = [(difference, one, two) for one, two in both if (difference := _difference(one, two)) is not None]
    counted.sort(key=lambda three: three[0])
    found = []
    if counted:
        middle = statistics.median_low([difference for difference, _, _ in counted])
        at = next(number for number, three in enumerate(counted) if three[0] == middle)
        for chosen_as, kind, number in (
            ("the largest gain", 0, len(counted) - 1),
            ("the largest loss", 1, 0),
            ("the middle one", 2, at),
        ):
            difference, one, two = counted[number]
            if (kind == 0 and difference > 0) or (kind == 1 and difference < 0) or kind == 2:
                found.append((chosen_as, kind, one, two))
    lost = next(((one, two) for one, two in both if not (one.counts and two.counts)), None)
    if lost is not None:
        found.append(("does not count", 3, *lost))
    return found


def _difference(one: Transcript, two: Transcript) -> float | None:
    if not (one.counts and two.counts) or one.reward is None or two.reward is None:
        return None
    return 100 * (two.reward - one.reward)
