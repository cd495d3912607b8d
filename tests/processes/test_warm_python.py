from __future__ import annotations

import os
import signal
import sys
import time

import pytest

pytest.importorskip("torch", reason="the extra simgym[local] is not installed")

from warm_python import WarmProcess, run_warm

CODE = """
import os, pickle, sys
class Own:
    pass
assert type(pickle.loads(pickle.dumps(Own()))) is Own
print(__name__, sys.argv[1:], os.getcwd(), os.environ["WORD"], os.getpid(), "torch" in sys.modules)
print("told", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


def test_a_program_has_its_own_name_arguments_folder_environment_output_and_status(tmp_path):
    environment = {**os.environ, "WORD": "yes"}
    processes = set()
    (tmp_path / "program.py").write_text(CODE)
    for arguments in (["-c", CODE], [str(tmp_path / "program.py")]):
        for status in (0, 3):
            outcome = run_warm([*arguments, str(status), "x"], cwd=tmp_path, env=environment)
            assert (outcome.returncode, outcome.stderr) == (status, "told\n")
            said = f"__main__ ['{status}', 'x'] {tmp_path} yes "
            assert outcome.stdout.startswith(said)
            process, warm = outcome.stdout.removeprefix(said).split()
            processes.add(process)
            assert warm == "True"
    assert len(processes) == 4
    assert str(os.getpid()) not in processes


ENDS = """
import atexit, sys, threading, time
left_open = open("left open", "w")
left_open.write("all of it")
atexit.register(print, "at the exit")
threading.Timer(0.05, print, ["in a thread"]).start()
sys.exit("a sentence")
"""


def test_a_program_ends_as_programs_do(tmp_path):
    (tmp_path / "program.py").write_text(ENDS)
    for arguments in (["-c", ENDS], [str(tmp_path / "program.py")]):
        outcome = run_warm(arguments, cwd=tmp_path)
        assert (outcome.returncode, outcome.stderr) == (1, "a sentence\n")
        assert outcome.stdout == "in a thread\nat the exit\n"
        assert (tmp_path / "left open").read_text() == "all of it"
        (tmp_path / "left open").unlink()


def test_an_error_and_a_signal_end_only_the_program():
    failed = run_warm(["-c", "raise ValueError('no')"])
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "ValueError: no")
    killed = run_warm(["-c", "import os; os.kill(os.getpid(), 9)"])
    assert killed.returncode == -9
    assert run_warm(["-c", "print(2)"]).stdout == "2\n"
    assert sys.executable == killed.args[0]


def test_a_program_goes_on_beside_the_test_until_it_is_told_to_end():
    code = "import sys, time; print('begun', file=sys.stderr); time.sleep(60)"
    process = WarmProcess([sys.executable, "-c", code])
    while process.poll() is None and process.stderr.read() != "begun\n":
        time.sleep(0.01)
    assert run_warm(["-c", "print(1)"]).stdout == "1\n"
    assert process.poll() is None
    process.terminate()
    assert process.communicate(timeout=30) == (None, "begun\n")
    assert process.returncode == -signal.SIGTERM
