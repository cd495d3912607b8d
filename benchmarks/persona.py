"""Interventions on the realism of role-play: a real opening, a persona, both, a mixture. What is each worth?

    python benchmarks/persona.py --preset laptop

A study of the make of `controlled_experiment.py`, which says how it goes: an assistant is trained with role-play as it
is, with a real opening, with a persona and an opening that the model writes, with both, and with a mixture of these,
and beside them one with the fine-tuned user. arXiv 2605.09808 found that more realistic role-play trains better
assistants and does not close the gap. Trainings that the controlled experiment has done are not done again.
"""

from __future__ import annotations

from controlled_experiment import main

if __name__ == "__main__":
    main("persona", __doc__)
