"""How often a page asks the database: with PostgreSQL each time is a turn of a busy event loop."""

import asyncio
import contextlib
import re
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from people import Forms, Person, make_app, small_study
from starlette.testclient import TestClient

_OURS = re.compile(
    r"LOG:  (?:statement|execute [^:]*): (?:BEGIN|COMMIT|ROLLBACK|[^\n]*\n?(?:(?!LOG:  ).)*?"
    r"\b(?:participants|events|assignments|recruits|drafts)\b)",
    re.DOTALL,
)
"""A statement in PostgreSQL's log that is no question of the driver's."""


@contextlib.contextmanager
def counted_sqlite():
    """What says how many statements SQLite has been given, transactions included."""
    statements = []

    def note(connection, cursor, statement, parameters, context, executemany):
        if not statement.startswith("PRAGMA"):
            statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield lambda: len(statements)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@contextlib.contextmanager
def counted_postgresql(url):
    """What says how many statements PostgreSQL has been given, by its own log."""

    async def ask(*statements):
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
            return Path(await connection.fetchval("SHOW data_directory")).parent / "log"
        finally:
            await connection.close()

    log = asyncio.run(ask(f"ALTER DATABASE {url.rpartition('/')[2]} SET log_statement = 'all'"))
    yield lambda: len(_OURS.findall(log.read_text(encoding="utf-8")))


EXPECTED = {  # at most
    # a transaction begins, the participant's number of events rises, events are added; then the next page
    "sqlite": {
        "first page": 3,
        "consent": 4 + 1,  # and the recruitment id
        "instructions": 3 + 1,
        "task": 5 + 1,  # and the position
        "message and replies": 3 + 3 + 2,  # a page that waits may ask before and after the replies
        "their page": 1,
        "draft": 1 + 2,
        "choice": 3 + 1,
        "nonsense": 1 + 1,
    },
    "postgresql": {
        "first page": 1,
        "consent": 1 + 1,
        "instructions": 1 + 1,
        "task": 1 + 1,
        "message and replies": 1 + 1 + 2,
        "their page": 1,
        "draft": 1 + 1,
        "choice": 1 + 1,
        "nonsense": 1 + 1,
    },
}
"""Statements by step: of a form, and of the page that it leads to."""


def test_a_form_is_stored_and_the_next_page_made_with_the_fewest_statements(database, tmp_path):
    kind = database.partition(":")[0]
    counting = counted_sqlite() if kind == "sqlite" else counted_postgresql(database)
    with counting as total, TestClient(make_app(small_study(recruitment={}), tmp_path, url=database)) as client:
        counts, last = {}, total()

        def note(step):
            nonlocal last
            counts[step], last = total() - last, total()

        person = Person(client, "/?PROLIFIC_PID=me")
        note("first page")
        person.do("consent", agree="yes")
        note("consent")
        person.do("instructions")
        note("instructions")
        person.do("task", task="advice", notes="some notes")
        note("task")
        client.post("/do/message", data=person.fields("message", message="What now?"), follow_redirects=False)
        assert client.get("/state").json()["key"].endswith(":choice")
        note("message and replies")
        person.page = client.get("/").text
        note("their page")
        fields = Forms(person.page).forms["choice"]
        draft = {"token": fields["token"], "key": fields["key"], "field": "reason", "text": "because"}
        assert client.post("/draft", data=draft).status_code == 204
        note("draft")
        person.do("choice", pick="left", reason="because")
        note("choice")
        person.do("message", key="nonsense", message="too late")
        note("nonsense")
    assert counts.keys() == EXPECTED[kind].keys()
    assert {page: count for page, count in counts.items() if count > EXPECTED[kind][page]} == {}


def test_a_server_that_remembers_too_little_looks_again_before_it_answers(database, tmp_path):
    """The participant's requests go to two servers in turn, and neither knows what the other has stored."""
    apps = [make_app(small_study(), tmp_path, url=database) for _ in range(2)]
    with TestClient(apps[0]) as first, TestClient(apps[1]) as second:
        person = Person(first)
        for step, fields in (("consent", {"agree": "yes"}), ("instructions", {})):
            second.cookies.update(first.cookies)
            assert Person(second).do(step, **fields).status_code == 200
        person.page = second.get("/").text
        answer = first.post("/do/task", data=person.fields("task", task="advice", notes="no"))
        assert answer.status_code == 422  # of the stage that the other server has led to
        answer = first.post("/do/task", data=person.fields("task", task="advice", notes="some notes"))
        assert "Practice" in answer.text
        late = person.fields("task", task="advice", notes="some notes")
        assert "Practice" in second.post("/do/task", data=late).text  # out of date: the page that comes next
        withdrawal = Forms(second.get("/withdraw").text).forms["withdraw"]
        assert second.post("/withdraw", data=withdrawal).status_code == 200
        gone = first.post("/do/message", data={**late, "key": "training:1:message", "message": "What now?"})
        assert gone.status_code == 403
