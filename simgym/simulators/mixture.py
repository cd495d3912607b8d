"""Several simulators behind one name: each scenario's persona seed draws who plays it.

Training against a mixture is one of the interventions on realism; drawing by persona seed keeps a group of rollouts of
one scenario with one simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.plugins import check_ready
from simgym.seeding import generator
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.simulators.loading import load_simulator


class Mixture:
    """Draws one of several simulators per scenario; implements `UserSimulator`."""

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        components: Sequence[str | Mapping[str, object] | UserSimulator] = ("role_play", "persona"),
        weights: Sequence[float] | None = None,
    ) -> None:
        """Choose the components.

        Args:
            model: Model of the components that are given by name.
            components: Instances, registered names, or mappings of `simulator` (a name) and constructor arguments.
            weights: Relative frequencies, one per component; None: equal.
        """
        if not components:
            raise ConfigurationError("components is empty, expected at least one simulator.")
        self.components = [_component(component, model) for component in components]
        self.weights = [float(weight) for weight in weights or [1.0] * len(self.components)]
        if len(self.weights) != len(self.components) or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ConfigurationError(
                f"weights is {weights}, expected {len(self.components)} numbers >= 0, not all of them 0."
            )

    def open(self, scenarios: Sequence[Scenario], *, seeds: Sequence[int]) -> list[UserTurn]:
        return self._dispatch(
            scenarios,
            lambda simulator, rows: simulator.open([scenarios[i] for i in rows], seeds=[seeds[i] for i in rows]),
        )

    def reply(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[UserTurn]:
        return self._dispatch(
            scenarios,
            lambda simulator, rows: simulator.reply(
                [scenarios[i] for i in rows], [conversations[i] for i in rows], seeds=[seeds[i] for i in rows]
            ),
        )

    def check_scenarios(self, scenarios: Sequence[Scenario]) -> None:
        """Refuse scenarios that the component drawn for them cannot play."""
        for index, simulator in enumerate(self.components):
            if (check := getattr(simulator, "check_scenarios", None)) is not None:
                check([scenario for scenario in scenarios if self.drawn(scenario) == index])

    def check(self) -> None:
        """Check every component; see `check_ready`."""
        for component in self.components:
            check_ready(component)

    def fingerprint(self) -> dict[str, object]:
        return {
            "simulator": "mixture",
            "components": [component.fingerprint() for component in self.components],
            "weights": self.weights,
        }

    def drawn(self, scenario: Scenario) -> int:
        """Index of the component that plays this scenario."""
        shares = [weight / sum(self.weights) for weight in self.weights]
        return int(generator(scenario.persona_seed, "mixture").choice(len(shares), p=shares))

    def _dispatch(
        self, scenarios: Sequence[Scenario], ask: Callable[[UserSimulator, list[int]], list[UserTurn]]
    ) -> list[UserTurn]:
        turns: dict[int, UserTurn] = {}
        drawn = [self.drawn(scenario) for scenario in scenarios]
        for index, simulator in enumerate(self.components):
            if rows := [row for row, choice in enumerate(drawn) if choice == index]:
                turns.update(zip(rows, ask(simulator, rows), strict=True))
        return [turns[row] for row in range(len(scenarios))]


def _component(component: str | Mapping[str, Any] | UserSimulator, model: LanguageModelSpec) -> UserSimulator:
    if isinstance(component, str):
        component = {"simulator": component}
    if not isinstance(component, Mapping):
        return component
    options = dict(component)
    return load_simulator(options.pop("simulator"), options.pop("model", model), options)
