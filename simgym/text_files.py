"""Text files as people save them: UTF-8, with or without a byte order mark; whatever else is named in a sentence.

Spreadsheets and Windows editors save UTF-16, Latin-1, GBK or Shift-JIS without asking. A text in the wrong encoding
would be read as other words, and a byte order mark would become the first character of a prompt.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from simgym.errors import MalformedFile

_FIRST_BYTES = (  # longest marks first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
SUSPECTS = "it may be Latin-1, Windows-1252, GBK or Shift-JIS. Save the file as UTF-8."
"""What a file that is not UTF-8 usually is."""


def read_text(path: str | Path) -> str:
    """The text of a file, without a byte order mark, its line ends as `\\n`.

    Raises:
        OSError: it cannot be opened.
        MalformedFile: it is not text in UTF-8; the message says what it looks like.
    """
    data = without_mark(Path(path).read_bytes(), path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MalformedFile(f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); {SUSPECTS}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_mark(data: bytes, path: str | Path) -> bytes:
    """The beginning of a file without UTF-8's byte order mark.

    Raises:
        MalformedFile: it is in another encoding, or compressed.
    """
    name = next((name for mark, name in _FIRST_BYTES if data.startswith(mark)), None)
    if name is None and b"\0" in data[:4]:  # JSON and prose hold no NUL: half of a wide character
        name = "UTF-32" if b"\0\0" in data[:4] else "UTF-16"
    if name in ("gzip", "zstd"):
        raise MalformedFile(f"{path} is compressed ({name}). Unpack it first.")
    if name is not None:
        raise MalformedFile(f"{path} looks like {name}, expected UTF-8. Save the file as UTF-8.")
    return data.removeprefix(codecs.BOM_UTF8)
