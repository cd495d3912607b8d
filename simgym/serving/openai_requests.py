"""A chat completions request as what is asked of a simulated user.

Callers use one of two conventions. *Flipped*, as evaluation harnesses ask their user model: the system message holds
the scenario, `user` is what the assistant under test said, `assistant` what the user said before. *Plain*: roles as in
the conversation. The last message tells them apart, for it is the assistant's: its role is `user` in the first and
`assistant` in the second. The field `simgym` (`extra_body={"simgym": {...}}` of the openai client) says it outright:

    scenario      id of a scenario, what the user wants in words, or a scenario as JSON; default: the system message
    seed          decides the user's words; default: the field `seed`, the header x-simgym-seed, a hash of the scenario
    stop          what the user says to end; default: the mark that the system message names, else the server's
    convention    `flipped` or `plain`

Nothing here knows of HTTP but the status of a `Rejection`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simgym.conversation import Conversation, Role, Scenario, has_surrogates
from simgym.errors import ConfigurationError
from simgym.seeding import derive_seed

Convention = Literal["flipped", "plain"]
MAX_MESSAGES = 500
MAX_CHARACTERS = 400_000
"""Of all messages together; no model that plays users reads more."""
_MARK = re.compile(r"###[A-Z][A-Z-]{1,30}###")
_USUAL_MARKS = ("###STOP###", "###DONE###")
_SCENARIO = re.compile(r"<scenario>(.*?)</scenario>", re.DOTALL)
_SEATS: Mapping[Convention, Mapping[str, Role]] = {
    "flipped": {"user": "assistant", "assistant": "user"},
    "plain": {"user": "user", "assistant": "assistant"},
}
_OPTIONS = ("scenario", "seed", "stop", "convention")


class Rejection(Exception):
    """A request that cannot be answered, as a status and a sentence."""

    def __init__(self, status: int, sentence: str, code: str = "invalid_request") -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRequest:
    """One user turn that is asked for."""

    model: str
    """As the caller wrote it."""
    scenario: Scenario | str | None
    """What the user wants; a text is an id of the server's scenarios or a wish; None: the seed draws one."""
    seed: int
    """Decides everything random in the user's turn."""
    stop: str | None
    """What stands for leaving; None: the server's."""
    conversation: Conversation
    """What was said, as the assistant saw it, without `answer`; empty: the user begins."""
    answer: str | None
    """What the assistant said last; None: the user begins."""
    convention: Convention
    """How the roles were read."""
    stream: bool = False
    """Whether the answer is wanted as server-sent events."""
    usage_in_stream: bool = False
    """Whether a last event with token counts is wanted."""


def read_request(body: object, header_seed: str | None = None, session: str = "") -> UserRequest:
    """What a request body asks for.

    Args:
        body: The decoded JSON.
        header_seed: The seed of the header, if there is one.
        session: What tells one conversation of a caller from another; goes into a seed that is not given.

    Raises:
        Rejection: it cannot be read; the sentence says why.
    """
    if not isinstance(body, Mapping):
        raise Rejection(400, f"The body is a {type(body).__name__}, expected a JSON object.")
    options = _options(body)
    if not isinstance(model := body.get("model"), str) or not model:
        raise Rejection(400, "The field 'model' is missing. Ask GET /v1/models for the names.")
    _refuse_what_users_do_not_do(body)
    messages = _messages(body.get("messages"))
    convention = _convention(options.get("convention"), messages)
    system = "\n".join(text for role, text in messages if role == "system")
    conversation, answer = _seated(messages, convention)
    scenario = _scenario(options.get("scenario"), system if convention == "flipped" else "")
    stream_options = body.get("stream_options")
    return UserRequest(
        model=model,
        scenario=scenario,
        seed=_seed(options.get("seed"), body.get("seed"), header_seed, [model, system, repr(scenario), session]),
        stop=_stop(options.get("stop"), system),
        conversation=conversation,
        answer=answer,
        convention=convention,
        stream=body.get("stream") is True,
        usage_in_stream=isinstance(stream_options, Mapping) and stream_options.get("include_usage") is True,
    )


def _options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    options = body.get("simgym")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise Rejection(400, f"The field 'simgym' is a {type(options).__name__}, expected an object.")
    if strange := [name for name in options if name not in _OPTIONS]:
        raise Rejection(400, f"simgym.{str(strange[0])[:60]} is unknown, expected one of {', '.join(_OPTIONS)}.")
    return options


def _refuse_what_users_do_not_do(body: Mapping[str, object]) -> None:
    if body.get("n") not in (None, 1) or isinstance(body.get("n"), bool):
        raise Rejection(400, "n is not 1. A simulated user has one thing to say; ask again with another seed.")
    if (body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none":
        raise Rejection(400, "The request has tools. Simulated users call none; leave them out.")


def _messages(value: object) -> list[tuple[str, str]]:
    """Role and text of each message; `developer` is `system`."""
    if not isinstance(value, list) or not value:
        raise Rejection(400, "The field 'messages' is missing or empty, expected a list of messages.")
    if len(value) > MAX_MESSAGES:
        raise Rejection(400, f"There are {len(value)} messages, at most {MAX_MESSAGES} are read.")
    messages = [_message(number, message) for number, message in enumerate(value)]
    if (length := sum(len(text) for _, text in messages)) > MAX_CHARACTERS:
        raise Rejection(413, f"The messages have {length} characters, at most {MAX_CHARACTERS} are read.")
    return messages


def _message(number: int, message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise Rejection(400, f"messages[{number}] is a {type(message).__name__}, expected an object.")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise Rejection(400, f"messages[{number}].role is {str(role)[:40]!r}, expected system, user or assistant.")
    content = message.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, Mapping) or not isinstance(part.get("text"), str) for part in content):
            raise Rejection(400, f"messages[{number}] has a part that is no text. Simulated users read text alone.")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Rejection(400, f"messages[{number}].content is a {type(content).__name__}, expected a text.")
    if has_surrogates(content):
        raise Rejection(400, f"messages[{number}] holds a lone surrogate, which no UTF-8 text can.")
    return str(role), content


def _convention(asked: object, messages: Sequence[tuple[str, str]]) -> Convention:
    if asked is None:
        return "plain" if messages[-1][0] == "assistant" else "flipped"
    if not isinstance(asked, str) or asked not in _SEATS:
        raise Rejection(400, f"simgym.convention is {str(asked)[:40]!r}, expected flipped or plain.")
    return "plain" if asked == "plain" else "flipped"


def _seated(messages: Sequence[tuple[str, str]], convention: Convention) -> tuple[Conversation, str | None]:
    """The conversation up to the assistant's last words, and those; neighbouring messages of a seat are one turn.

    What the assistant said before the user's first turn, a greeting, is left out: in a conversation the user begins.
    """
    turns: list[tuple[Role, str]] = []
    for role, text in messages:
        if role == "system":
            continue
        seat = _SEATS[convention][role]
        if turns and turns[-1][0] == seat:
            turns[-1] = (seat, f"{turns[-1][1]}\n\n{text}")
        elif turns or seat == "user":
            turns.append((seat, text))
    if not turns:
        return Conversation(), None
    *earlier, (seat, answer) = turns
    if seat != "assistant":
        said = {"flipped": "assistant", "plain": "user"}[convention]
        raise Rejection(
            400, f"The last message ({said}) is the simulated user's own ({convention} roles). Add what was answered."
        )
    if not answer.strip():
        raise Rejection(400, "The assistant's last message is empty. It has to say something.")
    conversation = Conversation()
    for role, text in earlier:
        conversation = conversation.add(role, text)
    return conversation, answer


def _scenario(asked: object, system: str) -> Scenario | str | None:
    if isinstance(asked, Mapping):
        written = json.dumps(asked, ensure_ascii=False)
        if has_surrogates(written) or len(written) > MAX_CHARACTERS:
            raise Rejection(400, f"simgym.scenario has more than {MAX_CHARACTERS} characters, or a lone surrogate.")
        try:
            return Scenario.from_json(asked)
        except ConfigurationError as error:
            raise Rejection(400, f"simgym.scenario: {error}") from error
    if asked is not None:
        if not isinstance(asked, str) or not asked.strip() or has_surrogates(asked):
            raise Rejection(400, "simgym.scenario is no text, expected an id, what the user wants, or an object.")
        if len(asked) > MAX_CHARACTERS:
            raise Rejection(413, f"simgym.scenario has {len(asked)} characters, at most {MAX_CHARACTERS} are read.")
        return asked
    inner = _SCENARIO.search(system)
    wish = (inner.group(1) if inner else system).strip()
    return scenario_of(wish) if wish else None


def scenario_of(wish: str) -> Scenario:
    """A scenario from what the user wants, in words; equal words give an equal id."""
    return Scenario.from_goal(wish, source="chat completions request")


def _seed(asked: object, field: object, header: str | None, what: list[str]) -> int:
    """The first seed that is given; else one that all turns of a conversation share and other conversations do not."""
    for name, value in (("simgym.seed", asked), ("seed", field)):
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
                raise Rejection(400, f"{name} is {str(value)[:40]!r}, expected an integer of 64 bits.")
            return value
    if header is not None:
        if not re.fullmatch(r"-?[0-9]{1,18}", header):
            raise Rejection(400, f"The header x-simgym-seed is {header[:40]!r}, expected an integer.")
        return int(header)
    return derive_seed(0, "request", *what)


def _stop(asked: object, system: str) -> str | None:
    if asked is not None:
        if not isinstance(asked, str) or not asked.strip() or len(asked) > 200 or has_surrogates(asked):
            raise Rejection(400, "simgym.stop is no text of 1 to 200 characters.")
        return asked
    marks = _MARK.findall(system)
    return next((mark for mark in _USUAL_MARKS if mark in marks), marks[0] if marks else None)
