"""Hostile replies, notes, documents, addresses and requests."""

import re
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people import Forms, Person, make_app
from starlette.testclient import TestClient

from simgym.assistants import AssistantTurn
from simgym.errors import ConfigurationError
from simgym.study.rendering import TAGS, clean_text, identity_flags, to_html

ATTACKS = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "[press](javascript:alert(1))",
    "![x](https://tracker.example/p.png)",
    "<svg/onload=alert(1)>",
    '"><script>alert(1)</script>',
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "</textarea><script>alert(1)</script>",
    "{{ 987 * 1001 }}",
]
TOKEN = "a-long-admin-token"


@pytest.fixture
def client(study, tmp_path):
    with TestClient(make_app(study, tmp_path, admin_token=TOKEN)) as client:
        yield client


def harmless(page: str) -> bool:
    scripts = re.findall(r"<script\b[^>]*>", page)
    handlers = re.search(r"<[a-z][^>]*\son\w+\s*=", page)
    return scripts == ['<script src="/static/study.js" defer>'] and not handlers and "<svg" not in page


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_is_written_runs(study, tmp_path, attack):
    class Hostile:
        def respond(self, conversations, *, seeds):
            return [AssistantTurn(f"Look: {attack}") for _ in conversations]

        def fingerprint(self):
            return {}

    with TestClient(make_app(study, tmp_path, dict.fromkeys(study.assistants, Hostile()), admin_token=TOKEN)) as client:
        person = Person(client)
        person.do("consent", agree="yes")
        person.do("instructions")
        person.do("task", task="advice", notes=f"{attack} and more notes")
        pages = [person.page]
        for _ in range(3):
            person.do("message", message=attack)
            person.wait()
            pages.append(person.page)
            person.do("choice", pick="tie", reason=attack)
            pages.append(person.page)
        person.do("finish")
        person.do("document", document=attack)  # too short: comes back in the form
        pages.append(person.page)
        assert all(map(harmless, pages))
        assert "987987" not in " ".join(pages)
        assert not re.search(r'(?:href|src)="(?:javascript|data|https://tracker)', " ".join(pages))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(), st.lists(st.sampled_from([*ATTACKS, "<", ">", '"', "`", "\n", "| a |", "<b>"])).map("".join))
)
def test_any_markdown_becomes_a_short_list_of_tags(text):
    rendered = to_html(text)
    assert {tag.lower() for tag in re.findall(r"</?([A-Za-z][A-Za-z0-9]*)", rendered)} <= TAGS
    assert not re.search(r"<[a-z]+[^>]*\s(?:on\w+|style|class|id)=", rendered)


@settings(max_examples=100, deadline=None)
@given(st.text(), st.integers(1, 50))
def test_what_is_stored_is_bounded_and_can_be_encoded(text, limit):
    kept = clean_text(text, limit)
    assert len(kept) <= limit
    kept.encode()
    assert not set(kept) & set(map(chr, [*range(9), *range(11, 32), 127]))


def test_the_address_is_not_shown_and_recruitment_ids_are_escaped(client):
    page = client.get("/", params={"notice": "<script>", "PROLIFIC_PID": '"autofocus"\'&', "other": "<b>"}).text
    assert harmless(page)
    assert "&#34;autofocus&#34;&#39;&amp;" in page
    assert client.get("/?PROLIFIC_PID=<script>alert(1)</script>").status_code == 400
    assert client.get("/?next=https://evil.example").status_code == 200  # nothing redirects there


def test_headers_forbid_scripts_frames_and_caches(client):
    for answer in (client.get("/"), client.get("/nowhere"), client.get("/static/study.js")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/").headers["cache-control"] == "no-store"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(study, tmp_path):
    with TestClient(make_app(study, tmp_path, secure_cookies=True)) as client:
        cookie = client.get("/").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" in cookie


def test_a_forged_form_is_refused(client):
    person = Person(client)
    fields = person.fields("consent", agree="yes")
    assert client.post("/do/consent", data={**fields, "token": "0" * 64}).status_code == 403
    assert client.post("/do/consent", data={name: fields[name] for name in ("key", "agree")}).status_code == 403
    assert client.post("/do/consent", data=fields, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/do/consent", data=fields, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/state").json()["key"] == "consented"


def test_another_participants_token_or_id_opens_nothing(study, tmp_path):
    app = make_app(study, tmp_path, admin_token=TOKEN)
    with TestClient(app) as client:
        mine = Person(client)
        theirs = TestClient(app)
        other = Person(theirs)
        assert theirs.post("/do/consent", data=mine.fields("consent", agree="yes")).status_code == 403
        other.do("consent", agree="yes")
        with sqlite3.connect(tmp_path / "study.db") as database:
            stored = [value for row in database.execute("SELECT id, secret_hash FROM participants") for value in row]
        for guess in (*stored, "x" * 43, "../../etc/passwd", "' OR 1=1 --"):
            stranger = TestClient(app, cookies={"simgym_study": guess})
            assert "Taking part" in stranger.get("/").text
            assert stranger.post("/do/instructions", data=mine.fields("consent")).status_code == 403


def test_a_replayed_form_makes_no_second_event(client):
    person = Person(client)
    person.begin()
    fields = person.fields("message", message="once")
    for _ in range(5):
        client.post("/do/message", data=fields)
    answer = client.get("/admin/export", auth=("", TOKEN)).text
    assert answer.count('"once"') == 1


def test_there_is_no_admin_without_a_token(study, tmp_path, client):
    assert client.get("/admin").status_code == 401
    for wrong in ("", TOKEN[:-1], TOKEN + "x", "a" * 10_000):
        assert client.get("/admin", auth=("admin", wrong)).status_code == 401
        assert client.get("/admin/export", auth=("admin", wrong)).status_code == 401
    assert client.get("/admin", auth=("admin", TOKEN)).status_code == 200
    with TestClient(make_app(study, tmp_path / "..")) as without:
        assert without.get("/admin", auth=("admin", "")).status_code == 404
    with pytest.raises(ConfigurationError, match="at least 16"):
        make_app(study, tmp_path, admin_token="short")


def test_an_oversized_body_is_refused_before_it_is_read(client):
    person = Person(client)
    huge = "x" * 2_000_000
    assert client.post("/do/consent", data=person.fields("consent", agree=huge)).status_code == 413

    def in_pieces():
        for _ in range(200):
            yield b"agree=" + b"x" * 10_000 + b"&"

    form = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/do/consent", content=in_pieces(), headers=form).status_code == 413
    assert client.post("/do/consent", content=b"--", headers={"content-type": "multipart/form-data"}).status_code < 500


def test_a_text_over_the_limit_is_refused_not_cut(client, study):
    person = Person(client)
    person.begin()
    answer = person.do("message", message="x" * (study.limits.message_characters + 1))
    assert answer.status_code == 422
    assert "too long" in answer.text


def test_too_many_requests_are_told_to_wait(study, tmp_path):
    strict = study.model_copy(update={"limits": study.limits.model_copy(update={"requests_per_minute": 5})})
    with TestClient(make_app(strict, tmp_path)) as client:
        statuses = [client.get("/").status_code for _ in range(10)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_the_pages_that_exist_answer(client, method):
    assert client.request(method, "/do/consent").status_code in (404, 405)
    assert client.request(method, "/docs").status_code in (404, 405)
    assert client.request(method, "/static/../app.py").status_code in (404, 405)


def test_a_reply_that_names_its_model_is_flagged():
    assert identity_flags("As SmolLM, I think so.", ["SmolLM"]) == ["alias: SmolLM", "self_identification"]
    assert identity_flags("I am an AI language model trained by OpenAI.", []) == ["self_identification"]
    assert identity_flags("As a friend, I would say: claude is a fine name.", []) == []
    assert Forms("<form action='/do/x'></form>").forms == {"x": {}}


def test_a_form_whose_upload_breaks_off_is_not_taken_for_a_whole_one():
    import asyncio

    from simgym.study.protection import Guard

    asked, sent = [], []

    async def app(scope, receive, send):
        asked.append(await receive())

    async def send(message):
        sent.append(message)

    def receiver(*messages):
        left = list(messages)

        async def receive():
            return left.pop(0)

        return receive

    scope = {"type": "http", "headers": []}
    half = {"type": "http.request", "body": b"key=1&text=half", "more_body": True}
    rest = {"type": "http.request", "body": b" and the rest", "more_body": False}
    guard = Guard(app, 1000, "sorry")
    asyncio.run(guard(scope, receiver(half, {"type": "http.disconnect"}), send))
    assert asked == []
    assert sent == []
    asyncio.run(guard(scope, receiver(half, rest), send))
    assert asked[0]["body"] == b"key=1&text=half and the rest"
