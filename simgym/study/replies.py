"""The assistants of a study at work: both replies of an exchange together, or a failure that is stored.

`Replies.write` is given a participant whose last event waits for replies; it generates them in threads (a model in
process batches what comes from several), stores both in one event, or stores a failure. A failed or blocked reply is
never shown: the participant is asked to try again. Who is already being served is not served twice, and if two servers
race, the store keeps the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
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
"""Seconds that closing waits for what is being stored."""
Moderation = Callable[[str, str], str | None]
"""Text and role (`user`, `assistant`) to a reason to block it, or None."""


def load_assistant(spec: AssistantSpec) -> Assistant:
    """The assistant that a study describes; weights are loaded when it first speaks.

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
        """Join study, store and one assistant a name.

        Args:
            study: The study.
            store: Where events go.
            assistants: By name, as `load_assistant` gives them.
        """
        self.study, self.store, self.assistants = study, store, assistants
        self.moderation: Moderation | None = load_callable(study.moderation) if study.moderation else None
        self._threads = ThreadPoolExecutor(study.limits.generations_at_once, thread_name_prefix="reply")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._closing = False

    async def close(self) -> None:
        """`stop`, and wait for what is being read or stored: a database connection that is cut off within an operation
        keeps the event loop from closing."""
        self.stop()
        if tasks := set(self._running.values()):
            await asyncio.wait(tasks, timeout=_LONGEST_CLOSING)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Leave what is under way, and wait for no model's server.

        Whoever waits for replies is told that there are none yet, and gets them after the next start.
        """
        self._closing = True
        for asked in self._asked.values():
            asked.cancel()
        interrupt_requests()

    def start(self, participant: str) -> None:
        """Begin to write for a participant, unless that is under way."""
        if participant not in self._running and not self._closing:
            task = asyncio.create_task(self._guarded(participant))
            self._running[participant] = task
            task.add_done_callback(lambda _: self._running.pop(participant, None))

    async def wait(self, participant: str, seconds: float) -> None:
        """Until what is under way for a participant is stored, at most so long."""
        if (task := self._running.get(participant)) is not None:
            await asyncio.wait({task}, timeout=seconds)

    async def _guarded(self, participant: str) -> None:
        try:
            await self.write(participant)
        except Exception:  # the boundary: the participant keeps waiting, and the next look starts anew
            log.exception("Replies were not stored.")

    async def write(self, participant: str) -> None:
        """Store replies, or a failure, for a participant who waits; do nothing for any other."""
        # whoever starts this has just read or stored them, and `append` compares
        events = self.store.remembered_events(participant) or await self.store.events(participant)
        journey = follow(self.study, events)
        if journey.stage != "waiting" or journey.exchanges[-1].failed or journey.assignment is None:
            return
        attempt = journey.exchanges[-1].failures + 1
        names = sides(self.study, journey.assignment, participant, journey.phase, journey.turn)
        talk = journey.conversation()
        if self._closing:
            return
        asked = asyncio.gather(*(self._one(participant, journey, name, talk, attempt) for name in names))
        self._asked[participant] = asked
        try:
            replies = await asked
        finally:
            del self._asked[participant]
        base = f"{journey.phase}:{journey.turn}"
        if faults := [f"{name}: {fault}" for name, (_, fault) in zip(names, replies, strict=True) if fault]:
            # kinds alone: what a server says can repeat what it was sent; the details are in the event
            kinds = [
                f"{name}: {fault.partition(':')[0][:40]}"
                for name, (_, fault) in zip(names, replies, strict=True)
                if fault
            ]
            log.warning("No reply at %s, attempt %d: %s", base, attempt, "; ".join(kinds))
            event = Event(f"{base}:failure:{attempt}", {"faults": faults})
        else:
            event = Event(f"{base}:replies", {"replies": [reply for reply, _ in replies], "attempt": attempt})
        await self.store.append(participant, len(events), [event], self.study.hash)

    async def _one(
        self, participant: str, journey: Journey, name: str, talk: Conversation, attempt: int
    ) -> tuple[dict[str, Any], str | None]:
        seed = reply_seed(self.study, participant, journey.phase, journey.turn, name, attempt)
        loop = asyncio.get_running_loop()
        try:
            turn = (await loop.run_in_executor(self._threads, self._respond, name, [talk], [seed]))[0]
            fault = turn.fault or (None if shows_text(turn.text) else "empty")
            if fault is None:
                fault = await self.blocked(turn.text, "assistant")
        except Exception as error:  # whatever a plug-in raises is a failure that is stored, not one asked for again
            return {}, f"{type(error).__name__}: {error}"[:500]
        flags = identity_flags(turn.text, self.study.assistants[name].aliases)
        return {"assistant": name, "text": turn.text, "flags": flags, "seed": seed}, fault

    async def blocked(self, text: str, role: str) -> str | None:
        """Why the moderation hook blocks a text; None: it does not, or there is none."""
        if self.moderation is None:
            return None
        reason = await asyncio.get_running_loop().run_in_executor(self._threads, self.moderation, text, role)
        return f"moderation: {reason}" if reason else None

    def _respond(self, name: str, talks: Sequence[Conversation], seeds: Sequence[int]) -> Any:
        return self.assistants[name].respond(talks, seeds=seeds)
