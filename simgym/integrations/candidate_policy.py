"""A policy for stable-baselines3 that scores every reply on offer by the same small network.

A plain network over all replies at once would have to learn for each place in the list anew what a good reply looks
like. Here the logit of a reply is a function of its own features (hidden states that were read behind the user's turn,
so the question is in them), whatever its place: k times as much is learned from each choice, and the order of the
replies does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simgym.errors import ConfigurationError
from simgym.extras import optional_import

optional_import("stable_baselines3", "train")  # says which extra brings it
import torch  # noqa: E402
from stable_baselines3.common.policies import ActorCriticPolicy  # noqa: E402

_ALWAYS = 2
"""Numbers of an observation that describe neither a turn nor a reply; see `ConversationFeatures`."""
_FIRST_WEIGHTS = 0.01
"""Standard deviation of the last layer's weights: the policy begins close to a uniform choice."""


class CandidatePolicy(ActorCriticPolicy):
    """For `SampledReplies` and the observations of `ConversationFeatures`; `net_arch` is the scoring network's
    (of a mapping, what it says for `pi`; the value function is linear)."""

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        self.action_net = torch.nn.Identity()
        with torch.no_grad():  # behind stable-baselines3's own initialization
            self.mlp_extractor.score[-1].weight.normal_(std=_FIRST_WEIGHTS)  # type: ignore[index, operator, union-attr]
            self.mlp_extractor.value.weight.zero_()  # type: ignore[union-attr, operator]
        arguments: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **arguments)

    def _build_mlp_extractor(self) -> None:
        count = int(getattr(self.action_space, "n", 0))
        size = int(self.observation_space.shape[0]) if self.observation_space.shape else 0
        each = (size - _ALWAYS) // (count + 1)
        hidden = self.net_arch["pi"] if isinstance(self.net_arch, dict) else self.net_arch
        if count < 2 or each * (count + 1) + _ALWAYS != size:
            raise ConfigurationError(
                f"CandidatePolicy got {count} actions, observations of size {size}, expected those of SampledReplies."
            )
        self.mlp_extractor = _Scorer(count, each, list(hidden), self.activation_fn)  # type: ignore[assignment]


class _Scorer(torch.nn.Module):
    """What stable-baselines3 calls an extractor: latents of actor and critic; the actor's are the logits."""

    def __init__(self, count: int, each: int, hidden: list[int], activation: type[torch.nn.Module]) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = count, 1
        self.each = each
        layers: list[torch.nn.Module] = []
        for before, after in zip([each, *hidden[:-1]], hidden, strict=True) if hidden else ():
            layers += [torch.nn.Linear(before, after), activation()]
        self.score = torch.nn.Sequential(*layers, torch.nn.Linear(hidden[-1] if hidden else each, 1))
        self.value = torch.nn.Linear(each + _ALWAYS, 1)

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(seen), self.forward_critic(seen)

    def forward_actor(self, seen: torch.Tensor) -> torch.Tensor:
        """Logits, shape (N, count)."""
        replies = seen[:, self.each + _ALWAYS :].reshape(len(seen), -1, self.each)
        logits: torch.Tensor = self.score(replies)[..., 0]
        return logits

    def forward_critic(self, seen: torch.Tensor) -> torch.Tensor:
        """A linear value of the user's turn, shape (N, 1): the value of a conversation before the choice."""
        value: torch.Tensor = self.value(seen[:, : self.each + _ALWAYS])
        return value
