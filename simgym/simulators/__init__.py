"""User simulators: who plays the user, and how."""

from simgym.simulators.base import ForcedTurn, ScorableSimulator, UserSimulator, UserTurn
from simgym.simulators.fine_tuned import EARLIER_ADAPTER, SHIPPED_ADAPTER, FineTuned
from simgym.simulators.human import Human
from simgym.simulators.loading import load_simulator, simulator_of
from simgym.simulators.mixture import Mixture
from simgym.simulators.replay import Replay
from simgym.simulators.role_play import RolePlay, persona, role_play_opening

__all__ = [
    # the protocol
    "UserSimulator",
    "UserTurn",
    # who implements it
    "RolePlay",
    "role_play_opening",
    "persona",
    "FineTuned",
    "SHIPPED_ADAPTER",
    "EARLIER_ADAPTER",
    "Replay",
    "Mixture",
    "Human",
    "load_simulator",
    "simulator_of",
    # for realism: how likely a person's turn is
    "ForcedTurn",
    "ScorableSimulator",
]
