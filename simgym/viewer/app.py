"""The server of the page: static files for everybody, data for whoever has the token.

`GET /` and its scripts and styles hold nothing of a run. Data go to requests with the token of this process in the
header `X-Simgym-Token`, which a page from elsewhere can neither know nor send, and neither can another user of the
machine; the address that `simgym view --web` prints has the token behind its `#`, which browsers send to nobody. Labels
are written for our own page alone: the request's origin has to be this server. Pages run no script but ours, and the
browser is told to refuse HTML made from text (`require-trusted-types-for`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from simgym.errors import ConfigurationError, OutputInUse, SimgymError
from simgym.evaluation.labels import LabelledConversation
from simgym.serving.running import Guard as HostGuard
from simgym.study.protection import HEADERS, Guard, foreign, same_text
from simgym.transcripts import Transcript
from simgym.viewer.conversation_page import conversation_json, shown
from simgym.viewer.index import Entry, TranscriptIndex
from simgym.viewer.label_book import LabelBook
from simgym.viewer.query import Query

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of every answer."""
TOKEN_HEADER = "X-Simgym-Token"  # noqa: S105  # the name of a header
"""Carries the token."""
MOST_ROWS = 200
"""Conversations of a list in one answer."""
_LARGEST_BODY = 16_384


def create_viewer_app(index: TranscriptIndex, labels: LabelBook, *, token: str) -> FastAPI:
    """The app of one reader; requests for data have to carry the token."""

    async def known(request: Request) -> None:
        if not same_text(request.headers.get(TOKEN_HEADER, ""), token):
            raise HTTPException(401, "Open the whole address that `simgym view --web` printed, up to its end.")

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(HostGuard, token=None)
    headers = {**HEADERS, "Content-Security-Policy": POLICY}
    app.add_middleware(Guard, max_body=_LARGEST_BODY, apology="Something went wrong here.", headers=headers)
    controller = ViewerController(index, labels)
    router = APIRouter(prefix="/api", dependencies=[Depends(known)])
    router.add_api_route("/run", controller.run, methods=["GET"])
    router.add_api_route("/conversations", controller.search, methods=["GET"])
    router.add_api_route("/conversations/{entry_id}", controller.open, methods=["GET"])
    router.add_api_route("/labels", controller.label, methods=["POST"])
    app.include_router(router)
    app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True), name="static")

    @app.exception_handler(SimgymError)
    async def explain(request: Request, error: SimgymError) -> JSONResponse:
        status = 409 if isinstance(error, OutputInUse) else 422 if isinstance(error, ConfigurationError) else 500
        return JSONResponse({"detail": shown(str(error))}, status)

    return app


class ViewerController:
    """Answers requests; all of its methods but `label` run in threads."""

    def __init__(self, index: TranscriptIndex, labels: LabelBook) -> None:
        self.index, self.labels = index, labels

    def run(self) -> dict[str, Any]:
        """What the page needs to know of the run; reads what was added to it."""
        index = self.index
        index.refresh()
        return {
            "title": shown(", ".join(source.name or str(source) for source in index.sources)),
            "conversations": len(index),
            "complete": index.complete,
            "version": index.version,
            "generation": index.generation,
            "facets": shown(index.facets()),
            "unreadable": index.unreadable,
            "problems": shown(index.problems),
            "person": shown(self.labels.person),
            "labels_file": shown(str(self.labels.path)),
            "labels": len(self.labels),
        }

    def search(
        self, query: Annotated[Query, Depends()], labelled: bool = False, start: int = 0, rows: int = 100, at: str = ""
    ) -> dict[str, object]:
        """So many rows of a list, from `start` on, and the position of the conversation with the id `at`.

        With `labelled`, only conversations that this reader has labelled are listed.
        """
        entries = self.index.search(query, self.labels.keys() if labelled else None)
        start, rows = max(start, 0), min(max(rows, 0), MOST_ROWS)
        position = None
        if at:
            position = next((place for place, entry in enumerate(entries) if entry.id == at), None)
        return {
            "total": len(entries),
            "start": start,
            "version": self.index.version,
            "position": position,
            "rows": [self._row(entry) for entry in entries[start : start + rows]],
        }

    def open(self, entry_id: str, beside: str = "") -> dict[str, Any]:
        """A whole conversation, and those that can stand beside it."""
        entry = self._entry(entry_id)
        value = {**self._row(entry), **conversation_json(self.index.transcript(entry))}
        value["file"] = shown(entry.path.name)
        partners = self.index.partners(entry)
        value["partners"] = [{**self._row(other), "same_seed": other.seed == entry.seed} for other in partners]
        if beside:
            value["preference"] = self.labels.preference(entry.key, self._entry(beside).key)
        return value

    async def label(self, request: Request) -> dict[str, object]:
        """Write a label: `{"kind": ..., "answer": ..., "conversations": [id, ...], "blind": ...}`."""
        if foreign(request.headers):
            raise HTTPException(403, "Labels are written for this server's own page only.")
        try:
            value = json.loads(await request.body())
            kind, answer, blind = value["kind"], value["answer"], value["blind"]
            ids = [str(entry_id) for entry_id in value["conversations"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise HTTPException(400, "Expected a label as JSON: kind, answer, conversations, blind.") from error
        if kind not in ("preference", "origin") or not isinstance(answer, str | None) or not isinstance(blind, bool):
            raise HTTPException(400, "A label has a kind (preference or origin), an answer and blind (true or false).")
        return await run_in_threadpool(self._label, kind, answer, ids, blind)

    def _label(
        self, kind: Literal["preference", "origin"], answer: Any, ids: list[str], blind: bool
    ) -> dict[str, object]:
        entries = [self._entry(entry_id) for entry_id in ids[:3]]
        conversations = tuple(_labelled(entry, self.index.transcript(entry)) for entry in entries)
        self.labels.add(kind, answer, conversations, blind=blind)
        return {"labels": len(self.labels)}

    def _entry(self, entry_id: str) -> Entry:
        entry = self.index.get(entry_id)
        if entry is None:
            raise HTTPException(404, "There is no such conversation in this run any more.")
        return entry

    def _row(self, entry: Entry) -> Mapping[str, object]:
        return {
            "id": entry.id,
            "scenario": shown(entry.scenario_id),
            "seed": str(entry.seed),  # beyond what numbers of JavaScript hold
            "assistant": shown(entry.assistant),
            "simulator": shown(entry.simulator),
            "persona": shown(entry.persona),
            "reward": entry.reward,
            "fault": shown(entry.fault),
            "end_reason": shown(entry.end_reason),
            "turns": entry.turns,
            "opening": shown(" ".join(entry.opening.split())),
            "origin": self.labels.origin(entry.key),
        }


def _labelled(entry: Entry, transcript: Transcript) -> LabelledConversation:
    return LabelledConversation(
        scenario=replace(transcript.scenario, history=()),
        seed=transcript.seed,
        env_id=transcript.env_id,
        assistant=entry.assistant,
        messages=transcript.conversation.messages,
        human=transcript.fingerprints.get("simulator", {}).get("simulator") == "human",
    )
