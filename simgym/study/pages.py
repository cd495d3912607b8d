"""Journeys as HTML: which template a step has, and what it may know.

Templates get texts, words and replies, never an assistant's name. Everything is escaped by Jinja; Markdown comes
through `rendering.to_html` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simgym.study.config import Study
from simgym.study.journey import Journey
from simgym.study.records import ParticipantRecord
from simgym.study.rendering import to_html
from simgym.words import RULE

NOTICES = {"outdated": "That page was out of date, so nothing was sent from it. This is where you are."}
"""What a redirect can say; anything else in the address is ignored."""
KINDS = {
    "dry_run": "Dry run: for trying the study out. Nothing here counts.",
    "synthetic": "Synthetic study: scripted participants and scripted replies. Nothing here is from people.",
}
"""Banners of studies that are not real."""


class Pages:
    """Renders the pages of one study."""

    def __init__(self, study: Study, kind: str) -> None:
        self.study, self.kind = study, kind
        self._templates = Environment(
            loader=PackageLoader("simgym.study"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters["markdown"] = lambda text: Markup(to_html(text))  # noqa: S704  # cleaned by nh3
        self._templates.globals |= {"study": study, "banner": KINDS.get(kind, ""), "counting": RULE}

    def step(
        self,
        journey: Journey,
        *,
        token: str,
        typed: Mapping[str, str],
        problem: str = "",
        notice: str = "",
        recruited: Mapping[str, str] | None = None,
    ) -> str:
        """The page of the step that comes next, with what was typed before, by field, and what was wrong with it.

        `notice` is a key of `NOTICES`; recruitment parameters are carried through consent.
        """
        task = journey.event("task")
        return self._render(
            f"{journey.stage}.html.j2",
            journey=journey,
            token=token,
            typed=typed,
            problem=problem,
            notice=NOTICES.get(notice, ""),
            recruited=recruited or {},
            task=self.study.task(task.payload["task"]) if task else None,
            notes=task.payload["notes"] if task else "",
            said=journey.conversation().messages,
            completed=journey.event("completed"),
            withdrawal=journey.stage != "consent",
        )

    def withdraw(self, token: str) -> str:
        """The page that asks whether they are sure."""
        return self._render("withdraw.html.j2", token=token)

    def withdrawn(self, *, erased: bool) -> str:
        """The page that says that it is done, or under way."""
        text = (
            "All that you wrote is deleted."
            if erased
            else "All that you wrote is being deleted: it is out of the study, and is now taken off the disk. "
            "You can close this page."
        )
        return self._render("withdrawn.html.j2", heading="You have withdrawn", text=text, erased=erased)

    def somebody_else(self, token: str, recruited: Mapping[str, str]) -> str:
        """The page that asks whether another person is at this browser."""
        return self._render("another.html.j2", token=token, recruited=recruited)

    def error(self, status: int, text: str) -> str:
        """The page that says what went wrong."""
        heading = {404: "There is no such page", 500: "Our mistake"}.get(status, "That did not work")
        # at 409 and 429 the way back is the browser's: "/" alone would begin anew, without the recruitment id
        return self._render(
            "error.html.j2", heading=heading, text=text, way_back=status not in (409, 429), withdrawal=True
        )

    def admin(self, flow: Mapping[str, int], records: Sequence[ParticipantRecord]) -> str:
        """Numbers for whoever runs the study: flow, balance, failures; nothing that a participant wrote."""
        balance = Counter((str(record["task"]), " / ".join(record["arm"])) for record in records if record["arm"])
        talks = [talk for record in records for talk in record["conversations"]]
        failures = sum(turn["failures"] for talk in talks for turn in talk["turns"])
        return self._render("admin.html.j2", flow=flow, balance=sorted(balance.items()), failures=failures)

    def _render(self, template: str, *, withdrawal: bool = False, **values: object) -> str:
        return self._templates.get_template(template).render(withdrawal=withdrawal, **values)
