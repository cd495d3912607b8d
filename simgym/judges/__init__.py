"""Judges: how good a conversation was, or why that cannot be said."""

from simgym.judges.base import Judge, Judgement
from simgym.judges.checklist import ChecklistJudge
from simgym.judges.ensemble import EnsembleJudge, PerTurnJudge
from simgym.judges.expected_score import ExpectedScoreJudge
from simgym.judges.loading import load_judge
from simgym.judges.pairwise import Comparison, PairwiseJudge
from simgym.judges.relevance import RelevanceJudge
from simgym.judges.reward_head import SHIPPED_HEAD, Head, RewardHeadJudge, read_head
from simgym.judges.reward_model import RewardModelJudge
from simgym.judges.rubric import RubricJudge
from simgym.judges.rubrics import Rubric, load_rubric

__all__ = [
    # the protocol
    "Judge",
    "Judgement",
    # without prompts
    "RewardHeadJudge",
    "Head",
    "SHIPPED_HEAD",
    "read_head",
    "RewardModelJudge",
    "RelevanceJudge",
    # language models with a rubric
    "RubricJudge",
    "ChecklistJudge",
    "ExpectedScoreJudge",
    "PairwiseJudge",
    "Comparison",
    "Rubric",
    "load_rubric",
    # made of other judges
    "EnsembleJudge",
    "PerTurnJudge",
    # by name
    "load_judge",
]
