"""Deleted is what is on no page, in no file and in no log; the page says so only then."""

import asyncio
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
from people import Forms, Person, make_app
from starlette.testclient import TestClient

from simgym.study.journey import Event
from simgym.study.store import Store

SECRET = "a private matter that nobody else may read"


def left(folder) -> int:
    return sum(path.read_bytes().count(SECRET.encode()) for path in folder.glob("study.db*"))


def withdraw(client):
    return client.post("/withdraw", data=Forms(client.get("/withdraw").text).forms["withdraw"]).text


def test_while_somebody_reads_the_page_says_being_deleted_and_nobody_waits(study, tmp_path):
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        person.begin()
        person.exchange(message=SECRET)
        reader = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        assert "is being deleted" in withdraw(client)
        assert left(tmp_path)
        other = TestClient(client.app)
        started = time.monotonic()
        Person(other).begin()
        assert time.monotonic() - started < 3
        assert "is being deleted" in client.get("/withdrawn").text
        reader.execute("COMMIT")
        deadline = time.monotonic() + 20
        while "All that you wrote is deleted" not in (page := client.get("/withdrawn").text):
            assert time.monotonic() < deadline, page
            time.sleep(0.1)
        assert left(tmp_path) == 0
        assert "Taking part" in client.get("/").text


def test_a_deletion_that_a_restart_interrupts_goes_on(study, tmp_path):
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        person.begin()
        person.exchange(message=SECRET)
        reader = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        withdraw(client)
        cookies = dict(client.cookies)
    assert left(tmp_path)
    reader.close()
    with TestClient(make_app(study, tmp_path), cookies=cookies) as client:
        deadline = time.monotonic() + 10
        while "is being deleted" in client.get("/withdrawn").text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert re.search("All that you wrote is deleted", client.get("/withdrawn").text)
    assert left(tmp_path) == 0


def test_after_a_deletion_the_log_of_writes_is_still_held(tmp_path):
    """Another program that has read, and leaves, would otherwise delete it, with all that is written from then on."""
    file = tmp_path / "study.db"
    count = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "print(connection.execute('SELECT count(*) FROM events').fetchone()); connection.close()"
    )

    def counted_by_another_program():
        return subprocess.run([sys.executable, "-c", count, file], capture_output=True, text=True, check=True).stdout

    async def scenario():
        store = Store(f"sqlite:///{file}")
        await store.begin(name="s", kind="real", settings={}, study_hash="h")
        stays, leaves = [(await store.open("h"))[1].participant for _ in range(2)]
        await store.withdraw(leaves)
        assert await store.erase()
        before = counted_by_another_program()
        assert await store.append(stays, 1, [Event("k", {"text": "kept"})], "h")
        after = counted_by_another_program()
        await store.close()
        return before, after

    assert asyncio.run(scenario()) == ("(1,)\n", "(2,)\n")


def test_rows_that_another_program_deletes_without_zeroing_are_found(study, tmp_path):
    with TestClient(make_app(study, tmp_path)) as client:
        person = Person(client)
        person.begin()
        person.exchange(message=SECRET)
        with sqlite3.connect(tmp_path / "study.db") as careless:
            careless.execute("PRAGMA secure_delete=OFF")
            careless.execute("DELETE FROM events WHERE key LIKE '%message'")
        careless.close()
        withdraw(client)
        deadline = time.monotonic() + 10
        while left(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left(tmp_path) == 0
        assert "All that you wrote is deleted" in client.get("/withdrawn").text


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_postgresql_rewrites_its_tables_once_no_transaction_sees_the_rows(database):
    async def scenario():
        store = Store(database)
        await store.begin(name="s", kind="real", settings={}, study_hash="h")
        _, visit = await store.open("h")
        await store.append(visit.participant, 1, [Event("k", {"text": SECRET})], "h")
        reader = await asyncpg.connect(database)
        folder = Path(await reader.fetchval("SHOW data_directory")) / "base"
        transaction = reader.transaction(isolation="repeatable_read")
        await transaction.start()
        await reader.fetchval("SELECT count(*) FROM events")
        ticket = await store.withdraw(visit.participant)
        while_read = await store.erase(), await store.erased(ticket)
        await transaction.rollback()
        after = await store.erase(), await store.erased(ticket)
        await reader.execute("CHECKPOINT")
        await reader.close()
        await store.close()
        return (
            while_read,
            after,
            sum(SECRET.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file()),
        )

    assert asyncio.run(scenario()) == ((False, False), (True, True), 0)
