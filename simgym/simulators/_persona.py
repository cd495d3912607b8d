"""A prompted user with a persona: role-play with a persona prompt drawn per scenario.

One of {default, impatient, typos, side questions} is drawn uniformly by the scenario's persona seed, and the opening is
the real one (RPUser3 of arXiv 2605.09808). All rollouts of one scenario therefore meet the same person.
"""

from __future__ import annotations

from typing import Any

from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.simulators.role_play import RolePlay

PERSONAS = ("default", "impatient", "typos", "side_questions")
"""Persona prompts to draw from; each is a text file `prompts/persona_NAME.txt`."""


def persona(model: LanguageModelSpec = DEFAULT_MODEL, **options: Any) -> RolePlay:
    """Role-play with a persona per scenario and the real opening; `options` as for `RolePlay`."""
    return RolePlay(model, **{"opening": "real", "persona_prompts": PERSONAS, **options})
