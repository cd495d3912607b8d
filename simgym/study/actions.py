"""What participants can do: from a form and a journey to events, or to a sentence about what is missing.

Pure functions; the app checks who sends a form and stores the events. An action belongs to a stage of the
journey; at any other stage the form is out of date.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simgym.study.config import Limits, Study
from simgym.study.design import after_tie, assign
from simgym.study.journey import Event, Journey, Stage
from simgym.study.rendering import clean_text
from simgym.words import RULE, count_words

Form = Mapping[str, str]
"""Fields of a form."""
PICKS = ("left", "tie", "right")
"""What can be picked of two replies."""


class Incomplete(Exception):
    """A form lacks something; the message is shown to the participant."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do."""

    stage: Stage
    """When it can be done."""
    events: Callable[[Form, Journey, str], list[Event]]
    """Form, journey and participant id to the events; raises `Incomplete`."""


def _consent(form: Form, journey: Journey, participant: str) -> list[Event]:
    if form.get("agree") != "yes":
        raise Incomplete("Please tick the box if you want to take part. If not, you can close this page.")
    return [Event("consented")]


def _instructions(form: Form, journey: Journey, participant: str) -> list[Event]:
    return [Event("instructed")]


def choose_task(form: Form, journey: Journey) -> tuple[str, Callable[[int], Event]]:
    """The chosen task, and its event given how many chose it before."""
    study = journey.study
    task = study.task(form.get("task", ""))
    if task is None:
        raise Incomplete("Please choose what you want to write.")
    notes = _text(form, "notes", "Your notes", study.limits.message_characters, study.minimum_words.notes)

    def event(position: int) -> Event:
        given = assign(study, task.id, position)
        assignment = {"arm": list(given.arm), "flipped": given.flipped, "position": position}
        return Event("task", {"task": task.id, "notes": notes, "assignment": assignment})

    return task.id, event


def _message(form: Form, journey: Journey, participant: str) -> list[Event]:
    study = journey.study
    text = _text(form, "message", "Your message", study.limits.message_characters, study.minimum_words.message)
    return [Event(journey.key, {"text": text})]


def _retry(form: Form, journey: Journey, participant: str) -> list[Event]:
    last = journey.exchanges[-1]
    return [Event(f"{journey.phase}:{journey.turn}:retry:{last.failures}")] if last.failed else []


def _choice(form: Form, journey: Journey, participant: str) -> list[Event]:
    pick = form.get("pick", "")
    if pick not in PICKS:
        raise Incomplete("Please choose reply A, reply B, or that they are equally good.")
    drawn = after_tie(journey.study, participant, journey.phase, journey.turn)
    continued = {"left": 0, "right": 1}.get(pick, drawn)
    return [Event(journey.key, {"pick": pick, "reason": _reason(form, journey.study), "continued": continued})]


def _finish(form: Form, journey: Journey, participant: str) -> list[Event]:
    if not journey.may_finish:
        raise Incomplete(f"Please talk with the assistant at least {journey.study.turns.minimum} times.")
    return [Event("finished")]


def _rating(form: Form, journey: Journey, participant: str) -> list[Event]:
    rating = form.get("rating", "")
    if rating not in map(str, range(1, 11)):
        raise Incomplete("Please choose a number from 1 to 10.")
    return [Event("rating", {"rating": int(rating), "reason": _reason(form, journey.study)})]


def _document(form: Form, journey: Journey, participant: str) -> list[Event]:
    study = journey.study
    text = _text(form, "document", "Your text", study.limits.document_characters, study.minimum_words.document)
    return [Event("document", {"text": text})]


ACTIONS: Mapping[str, Action] = {
    "consent": Action("consent", _consent),
    "instructions": Action("instructions", _instructions),
    "message": Action("message", _message),
    "retry": Action("waiting", _retry),
    "choice": Action("choice", _choice),
    "finish": Action("message", _finish),
    "rating": Action("rating", _rating),
    "document": Action("document", _document),
}
"""By the name in the form's address; choosing a task is `choose_task`, because it needs the store."""


def completion(journey: Journey) -> Event:
    """The last event, with the code for the participant."""
    code = journey.study.recruitment.completion_code or secrets.token_hex(4).upper()
    return Event("completed", {"code": code})


def _reason(form: Form, study: Study) -> str:
    return _text(form, "reason", "Your reason", study.limits.message_characters, study.minimum_words.reason)


def _text(form: Form, field: str, what: str, most_characters: int, fewest_words: int) -> str:
    """A field as it is stored; raises `Incomplete` if it is too short, or too long: nothing is cut off in silence."""
    text = clean_text(form.get(field, ""), most_characters + 1)
    if len(text) > most_characters:
        raise Incomplete(f"This text is too long: at most {most_characters:,} characters can be stored.")
    if (words := count_words(text)) < fewest_words:
        unit = "word" if fewest_words == 1 else "words"
        raise Incomplete(f"{what} should have at least {fewest_words} {unit}; it has {words} so far ({RULE}).")
    return text


def largest_form(limits: Limits) -> int:
    """Bytes of the largest form that can be valid, percent-encoded."""
    return 12 * max(limits.message_characters * 2, limits.document_characters) + 4096
