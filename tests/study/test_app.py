"""What participants meet: nothing is lost, nothing counts twice, a failure is never an empty reply."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from people import Forms, Person, make_app, small_study
from starlette.testclient import TestClient

from simgym.assistants import AssistantTurn
from simgym.errors import ConfigurationError
from simgym.study.design import after_tie
from simgym.study.records import export
from simgym.study.scripted import ScriptedAssistant
from simgym.study.store import Store


@pytest.fixture
def client(study, tmp_path):
    with TestClient(make_app(study, tmp_path, admin_token="a" * 16)) as client:
        yield client


def records(client, **_):
    answer = client.get("/admin/export", auth=("any", "a" * 16))
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_participation_from_consent_to_code(client):
    person = Person(client)
    person.to_document()
    assert person.heading == "Your text"
    assert person.do("document", document="too short").status_code == 422
    assert "at least 5 words; it has 2" in person.page
    person.do("document", document="this has five words now")
    assert re.search(r"<code>[0-9A-F]{8}</code>", person.page)
    (record,) = records(client)
    training, real = record["conversations"]
    assert training["is_training"]
    assert not real["is_training"]
    assert len(real["turns"]) == 2
    for turn in real["turns"]:
        assert turn["preference"] == turn["left"]
        assert turn["continued"] == turn["left"]
    assert list(record["steps"]) == ["opened", "consented", "instructed", "task", "finished", "document", "completed"]


def test_a_doubled_click_is_one_vote_and_the_first_counts(client):
    person = Person(client)
    person.begin()
    person.do("message", message="hello")
    person.wait()
    forms = [person.fields("choice", pick=pick, reason="because") for pick in ("left", "right")] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda fields: client.post("/do/choice", data=fields), forms))
    assert {answer.status_code for answer in answers} == {200}
    (turn,) = records(client)[0]["conversations"][0]["turns"]
    assert turn["pick"] in ("left", "right")
    person.page = client.get("/").text
    assert person.heading == "Talk with the assistant"


def test_a_stale_tab_changes_nothing_and_says_so(client):
    tab, other = Person(client), Person(client)
    tab.begin()
    other.page = client.get("/").text
    tab.exchange(message="from the first tab")
    old = other.fields("message", message="from the stale tab")
    assert "Talk with the assistant" in client.post("/do/message", data=old).text  # a repeated form is no news
    tab.exchange(), tab.exchange()
    going_on, finishing = tab.fields("message", message="one more"), tab.fields("finish")
    client.post("/do/finish", data=finishing)
    late = client.post("/do/message", data=going_on)
    assert "out of date" in late.text
    assert "Your text" in late.text
    said = [turn["message"] for talk in records(client)[0]["conversations"] for turn in talk["turns"]]
    assert said == ["from the first tab", "What now?", "What now?"]


def test_a_restart_resumes_where_the_participant_was(study, tmp_path):
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        person.begin()
        cookies = dict(client.cookies)
        person.exchange("tie")
        person.do("message", message="asked before the crash")
    with TestClient(make_app(study, tmp_path), cookies=cookies) as client:
        person = Person(client)
        person.wait()
        assert person.heading == "Which reply helps you more?"
        assert "asked before the crash" in person.page
        assert client.get("/state").json()["key"] == "turn:1:choice"


def test_closing_at_any_moment_of_a_reply_comes_to_its_end(study, tmp_path):
    for number in range(40):
        with TestClient(make_app(study, tmp_path)) as client:
            person = Person(client)
            person.begin()
            person.do("message", message=f"asked before closing, {number}")
            time.sleep(0.0006 * number)
        assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_after_a_tie_the_drawn_reply_is_the_one_shown_and_the_one_the_assistants_read(study, tmp_path):
    seen = []

    class Watched(ScriptedAssistant):
        def respond(self, conversations, *, seeds):
            seen.append(conversations[0].messages)
            return super().respond(conversations, seeds=seeds)

    assistants = {name: Watched(number) for number, name in enumerate(study.assistants)}
    with TestClient(make_app(study, tmp_path, assistants, admin_token="a" * 16)) as client:
        person = Person(client)
        person.begin()
        person.exchange()  # training: its own conversation
        person.exchange("tie")
        turn = records(client)[0]["conversations"][1]["turns"][0]
        continued = turn[f"{turn['continued']}_response"]
        assert continued.splitlines()[0] in person.page
        person.exchange()
        assert [message.content for message in seen[-1]] == ["What now?", continued, "What now?"]


def test_sides_and_ties_are_drawn_for_the_participant_not_for_the_click(study):
    draws = {after_tie(study, f"p{number}", "turn", 1) for number in range(20)}
    assert draws == {0, 1}
    assert after_tie(study, "p3", "turn", 1) == after_tie(study, "p3", "turn", 1)


def test_a_failed_generation_is_an_error_with_retry_never_an_empty_reply(study, tmp_path):
    class Unsteady(ScriptedAssistant):
        calls = 0

        def respond(self, conversations, *, seeds):
            type(self).calls += 1
            if type(self).calls == 1:
                return [AssistantTurn("", "server: model secret-model-7 is down")]
            if type(self).calls == 2:
                raise OSError("connection refused by secret-host")
            return super().respond(conversations, seeds=seeds)

    steady, unsteady = ScriptedAssistant(0), Unsteady(1)
    assistants = dict(zip(study.assistants, (steady, unsteady), strict=True))
    with TestClient(make_app(study, tmp_path, assistants, admin_token="a" * 16)) as client:
        person = Person(client)
        person.begin()
        person.do("message", message="hello")
        for _ in range(2):
            person.wait()
            assert "No reply could be written" in person.page
            assert "secret" not in person.page
            assert "choice" not in Forms(person.page).forms
            person.do("retry")
        person.wait()
        assert person.heading == "Which reply helps you more?"
        (turn,) = records(client)[0]["conversations"][0]["turns"]
        assert turn["failures"] == 2


def test_no_name_of_an_assistant_reaches_the_browser(tmp_path):
    names = ["okapi-12b", "quokka-7b"]
    spec = {"model": "weights-of-a-secret-lab", "system_prompt": "hidden prompt", "aliases": ["Okapi"]}
    study = small_study(assistants=dict.fromkeys(names, spec), pairs=[names])
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        pages = [person.page]
        for step in (person.begin, person.exchange, person.exchange, person.exchange):
            step()
            pages += [person.page, client.get("/state").text]
    assert not re.search("okapi|quokka|secret-lab|hidden prompt", " ".join(pages), re.IGNORECASE)


def test_the_rating_design_has_one_reply_and_a_rating(tmp_path):
    study = small_study(design="rating", pairs=())
    with TestClient(make_app(study, tmp_path, admin_token="a" * 16)) as client:
        person = Person(client)
        person.to_document()
        assert person.heading == "How helpful was the assistant?"
        assert person.do("rating", rating="11", reason="fine").status_code == 422
        person.do("rating", rating="7", reason="fine")
        person.do("document", document="this has five words now")
        assert person.heading == "Done"
        (record,) = records(client)
        assert record["rating"] == {"rating": 7, "reason": "fine"}
        assert len(record["arm"]) == 1


def test_withdrawal_deletes_everything_and_is_counted(client, tmp_path):
    person = Person(client)
    person.begin()
    person.exchange(message="a private matter")
    page = client.get("/withdraw").text
    assert "deleted" in client.post("/withdraw", data=Forms(page).forms["withdraw"]).text
    assert records(client) == []
    assert "Taking part" in client.get("/").text
    assert b"a private matter" not in b"".join(path.read_bytes() for path in tmp_path.glob("study.db*"))
    flow = client.get("/admin", auth=("any", "a" * 16)).text
    assert re.search(r"withdrawn</th><td>1<", flow)


def test_recruitment_ids_are_apart_and_not_stored_before_consent(tmp_path):
    study = small_study(recruitment={})
    app = make_app(study, tmp_path, admin_token="a" * 16)
    with TestClient(app) as client:
        client.get("/?PROLIFIC_PID=person-77&SESSION_ID=s1")
        database = tmp_path / "study.db"
        everything = lambda: b"".join(path.read_bytes() for path in tmp_path.glob("study.db*"))  # noqa: E731
        assert database.exists()
        assert b"person-77" not in everything()
        person = Person(client, "/?PROLIFIC_PID=person-77&SESSION_ID=s1")
        person.begin()
        assert b"person-77" in everything()
        assert "person-77" not in json.dumps(records(client))
    with TestClient(make_app(study, tmp_path)) as other:
        page = other.get("/?PROLIFIC_PID=person-77").text
        again = other.post("/do/consent", data=Forms(page).forms["consent"] | {"agree": "yes"})
        assert again.status_code == 409
        assert "takes part already" in again.text


def test_a_browser_that_is_handed_on_begins_anew_only_when_somebody_says_so(tmp_path):
    with TestClient(make_app(small_study(recruitment={}), tmp_path)) as client:
        person = Person(client, "/?PROLIFIC_PID=first")
        person.begin()
        before = client.get("/").text
        asked = client.get("/?PROLIFIC_PID=second").text
        assert "Who is taking part?" in asked
        assert client.get("/").text == before  # an address changes nothing
        assert client.post("/another", data={"PROLIFIC_PID": "second"}).status_code == 403
        begun = client.post("/another", data=Forms(asked).forms["another"]).text
        assert "Taking part" in begun
        assert Forms(begun).forms["consent"]["PROLIFIC_PID"] == "second"


def test_no_address_changes_who_somebody_is(tmp_path):
    with TestClient(make_app(small_study(recruitment={}), tmp_path, admin_token="a" * 20)) as client:
        Person(client, "/?PROLIFIC_PID=first").begin()
        before = client.get("/").text
        pages = ["", "state", "withdraw", "withdrawn", "another", "draft", "do/consent", "do/message", "admin", "x"]
        for page in pages:
            for query in ("PROLIFIC_PID=second", "PROLIFIC_PID=", "PROLIFIC_PID=a&PROLIFIC_PID=b", "notice=x&key=y"):
                answer = client.get(f"/{page}?{query}", follow_redirects=False)
                assert answer.status_code < 500
                assert "set-cookie" not in answer.headers, page
        assert client.get("/").text == before


def test_drafts_survive_a_reload(client):
    person = Person(client)
    person.begin()
    fields = person.fields("message")
    body = {"token": fields["token"], "key": fields["key"], "field": "message", "text": "half a thought </textarea>"}
    assert client.post("/draft", data=body).status_code == 204
    assert "half a thought &lt;/textarea&gt;" in client.get("/").text
    person.exchange(message="done")
    assert "half a thought" not in client.get("/").text


def test_the_moderation_hook_blocks_messages_and_replies(tmp_path):
    study = small_study(moderation="tests_moderation_hook:block")
    import sys
    import types

    module = types.ModuleType("tests_moderation_hook")
    module.block = lambda text, role: "rude" if "idiot" in text else None
    sys.modules["tests_moderation_hook"] = module
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        person.begin()
        assert person.do("message", message="you idiot").status_code == 422
        assert "rude" in person.page
        person.exchange(message="you are kind")
        assert person.heading == "Talk with the assistant"


def test_a_changed_study_or_another_kind_of_run_is_refused(study, tmp_path):
    with TestClient(make_app(study, tmp_path)):
        pass
    for app, match in (
        (make_app(small_study(seed=5), tmp_path), "has changed since"),
        (make_app(study, tmp_path, kind="dry_run"), r"my-study.*\(real\)"),
    ):
        with pytest.raises(ConfigurationError, match=match), TestClient(app):
            pass


def test_every_event_has_the_hash_of_the_study(client, study, tmp_path):
    import sqlite3

    Person(client).begin()
    hashes = sqlite3.connect(tmp_path / "study.db").execute("SELECT DISTINCT study_hash FROM events").fetchall()
    assert hashes == [(study.hash,)]


def test_an_export_without_texts_holds_lengths(study, tmp_path):
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        person.begin()
        person.exchange(message="three words here")

    async def read():
        store = Store(f"sqlite:///{tmp_path}/study.db")
        try:
            return await export(store, texts=False)
        finally:
            await store.close()

    (record,) = asyncio.run(read())
    assert record["conversations"][0]["turns"][0]["message"] == 3
    assert "three words" not in json.dumps(record)


def test_every_page_has_a_title_of_its_own_and_says_how_to_withdraw(client):
    person, titles = Person(client), {}

    def look():
        titles.setdefault(re.search(r"<title>(.*?)</title>", person.page).group(1), person.heading)
        return '<a href="/withdraw">' in person.page

    assert not look()  # nothing to withdraw yet, and the consent says "from the next page on"
    assert "from the next one on" in person.page
    person.do("consent", agree="yes")
    assert look()
    person.page = client.get("/no-such-page").text
    assert look()
    person.page = client.get("/withdraw").text
    look()
    assert len(titles) == 4
    assert all(title.startswith(f"{heading} – ") for title, heading in titles.items())
