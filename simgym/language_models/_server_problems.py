"""Whom a server's refusal concerns: this request, one field of all requests, the run, or the server itself.

`classify` is a pure function of the status and the body. The same words come with different statuses at different
providers, and errors come inside a 200, so the words are looked at first and the status second. What is quoted in a
message has the secrets removed, after it was classified.

| scope | examples | what happens |
|---|---|---|
| request | flagged input, a full context, roles that do not alternate | a fault of that one generation |
| field | `temperature` of a reasoning model, `seed` as an unknown field | left out from then on, with one warning |
| form | no JSON schemas | asked in a simpler form |
| run | wrong key, no credit, unknown model, a redirect | a `ConfigurationError`: every request would fail |
| server | 429, 5xx, overloaded | repeated, then an outage: a `server:` fault |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

QUOTED_LENGTH = 300
"""Characters of a server's own words that are kept in a fault."""
_READ_LENGTH = 4000  # characters of them that are looked at
_HEADLINE = 200  # characters in which a provider says what it is; later ones may quote the conversation
_OVERFLOW = re.compile(
    r"context[ _](length|size|window|limit)|exceed_context|max(imum)?[ _]model[ _]len|maximum prompt length|"
    r"(prompt|input|request|message)s? (is|are) too (long|large)|too many (total )?(tokens|text bytes)|"
    r"maximum (allowed length|number of tokens)|must have less than \d+ tokens|"
    r"max_tokens must be at least 1|max_new_tokens. must be|string_above_max_length|range of input length|"
    r"reduce the length of the (messages|prompt|input)|context the overflows",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"\b(tokens?|lengths?|prompts?|inputs?|messages?|request)\b.{0,60}?"
    r"\b(exceed(s|ed)?|longer than|more than|larger than|greater than|over the)\b.{0,60}?"
    r"\b(max(imum)?([ _](num[ _])?(tokens?|length|input))?|limit|length|tokens|model)\b",
    re.IGNORECASE,
)
"""A measure of what was sent, above a bound of the model; in a headline alone, because these are everyday words."""
_FILTERED = re.compile(
    r"content[ _-]?(filter|polic|management|moderat|safety|exists risk)|responsible ?ai|moderation|\bflagged\b|"
    r"usage (polic|guide)|prohibited|inappropriate|data_inspection|safety[ _](system|polic|filter|setting|check)|"
    r"sensitive (content|information|input|words)|\w*sensitive\w*content|new_sensitive|considered high risk|"
    r"敏感|不安全|违规",
    re.IGNORECASE,
)
_FILTER_RAN = re.compile(
    r"content[ _-]?filter(ing)?( polic\w+)?[ _](was )?(triggered|blocked)|"
    r"(blocked|stopped|rejected) by (the |our |a )?(content|safety)[ _-]?(filter|moderation|polic)",
    re.IGNORECASE,
)
"""That a filter worked, not that it was out of order."""
_NO_CREDIT = re.compile(
    r"insufficient[ _-]?(quota|balance|funds|credit)|credit balance is too low|out of credit|"
    r"billing_(hard_limit|not_active)|payment required|exceeded_current_quota|arrear|overdue|good standing|"
    r"(api usage|(monthly )?spending|billing|monthly usage) limits?\b|(all|monthly).{0,20}\bcredits\b|"
    r"account\b.{0,40} (is )?(suspended|deactivated)|free_tier\w*, limit: 0\b",
    re.IGNORECASE,
)
_NO_KEY = re.compile(
    r"(incorrect|invalid|missing|expired|wrong|no) api[ _-]?key|invalid_api_key|authentication[ _](error|fail)|"
    r"^\W*(your |the |this )?api[ _-]?key\b.{0,40}\b(invalid|expired|missing|incorrect|(not|n.t) (valid|found|exist))",
    re.IGNORECASE | re.MULTILINE,
)
_NO_MODEL = re.compile(
    r"^\W*(?:the |requested |your |this |api )*models?\b.{0,120}?(?:not found|not exist|unknown|no such|no longer|"
    r"decommissioned|retired)|^\W*(unknown|invalid|no such|unsupported) model\b|model_not_(found|available)|"
    r"invalid_model|^\W*models? (access )?is (denied|not (supported|available|deployed))|"
    r"^\W*[\w./:-]+ is not a valid model|supported (api )?models? (names )?(are|is)\b|"
    r"^\W*unable to access .{0,40}\bmodel\b",
    re.IGNORECASE | re.MULTILINE,
)
_BUSY = re.compile(
    r"\boverloaded|capacity[ _]exceeded|temporarily (unavailable|overloaded)|upstream (request|connect|service)|"
    r"too many requests|rate[ _]limit(ed)?\b|not ready\b|try again (later|in a)",
    re.IGNORECASE,
)
_NOT_TAKEN = re.compile(
    r"not (supported|permitted|allowed|available|accepted|recognized|a valid|implemented|compatible)|"
    r"(does|do|is|are)(n.t| not) (support|accept|allow|know)|can ?not (both )?be|unsupported|unknown|unrecognized|"
    r"unexpected|extra|forbidden|deprecated|invalid|only the default|(must|should|has to) be|at most|too large|"
    r"additional propert|cannot (unmarshal|find)",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"response[ _]?format|json[ _-]?(schema|object|mode)|structured[ _]output|grammar|guided", re.IGNORECASE
)
_QUOTATION = re.compile(r"(?<!\w)(['\"])(?:(?!\1(?!\w)).){24,}(?:\1(?!\w)|\Z)", re.DOTALL)
_COME_BACK = (408, 409, 420, 424, 425, 429, 498, 499)
_SAYS_NOTHING = re.compile(r"\W*((bad|invalid) request|not implemented|no reason given|error|null)?\W*", re.IGNORECASE)
_NEVER_DROPPED = ("model", "messages", "prompt", "response_format", "echo", "skip_special_tokens")


class Scope(StrEnum):
    """Whom a refusal concerns."""

    REQUEST = "request"
    """This request."""
    FIELD = "field"
    """One field, of every request that has it."""
    FORM = "form"
    """The form in which JSON was asked for."""
    RUN = "run"
    """Every request, until somebody changes a setting."""
    SERVER = "server"
    """Every request, until the server is well again."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request has no answer."""

    scope: Scope
    """Whom it concerns."""
    text: str
    """What a fault (`refused: ...`) or a `ConfigurationError` says."""
    field: str | None = None
    """The field that is refused; None in other scopes."""
    status: int = 0
    """HTTP status of the answer, or the code of an error inside a 200; 0 if there was no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `classify` has to know of the request and its server."""

    host: str
    """Host and port."""
    model: str
    """Name of the model or adapter that was asked for."""
    secrets: Collection[str] = ()
    """The API key and the values of secret headers, none of which is quoted."""
    key_variable: str = "OPENAI_API_KEY"
    """Where the key comes from."""
    fields: Collection[str] = ()
    """Names of the fields that were sent."""
    own_fields: Collection[str] = ()
    """Those of them that stand in `extra_body`."""
    answered: bool = False
    """Whether the server has answered a request before, so that key and model are right."""


def classify(status: int, body: object, asked: Asked) -> Problem:
    """Whom a refusal concerns, and what to say.

    Args:
        status: HTTP status, or the code of an error that came inside a 200.
        body: The answer's JSON, or its text.
        asked: What was asked, of whom.
    """
    return replace(_classify(status, body, asked), status=status)


def _classify(status: int, body: object, asked: Asked) -> Problem:
    about = "\n".join(_words(body))[:_READ_LENGTH]
    headline = _headline(about)
    answered = f"{asked.host} answered {status}: {quote(body, asked.secrets)}"
    if status == 402 or (status in (400, 403, 412, 429) and _NO_CREDIT.search(headline)):
        return Problem(Scope.RUN, f"{answered} There is no credit left for this key; nothing can be asked with it.")
    if status == 403 and (field := refused_field(body, about, asked.fields)) is not None:  # OpenAI: logprobs
        return Problem(Scope.FIELD, f"refused: {answered}", field)
    if _refuses_key(status, about, asked):
        # the server's own words are left out: they may quote a part of the key
        why = f"the API key is not accepted for model {asked.model!r}. Set {asked.key_variable}, or pass api_key=."
        return Problem(Scope.RUN, f"{asked.host} answered {status}: {why}")
    if status in (403, 451) or (status in (429, 500) and _FILTER_RAN.search(headline)):
        return Problem(Scope.REQUEST, f"refused: {answered}")
    if status == 413 or (status in (400, 422, 500) and _overflows(about)) or _never_fits(status, about):
        return Problem(Scope.REQUEST, f"context_overflow: {answered}")
    if 300 <= status < 400:
        return Problem(Scope.RUN, f"{answered} It redirects elsewhere; give the address it redirects to as base_url.")
    if status == 407:
        return Problem(Scope.RUN, f"{answered} A proxy stands between. Name the host in NO_PROXY, or log in there.")
    if status in _COME_BACK or (status >= 500 and status != 501) or (status in (400, 404) and _BUSY.search(headline)):
        return Problem(Scope.SERVER, f"server: {answered} See the server's log, or lower max_concurrency.")
    return _of_request(status, body, about, answered, asked)


def _headline(about: str) -> str:
    """The beginning of a provider's words without what they quote, which may be anything that was said."""
    return _QUOTATION.sub(" ", about)[:_HEADLINE]


def _refuses_key(status: int, about: str, asked: Asked) -> bool:
    if status == 401 or (status in (400, 403, 422) and _NO_KEY.search(_headline(about))):
        return True
    return status == 403 and not asked.answered and not _FILTERED.search(about)


def _overflows(about: str) -> bool:
    """Whether the context is full; a bound of the reply alone (`max_tokens` of at most 4096) is another matter."""
    if _OVERFLOW.search(about):
        return True
    return _TOO_LONG.search(_headline(about)) is not None and re.match(r"\W*max_(completion_)?tokens", about) is None


def _of_request(status: int, body: object, about: str, answered: str, asked: Asked) -> Problem:
    """The server understood and will not: 4xx or 501."""
    field = refused_field(body, about, asked.fields)
    if field is None and _FILTERED.search(about):
        return Problem(Scope.REQUEST, f"refused: {answered}")
    if field is not None and field in asked.own_fields:
        return Problem(Scope.RUN, f"{answered} Leave {field!r} out of extra_body.")
    if field is not None:
        return Problem(Scope.FIELD, f"refused: {answered}", field)
    if "skip_special_tokens" in asked.fields and "skip_special_tokens" in about:
        advice = "This server cannot keep special tokens in a reply. Use vLLM, SGLang, or a local model."
        return Problem(Scope.RUN, f"{answered} {advice}")
    if "response_format" in asked.fields and (_FORM.search(about) or _SAYS_NOTHING.fullmatch(message_of(body))):
        return Problem(Scope.FORM, f"refused: {answered}")
    if status in (404, 405) or _NO_MODEL.search(_headline(about)):
        advice = f"Check the model name {asked.model!r}, names of adapters, and base_url, which usually ends in /v1."
        return Problem(Scope.RUN, f"{answered} {advice}")
    return Problem(Scope.REQUEST, f"refused: {answered}")


def refused_field(body: object, about: str, sent: Collection[str]) -> str | None:
    """The field that a refusal names, of those that were sent; None if it names none."""
    candidates = [name for name in sent if name not in _NEVER_DROPPED]
    error = _error_of(body)
    named = error.get("param") if isinstance(error, Mapping) else None
    if isinstance(named, str) and named in candidates:
        return named
    details = body.get("detail") if isinstance(body, Mapping) else None
    if isinstance(details, list):  # FastAPI: [{"loc": ["body", "seed"], ...}]; the rest may quote the conversation
        places = [detail.get("loc") for detail in details if isinstance(detail, Mapping)]
        names = [name for place in places if isinstance(place, list) for name in place if isinstance(name, str)]
        return next((name for name in names if name in candidates), None)
    if not _NOT_TAKEN.search(about):
        return None
    mentions = {name: place for name in candidates if (place := _mention(name, about)) is not None}
    # of two that exclude each other, temperature matters more
    return min(mentions, key=lambda name: (name != "top_p", mentions[name]), default=None)


def message_of(body: object) -> str:
    """The server's own words in an answer: of whatever nesting, the message; else the whole as text."""
    error = _error_of(body)
    if isinstance(error, Mapping):
        for name in ("message", "detail", "msg", "error", "title"):
            if error.get(name):
                return _flat(error[name])
        return _flat(dict(error))
    return _flat(error or "no reason given")


def quote(body: object, secrets: Collection[str]) -> str:
    """The server's own words in an answer as a message may quote them: short, on one line, without secrets."""
    try:
        said = message_of(_cleared(body, secrets))
    except RecursionError:
        said = "words that cannot be shown"
    # Once more on one line: a line break within a secret is a blank by now.
    return without_secrets(said, secrets)[:QUOTED_LENGTH].rstrip(". ") + "."


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """The text with secrets replaced; a placeholder for a key ("none", "EMPTY") is no secret."""
    for form in sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, "[key]")
    return text


def code_of(error: object) -> int:
    """The HTTP status that an error inside a 200 stands for; 502 if it tells none."""
    code = error.get("code", error.get("status")) if isinstance(error, Mapping) else None
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    known = isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599
    return code if known and isinstance(code, int) else 502


def _forms(secret: str) -> Iterator[str]:
    """How a server may write a secret: as it is, with single blanks, and `Bearer TOKEN` as its token alone."""
    words = secret.split()
    forms = [secret, " ".join(words), *(words[1:] if len(words) == 2 else [])]
    return (form for form in forms if len(form) >= 8)


def _cleared(value: object, secrets: Collection[str]) -> object:
    """JSON values without secrets: in the values, for a printed mapping escapes what a text holds."""
    if isinstance(value, str):
        return without_secrets(value, secrets)
    if isinstance(value, Mapping):
        return {without_secrets(str(name), secrets): _cleared(inner, secrets) for name, inner in value.items()}
    return [_cleared(inner, secrets) for inner in value] if isinstance(value, list) else value


def _mention(name: str, about: str) -> int | None:
    """Where a text names a field. Everyday words have to be marked as a name: a refusal may quote the conversation."""
    word = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    if "_" not in name:
        before = r"parameters?|arguments?|fields?|property|keyword|supports?|allows?|accepts?|setting|invalid|request|"
        before += r"values? (for|of)|supplied"
        word = rf"['\"`‘“]{word}|\b({before})\W+{word}|^\W*{word}|_\w+: {word}|: {word}\W*$"
    mention = re.search(word, about, re.MULTILINE)
    return None if mention is None else mention.start()


def _never_fits(status: int, about: str) -> bool:
    """A rate limit that this one request is larger than: waiting does not help."""
    return status == 429 and re.search(r"request too large", about, re.IGNORECASE) is not None


def _error_of(body: object) -> object:
    """What holds the message: `body["error"]` where there is one."""
    for _ in range(3):
        if isinstance(body, list) and body:  # Gemini sends a list of one
            body = body[0]
        elif isinstance(body, Mapping) and body.get("error"):
            body = body["error"]
        else:
            break
    return body


def _words(body: object) -> Iterator[str]:
    """Code, type and message of an error, a line each, for matching."""
    error = _error_of(body)
    if isinstance(error, Mapping):
        for name in ("code", "type", "status"):
            if isinstance(error.get(name), str):
                yield error[name]
    yield message_of(body)


def _flat(value: object) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = "words that cannot be shown"
    return " ".join(text[: 4 * _READ_LENGTH].encode("utf-8", "replace").decode("utf-8").split())
