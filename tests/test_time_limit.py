"""A time limit ends what runs too long, and leaves nothing behind in what runs in time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from simgym.time_limit import TookTooLong, time_limit

TRACED = """
import sys
from simgym.time_limit import time_limit
with time_limit(5):
    pass
sys.settrace(lambda *event: None)
(lambda: None)()
sys.settrace(None)
print("done")
"""


def spin():
    with time_limit(0.05):
        while True:
            pass


def test_a_loop_without_end_is_ended():
    with pytest.raises(TookTooLong, match=r"after 0\.05 seconds"):
        spin()


def test_a_debugger_or_a_coverage_tool_goes_on_afterwards():
    """In Python 3.11, an exception that is taken back leaves the interpreter in a loop at the next traced function."""
    outcome = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stdout == "done\n"


def test_a_limit_that_is_reached_at_the_very_end_is_not_felt_later():
    ended = 0
    for _ in range(150):
        try:
            with time_limit(0.002):
                end = time.monotonic() + 0.002
                while time.monotonic() < end:
                    pass
        except TookTooLong:
            ended += 1
        sum(range(2000))
    assert ended <= 150
