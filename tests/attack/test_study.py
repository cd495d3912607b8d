"""The study's real server under hostile requests, hostile servers and faults; what was tried is printed as a table."""

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import asyncpg
import httpx2
import pytest
import yaml
from people import Forms, Person, small_study

from simgym.study import read_records
from simgym.study.serving import served
from simgym.testing.postgresql import find_postgresql, temporary_postgresql

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_servers")]
TEXT = "a text that no log may hold"
PIECES = [b"GET", b"POST", b" ", b"/", b"/do/consent", b"/state", b"?", b"%00", b"%ff", b"\r\n", b"\n", b"Host: x",
          b"Host: [", b"Origin: http://[evil", b"Cookie: simgym_study=", b"x" * 300, b"Content-Length: 99999999999",
          b"Content-Length: -1", b"Transfer-Encoding: chunked", b"HTTP/1.1", b"HTTP/9.9", b"\x00", b"\xff\xfe",
          b"ffffffff\r\n", b"0\r\n\r\n", b"Expect: 100-continue", b"Upgrade: websocket", b"Connection: upgrade",
          b"Content-Type: multipart/form-data; boundary="]  # fmt: skip


@pytest.fixture
def study_file(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(small_study().model_dump(mode="json")), encoding="utf-8")
    return file


def client_of(address):
    return httpx2.Client(base_url=address, follow_redirects=True, timeout=20)


def finish(process) -> str:
    process.terminate()
    return process.communicate(timeout=30)[1]


def test_random_requests_make_no_error_of_ours_and_no_long_log(study_file, tmp_path, tried):
    rng = random.Random(0)
    statuses: dict[str, int] = {}
    with served(study_file, f"sqlite:///{tmp_path}/study.db", "--synthetic") as (address, process):
        port = int(address.rpartition(":")[2])
        for _ in range(3000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                start = b"POST /do/consent HTTP/1.1\r\nHost: x\r\n" if rng.random() < 0.5 else b""
                connection.sendall(start + b"".join(rng.choices(PIECES, k=rng.randint(1, 12))) + b"\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                status = connection.recv(12)[9:].decode(errors="replace") or "closed"
                statuses[status] = statuses.get(status, 0) + 1
        with client_of(address) as client:
            Person(client).begin()
        log = finish(process)
    assert "500" not in statuses, statuses
    assert statuses["403"] > 10 * statuses["closed"], "whoever has sent a whole request is answered"
    assert "Traceback" not in log
    assert len(log) < 50_000
    tried("random requests on a socket", sum(statuses.values()), f"answers {statuses}; {len(log):,} bytes of log")


def test_random_forms_headers_and_addresses_are_answered_in_words(study_file, tmp_path, tried):
    rng = random.Random(1)
    strange = [
        "",
        "\u2028",
        "\x00",
        "\ud7ff",
        "١",
        "🧵" * 50,
        "../..",
        "{{7*7}}",
        "<b>",
        "a" * 9000,
        "-1",
        "1e9",
        "%s",
        "' OR 1=1",
    ]
    counts: dict[int, int] = {}
    with (
        served(study_file, f"sqlite:///{tmp_path}/study.db", "--synthetic") as (address, process),
        client_of(address) as client,
    ):
        person = Person(client)
        person.begin()
        token = person.fields("message")["token"]
        names = [
            "token",
            "key",
            "message",
            "pick",
            "reason",
            "rating",
            "document",
            "task",
            "notes",
            "field",
            "text",
            "agree",
        ]
        for _ in range(1500):
            fields = {name: rng.choice(strange) for name in rng.sample(names, k=4)}
            if rng.random() < 0.7:
                fields |= {
                    "token": token,
                    "key": rng.choice(["training:1:message", "turn:1:choice", "consented", "::", "é"]),
                }
            path = rng.choice(["/do/message", "/do/choice", "/do/rating", "/do/document", "/draft", "/do/" + "x" * 200])
            headers = {"Origin": rng.choice(["http://[evil", "null", address])} if rng.random() < 0.3 else {}
            answer = client.post(path, data=fields, headers=headers)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
        assert client.get("/").status_code == 200
        log = finish(process)
    assert max(counts) < 500, counts
    assert "Traceback" not in log
    tried("random forms, headers and addresses", sum(counts.values()), f"answers {dict(sorted(counts.items()))}")


def test_a_server_killed_at_any_moment_keeps_all_it_acknowledged(study_file, tmp_path, tried):
    database, acknowledged, kills = f"sqlite:///{tmp_path}/study.db", [], 8
    cookies = {}
    for number in range(kills):
        with served(study_file, database, "--synthetic") as (address, process), client_of(address) as client:
            client.cookies.update(cookies)
            person = Person(client)
            if "consent" in Forms(person.page).forms:
                person.begin()
                cookies = dict(client.cookies)
            with contextlib.suppress(AssertionError, KeyError, httpx2.HTTPError):
                person.wait()
                if "choice" in Forms(person.page).forms:
                    person.do("choice", pick="left", reason="because")
                if person.do("message", message=f"{TEXT} {number}").status_code == 200:
                    acknowledged.append(f"{TEXT} {number}")
            process.send_signal(signal.SIGKILL)
            log = process.communicate(timeout=30)[1]
        assert TEXT not in log
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        payloads = [
            json.loads(row[0]) for row in connection.execute("SELECT payload FROM events WHERE key LIKE '%message'")
        ]
    kept = [payload["text"] for payload in payloads]
    assert acknowledged
    assert kept == acknowledged
    tried(
        "servers killed after a form",
        kills,
        f"{len(kept)} of {len(acknowledged)} acknowledged messages kept, none twice",
    )


def test_a_full_disk_or_a_damaged_table_names_nobody_in_the_log(study_file, tmp_path, tried):
    faults = 20
    with (
        served(study_file, f"sqlite:///{tmp_path}/study.db", "--synthetic") as (address, process),
        client_of(address) as client,
    ):
        person = Person(client)
        person.begin()
        with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
            connection.execute("CREATE TRIGGER fail BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'disk'); END")
            connection.commit()
        for _ in range(faults):
            assert client.post("/do/message", data=person.fields("message", message=TEXT)).status_code >= 500
        with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
            connection.execute("DROP TRIGGER fail")
            connection.commit()
        person.do("message", message=TEXT)
        person.wait()
        assert person.heading == "Which reply helps you more?"
        log = finish(process)
    assert TEXT not in log
    assert "INSERT" not in log
    assert log.count(" ERROR simgym.study: ") == faults
    assert "Traceback" not in log
    tried("inserts that fail", faults, f"no text in {len(log):,} bytes of log; the form went through afterwards")


def test_withdrawals_while_the_database_is_read_without_a_break(study_file, tmp_path, tried):
    people, database = 4, tmp_path / "study.db"
    slowest = 0.0
    with served(study_file, f"sqlite:///{database}", "--synthetic") as (address, process):
        reader = sqlite3.connect(database, isolation_level=None)
        for number in range(people):
            with client_of(address) as client:
                person = Person(client)
                person.begin()
                person.do("message", message=f"{TEXT} {number} " * 500)
                person.wait()
                if number % 2 == 0:
                    with contextlib.suppress(sqlite3.OperationalError):
                        reader.execute("COMMIT")
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM events").fetchone()
                started = time.monotonic()
                page = client.post("/withdraw", data=Forms(client.get("/withdraw").text).forms["withdraw"]).text
                slowest = max(slowest, time.monotonic() - started)
                assert "being deleted" in page
        reader.close()
        deadline = time.monotonic() + 30
        while (
            left := sum(file.read_bytes().count(TEXT.encode()) for file in tmp_path.glob("study.db*"))
        ) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == 0
        assert TEXT not in finish(process)
    assert slowest < 6
    tried("withdrawals beside a reader", people, f"slowest answer {slowest:.1f} s, {left} copies of a text left")


def test_files_of_records_that_are_damaged_are_named(tmp_path, tried):
    from simgym.errors import MalformedFile

    rng = random.Random(2)
    whole = (
        json.dumps(
            {"conversations": [{"turns": [{"preference": "tie", "message": "\u2028é\x85"}]}]}, ensure_ascii=False
        )
        + "\n"
    ) * 5
    path, refused, read = tmp_path / "records.jsonl", 0, 0
    for _ in range(2000):
        content = bytearray(whole.encode())
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            content[at : at + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
        path.write_bytes(content)
        try:
            read_records(path)
            read += 1
        except MalformedFile as error:
            refused += str(path) in str(error)
    assert refused + read == 2000
    tried("damaged files of records", refused + read, f"{refused:,} refused in a sentence, {read:,} still records")


def test_a_disk_that_is_full_for_a_while_loses_and_doubles_nothing(study_file, tmp_path, tried):
    """No file of the server may grow: SQLite meets what it meets on a full disk."""
    faults, database = 10, tmp_path / "study.db"
    with (
        served(study_file, f"sqlite:///{database}", "--synthetic") as (address, process),
        client_of(address) as client,
    ):
        person = Person(client)
        person.begin()
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        for _ in range(faults):
            answer = client.post("/do/message", data=person.fields("message", message=TEXT))
            assert answer.status_code == 503
            assert "What you sent before is kept" in answer.text
        assert client.get("/").status_code == 200
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        person.do("message", message=TEXT)
        person.wait()
        assert person.heading == "Which reply helps you more?"
        log = finish(process)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        messages = connection.execute("SELECT payload FROM events WHERE key LIKE '%message'").fetchall()
    assert [json.loads(row[0])["text"] for row in messages] == [TEXT]
    assert TEXT not in log
    assert "Traceback" not in log
    tried("forms on a full disk", faults, "answered in words; the message is stored once afterwards")


def test_a_postgresql_that_stops_for_a_while_loses_and_doubles_nothing(study_file, tried):
    if find_postgresql() is None:
        pytest.skip("PostgreSQL is not installed")
    faults = 0
    with (
        temporary_postgresql() as url,
        served(study_file, url, "--synthetic") as (address, process),
        client_of(address) as client,
    ):
        person = Person(client)
        person.begin()
        for _ in range(3):
            with restarting_postgresql(url):
                for answer in (
                    client.get("/"),
                    client.post("/do/message", data=person.fields("message", message=TEXT)),
                ):
                    assert answer.status_code == 503
                    assert "What you sent before is kept" in answer.text
                    faults += 1
        person.do("message", message=TEXT)
        person.wait()
        assert person.heading == "Which reply helps you more?"
        log = finish(process)
        messages = asyncio.run(fetch(url, "SELECT payload FROM events WHERE key LIKE '%message'"))
    assert [json.loads(row[0])["text"] for row in messages] == [TEXT]
    assert TEXT not in log
    assert "Traceback" not in log
    tried(
        "requests while PostgreSQL is stopped", faults, "each answered in words; the message is stored once afterwards"
    )


async def fetch(url, query):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


@contextlib.contextmanager
def restarting_postgresql(url):
    """The server is killed before the block, and started again behind it."""
    ((data,),) = asyncio.run(fetch(url, "SHOW data_directory"))
    folder, port = Path(data).parent, url.rpartition(":")[2].partition("/")[0]
    user = "postgres" if os.geteuid() == 0 else None

    def control(*words):
        command = [find_postgresql() / "pg_ctl", "-D", data, "-w", *words]
        subprocess.run(command, check=True, cwd=folder, user=user, capture_output=True, env={"LC_ALL": "C"})

    control("-m", "immediate", "stop")
    try:
        yield
    finally:
        control("-o", f"-p {port} -h 127.0.0.1 -k {folder}", "-l", folder / "log", "start")
