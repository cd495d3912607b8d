"""The jobs of `throughput.py` on this side, each in a process of its own, so that its memory is its own.

Reads a job as JSON from standard input, writes its result as JSON to standard output.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from simgym.judges import Judgement
from simgym.language_models import (
    DEFAULT_MODEL,
    Generation,
    Likelihood,
    Request,
    SamplingParams,
    record_call,
    resolve_weights,
)
from simgym.simulators import UserTurn

NEW_TOKENS = 24
"""Longest turn of either side."""
VLLM_SETTINGS = {"dtype": "float32", "context_length": 2048}
NOTHING = "..."
"""What is said by who says nothing: chats with empty messages are no work to compare."""


def main() -> None:
    """One job; its result has the most memory that the process took once it was warm, MB."""
    job = json.load(sys.stdin)
    result = {"converse": converse, "overhead": overhead, "memory": memory}[job.pop("kind")](**job)
    print(json.dumps({"peak_mb": peak_mb(), **result}))


def reset_peak(process: int | str = "self") -> None:
    """Forget the most memory so far, which was needed for loading."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_mb(process: int | str = "self") -> int:
    """Most memory since, MB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


class Nobody:
    """A judge that judges nothing, at once."""

    def judge(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[Judgement]:
        return [Judgement(0.5)] * len(scenarios)

    def fingerprint(self) -> dict[str, Any]:
        return {"judge": "nobody"}


class Echo:
    """A user that repeats what was said."""

    def open(self, scenarios: Any, *, seeds: Any) -> list[UserTurn]:
        return [UserTurn("hello")] * len(scenarios)

    def reply(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[UserTurn]:
        return [UserTurn(conversation.messages[-1].content) for conversation in conversations]

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

    def loglikelihood(self, prompts: Any, continuations: Any, *, adapter: Any = None) -> Any:
        return [Likelihood(-1.0, 1)] * len(prompts)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "instant"}


def users(count: int) -> list[dict[str, str]]:
    """System message and opening of the simulated users."""
    import simgym

    prompts = resources.files("simgym.simulators") / "prompts"
    persona_prompt = (prompts / "persona_default.txt").read_text(encoding="utf-8").strip()
    return [
        {
            "system": f"{persona_prompt}\n\nYour goal in this chat: {scenario.goal}",
            "opening": scenario.opening or scenario.goal,
        }
        for scenario in simgym.load_scenarios("everyday", limit=count)
    ]


def swapped(said: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The chat as the user sees it."""
    return [({"user": "assistant", "assistant": "user"}[role], text) for role, text in said]


def hash_of(said: Any) -> str:
    """Of all texts of all conversations."""
    plain = [[list(message) for message in conversation] for conversation in said]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def converse(
    system: str, conversations: int, turns: int, address: str | None = None, model: str = ""
) -> dict[str, Any]:
    """Hold the conversations with one of the systems."""
    people = users(conversations)
    if system == "vLLM in process":
        return with_simgym(people, turns, {"kind": "vllm", "max_batch_size": 16, "kv_cache_gib": 2, **VLLM_SETTINGS})
    if system.startswith(("vLLM", "llama.cpp")):
        return with_tasks(people, turns, address or "", model)
    if system.startswith("generate"):
        return with_generate(people, turns, batched=system.endswith("batched"))
    if system.startswith("threads"):
        return with_threads(people, turns, address or "")
    return with_simgym(people, turns, {"kind": "transformers", "dtype": numerics(system)})


def numerics(system: str) -> str:
    """What `simgym`, `simgym int8` and so on compute with; a process that has OpenVINO makes its passes by it."""
    return system.removeprefix("simgym").removesuffix("OpenVINO").strip() or "float32"


def with_simgym(people: Sequence[dict[str, str]], turns: int, settings: dict[str, Any]) -> dict[str, Any]:
    """All in one environment."""
    import gymnasium

    import simgym
    from simgym.conversation import INTENT_PREFIX, Message, Scenario
    from simgym.language_models import load_language_model

    model = {"model": DEFAULT_MODEL, **settings}
    sampling = SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS)
    goals = {f"u{number}": person["system"] for number, person in enumerate(people)}

    class ChatUser:
        """The plain user."""

        def open(self, scenarios: Any, *, seeds: Any) -> list[UserTurn]:
            return [UserTurn(scenario.opening) for scenario in scenarios]

        def reply(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[UserTurn]:
            asked = []
            for scenario, talk in zip(scenarios, conversations, strict=True):
                seen = swapped([(message.role, message.content) for message in talk.messages])
                asked.append(
                    Request((Message("system", goals[scenario.id]), *(Message(*pair) for pair in seen)), sampling)
                )
            answers = load_language_model(model).generate(asked)
            return [
                UserTurn(answer.text.strip() or NOTHING, calls=(record_call("user", 0, request, answer),))
                for request, answer in zip(asked, answers, strict=True)
            ]

        def fingerprint(self) -> dict[str, Any]:
            return {"simulator": "chat"}

    scenarios = [
        Scenario(f"u{number}", f"{INTENT_PREFIX}talk", opening=person["opening"])
        for number, person in enumerate(people)
    ]
    env = gymnasium.make(
        "UserSim-RolePlay-v0", simulator=ChatUser(), judge=Nobody(), scenarios=scenarios, max_turns=turns
    )
    loaded = load_language_model(model)
    loaded.generate([Request((Message("user", "hello"),), sampling)])
    if hasattr(loaded, "clear_cache"):
        loaded.clear_cache()
    stats = getattr(loaded, "stats", None)  # vLLM's are its own
    before = None if stats is None else dataclasses.replace(stats)
    reset_peak()
    started = time.perf_counter()
    transcripts = simgym.collect(simgym.LanguageModelAssistant(model, sampling=sampling), env, batch_size=len(people))
    seconds = time.perf_counter() - started
    calls = [call for transcript in transcripts for call in transcript.calls]
    said = [
        [(message.role, message.content) for message in transcript.conversation.messages] for transcript in transcripts
    ]
    return {
        "seconds": seconds,
        "hash": hash_of(said),
        "said": said,
        "asked": {"read": sum(c.prompt_tokens for c in calls), "written": sum(c.completion_tokens for c in calls)},
        "written": sum(call.completion_tokens for call in calls),
        "processed": None
        if before is None
        else stats.prefill_tokens - before.prefill_tokens + stats.decode_tokens - before.decode_tokens,
        "padding": 0 if before is None else stats.padding_tokens - before.padding_tokens,
        "distinct": distinct(loaded.tokenizer, calls),
        "faults": sum(not transcript.counts for transcript in transcripts),
    }


def distinct(tokenizer: Any, calls: Sequence[Any]) -> int:
    """Nodes of the tree of all that was fed to the model; the last token of a reply is not."""
    seen: set[int] = set()
    for call in calls:
        state = 0
        written = tokenizer(call.output, add_special_tokens=False)["input_ids"][: call.completion_tokens - 1]
        for token in [*tokenizer(call.prompt, add_special_tokens=False)["input_ids"], *written]:
            state = hash((state, token))
            seen.add(state)
    return len(seen)


def with_generate(people: Sequence[dict[str, str]], turns: int, *, batched: bool) -> dict[str, Any]:
    """The whole history each turn, one conversation after the other or all in step."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_weights(DEFAULT_MODEL).path
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    counted = {"processed": 0, "padding": 0, "written": 0}

    def ask(chats: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
        rows = [[{"role": role, "content": text} for role, text in chat] for chat in chats]
        given = tokenizer.apply_chat_template(
            rows, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(
                **given, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        told = []
        for mask, ids in zip(given["attention_mask"], out[:, given["input_ids"].shape[1] :].tolist(), strict=True):
            ended = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
            counted["written"] += ended
            counted["processed"] += int(mask.sum()) + ended - 1
            counted["padding"] += int((1 - mask).sum()) + len(ids) - ended
            told.append(tokenizer.decode(ids[:ended], skip_special_tokens=True).strip() or NOTHING)
        return told

    ask([[("user", "hello")]] * (len(people) if batched else 1))
    counted.update(processed=0, padding=0, written=0)
    reset_peak()
    started = time.perf_counter()
    groups = [people] if batched else [[person] for person in people]
    said = [chat for group in groups for chat in talk(group, turns, ask)]
    return {"seconds": time.perf_counter() - started, "hash": hash_of(said), "said": said, **counted}


def with_threads(people: Sequence[dict[str, str]], turns: int, address: str) -> dict[str, Any]:
    """A thread for each conversation, over the server."""
    import openai

    client = openai.OpenAI(base_url=address, api_key="none", timeout=3600)
    completions = client.chat.completions  # imports the rest
    name = str(resolve_weights(DEFAULT_MODEL).path)
    used = {"read": 0, "written": 0, "requests": 0}

    def ask(chats: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
        rows: Any = [{"role": role, "content": text} for role, text in chats[0]]
        answer = completions.create(model=name, messages=rows, temperature=0.0, max_tokens=NEW_TOKENS)
        if answer.usage is not None:
            used["read"] += answer.usage.prompt_tokens
            used["written"] += answer.usage.completion_tokens
            used["requests"] += 1
        return [(answer.choices[0].message.content or "").strip() or NOTHING]

    reset_peak()
    started = time.perf_counter()
    with ThreadPoolExecutor(len(people)) as pool:
        said = list(pool.map(lambda person: talk([person], turns, ask)[0], people))
    return {
        "seconds": time.perf_counter() - started,
        "hash": hash_of(said),
        "said": said,
        "written": used["written"],
        "processed": used["read"] + used["written"] - used["requests"],
    }


def with_tasks(people: Sequence[dict[str, str]], turns: int, address: str, model: str) -> dict[str, Any]:
    """A task for each conversation, over a server that batches what it has."""
    import openai

    used = {"read": 0, "written": 0}

    async def ask(client: Any, chat: Sequence[tuple[str, str]]) -> str:
        rows = [{"role": role, "content": text} for role, text in chat]
        answer = await client.chat.completions.create(
            model=model, messages=rows, temperature=0.0, max_tokens=NEW_TOKENS
        )
        used["read"] += answer.usage.prompt_tokens
        used["written"] += answer.usage.completion_tokens
        return (answer.choices[0].message.content or "").strip() or NOTHING

    async def talk_once(client: Any, person: dict[str, str]) -> list[tuple[str, str]]:
        chat = [("user", person["opening"])]
        for turn in range(turns):
            chat.append(("assistant", await ask(client, chat)))
            if turn < turns - 1:
                chat.append(("user", await ask(client, [("system", person["system"]), *swapped(chat)])))
        return chat

    async def talk_all() -> list[list[tuple[str, str]]]:
        async with openai.AsyncOpenAI(base_url=address, api_key="none", timeout=3600) as client:
            return await asyncio.gather(*(talk_once(client, person) for person in people))

    reset_peak()
    started = time.perf_counter()
    said = asyncio.run(talk_all())
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "hash": hash_of(said), "said": said, "written": used["written"], "processed": None}


def talk(people: Sequence[dict[str, str]], turns: int, ask: Any) -> list[list[tuple[str, str]]]:
    """Conversations in step; `ask` answers several chats."""
    said = [[("user", person["opening"])] for person in people]
    for turn in range(turns):
        for chat, text in zip(said, ask(said), strict=True):
            chat.append(("assistant", text))
        if turn < turns - 1:
            seen = [[("system", person["system"]), *swapped(chat)] for person, chat in zip(people, said, strict=True)]
            for chat, text in zip(said, ask(seen), strict=True):
                chat.append(("user", text))
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
    for turn in range(6):  # what is to be measured, seen once
        _, _, terminated, truncated, _ = env.step(actions)
        if truncated.any() or terminated.all() != (turn == 4):
            raise SystemExit("Conversations ended otherwise than after five turns.")
    reset_peak()
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

    assistant = simgym.LanguageModelAssistant(DEFAULT_MODEL, sampling=SamplingParams(temperature=0, max_new_tokens=16))
    assistant.respond([simgym.Conversation().add("user", "hello")], seeds=[0])
    reset_peak()
    if what == "alone":
        assistant.respond([simgym.Conversation().add("user", "Why is the sky blue?")], seeds=[0])
        return {}
    for env_id in ("UserSim-RolePlay-v0", "UserSim-RolePlayOpening-v0", "UserSim-Persona-v0", "UserSim-FineTuned-v0"):
        scenarios = simgym.load_scenarios("everyday", limit=4)
        options = {"max_turns": 2, "simulator_options": {"max_new_tokens": 112}}
        simgym.collect(assistant, gymnasium.make(env_id, scenarios=scenarios, **options))
    return {}


if __name__ == "__main__":
    main()
