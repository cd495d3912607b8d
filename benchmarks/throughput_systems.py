"""The jobs of `throughput.py` on this side, each in a process of its own, so that its memory is its own.

Reads a job as JSON from standard input, writes its result as JSON to standard output.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from simgym.judges.base import Judgement
from simgym.language_models.base import Generation, Likelihood, Request, Sampling, record_call
from simgym.language_models.weights import EMBEDDED, resolve_weights
from simgym.simulators.base import UserTurn

NEW_TOKENS = 24
"""Longest turn of either side."""


def main() -> None:
    """One job; its result has the most memory that the process took, MB."""
    job = json.load(sys.stdin)
    found = {"converse": converse, "overhead": overhead, "memory": memory}[job.pop("kind")](**job)
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, **found}))


class Nobody:
    """A judge that judges nothing, at once."""

    def score(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[Judgement]:
        return [Judgement(0.5)] * len(scenarios)

    def fingerprint(self) -> dict[str, Any]:
        return {"judge": "nobody"}


class Echo:
    """A user that repeats what was said."""

    def open(self, scenarios: Any, *, seeds: Any) -> list[UserTurn]:
        return [UserTurn("hello")] * len(scenarios)

    def reply(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[UserTurn]:
        return [UserTurn(one.messages[-1].content) for one in conversations]

    def fingerprint(self) -> dict[str, Any]:
        return {"simulator": "echo"}


class Instant:
    """A model that answers at once, never twice the same in a row."""

    calls = 0
    answers = tuple(
        Generation(f'{{"current_answer": "", "thought": "", "response": "number {number}"}}', prompt="p")
        for number in (0, 1)
    )

    def generate(self, requests: Any) -> list[Generation]:
        self.calls += 1
        return [self.answers[self.calls % 2]] * len(requests)

    def score(self, prompts: Any, continuations: Any, *, adapter: Any = None) -> Any:
        return [Likelihood(-1.0, 1)] * len(prompts)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "instant"}


def users(count: int) -> list[dict[str, str]]:
    """System message and opening of the simulated users."""
    import simgym

    prompts = resources.files("simgym.simulators") / "prompts"
    guideline = (prompts / "guideline_default.txt").read_text(encoding="utf-8").strip()
    return [
        {"system": f"{guideline}\n\nYour goal in this chat: {one.goal}", "opening": one.opening or one.goal}
        for one in simgym.load_scenarios("everyday", limit=count)
    ]


def swapped(said: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The chat as the user sees it."""
    return [({"user": "assistant", "assistant": "user"}[role], text) for role, text in said]


def hash_of(said: Any) -> str:
    """Of all texts of all conversations."""
    plain = [[list(message) for message in one] for one in said]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def converse(system: str, conversations: int, turns: int, address: str | None = None) -> dict[str, Any]:
    """Hold the conversations with one of the systems."""
    people = users(conversations)
    if system == "generate":
        return with_generate(people, turns)
    if system == "threads":
        return with_threads(people, turns, address or "")
    return with_simgym(people, turns, system.partition(" ")[2] or "float32")


def with_simgym(people: Sequence[dict[str, str]], turns: int, dtype: str) -> dict[str, Any]:
    """All in one environment."""
    import gymnasium

    import simgym
    from simgym.conversation import INTENT_PREFIX, Message, Scenario
    from simgym.language_models.loading import load_language_model

    model = {"kind": "transformers", "model": EMBEDDED, "dtype": dtype}
    sampling = Sampling(temperature=0, max_new_tokens=NEW_TOKENS)
    goals = {f"u{number}": person["system"] for number, person in enumerate(people)}

    class ChatUser:
        """The plain user."""

        def open(self, scenarios: Any, *, seeds: Any) -> list[UserTurn]:
            return [UserTurn(one.opening) for one in scenarios]

        def reply(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[UserTurn]:
            asked = []
            for one, talk in zip(scenarios, conversations, strict=True):
                seen = swapped([(message.role, message.content) for message in talk.messages])
                asked.append(Request((Message("system", goals[one.id]), *(Message(*pair) for pair in seen)), sampling))
            answers = load_language_model(model).generate(asked)
            return [
                UserTurn(answer.text.strip(), calls=(record_call("user", 0, request, answer),))
                for request, answer in zip(asked, answers, strict=True)
            ]

        def fingerprint(self) -> dict[str, Any]:
            return {"simulator": "chat"}

    scenarios = [
        Scenario(f"u{number}", f"{INTENT_PREFIX}talk", person["opening"]) for number, person in enumerate(people)
    ]
    env = gymnasium.make(
        "UserSim-RolePlay-v0", simulator=ChatUser(), judge=Nobody(), scenarios=scenarios, max_turns=turns
    )
    loaded = load_language_model(model)
    loaded.generate([Request((Message("user", "hello"),), sampling)])
    loaded.forget()
    before = (loaded.work.read, loaded.work.written)
    started = time.perf_counter()
    held = simgym.collect(simgym.LanguageModelAssistant(model, sampling=sampling), env, batch_size=len(people))
    seconds = time.perf_counter() - started
    if faults := [one.fault for one in held if not one.counts]:
        raise SystemExit(f"{len(faults)} conversations failed: {faults[0]}")
    calls = [call for one in held for call in one.calls]
    said = [[(message.role, message.content) for message in one.conversation.messages] for one in held]
    return {
        "seconds": seconds,
        "hash": hash_of(said),
        "said": said,
        "asked": {"read": sum(c.prompt_tokens for c in calls), "written": sum(c.completion_tokens for c in calls)},
        "processed": loaded.work.read - before[0] + loaded.work.written - before[1],
        "distinct": distinct(loaded.tokenizer, [(call.prompt, call.output) for call in calls]),
    }


def distinct(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> int:
    """Nodes of the tree of all sequences (prompt and what was written), in tokens."""
    seen: set[int] = set()
    for prompt, output in pairs:
        state = 0
        for token in [
            *tokenizer(prompt, add_special_tokens=False)["input_ids"],
            *tokenizer(output, add_special_tokens=False)["input_ids"],
        ]:
            state = hash((state, token))
            seen.add(state)
    return len(seen)


def with_generate(people: Sequence[dict[str, str]], turns: int) -> dict[str, Any]:
    """One conversation after the other, the whole history each turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_weights(EMBEDDED).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    processed = 0

    def ask(messages: Sequence[tuple[str, str]]) -> str:
        nonlocal processed
        rows = [{"role": role, "content": text} for role, text in messages]
        given = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            ids = model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)[0]
        processed += len(ids)
        return str(tokenizer.decode(ids[given["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    ask([("user", "hello")])
    processed = 0
    started = time.perf_counter()
    said = [talk(person, turns, ask) for person in people]
    return {
        "seconds": time.perf_counter() - started,
        "hash": hash_of(said),
        "said": said,
        "processed": processed,
    }


def with_threads(people: Sequence[dict[str, str]], turns: int, address: str) -> dict[str, Any]:
    """A thread for each conversation, over the server."""
    import openai

    client = openai.OpenAI(base_url=address, api_key="none", timeout=3600)
    name = str(resolve_weights(EMBEDDED).path)
    used = {"read": 0, "written": 0}

    def ask(messages: Sequence[tuple[str, str]]) -> str:
        rows: Any = [{"role": role, "content": text} for role, text in messages]
        answer = client.chat.completions.create(model=name, messages=rows, temperature=0.0, max_tokens=NEW_TOKENS)
        if answer.usage is not None:
            used["read"] += answer.usage.prompt_tokens
            used["written"] += answer.usage.completion_tokens
        return (answer.choices[0].message.content or "").strip()

    started = time.perf_counter()
    with ThreadPoolExecutor(len(people)) as pool:
        said = list(pool.map(lambda person: talk(person, turns, ask), people))
    return {
        "seconds": time.perf_counter() - started,
        "hash": hash_of(said),
        "said": said,
        "processed": sum(used.values()),
    }


def talk(person: dict[str, str], turns: int, ask: Any) -> list[tuple[str, str]]:
    """One conversation; `ask` answers messages."""
    said = [("user", person["opening"])]
    for turn in range(turns):
        said.append(("assistant", ask(said)))
        if turn < turns - 1:
            said.append(("user", ask([("system", person["system"]), *swapped(said)])))
    return said


def overhead(system: str, environments: int) -> dict[str, Any]:
    """Microseconds a turn outside of models: a user that echoes, or the prompted one with an instant model."""
    import gymnasium

    import simgym  # noqa: F401  # registers the environments

    player = {"model": Instant()} if system == "simgym role-play" else {"simulator": Echo()}
    env = gymnasium.make_vec(
        "UserSim-RolePlay-v0",
        num_envs=environments,
        vectorization_mode="vector_entry_point",
        judge=Nobody(),
        max_turns=5,
        **player,
    )
    actions = ("And what would you like?",) * environments
    env.reset(seed=0)
    samples = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(6):  # five turns, and the step that begins the next conversation
            env.step(actions)
        samples.append((time.perf_counter() - started) / (5 * environments) * 1e6)
    return {"microseconds": samples}


def memory(what: str) -> dict[str, Any]:
    """The model alone after one reply, or after a round of every simulator, judge and assistant on it."""
    import gymnasium

    import simgym

    assistant = simgym.LanguageModelAssistant(EMBEDDED, sampling=Sampling(temperature=0, max_new_tokens=16))
    if what == "alone":
        assistant.respond([simgym.Conversation().add("user", "hello")], seeds=[0])
        return {}
    for env_id in ("UserSim-RolePlay-v0", "UserSim-RolePlayOpening-v0", "UserSim-Persona-v0", "UserSim-FineTuned-v0"):
        scenarios = simgym.load_scenarios("everyday", limit=4)
        options = {"max_turns": 2, "simulator_options": {"max_new_tokens": 112}}
        simgym.collect(assistant, gymnasium.make(env_id, scenarios=scenarios, **options))
    return {}


if __name__ == "__main__":
    main()
