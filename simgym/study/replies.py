"""A study's assistants at work: the replies of an exchange, stored together, or a failure that is stored instead.

`Replies.write` takes a participant who waits for replies. It generates them in threads (a model in this process batches
requests from several) and stores them in one event, or stores a failure. A failed or blocked reply is never shown: the
participant is asked to try again. Nobody is served twice at the same time, and if two servers race, the store keeps
what came first.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from simgym.assistants.base import Assistant
from simgym.conversation import Conversation
from simgym.language_models import interrupt_requests
from simgym.study.config import AssistantSpec, Study, load_callable
from simgym.study.design import reply_seed, sides
from simgym.study.journey import Event, Journey, follow
from simgym.study.rendering import identity_flags, shows_text
from simgym.study.store import Store

log = logging.getLogger("simgym.study")
_LONGEST_CLOSING = 10.0
"""Seconds for which closing waits for what is being stored."""
Moderation = Callable[[str, str], str | None]
"""From a text and its role (`user`, `assistant`) to the reason to block it, or None."""


def load_assistant(spec: AssistantSpec) -> Assistant:
    """The assistant that a study describes; its weights are loaded when it first speaks.

    Raises:
        ConfigurationError: its factory cannot be loaded.
    """
    if spec.factory is not None:
        assistant: Assistant = load_callable(spec.factory)()
        return assistant
    from simgym.assistants.language_model_assistant import LanguageModelAssistant
    from simgym.language_models.base import SamplingParams

    sampling = SamplingParams(temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)
    return LanguageModelAssistant(
        spec.model or "", system_prompt=spec.system_prompt, adapter=spec.adapter, sampling=sampling
    )


class Replies:
    """Writes what participants wait for."""

    def __init__(self, study: Study, store: Store, assistants: dict[str, Assistant]) -> None:
        """Join a study, its store, and its assistants by name, as `load_assistant` gives them."""
        self.study, self.store, self.assistants = study, store, assistants
        self.moderation: Moderation | None = load_callable(study.moderation) if study.moderation else None
        self._threads = ThreadPoolExecutor(study.limits.generations_at_once, thread_name_prefix="reply")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._closing = False

    async def close(self) -> None:
        """`stop`, then wait for what is being read or stored: a database connection cut off in the middle of an
        operation keeps the event loop from closing."""
        self.stop()
        if tasks := set(self._running.values()):
            await asyncio.wait(tasks, timeout=_LONGEST_CLOSING)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Abandon replies under way without waiting for a model's server; participants get them after a restart."""
        self._closing = True
        for asked in self._asked.values():
            asked.cancel()
        interrupt_requests()

    def start(self, participant: str) -> None:
        """Start to write for a participant, unless that is under way."""
        if participant not in self._running and not self._closing:
            task = asyncio.create_task(self._guarded(participant))
            self._running[participant] = task
            task.add_done_callback(lambda _: self._running.pop(participant, None))

    async def wait(self, participant: str, seconds: float) -> None:
        """Wait at most so long until what is under way for a participant is stored."""
        if (task := self._running.get(participant)) is not None:
            await asyncio.wait({task}, timeout=seconds)

    async def _guarded(self, participant: str) -> None:
        try:
            await self.write(participant)
        except Exception:  # the boundary: the participant keeps waiting, and their next request starts again
            log.exception("Replies were not stored.")

    async def write(self, participant: str) -> None:
        """Store replies, or a failure, for a participant who waits for them; do nothing for any other."""
        # the request that started this has just read or stored the events, and `append` compares
        events = self.store.remembered_events(participant) or await self.store.events(participant)
        journey = follow(self.study, events)
        if not journey.awaits_replies or journey.assignment is None or self._closing:
            return
        attempt = journey.exchanges[-1].failures + 1
        names = sides(self.study, journey.assignment, participant, journey.phase, journey.turn)
        talk = journey.conversation()
        asked = asyncio.gather(*(self._one(participant, journey, name, talk, attempt) for name in names))
        self._asked[participant] = asked
        try:
            replies = await asked
        finally:
            del self._asked[participant]
        base = f"{journey.phase}:{journey.turn}"
        if faults := {name: fault for name, (_, fault) in zip(names, replies, strict=True) if fault}:
            # only the kind is logged: a server's message may repeat what it was sent; the event has the details
            kinds = [f"{name}: {fault.partition(':')[0][:40]}" for name, fault in faults.items()]
            log.warning("No reply at %s, attempt %d: %s", base, attempt, "; ".join(kinds))
            event = Event(f"{base}:failure:{attempt}", {"faults": [f"{name}: {each}" for name, each in faults.items()]})
        else:
            event = Event(f"{base}:replies", {"replies": [reply for reply, _ in replies], "attempt": attempt})
        await self.store.append(participant, len(events), [event], self.study.hash)

    async def _one(
        self, participant: str, journey: Journey, name: str, talk: Conversation, attempt: int
    ) -> tuple[dict[str, Any], str | None]:
        seed = reply_seed(self.study, participant, journey.phase, journey.turn, name, attempt)
        try:
            respond = functools.partial(self.assistants[name].respond, [talk], seeds=[seed])
            turn = (await asyncio.get_running_loop().run_in_executor(self._threads, respond))[0]
            fault = turn.fault or (None if shows_text(turn.text) else "empty")
            if fault is None:
                fault = await self.blocked(turn.text, "assistant")
        except Exception as error:  # whatever a plug-in raises is stored as a failure, not retried in silence
            return {}, f"{type(error).__name__}: {error}"[:500]
        flags = identity_flags(turn.text, self.study.assistants[name].aliases)
        return {"assistant": name, "text": turn.text, "flags": flags, "seed": seed}, fault

    async def blocked(self, text: str, role: str) -> str | None:
        """Why the moderation hook blocks a text; None: it does not, or there is no hook."""
        if self.moderation is None:
            return None
        reason = await asyncio.get_running_loop().run_in_executor(self._threads, self.moderation, text, role)
        return f"moderation: {reason}" if reason else None
