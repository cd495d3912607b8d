from __future__ import annotations

import json
import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simgym
from simgym.conversation import Conversation, Message
from simgym.errors import CacheError, ConfigurationError, UnknownRequest
from simgym.judges import expected_score
from simgym.language_models import CachedLM, Generation, Likelihood, Request, SamplingParams, load_language_model
from simgym.language_models.base import PromptingModel
from simgym.language_models.loading import unwrapped
from simgym.simulators import FineTuned
from simgym.testing import check_language_model


class Counting:
    """Says how often it has been asked; the first `failing` requests fail."""

    def __init__(self, failing=0):
        self.asked, self.failing, self.name = 0, failing, "counting"

    def generate(self, requests):
        return [self._one(request) for request in requests]

    def _one(self, request):
        self.asked += 1
        if self.asked <= self.failing:
            return Generation("", fault="server: busy")
        text = f"{request.messages[-1].content} {request.seed} {self.asked}"
        return Generation(text, (1, 2), (-0.1, -1 / 3), "length", "p", (3,), 4, 5)

    def loglikelihood(self, prompts, continuations, *, adapter=None):
        self.asked += len(prompts)
        return [Likelihood(-self.asked / 7, len(continuation)) for continuation in continuations]

    def fingerprint(self):
        return {"name": self.name}

    def tell(self):
        return "something else"


def ask(text, seed=0, **more):
    return Request((Message("user", text),), seed=seed, **more)


def test_what_was_answered_is_not_asked_again_and_comes_back_exactly(tmp_path):
    path = str(tmp_path / "folder" / "answers.sqlite")
    model = Counting()
    first = CachedLM(model, path=path).generate([ask("a"), ask("b"), ask("a")])
    assert model.asked == 2
    assert first[0] == first[2]
    again = CachedLM(Counting(), path=path, mode="replay")
    assert again.generate([ask("b"), ask("a")]) == [first[1], first[0]]
    assert again.hits == 2
    scored = CachedLM(model, path=path).loglikelihood(["x"], ["y"])
    assert again.loglikelihood(["x"], ["y"]) == scored


@pytest.mark.parametrize(
    "other",
    [
        ask("a", seed=1),
        ask("a "),
        ask("a", sampling=SamplingParams(temperature=0.5)),
        ask("a", sampling=SamplingParams(stop=("x",))),
        ask("a", next_role="user"),
        ask("a", adapter="mine"),
        ask("a", json_schema={"type": "object"}),
        ask("a", kept_tokens=("<end>",)),
        Request((Message("system", "a"),)),
    ],
)
def test_everything_that_an_answer_depends_on_is_in_its_key(tmp_path, other):
    path = str(tmp_path / "answers.sqlite")
    CachedLM(Counting(), path=path).generate([ask("a")])
    with pytest.raises(UnknownRequest, match=r"does not hold 1 of 1 answers of \{'name': 'counting'\}"):
        CachedLM(Counting(), path=path, mode="replay").generate([other])
    stranger = Counting()
    stranger.name = "another"
    with pytest.raises(UnknownRequest):
        CachedLM(stranger, path=path, mode="replay").generate([ask("a")])


def test_reading_writes_nothing_and_off_reads_nothing(tmp_path):
    path = tmp_path / "answers.sqlite"
    CachedLM(Counting(), path=str(path)).generate([ask("a")])
    before = path.read_bytes()
    model = Counting()
    reading = CachedLM(model, path=str(path), mode="read")
    reading.generate([ask("a"), ask("b")])
    reading.generate([ask("b")])
    assert model.asked == 2
    assert path.read_bytes() == before
    off = CachedLM(model, path=str(path), mode="off")
    off.generate([ask("a"), ask("a")])
    assert (model.asked, off.hits) == (3, 0)
    assert path.read_bytes() == before


def test_a_fault_is_replayed_but_asked_again_otherwise(tmp_path):
    path = str(tmp_path / "answers.sqlite")
    recording = CachedLM(Counting(failing=1), path=path)
    (failed,) = recording.generate([ask("a")])
    assert CachedLM(Counting(), path=path, mode="replay").generate([ask("a")]) == [failed]
    (answered,) = recording.generate([ask("a")])
    assert answered.fault is None
    assert CachedLM(Counting(), path=path, mode="replay").generate([ask("a")]) == [answered]


def test_threads_that_ask_the_same_get_what_was_written_first(tmp_path):
    path = str(tmp_path / "answers.sqlite")
    models = [CachedLM(Counting(), path=path) for _ in range(4)]
    for number, cached in enumerate(models):
        cached.model.asked = 100 * number  # so that each would say something else

    def generate(model):
        return [model.generate([ask(str(number))])[0].text for number in range(25)]

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(generate, models))
    assert said[0] == said[1] == said[2] == said[3]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.integers(0, 2**63))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_as_it_was(tmp_path, texts, seed):
    path = str(tmp_path / "answers.sqlite")
    requests = [ask(text, seed) for text in texts]
    said = CachedLM("scripted:echo", path=path).generate(requests)
    assert CachedLM("scripted:echo", path=path, mode="replay").generate(requests) == said


def test_it_is_a_language_model_that_can_do_what_the_one_inside_can(tmp_path, tiny_model):
    spec = {"kind": "cached", "model": tiny_model, "path": str(tmp_path / "answers.sqlite")}
    model = load_language_model(spec)
    assert load_language_model(dict(spec)) is model
    check_language_model(model)
    assert isinstance(unwrapped(model), PromptingModel)
    assert model.fingerprint() == load_language_model(tiny_model).fingerprint()
    other = pickle.loads(pickle.dumps(CachedLM("scripted:seed", path=str(tmp_path / "more.sqlite"))))
    assert other.generate([ask("a")])[0].text
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = other.nothing_like_it


def test_an_evaluation_is_repeated_bit_for_bit_without_its_models(tmp_path, scenarios, monkeypatch):
    path = str(tmp_path / "answers.sqlite")

    def collect(mode):
        def remembered(model):
            return {"kind": "cached", "model": model, "path": path, "mode": mode}

        env = gymnasium.make(
            "UserSim-RolePlayOpening-v0",
            model=remembered("scripted:seed"),
            judge="rubric",
            judge_model=remembered("scripted:echo"),
            max_turns=2,
            scenarios=scenarios,
        )
        return simgym.collect(simgym.LanguageModelAssistant(remembered("scripted:seed")), env, n=4)

    recorded = collect("record")
    monkeypatch.setattr("simgym.language_models.scripted_lm.ScriptedLM.generate", None)  # nobody is there any more
    replayed = collect("replay")
    assert [transcript.content_hash() for transcript in replayed] == [
        transcript.content_hash() for transcript in recorded
    ]
    assert [transcript.reward for transcript in replayed] == [transcript.reward for transcript in recorded]


def test_simulators_that_need_a_model_in_process_find_it_inside(tmp_path, tiny_model, tiny_adapter, scenarios):
    spec = {"kind": "cached", "model": tiny_model, "path": str(tmp_path / "answers.sqlite")}
    simulator = FineTuned(spec, adapter=tiny_adapter, max_new_tokens=4, max_attempts=1)
    (turn,) = simulator.reply(scenarios[:1], [Conversation().add("user", "a").add("assistant", "b")], seeds=[1])
    assert turn.calls
    assert expected_score.ExpectedScoreJudge(spec).judge(
        scenarios[:1], [Conversation().add("user", "a").add("assistant", "b")], seeds=[1]
    )


def test_a_file_that_goes_bad_in_the_middle_is_a_sentence(tmp_path):
    path = tmp_path / "answers.sqlite"
    model = CachedLM("scripted:echo", path=str(path))
    model.generate([ask("b")])
    path.write_bytes(b"no database" * 100)
    with pytest.raises(CacheError, match="cannot be read or written"):
        model.generate([ask("a")])


def test_processes_that_begin_a_file_at_once_both_get_it(tmp_path):
    path = str(tmp_path / "answers.sqlite")
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: CachedLM("scripted:echo", path=path), range(8)))
    assert [model.generate([ask("a")])[0].text for model in models] == ["a"] * 8


def test_what_cannot_be_used_is_a_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no file .* to replay from"):
        CachedLM("scripted:echo", path=str(tmp_path / "none"), mode="replay")
    with pytest.raises(ConfigurationError, match="mode is 'write', expected one of off, read, record, replay"):
        CachedLM("scripted:echo", path=str(tmp_path / "none"), mode="write")
    text = tmp_path / "text"
    text.write_text(json.dumps({"some": "thing"}) * 200)
    with pytest.raises(ConfigurationError, match="cannot be used as a file of answers"):
        CachedLM("scripted:echo", path=str(text))
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE people (name TEXT)")
    before = other.read_bytes()
    with pytest.raises(ConfigurationError, match="no file of answers of this version"):
        CachedLM("scripted:echo", path=str(other))
    assert other.read_bytes() == before


def test_threads_that_ask_first_at_the_same_time_wait_for_the_table(tmp_path, monkeypatch):
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor

    from simgym.conversation import Message
    from simgym.language_models import CachedLM, Request

    lm = CachedLM("scripted:echo", path=str(tmp_path / "answers.sqlite"))
    connect, first = lm._connect, threading.Lock()

    def slow():
        if first.acquire(blocking=False):
            time.sleep(0.5)  # whoever makes the table
        return connect()

    monkeypatch.setattr(lm, "_connect", slow)
    with ThreadPoolExecutor(4) as pool:
        asked = [Request((Message("user", str(number)),)) for number in range(4)]
        assert [reply.fault for (reply,) in pool.map(lambda request: lm.generate([request]), asked)] == [None] * 4
