"""Every reader of simgym, given its own files with anything anywhere: a value is read, or refused in a sentence.

The table has a line a reader: what it reads when all is well, and how. A place in that value is replaced by JSON of
another shape, or taken away, or bytes of the file are damaged; what comes out may only be a value or one of simgym's
errors, whose message names the file.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from damage import MISSING, places, with_other
from people import small_study

from simgym.assistants import action_set_from_json
from simgym.assistants.loading import load_assistant
from simgym.assistants.training_record import TrainingRecord, read_training_record
from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario, read_scenarios
from simgym.data.chitchat import chitchat_conversations
from simgym.data.logged import LoggedConversation, read_logged
from simgym.data.wildbench import load_wildbench
from simgym.data.wildchat import read_wildchat
from simgym.errors import ConfigurationError, SimgymError
from simgym.evaluation import ExperimentConfig, read_pairs
from simgym.evaluation.curves import read_curve
from simgym.evaluation.plan import read_plan
from simgym.evaluation.run_file import RunFile
from simgym.evaluation.simulated_turns import SimulatedTurn
from simgym.evaluation.spending import count_earlier
from simgym.evaluation.wildbench import Answer, Verdict
from simgym.jsonl import read_json
from simgym.judges.reward_head import SHIPPED_HEAD, read_head
from simgym.language_models.base import Generation, Request, SamplingParams
from simgym.language_models.model_spec import ModelSpec
from simgym.language_models.response_cache import CachedLM
from simgym.report.runs import read_runs
from simgym.rollout.budget import Budget
from simgym.simulation import Dialogue
from simgym.statistics.intervals import Estimate
from simgym.study import analyse, load_study, read_records
from simgym.transcripts import ModelCall, Transcript, read_transcripts

pytestmark = [pytest.mark.slow, pytest.mark.daily]
EARLIER = Path(__file__).parents[1] / "earlier_files"
TRIES = 400
"""Of each kind of damage to each reader's file."""
SCENARIO = Scenario("s", f"{INTENT_PREFIX}rest", opening="hi")
CALL = ModelCall(role="user", turn=0, seed=1, prompt="p", output="o", prompt_tokens=2, completion_tokens=1)
TRANSCRIPT = Transcript(
    env_id="UserSim-Replay-v0",
    scenario=SCENARIO,
    seed=1,
    conversation=Conversation().add("user", "hi").add("assistant", "ho"),
    end_reason="turn_limit",
    reward=0.5,
    components=(0.5, 0.5),
    fingerprints={"judge": {"kind": "x"}},
    calls=(CALL,),
)
ROW = {
    "conversation_hash": "h",
    "hashed_ip": "i",
    "country": "c",
    "language": "English",
    "conversation": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
}
TASK = {
    "session_id": "t",
    "conversation_input": [{"role": "user", "content": "hi"}],
    "checklist": ["Is it polite?"],
    "primary_tag": "Coding",
    "secondary_tags": ["Math"],
    "intent": "greet",
    "references": {"gpt-4": "hello"},
}
EXCHANGE = {
    "turn": 1,
    "preference": "model1",
    "left": "model1",
    "pick": "left",
    "reason": "short",
    "message": "hi",
    "seconds_to_choice": 2.5,
    "model1_response": "ho",
    "model2_response": "hey",
}
PARTICIPANT = {
    "schema": "simgym-study-1",
    "study_hash": "h",
    "kind": "real",
    "participant": "p",
    "steps": {"opened": 0, "completed": 9},
    "document": "words",
    "arm": ["a", "b"],
    "rating": {"rating": 7},
    "conversations": [{"is_training": False, "model1_name": "a", "model2_name": "b", "turns": [EXCHANGE]}],
}
RECORD = TrainingRecord(
    method="grpo",
    env_id="UserSim-Persona-v0",
    base_model={"kind": "transformers", "model": "m"},
    seed=1,
    steps=2,
    max_turns=3,
    simulator={"simulator": "persona"},
    judge={"judge": "relevance"},
)
LOGGED = LoggedConversation(
    id="h", user_key="k", country="c", language="English", conversation=TRANSCRIPT.conversation, intent="i"
)
TURN = SimulatedTurn("k", True, "hi", False, None, 1, None, -2.5, 3, 4)
VERDICT = Verdict("k", None, 3, False, "h", ("why",), (1, 0), 7.0, ("win", "tie"), True, 5)
EXPERIMENT = {
    "output": "runs/x",
    "assistants": {"small": "scripted:echo"},
    "simulators": ["replay"],
    "scenarios": "everyday",
    "judge": "relevance",
    "judge_options": {"scale": 0.2},
    "models": {"user": "scripted:echo"},
    "n": 3,
    "seed": 1,
    "prices": {"user": [1.0, 2.0]},
}
CHITCHAT = {"a": {"prompt": "Why?", "messages": [[{"sender": str(i % 2), "text": "hi"}] for i in range(4)]}}


def earlier(name: str) -> Any:
    return json.loads((EARLIER / name).read_text(encoding="utf-8"))


def as_lines(*rows: Any) -> Callable[[Any], str]:
    """A JSONL file with the damaged value between lines that are whole."""
    return lambda value: "".join(json.dumps(row) + "\n" for row in (*rows, value))


def read_cache(path: Path) -> None:
    path.with_suffix(".db").unlink(missing_ok=True)
    model = CachedLM("scripted:echo", path=str(path.with_suffix(".db")), mode="record")
    request = Request(messages=(Message("user", "hi"),), seed=1)
    model.generate([request])
    with closing(sqlite3.connect(model.path)) as database:
        database.execute("UPDATE answers SET answer = ?", [path.read_bytes().decode("utf-8", "replace")])
        database.commit()
    CachedLM("scripted:echo", path=model.path, mode="read").generate([request])


def read_matrix(path: Path) -> None:
    if not (path.parent / "transcripts").exists():
        shutil.copy(EARLIER / "matrix" / "plan.json", path.parent)
        shutil.copytree(EARLIER / "matrix" / "transcripts", path.parent / "transcripts")
    read_runs([path.parent])


def read_action_set(path: Path) -> None:
    action_set_from_json(read_json(path), "scripted:echo")


def read_state(path: Path) -> None:
    environment = gymnasium.make("UserSim-Replay-v0", judge="relevance", judge_model="scripted:echo").unwrapped
    environment.set_state(read_json(path))
    environment.render()
    environment.step("hello")
    Dialogue.from_json(environment.get_state())


def read_policy(path: Path) -> None:
    from simgym.integrations import load_policy

    shutil.copy(EARLIER / "policy" / "policy.safetensors", path.parent)
    load_policy(path.parent)


def read_a_head(path: Path) -> None:
    shutil.copy(SHIPPED_HEAD / "head.safetensors", path.parent)
    read_head(path.parent)


def read_spec(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    with contextlib.suppress(ConfigurationError):
        ModelSpec.parse(text)
    load_assistant(text, SamplingParams())
    load_assistant(f"name={text}+clarify", SamplingParams())
    ModelSpec.parse(read_json(path))


def analyse_records(path: Path) -> None:
    analyse(read_records(path), resamples=9)


READERS: dict[str, tuple[str, Any, Callable[[Any], str], Callable[[Path], object]]] = {
    "transcripts": ("t.jsonl", TRANSCRIPT.to_json(), as_lines(), lambda path: list(read_transcripts(path))),
    "scenarios": ("s.jsonl", SCENARIO.to_json(), as_lines(), read_scenarios),
    "set_state": ("state.json", earlier("dialogue.json"), json.dumps, read_state),
    "plan.json": ("plan.json", earlier("matrix/plan.json"), json.dumps, lambda path: read_plan(path.parent)),
    "results.json": ("results.json", earlier("matrix/results.json"), json.dumps, read_matrix),
    "unwritten.json": (
        "unwritten.json",
        {"tokens": 3, "cost": 0.5},
        json.dumps,
        lambda path: count_earlier(Budget(), (), path.parent),
    ),
    "experiment": ("e.yaml", EXPERIMENT, yaml.safe_dump, ExperimentConfig.from_yaml),
    "study": ("study.yaml", small_study().model_dump(mode="json"), yaml.safe_dump, load_study),
    "records of a study": ("r.jsonl", PARTICIPANT, as_lines(), analyse_records),
    "records of another app": (
        "r.json",
        {"participants": {"p": {key: PARTICIPANT[key] for key in ("conversations", "rating", "arm")}}},
        json.dumps,
        analyse_records,
    ),
    "simgym.json": ("simgym.json", asdict(RECORD), json.dumps, lambda path: read_training_record(path.parent)),
    "a simulator's turns": (
        "t.jsonl",
        asdict(TURN),
        as_lines({"seed": 0}),
        lambda path: RunFile.open(path, SimulatedTurn),
    ),
    "WildBench answers": (
        "a.jsonl",
        asdict(Answer("k", "hi", False, None, "h")),
        as_lines({"seed": 0}),
        lambda path: RunFile.open(path, Answer),
    ),
    "WildBench verdicts": ("v.jsonl", asdict(VERDICT), as_lines({"seed": 0}), lambda path: RunFile.open(path, Verdict)),
    "pairs": ("p.jsonl", {"instruction": "a", "chosen": "b", "rejected": "c"}, as_lines(), read_pairs),
    "training log": (
        "log.jsonl",
        {"update": 2, "reward": 0.5},
        as_lines({"update": 1, "reward": 0.4}),
        lambda path: read_curve(path.parent),
    ),
    "logged conversations": (
        "l.jsonl",
        LOGGED.to_json(),
        as_lines(),
        lambda path: list(read_logged(path)),
    ),
    "WildChat": ("w.jsonl", ROW, as_lines(), lambda path: list(read_wildchat(str(path)))),
    "WildBench": ("b.jsonl", TASK, as_lines(TASK | {"session_id": "other"}), lambda path: load_wildbench(str(path))),
    "chitchat": ("c.json", CHITCHAT, json.dumps, chitchat_conversations),
    "cached answers": ("answer.json", asdict(Generation("ho", (1,), (-0.5,))), json.dumps, read_cache),
    "model": ("m.json", {"kind": "openai", "model": "m", "base_url": "http://x/v1"}, json.dumps, read_spec),
    "actions": ("a.json", earlier("policy/policy.json")["choices"], json.dumps, read_action_set),
    "policy.json": ("policy.json", earlier("policy/policy.json"), json.dumps, read_policy),
    "head.json": ("head.json", json.loads((SHIPPED_HEAD / "head.json").read_text()), json.dumps, read_a_head),
    "estimate": (
        "e.json",
        Estimate(value=1.0, low=0.5, high=1.5, n=9, method="m", seed=0).to_json(),
        json.dumps,
        lambda path: Estimate.from_json(read_json(path)),
    ),
}


def anything(rng: random.Random, depth: int = 0) -> Any:
    """JSON of any shape, mostly of awkward values."""
    plain = [
        None,
        True,
        False,
        0,
        1,
        -1,
        2**70,
        1e308,
        -0.5,
        1.5,
        "",
        "x",
        "\u2028",
        "\x00",
        "1",
        "NaN",
        "../..",
        "☃" * 40,
    ]
    if depth > 1 or rng.random() < 0.6:
        return rng.choice([*plain, float("nan"), float("inf"), "\ud800"])
    size = rng.randint(0, 3)
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(size)]
    return {rng.choice(["", "a", "kind", "model", "key", "role", "0"]): anything(rng, depth + 1) for _ in range(size)}


def damaged(value: Any, rng: random.Random) -> Any:
    """The value with something else, or nothing, at one place."""
    at = rng.choice(places(value))
    gone = at and not isinstance(at[-1], int) and rng.random() < 0.2
    return with_other(value, at, MISSING if gone else anything(rng))


def torn(content: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with a few of them changed, doubled or gone."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        changed[at : at + rng.randint(0, 9)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
    return bytes(changed)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_with_anything_anywhere_is_read_or_refused_in_a_sentence(reader, tmp_path, tried):
    name, value, write, read = READERS[reader]
    rng, refused, problems = random.Random(reader), 0, {}
    path = tmp_path / name
    path.write_text(write(value), encoding="utf-8")
    read(path)
    whole = path.read_bytes()
    contents = [write(damaged(value, rng)).encode("utf-8", "surrogatepass") for _ in range(TRIES)]
    contents += [torn(whole, rng) for _ in range(TRIES)]
    contents += [b"", b"[" * 100_000, b'{"a":' * 20_000, b"null\n", b"9" * 5000, whole[:-5], b"\xff\xfe" + whole]
    for content in contents:
        path.write_bytes(content)
        try:
            read(path)
        except SimgymError:
            refused += 1
        except Exception as error:
            problems.setdefault(f"{type(error).__name__}: {error}"[:100], content[-300:])
    assert not problems
    tried(f"damaged files: {reader}", len(contents), f"{refused:,} refused in a sentence, the others read")
