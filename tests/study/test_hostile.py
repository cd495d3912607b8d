"""Hostile links, headers, clocks, files and logs: each ends in a sentence or a rule."""

import asyncio
import json
import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people import Forms, Person, make_app, small_study
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from simgym.assistants import AssistantTurn
from simgym.errors import DatabaseUnavailable, MalformedFile
from simgym.study import analyse, read_records
from simgym.study import store as store_module
from simgym.study.config import Recruitment
from simgym.study.logs import Bounded, OneLine, escape
from simgym.study.protection import Rates
from simgym.study.records import as_json_lines, distinct
from simgym.study.recruitment import Unusable, canonical, recruit_of
from simgym.study.rendering import to_html
from simgym.study.store import Store
from simgym.words import count_words

SEPARATORS = "before\u2028after\u2029and\x85and\x0b\x0c\x1c end"
TOKEN = "a-long-admin-token"


@pytest.fixture
def recruiting(tmp_path):
    with TestClient(make_app(small_study(recruitment={}), tmp_path, admin_token=TOKEN)) as client:
        yield client


def test_an_export_is_read_whatever_separators_its_texts_hold(study, tmp_path):
    class Separating:
        def respond(self, conversations, *, seeds):
            return [AssistantTurn(SEPARATORS) for _ in conversations]

        def fingerprint(self):
            return {}

    assistants = dict.fromkeys(study.assistants, Separating())
    with TestClient(make_app(study, tmp_path, assistants, admin_token=TOKEN)) as client:
        person = Person(client)
        person.begin()
        person.exchange(message="a\u2028b\u2029c\x85d")
        path = tmp_path / "records.jsonl"
        path.write_bytes(client.get("/admin/export", auth=("", TOKEN)).content)
    (record,) = read_records(path)
    turn = record["conversations"][0]["turns"][0]
    assert turn["message"] == "a\u2028b\u2029c\x85d"
    assert turn["model1_response"] == SEPARATORS


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"conversations": []}\n\n{"conversations": [\n', encoding="utf-8")
    with pytest.raises(MalformedFile, match="line 3: "):
        read_records(path)


def test_the_same_export_joined_to_itself_is_counted_once_and_said(tmp_path):
    turn = {"turn": 1, "preference": "model1", "left": "model1", "pick": "left"}
    talk = {"is_training": False, "model1_name": "a", "model2_name": "b", "turns": [turn]}
    whole = {"schema": "simgym-study-1", "study_hash": "h", "kind": "real", "steps": {"opened": 0, "completed": 9}}
    records = [{**whole, "participant": f"p{number}", "conversations": [talk]} for number in range(6)]
    earlier = [{**record, "steps": {"opened": 0}, "conversations": []} for record in records[:2]]
    path = tmp_path / "both.jsonl"
    path.write_text(as_json_lines(earlier) + as_json_lines(records) * 2, encoding="utf-8")
    results = analyse(read_records(path), resamples=99)
    assert results.included == results.pairs[0].wins == 6
    assert "8 of 14 records are repetitions" in results.warnings[0]
    assert distinct(records).repeated == 0


@pytest.mark.parametrize("link", ["{{%PROLIFIC_PID%}}", "${assignmentId}", "[id]", "ASSIGNMENT_ID_NOT_AVAILABLE"])
def test_a_placeholder_in_a_link_is_nobodys_id(recruiting, caplog, link):
    with caplog.at_level(logging.WARNING):
        answer = recruiting.get("/", params={"PROLIFIC_PID": link})
    assert answer.status_code == 400
    assert "it still has a placeholder" in answer.text
    assert "unreplaced placeholder for PROLIFIC_PID" in caplog.text
    assert link not in caplog.text
    fields = Forms(recruiting.get("/?PROLIFIC_PID=fine").text).forms["consent"]
    assert recruiting.post("/do/consent", data={**fields, "agree": "yes", "PROLIFIC_PID": link}).status_code == 400


def test_nobody_takes_part_twice_by_another_spelling_or_without_an_id(recruiting):
    Person(recruiting, "/?PROLIFIC_PID=Person77").begin()
    for spelling in ("person77", "Ｐｅｒｓｏｎ７７", "per\u200bson77", " Person\u00ad77\ufe0f "):
        other = TestClient(recruiting.app)
        page = other.get("/", params={"PROLIFIC_PID": spelling}).text
        answer = other.post("/do/consent", data=Forms(page).forms["consent"] | {"agree": "yes"})
        assert answer.status_code == 409, spelling
    for missing in ("/", "/?PROLIFIC_PID=", "/?PROLIFIC_PID=%E2%80%8B"):
        answer = TestClient(recruiting.app).get(missing)
        assert answer.status_code == 400
        assert "participant number is missing" in answer.text


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_a_canonical_id_stays_as_it_is(text):
    assert canonical(canonical(text)) == canonical(text)


def test_an_id_that_is_too_long_is_not_cut(recruiting):
    with pytest.raises(Unusable, match="too long"):
        recruit_of(Recruitment(), {"PROLIFIC_PID": "x" * 201}, strict=True)


LINKS_OF_OURS = ["/?PROLIFIC_PID=x", "?PROLIFIC_PID=x", "//evil.example", "/\\evil.example", "https:/x", "http://"]
OTHER_SCHEMES = ["javascript:alert(1)", "mailto:a@b.example", "ftp://a.example"]


@pytest.mark.parametrize("address", LINKS_OF_OURS + OTHER_SCHEMES)
def test_a_link_in_a_reply_leads_elsewhere_or_is_text(address):
    for markdown in (f"[press]({address})", f"<{address}>", f"[press]: {address}\n\n[press]"):
        assert "<a" not in to_html(markdown), markdown
    page = to_html("[press](https://example.org/a?b=c)")
    assert 'href="https://example.org/a?b=c"' in page
    assert 'rel="noopener noreferrer nofollow"' in page
    assert 'target="_blank"' in page


def test_wrong_admin_tokens_lock_nobody_out(recruiting):
    statuses = [recruiting.get("/admin", auth=("", f"wrong-{number}")).status_code for number in range(80)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    asked = recruiting.get("/admin")  # as a browser does before it asks its user
    assert (asked.status_code, asked.headers["WWW-Authenticate"]) == (401, 'Basic realm="study"')
    assert recruiting.get("/admin", auth=("", TOKEN)).status_code == 200


@pytest.mark.parametrize("header", ["", "Basic", "Basic ####", "Basic /w==", "Bearer " + TOKEN, "Basic " + TOKEN])
def test_credentials_that_are_none_are_refused(recruiting, header):
    assert recruiting.get("/admin/export", headers={"Authorization": header}).status_code == 401


def test_whoever_only_looks_whether_a_page_is_there_begins_nothing(study, tmp_path):
    with TestClient(make_app(study, tmp_path)) as client:
        assert client.head("/").status_code == 405
    assert asyncio.run(Store(f"sqlite:///{tmp_path}/study.db").journeys()) == []


@pytest.mark.parametrize("origin", ["http://[evil", "null", "", "http://", "//", "http://a:b:c"])
def test_an_origin_that_is_none_is_refused_in_words(recruiting, origin):
    fields = Forms(recruiting.get("/?PROLIFIC_PID=x").text).forms["consent"]
    answer = recruiting.post("/do/consent", data=fields | {"agree": "yes"}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "another site" in answer.text


def test_a_clock_that_is_set_back_shifts_no_duration_and_locks_nobody_up(study, tmp_path, monkeypatch):
    with TestClient(make_app(study, tmp_path, admin_token=TOKEN)) as client:
        person = Person(client)
        person.begin()
        monkeypatch.setattr(time, "time", lambda real=time.time: real() - 3600)
        person.exchange()
        # a server that is started after the clock was set back
        monkeypatch.setattr(store_module, "_STARTED", store_module._STARTED - 3600)
        person.exchange()
        record = json.loads(client.get("/admin/export", auth=("", TOKEN)).text)
    first, second = record["conversations"][0]["turns"][0], record["conversations"][1]["turns"][0]
    assert 0 <= first["at"] < 60
    assert 0 <= first["seconds_to_choice"] < 60
    assert second["at"] is None
    assert 0 <= second["seconds_to_choice"] < 60


def test_rates_allow_a_burst_and_then_one_after_the_other(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rates = Rates()
    assert [rates.hit("a", "me", 3) for _ in range(5)] == [True, True, True, False, False]
    assert rates.hit("a", "you", 3)
    now[0] += 20
    assert [rates.hit("a", "me", 3) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all/study.db", "postgresql://me:hunter2@127.0.0.1:9/none"])
def test_a_database_that_cannot_be_reached_is_a_sentence(url):
    async def begin():
        store = Store(url)
        try:
            await store.begin(name="s", kind="real", settings={}, study_hash="h")
        finally:
            await store.close()

    with pytest.raises(DatabaseUnavailable, match="The study's database cannot be used: ") as caught:
        asyncio.run(begin())
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_database_that_goes_away_asks_participants_to_wait(study, tmp_path, monkeypatch):
    async def away(self, work):
        raise DatabaseUnavailable("away")

    with TestClient(make_app(study, tmp_path)) as client:
        Person(client)
        monkeypatch.setattr("simgym.study.database.Sqlite.fetch", away)
        answer = client.get("/")
    assert answer.status_code == 503
    assert "What you sent before is kept" in answer.text


def formatted(error: BaseException, message: str = "It failed.") -> str:
    record = logging.LogRecord("simgym", logging.ERROR, "f", 1, message, (), (type(error), error, error.__traceback__))
    return OneLine().format(record)


def test_a_failed_insert_writes_no_text_and_no_id_into_the_log(database):
    """Neither database's error names what was to be stored; the log names neither message nor parameters."""

    async def scenario():
        store = Store(database)
        await store.begin(name="s", kind="real", settings={}, study_hash="h")
        await store._database.write(lambda connection: connection.exec_driver_sql("DROP TABLE drafts").close())
        _, visit = await store.open("h")
        try:
            await store.save_draft(visit.participant, "field", "a private matter")
        except Exception as error:
            return error
        finally:
            await store.close()

    error = asyncio.run(scenario())
    assert error is not None
    assert "a private matter" not in str(error)
    line = formatted(error)
    assert "private" not in line
    assert "store.py" in line
    assert "\n" not in line


def test_no_line_of_a_log_can_be_forged_and_there_are_not_too_many():
    forged = "x\n2026-01-01 INFO study: all is well\r\x1b[2K\u2028\u202e\x9b"
    line = formatted(OperationalError(forged, {"text": "secret"}, ValueError(forged)), forged)
    assert not set(line) & set("\n\r\x1b\u2028\u202e\x9b")
    assert "secret" not in line
    assert line.count("all is well") == 1  # from the record's own message, escaped
    assert escape("plain – ü") == "plain – ü"
    bound = Bounded(per_minute=5)
    records = [logging.LogRecord("n", logging.ERROR, "f", 1, "m", (), None) for _ in range(50)]
    assert sum(map(bound.filter, records)) == 5
    bound._began -= 61
    assert bound.filter(records[0])
    assert records[0].getMessage() == "(45 records of the last minute were left out) m"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("two words", 2),
        ("well-known, isn't it?", 3),
        ("– … !", 0),
        ("我想写一封信", 6),
        ("我想写 a letter。", 5),
        ("ひらがなとカタカナ", 9),
        ("한국어 문장", 2),
        ("ฉันอยากเขียน", 10),
        ("naïve café", 2),
    ],
)
def test_words_are_counted_in_every_script(text, number):
    assert count_words(text) == number


def test_the_page_says_how_words_are_counted_and_chinese_notes_are_accepted(tmp_path):
    words = {"notes": 10, "message": 1, "reason": 1, "document": 5}
    with TestClient(make_app(small_study(minimum_words=words), tmp_path)) as client:
        person = Person(client)
        person.do("consent", agree="yes")
        person.do("instructions")
        assert "such as Chinese or Thai, every letter counts" in person.page
        person.do("task", task="advice", notes="我想给朋友写一封信谈谈搬家")
        assert person.heading == "Practice"


@pytest.mark.parametrize("model", ["openai:m@http://me:hunter2@host/v1", {"model": "openai:m", "api_key": "hunter2"}])
def test_a_study_that_holds_a_password_is_refused_before_it_is_stored(model):
    with pytest.raises(ValueError, match="OPENAI_") as refusal:
        small_study(assistants={name: {"model": model} for name in "ab"})
    assert "hunter2" not in str(refusal.value)
