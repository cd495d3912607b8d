"""The size of the simulator: does a larger one make a better training partner, fine-tuned or role-playing?

    python benchmarks/scaling.py --preset laptop

A study of the make of `controlled_experiment.py`, which says how it goes. On a laptop the sizes are those of
`simulator_size.py`: the default model cut down to 10, 20 and 30 of its layers and fine-tuned by one recipe, made
first where they are missing. arXiv 2605.09808 found that size helps the fine-tuned user and
not the role-playing one.
"""

from __future__ import annotations

from pathlib import Path

from controlled_experiment import main
from simulator_size import cut, train

FOLDER = Path("runs/simulator_size")
LAYERS, STEPS = (10, 20, 30), 60
"""As in `configs/scaling_laptop.yaml`."""


def make_simulators() -> None:
    """The cut-down bases and their adapters, unless they are there."""
    for layers in LAYERS:
        train(cut(layers, FOLDER / f"base_{layers}"), FOLDER / f"tuned_{layers}_{STEPS}_steps", STEPS)


if __name__ == "__main__":
    main("scaling", __doc__, prepare=make_simulators)
