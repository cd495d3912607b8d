"""The web app: one page that shows where a participant is, and forms that post to it.

`GET /` follows the participant's events and renders the next step; every form posts an action and the key of the event
it is meant to make. An outdated form (a doubled click, the back button, a second tab) makes no event, and the browser
is sent back to `GET /`. All state is in the store, so a reload, a crash or a restart loses nothing that was
acknowledged. A cookie with a random secret identifies the participant.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from simgym.assistants.base import Assistant
from simgym.errors import ConfigurationError, DatabaseUnavailable
from simgym.study.actions import ACTIONS, Incomplete, choose_task, completion, largest_form
from simgym.study.config import Study
from simgym.study.erasing import Eraser
from simgym.study.journey import Journey, follow
from simgym.study.pages import Pages
from simgym.study.protection import Guard, Rates, foreign, form_token, same_text
from simgym.study.records import as_json_lines, export, participant_flow
from simgym.study.recruitment import Recruit, Unusable, parameters_of, recruit_of
from simgym.study.rendering import clean_text
from simgym.study.replies import Replies
from simgym.study.store import Store, Visit
from simgym.study.writes import AlreadyTakesPart

log = logging.getLogger("simgym.study")
COOKIE = "simgym_study"
"""Name of the cookie with the participant's secret."""
_TICKET = "simgym_study_withdrawn"
"""Name of the cookie with a withdrawn participant's ticket."""
_ERASING = 2.0
"""Seconds for which the answer to a withdrawal waits for the disk."""
_UNKNOWN = "We do not know this browser any more. Please open the study's first page again."
_MONTH = 30 * 24 * 3600
_LONGEST_WAIT = 20.0
"""Seconds for which a waiting page's request is held: less than the idle time after which proxies hang up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks, and where they are."""

    secret: str
    """From the cookie."""
    participant: str
    """Id in the store."""
    journey: Journey
    """What they have done."""
    drafts: Mapping[str, str]
    """What they are writing, by field; empty unless it was asked for."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of a form."""

    stored: bool
    """It did what it was for."""
    problem: Incomplete | AlreadyTakesPart | None = None
    """Why it was refused; None: it was stored, or was outdated."""


def create_app(
    study: Study,
    store: Store,
    assistants: Mapping[str, Assistant],
    *,
    kind: str = "real",
    admin_token: str | None = None,
    secure_cookies: bool = False,
) -> Starlette:
    """The app of one study.

    Args:
        study, store, assistants: The study, its database (begun at start), and its assistants by name.
        kind: `real`, `dry_run` or `synthetic`; all but `real` are labelled on every page.
        admin_token: Password of `/admin` (any user name), at least 16 characters; None: there is no `/admin`.
        secure_cookies: Send cookies over HTTPS only; set it for any study on the internet.

    Raises:
        ConfigurationError: the admin token is too short, or an assistant is missing.
    """
    if admin_token is not None and len(admin_token) < 16:
        raise ConfigurationError(f"The admin token has {len(admin_token)} characters, expected at least 16.")
    if missing := sorted(set(study.assistants) - set(assistants)):
        raise ConfigurationError(f"There is no assistant for {', '.join(missing)}. Give one a name in the study.")
    replies, eraser = Replies(study, store, dict(assistants)), Eraser(store)
    pages = Pages(study, kind)
    controller = StudyController(study, store, replies, eraser, pages, kind, secure_cookies)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await store.begin(name=study.name, kind=kind, settings=study.model_dump(mode="json"), study_hash=study.hash)
        eraser.start()  # what an earlier server has left behind
        yield
        await eraser.close()
        await replies.close()
        await store.close()

    apology = pages.error(500, "Something went wrong here. What you sent before is kept.")
    app = Starlette(
        routes=[*_pages(controller), *(_admin(controller, admin_token) if admin_token is not None else ())],
        middleware=[Middleware(Guard, max_body=largest_form(study.limits), apology=apology)],
        exception_handlers=_apologies(controller),
        lifespan=lifespan,
    )
    app.state.replies = replies  # for whoever stops the server
    return app


def _pages(controller: StudyController) -> list[BaseRoute]:
    return [
        _get("/", controller.show),
        _get("/state", controller.state),
        Route("/do/{action}", controller.act, methods=["POST"]),
        Route("/draft", controller.draft, methods=["POST"]),
        _get("/withdraw", controller.ask_to_withdraw),
        Route("/withdraw", controller.withdraw, methods=["POST"]),
        _get("/withdrawn", controller.withdrawn),
        Route("/another", controller.another, methods=["POST"]),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static"),
    ]


def _get(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    route = Route(path, answer)
    route.methods = {"GET"}  # not HEAD: merely checking whether the page exists must not create a participant
    return route


def _apologies(controller: StudyController) -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """Pages for requests that cannot be answered."""
    pages, contact = controller.pages, controller.study.contact

    async def explain(request: Request, error: HTTPException) -> Response:
        return HTMLResponse(pages.error(error.status_code, str(error.detail)), error.status_code, error.headers)

    async def refuse_link(request: Request, error: Unusable) -> Response:
        log.warning("Nobody was let in: %s.", error.reason)
        return HTMLResponse(pages.error(400, f"{error} If that does not help: {contact}."), 400)

    async def wait(request: Request, error: DatabaseUnavailable) -> Response:
        log.error("%s", error)
        text = "Nothing can be stored at the moment. What you sent before is kept; please reload in a minute."
        return HTMLResponse(pages.error(503, text), 503, {"Retry-After": "60"})

    return {HTTPException: explain, Unusable: refuse_link, DatabaseUnavailable: wait}


class StudyController:
    """Answers the requests of participants."""

    def __init__(
        self,
        study: Study,
        store: Store,
        replies: Replies,
        eraser: Eraser,
        pages: Pages,
        kind: str,
        secure_cookies: bool,
    ) -> None:
        self.study, self.store, self.replies, self.eraser, self.pages = study, store, replies, eraser, pages
        self.kind, self.secure_cookies = kind, secure_cookies
        self._rates = Rates()

    async def show(self, request: Request) -> Response:
        """The next step; for an unknown browser, the first one of a new participant.

        A link never changes who somebody is: one for another person leads to a page that asks.
        """
        visitor = await self._visitor(request, drafts=True)
        recruit: Recruit | None = None
        named = self.study.recruitment.unique in request.query_params
        if visitor is None or visitor.journey.stage == "consent" or named:
            recruit = self._recruit(request.query_params)
        if visitor is not None and recruit is not None and await self._somebody_else(visitor, recruit):
            return HTMLResponse(self.pages.somebody_else(form_token(visitor.secret), recruit.parameters))
        if visitor is not None:
            return self._page(visitor, notice=request.query_params.get("notice", ""), recruit=recruit)
        await self.limit("visitor", _address(request), self.study.limits.visitors_per_minute)
        secret, visit = await self.store.open(self.study.hash)
        return self._with_cookie(self._page(self._known(secret, visit), recruit=recruit), secret)

    async def another(self, request: Request) -> Response:
        """Start a new participant in a browser in which somebody else has taken part."""
        _, form = await self._form(request)
        recruit = self._recruit(form)
        await self.limit("visitor", _address(request), self.study.limits.visitors_per_minute)
        secret, _ = await self.store.open(self.study.hash)
        return self._with_cookie(_see(f"/?{urlencode(recruit.parameters)}"), secret)

    async def state(self, request: Request) -> Response:
        """Which event is expected next; answers once there are replies, or after a while."""
        visitor = await self._visitor(request)
        if visitor is None:
            raise HTTPException(403, "There is no participant in this browser.")
        journey = visitor.journey
        if journey.awaits_replies:
            self.replies.start(visitor.participant)
            await self.replies.wait(visitor.participant, _LONGEST_WAIT)
            journey = follow(self.study, self.store.remembered_events(visitor.participant))
            if journey.awaits_replies:  # not written by this server
                journey = follow(self.study, await self.store.events(visitor.participant))
        failed = journey.stage == "waiting" and not journey.awaits_replies
        return JSONResponse({"key": journey.key, "failed": failed})

    async def act(self, request: Request) -> Response:
        """Store what a form says, if the participant is still at the step that it belongs to."""
        action = request.path_params["action"]
        if action not in ACTIONS and action != "task":
            raise HTTPException(404, "There is no such page.")
        # what this server remembers is nearly always what is stored, and `append` compares; only if nothing was stored
        # are the events read again, and the form judged by those
        visitor, form = await self._form(request, remembered=True)
        attempt = await self._attempt(visitor, action, form)
        for _ in range(2):
            if attempt.stored:
                return _see("/")
            if (fresh := await self._visitor(request, counted=True)) is None:
                raise HTTPException(403, _UNKNOWN)
            if len(fresh.journey.events) == len(visitor.journey.events):
                break
            visitor, attempt = fresh, await self._attempt(fresh, action, form)
        if isinstance(attempt.problem, Incomplete):
            return self._page(visitor, problem=str(attempt.problem), typed=form, status=422)
        if attempt.problem is not None:
            raise HTTPException(
                409,
                "Somebody with your participant number takes part already. Please go on in the browser in which you "
                "began. If that was a private window which is closed, or is not at hand, write to "
                f"{self.study.contact} and name your number.",
            )
        known = visitor.journey.event(form.get("key", "")) is not None
        return _see("/" if known else "/?notice=outdated")

    async def _attempt(self, visitor: Visitor, action: str, form: Mapping[str, str]) -> _Attempt:
        stage = "task" if action == "task" else ACTIONS[action].stage
        if form.get("key") != visitor.journey.key or visitor.journey.stage != stage:
            return _Attempt(stored=False)
        try:
            return _Attempt(stored=await self._store(visitor, action, form))
        except (Incomplete, AlreadyTakesPart) as problem:
            return _Attempt(stored=False, problem=problem)

    async def _store(self, visitor: Visitor, action: str, form: Mapping[str, str]) -> bool:
        journey, participant = visitor.journey, visitor.participant
        known = len(journey.events)
        if action == "task":
            task, event = choose_task(form, journey)
            return await self.store.append_assigned(participant, known, task, event, self.study.hash)
        events = ACTIONS[action].events(form, journey, participant)
        if action == "message" and (reason := await self.replies.blocked(events[0].payload["text"], "user")):
            raise Incomplete(f"This message cannot be sent ({reason.removeprefix('moderation: ')}). Please change it.")
        if not events:
            return True
        if follow(self.study, [*journey.events, *events]).stage == "done":
            events.append(completion(journey))
        recruit = None
        if action == "consent":
            given = self._recruit(form)
            recruit = given if given.parameters else None
        stored = await self.store.append(participant, known, events, self.study.hash, recruit=recruit)
        if stored and action in ("message", "retry"):
            self.replies.start(participant)
        return stored

    async def draft(self, request: Request) -> Response:
        """Keep what is being written."""
        visitor, form = await self._form(request)
        field = form.get("field", "")
        if field not in ("notes", "message", "reason", "document") or form.get("key") != visitor.journey.key:
            return Response(status_code=409)
        text = clean_text(form.get("text", ""), self.study.limits.document_characters)
        await self.store.save_draft(visitor.participant, f"{visitor.journey.key}/{field}", text)
        return Response(status_code=204)

    async def ask_to_withdraw(self, request: Request) -> Response:
        """The page that asks whether they are sure."""
        visitor = await self._visitor(request)
        if visitor is None:
            return _see("/")
        return HTMLResponse(self.pages.withdraw(form_token(visitor.secret)))

    async def withdraw(self, request: Request) -> Response:
        """Delete everything they have given."""
        visitor, _ = await self._form(request)
        ticket = await self.store.withdraw(visitor.participant)
        self.eraser.start()
        await self.eraser.wait(_ERASING)
        response = _see("/withdrawn")
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=self.secure_cookies)
        return self._with_cookie(response, ticket, _TICKET)

    async def withdrawn(self, request: Request) -> Response:
        """Whether the deletion is complete."""
        await self.limit("withdrawn", _address(request), self.study.limits.visitors_per_minute)
        erased = await self.store.erased(request.cookies.get(_TICKET, "")[:100])
        return _see("/") if erased is None else HTMLResponse(self.pages.withdrawn(erased=erased))

    def _page(
        self,
        visitor: Visitor,
        *,
        notice: str = "",
        problem: str = "",
        typed: Mapping[str, str] | None = None,
        recruit: Recruit | None = None,
        status: int = 200,
    ) -> Response:
        if visitor.journey.awaits_replies:
            self.replies.start(visitor.participant)
        start = f"{visitor.journey.key}/"
        texts = {name.removeprefix(start): text for name, text in visitor.drafts.items() if name.startswith(start)}
        page = self.pages.step(
            visitor.journey,
            token=form_token(visitor.secret),
            typed={**texts, **(typed or {})},
            problem=problem,
            notice=notice,
            recruited=recruit.parameters if recruit else parameters_of(self.study.recruitment, typed or {}),
        )
        return HTMLResponse(page, status)

    def _with_cookie(self, response: Response, secret: str, name: str = COOKIE) -> Response:
        response.set_cookie(name, secret, max_age=_MONTH, httponly=True, samesite="lax", secure=self.secure_cookies)
        return response

    async def _visitor(
        self, request: Request, *, drafts: bool = False, remembered: bool = False, counted: bool = False
    ) -> Visitor | None:
        """Who asks; `remembered`: as this server last saw them; `counted`: the request is counted already."""
        secret = request.cookies.get(COOKIE, "")
        if not 20 <= len(secret) <= 100:
            return None
        visit = self.store.remembered(secret) if remembered else None
        visit = visit or await self.store.look(secret, drafts=drafts)
        if visit is None:
            return None
        if not counted:
            await self.limit("request", visit.participant, self.study.limits.requests_per_minute)
        return self._known(secret, visit)

    def _known(self, secret: str, visit: Visit) -> Visitor:
        return Visitor(
            secret=secret, participant=visit.participant, journey=follow(self.study, visit.events), drafts=visit.drafts
        )

    async def _form(self, request: Request, *, remembered: bool = False) -> tuple[Visitor, dict[str, str]]:
        """Who sent a form, and its fields; refuses a form that is not ours."""
        if foreign(request.headers):
            raise HTTPException(403, "This form was sent by another site.")
        visitor = await self._visitor(request, remembered=remembered)
        if visitor is None:
            raise HTTPException(403, _UNKNOWN)
        async with request.form(max_files=0, max_fields=30) as fields:
            form = {name: value for name, value in fields.items() if isinstance(value, str)}
        if not same_text(form.get("token", ""), form_token(visitor.secret)):
            raise HTTPException(403, "This form belongs to another participant. Please reload the study's first page.")
        return visitor, form

    def _recruit(self, fields: Mapping[str, str]) -> Recruit:
        return recruit_of(self.study.recruitment, fields, strict=self.kind == "real")

    async def _somebody_else(self, visitor: Visitor, recruit: Recruit) -> bool:
        """Whether the link is for another person than the one who has taken part in this browser."""
        if visitor.journey.stage == "consent" or recruit.person is None:
            return False
        return await self.store.person(visitor.participant) != recruit.person

    async def limit(self, what: str, whose: str, per_minute: int) -> None:
        """Count one request; raises 429 if it is one too many."""
        # scripted participants come from one address, and are meant to hurry
        if self.kind != "synthetic" and not self._rates.hit(what, whose, per_minute):
            raise HTTPException(
                429, "That was too fast for us. Please wait a minute and reload.", {"Retry-After": "60"}
            )


def _admin(controller: StudyController, admin_token: str) -> list[BaseRoute]:
    async def check(request: Request) -> None:
        given = _password(request)
        if given is not None and same_text(given, admin_token):  # before any limit: wrong tokens lock nobody out
            return
        if given is not None:  # browsers first ask without one, and have to be told to ask their user
            await controller.limit("admin", _address(request), 60)
        raise HTTPException(401, "Wrong token.", {"WWW-Authenticate": 'Basic realm="study"'})

    async def overview(request: Request) -> Response:
        await check(request)
        records = await export(controller.store)
        flow = participant_flow(records, withdrawn=await controller.store.withdrawn())
        return HTMLResponse(controller.pages.admin(flow, records))

    async def download(request: Request) -> Response:
        await check(request)
        text = as_json_lines(await export(controller.store))
        headers = {"Content-Disposition": f'attachment; filename="{controller.study.name}.jsonl"'}
        return PlainTextResponse(text, headers=headers, media_type="application/jsonl")

    return [_get("/admin", overview), _get("/admin/export", download)]


def _password(request: Request) -> str | None:
    """The password of HTTP Basic authentication; None: there is none, or it cannot be read."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _see(path: str) -> Response:
    return RedirectResponse(path, 303)


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
