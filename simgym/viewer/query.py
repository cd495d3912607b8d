"""What a list of conversations is asked for: a value in Python, and the parameters of a request of the page.

FastAPI reads the annotations of what it makes from a request, so they are types here and not yet texts: no
`from __future__ import annotations`.
"""

from dataclasses import dataclass
from typing import Literal

Order = Literal["written", "lowest", "highest", "shuffled"]
"""As they were written; by reward, those without one last; or in an order that says nothing of who takes part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which conversations to list, in which order; empty texts and None mean any."""

    text: str = ""
    """Words that all occur in what was said, in the intent, in a judge's reasons or in the fault."""
    fault: str = ""
    """A kind of fault, `any` or `none`."""
    simulator: str = ""
    """Environment id."""
    assistant: str = ""
    """Name."""
    persona: str = ""
    """Name of a persona prompt."""
    scenario: str = ""
    """Id of a scenario."""
    lowest: float | None = None
    """Smallest reward; with a bound, conversations without a reward are left out."""
    highest: float | None = None
    """Largest reward."""
    order: Order = "written"
    """How they are ordered."""
