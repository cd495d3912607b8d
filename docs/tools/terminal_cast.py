"""Run a command in a terminal of its own and keep what it printed, and when: asciicast version 2, one event a line.

    python docs/tools/terminal_cast.py runs/demo.cast -- make demo

https://docs.asciinema.org/manual/asciicast/v2/ describes the file; asciinema's own player shows it. What a terminal is
asked to do (progress that is overwritten, colours) is kept as it was sent; `animate.py` draws it.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import struct
import sys
import termios
import time
from pathlib import Path

COLUMNS, ROWS = 84, 30


def record(command: list[str], cast: Path) -> int:
    """Run the command to its end and write the cast; its exit code."""
    started = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execvp(command[0], command)  # noqa: S606
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with cast.open("w", encoding="utf-8") as file:
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "command": " ".join(command)}
        file.write(json.dumps(header) + "\n")
        while printed := _read(terminal):
            event = [round(time.monotonic() - started, 3), "o", decoder.decode(printed)]
            file.write(json.dumps(event) + "\n")
            sys.stdout.write(event[2])
            sys.stdout.flush()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _read(terminal: int) -> bytes:
    """What was printed; nothing once the command has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the last process of the terminal is gone
        return b""


def main() -> None:
    """Read the command line, record."""
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        raise SystemExit("Usage: python docs/tools/terminal_cast.py OUTPUT.cast -- COMMAND ...")
    raise SystemExit(record(sys.argv[3:], Path(sys.argv[1])))


if __name__ == "__main__":
    main()
