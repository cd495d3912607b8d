"""The proxy configuration that is shipped, run by nginx as it is but for names, ports and certificate."""

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import time
from importlib import resources

import httpx2
import pytest
import yaml
from people import Person, small_study

from simgym.study.serving import free_port, served

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="nginx or openssl is not installed"),
]


@contextlib.contextmanager
def proxied(folder, upstream):
    """nginx with the shipped configuration; the address that it serves."""
    key, certificate, https, http = folder / "key.pem", folder / "cert.pem", free_port(), free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", key, "-out", certificate], check=True, capture_output=True,
    )  # fmt: skip
    text = (resources.files("simgym.study") / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    for shipped, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{https} ssl"),
        ("listen 80", f"listen 127.0.0.1:{http}"),
        ("/etc/ssl/study/fullchain.pem", str(certificate)),
        ("/etc/ssl/study/privkey.pem", str(key)),
        ("http://127.0.0.1:8000", upstream),
        ("client_body_timeout 10s", "client_body_timeout 1s"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    (folder / "study.conf").write_text(text, encoding="utf-8")
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ {temporary} include {folder}/study.conf; }}"
    )
    process = subprocess.Popen([NGINX, "-p", folder, "-c", main], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", https), timeout=1):
                break
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
        yield f"https://127.0.0.1:{https}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_a_study_behind_the_shipped_configuration(tmp_path):
    limits = {"visitors_per_minute": 3}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(small_study(limits=limits).model_dump(mode="json")), encoding="utf-8")
    with (
        served(file, f"sqlite:///{tmp_path}/study.db", "--https") as (upstream, _),
        proxied(tmp_path, upstream) as address,
        httpx2.Client(base_url=address, verify=False, follow_redirects=True, timeout=20) as client,
    ):
        first = client.get("/")
        assert "secure" in first.headers["set-cookie"].lower()
        person = Person(client)
        client.headers["Origin"] = address  # as browsers send it with forms
        person.begin()
        assert person.heading == "Practice"
        # a claimed address is not believed: the limit on new visitors holds
        statuses = [
            httpx2.get(f"{address}/", verify=False, headers={"X-Forwarded-For": f"10.0.0.{at}"}).status_code
            for at in range(4)
        ]
        assert statuses[-1] == 429
        slow = b"POST /do/consent HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nkey"
        context = ssl._create_unverified_context()
        plain = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10)
        with context.wrap_socket(plain) as connection:
            connection.sendall(slow)
            started = time.monotonic()
            connection.recv(4096)
            assert time.monotonic() - started < 6


def test_the_shipped_configuration_writes_neither_forms_nor_pages_to_files():
    """What is in a temporary file stays on the disk when somebody has withdrawn."""
    text = (resources.files("simgym.study") / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^\s*(\w+) ([^;\n]+);", text, re.MULTILINE))
    assert settings["client_body_buffer_size"] == settings["client_max_body_size"]
    assert settings["proxy_max_temp_file_size"] == "0"
