"""The part of stable-baselines3's `VecEnv` that asks each of N environments, where all rows are one environment."""

from __future__ import annotations

from typing import Any

from simgym.errors import ConfigurationError
from simgym.extras import require_package

require_package("stable-baselines3", "train", "TextVecEnv")
from stable_baselines3.common.vec_env import VecEnv  # noqa: E402


class OneVecEnv(VecEnv):
    """N rows that are one object."""

    def get_attr(self, attr_name: str, indices: object = None) -> list[object]:
        """The attribute, for each row."""
        return [getattr(self, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: object, indices: object = None) -> None:
        """Set the attribute, which all rows share."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: object, indices: object = None, **kwargs: object) -> list[object]:
        """Refused: there is no environment of a row's own."""
        raise ConfigurationError(f"All rows are one environment, so {method_name} cannot be called in each of them.")

    def env_is_wrapped(self, wrapper_class: object, indices: object = None) -> list[bool]:
        """No row is."""
        return [False] * len(self._indices(indices))

    def _indices(self, indices: Any) -> list[int]:
        if indices is None:
            return list(range(self.num_envs))
        return [indices] if isinstance(indices, int) else list(indices)
