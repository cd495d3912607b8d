"""The viewer's server: who gets data, who may write, and what hostile text becomes."""

from __future__ import annotations

import json

import pytest
from conversations import talked, write

from simgym.evaluation.labels import read_labels

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from simgym.viewer import LabelBook, TranscriptIndex
from simgym.viewer.app import MOST_ROWS, create_viewer_app
from simgym.viewer.label_book import labels_path

TOKEN, HOST = "a-token-that-nobody-knows", "http://127.0.0.1:8010"
HOSTILE = "<img src=x onerror=alert(1)>\u202etxt\x1b[2J\x00"


@pytest.fixture
def file(tmp_path):
    return write(
        tmp_path / "run.jsonl",
        talked(0, said=HOSTILE, answer=HOSTILE),
        talked(1, seed=2**60),
        talked(2, scenario=talked(1).scenario, seed=5, fault="role_flip: x"),
    )


@pytest.fixture
def client(file):
    app = create_viewer_app(TranscriptIndex([file]), LabelBook(labels_path(file), "ada"), token=TOKEN)
    client = TestClient(app, base_url=HOST, headers={"X-Simgym-Token": TOKEN, "Origin": HOST})
    assert client.get("/api/run").json()["conversations"] == 3
    return client


def ids(client, **query):
    return [row["id"] for row in client.get("/api/conversations", params=query).json()["rows"]]


def stored(client, file):
    path = labels_path(file)
    return [entry.answer for entry in read_labels(path)] if path.exists() else []


def test_data_go_to_whoever_has_the_token_and_pages_to_everybody(client):
    for path in ("/api/run", "/api/conversations", f"/api/conversations/{ids(client)[0]}"):
        for headers in ({"X-Simgym-Token": "wrong"}, {"X-Simgym-Token": ""}):
            assert client.get(path, headers=headers).status_code == 401
    assert client.get("/", headers={"X-Simgym-Token": ""}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:8010", "Origin": HOST}, {"Origin": "https://evil.example"}],
)
def test_other_hosts_and_pages_of_others_get_nothing(client, headers):
    for path in ("/", "/main.js", "/api/run"):
        assert client.get(path, headers=headers).status_code == 403


@pytest.mark.parametrize("headers", [{"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"}, {"X-Simgym-Token": "x"}])
def test_labels_are_written_for_our_own_page_alone(client, file, headers):
    label = {"kind": "origin", "answer": "human", "conversations": ids(client)[:1], "blind": True}
    assert client.post("/api/labels", json=label, headers=headers).status_code in (401, 403)
    assert stored(client, file) == []


@pytest.mark.parametrize("path", ["/", "/main.js", "/viewer.css", "/api/run", "/nowhere"])
def test_every_answer_forbids_scripts_of_others_and_html_from_text(client, path):
    answer = client.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_page_has_no_inline_script_or_style(client):
    page = client.get("/").text
    assert "<script>" not in page
    assert "style=" not in page
    assert " on" not in page.replace(" on the", "").replace(" one", "")


def test_nothing_that_acts_is_sent_and_html_stays_text(client):
    talk = client.get(f"/api/conversations/{ids(client)[0]}").json()
    shown = "<img src=x onerror=alert(1)>‹U+202E›txt\\x1b[2J\\x00"
    assert [turn["text"] for turn in talk["turns"]] == [shown, shown]
    assert talk["opening"] == shown
    assert talk["reasons"] == [f"because {shown}"]
    for raw in ("\u202e", "\x1b"):
        assert raw not in json.dumps(talk, ensure_ascii=False)


def test_a_conversation_shows_prompts_thoughts_and_calls_of_tools(client):
    talk = client.get(f"/api/conversations/{ids(client)[1]}").json()
    (call,) = talk["turns"][1]["calls"]
    assert (call["output"], call["reasoning"]) == ("hi", "let me think")
    (said,) = call["messages"]
    assert said["text"].startswith("hello\n{")
    assert '"name": "look"' in said["text"]
    assert talk["seed"] == str(2**60)
    assert [(other["seed"], other["same_seed"]) for other in talk["partners"]] == [("5", False)]


def test_lists_are_bounded_and_say_where_a_conversation_stands(client):
    answer = client.get("/api/conversations", params={"rows": 10**9, "at": ids(client)[2]}).json()
    assert len(answer["rows"]) <= MOST_ROWS
    assert (answer["total"], answer["position"]) == (3, 2)
    assert client.get("/api/conversations", params={"start": -5, "rows": 1}).json()["start"] == 0
    assert client.get("/api/conversations", params={"order": "sideways"}).status_code == 422


def test_labels_are_kept_shown_turned_and_taken_back(client, file):
    first, second, third = ids(client)

    def give(kind, answer, *conversations):
        label = {"kind": kind, "answer": answer, "conversations": conversations, "blind": True}
        return client.post("/api/labels", json=label)

    assert give("origin", "simulated", first).json() == {"labels": 1}
    assert give("preference", "better", second, third).json() == {"labels": 2}
    assert client.get(f"/api/conversations/{second}", params={"beside": third}).json()["preference"] == "better"
    assert client.get(f"/api/conversations/{third}", params={"beside": second}).json()["preference"] == "worse"
    assert ids(client, labelled=True) == [first, second, third]
    assert give("origin", None, first).json() == {"labels": 1}
    assert stored(client, file) == ["simulated", "better", None]
    for kind, answer, conversations in (
        ("preference", "better", (first, second)),  # of two scenarios
        ("preference", "human", (second, third)),
        ("origin", "human", (second, third)),
        ("origin", "human", ("unknown",)),
        ("other", "human", (first,)),
    ):
        assert give(kind, answer, *conversations).status_code in (400, 404, 422)
    assert len(stored(client, file)) == 3


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"kind": "origin"}', b"[" * 9000, b"x" * 20_000])
def test_bodies_that_are_no_label_are_refused(client, file, body):
    assert client.post("/api/labels", content=body).status_code in (400, 413)
    assert stored(client, file) == []


def test_an_app_of_another_reader_shows_their_own_labels_only(client, file):
    label = {"kind": "origin", "answer": "human", "conversations": ids(client)[:1], "blind": False}
    assert client.post("/api/labels", json=label).status_code == 200
    again, other = (LabelBook(labels_path(file), person) for person in ("ada", "bob"))
    assert (len(again), len(other)) == (1, 0)
