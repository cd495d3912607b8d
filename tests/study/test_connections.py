"""A real server under clients that never come to an end: others are served, and the log stays short."""

import contextlib
import socket
import time

import httpx2
import pytest
import yaml
from people import Person, small_study

from simgym.study.serving import served

UNFINISHED = (
    b"POST /do/consent HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 1000\r\n\r\nkey=con"
)


def send_headers_without_end(port, beginning):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(beginning)
        for number in range(5000):  # 50 MB
            connection.sendall(b"X-%d: " % number + b"x" * 10_000 + b"\r\n")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_servers")
def test_a_thousand_unfinished_requests_shut_nobody_out_and_the_log_stays_short(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(small_study().model_dump(mode="json")), encoding="utf-8")
    database = f"sqlite:///{tmp_path}/study.db"
    with (
        contextlib.ExitStack() as stack,
        served(file, database, "--synthetic", "--connections", "200") as (address, process),
    ):
        port = int(address.rpartition(":")[2])
        for number in range(1100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            with contextlib.suppress(ConnectionError):
                connection.sendall(UNFINISHED if number % 3 else UNFINISHED[:60])
            if number % 3 == 1:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"\x00 not HTTP")
        with httpx2.Client(base_url=address, follow_redirects=True, timeout=10) as client:
            started = time.monotonic()
            person = Person(client)
            person.begin()
            assert person.heading == "Practice"
            assert time.monotonic() - started < 5
        for beginning in (b"GET / HTTP/1.1\r\n", b"POST /draft HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"):
            with pytest.raises(ConnectionError):
                send_headers_without_end(port, beginning)
        process.terminate()
        log = process.communicate(timeout=30)[1]
    assert len(log) < 50_000, log[:2000]
