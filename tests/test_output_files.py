"""One writer at a time, whoever dies; and nothing is left of a run that wrote nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from simgym.errors import OutputInUse, TranscriptError
from simgym.output_files import lock_output, write_whole

HOLD = """
import sys
from simgym.output_files import lock_output
with lock_output(sys.argv[1], folder=True):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that has `tmp_path / "run"` locked."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_writes_and_a_dead_one_holds_up_nobody(tmp_path, other):
    taken = pytest.raises(OutputInUse, match=rf"run is being written by process {other.pid} on .* since ")
    with taken, lock_output(tmp_path / "run", folder=True):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait(10)
    with lock_output(tmp_path / "run", folder=True):
        pass


def test_whoever_has_a_folder_has_its_files_and_another_thread_has_neither(tmp_path):
    refused = []

    def try_it():
        try:
            with lock_output(tmp_path / "run" / "a.jsonl"):
                pass
        except OutputInUse as error:
            refused.append(str(error))

    with lock_output(tmp_path / "run" / "a.jsonl"):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    with lock_output(tmp_path / "run", folder=True), lock_output(tmp_path / "run" / "a.jsonl"):
        pass
    assert len(refused) == 1


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with pytest.raises(ValueError, match="failed"), lock_output(tmp_path / "a" / "b" / "run.jsonl"):
        raise ValueError("failed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    places = [tmp_path / "file" / "below", tmp_path / "file" if folder else tmp_path]
    for place in places:
        with pytest.raises(TranscriptError), lock_output(place, folder=folder):
            pass


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
    write_whole(tmp_path / "deep" / "x", "one")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "deep" / "x", "\ud800")
    assert (tmp_path / "deep" / "x").read_text() == "one"
    with pytest.raises(TranscriptError, match="No space left"):
        write_whole(Path("/dev/full"), "text" * 5000)
