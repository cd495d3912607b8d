from __future__ import annotations

import pytest

from simgym.conversation import Scenario
from simgym.envs.outages import Pauses, check_servers
from simgym.errors import ServerUnavailable
from simgym.faults import parse_fault
from simgym.simulation import Dialogue

SCENARIO = Scenario(id="s", intent="You are a user chatting with an assistant language model to rest a while today")


def ended(fault, end_reason="simulator_fault", reward=None):
    return Dialogue(scenario=SCENARIO, seed=0, end_reason=end_reason, fault=parse_fault(fault), reward=reward)


def test_silence_of_all_is_an_outage_and_of_some_a_fault_of_theirs():
    down = [ended("server: no connection"), ended("timeout: no answer", "judge_fault")]
    with pytest.raises(ServerUnavailable, match="All 2 conversations failed, for want of a server: server: no"):
        check_servers(down)
    with pytest.raises(ServerUnavailable):
        check_servers([*down, ended("empty")])  # said nothing before a server was asked
    check_servers([down[0], ended("refused: not that"), ended("empty")])
    check_servers([*down, ended(None, None)])
    check_servers([*down, ended(None, "turn_limit", 0.5)])
    check_servers([])


def test_attempts_pause_longer_and_longer_and_then_give_up():
    slept = []
    pauses = Pauses((1, 2), sleep=slept.append)
    pauses.wait(ServerUnavailable("down."))
    pauses.wait(ServerUnavailable("down."))
    assert slept == [1, 2]
    with pytest.raises(ServerUnavailable, match="still down"):
        pauses.wait(ServerUnavailable("still down."))
