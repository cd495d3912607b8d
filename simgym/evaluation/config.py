"""What an experiment is: assistants, simulated users, scenarios, judge, and how it is run.

    assistants: {plain: smollm2-135m-instruct, clarify: smollm2-135m-instruct+clarify}
    envs: [UserSim-RolePlay-v0, UserSim-FineTuned-v0]
    scenarios: chitchat
    n: 8
    output: runs/first

One record for all ways in: the YAML file of `simgym matrix --config`, its flags, and the argument of
`simgym.evaluate`. What has several values is a mapping, or a list of the texts that the flag takes. Nothing is loaded
here; `Experiment` checks the names and makes the plan, which is hashed. Files of earlier runs do not depend on this
record: a folder is continued if the plans agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from simgym.assistants.loading import split_name
from simgym.errors import ConfigurationError
from simgym.plugins import unknown
from simgym.yaml_files import read_yaml

CacheMode = Literal["off", "read", "record", "replay"]
"""See `ExperimentConfig.cache_mode`."""
FILE_NAME = "experiment.yaml"
"""In the folder of a run, if the experiment can be written as a file."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """An experiment: every assistant with every simulated user, on the same scenarios and seeds."""

    assistants: Mapping[str, Any]
    """By name: `MODEL[+PROMPT]` (PROMPT is clarify or a text file), `py:module:Class`, settings of a model, or an
    object that is an assistant. A list of `[NAME=]MODEL[+PROMPT]` is read, too."""
    output: str
    """Folder of plan, transcripts, results.json and report.html; an existing run is continued."""
    envs: tuple[str, ...] = ()
    """Environment ids, one column each."""
    simulators: tuple[str, ...] = ()
    """`[NAME=]SIMULATOR`, a registered name or `py:module:Class`, one column each."""
    models: tuple[str, ...] = ()
    """`[ENV=]MODEL` of all simulators or of one; or a mapping from ENV to a model."""
    simulator_options: tuple[str, ...] = ()
    """`[ENV:]KEY=VALUE` for all simulators or for one; or a mapping from `[ENV:]KEY` to the value."""
    user_max_new_tokens: int | None = 256
    """Longest user turn, tokens, the frame of a JSON reply included; >= 1. None: the simulator's own bound."""
    scenarios: str | None = None
    """A scenario set or a JSONL file; None: that of the first environment."""
    split: str | None = None
    """Split of the set, for sets that have splits, e.g. test; None: all of it."""
    n: int | None = None
    """The first n scenarios, >= 1; None: all."""
    max_turns: int | None = None
    """Assistant turns after which a conversation ends, >= 1; None: 5."""
    answer_last_words: bool = True
    """Whether the assistant replies to the user's parting words; the judge sees these either way."""
    judge: str | None = None
    """A registered name or `py:module:Class`; None: reward_head."""
    judge_model: str | None = None
    """Model of the judge; None: the judge's own."""
    judge_options: tuple[str, ...] = ()
    """`KEY=VALUE` for the judge; or a mapping."""
    max_new_tokens: int = 256
    """Longest assistant turn, tokens, >= 1."""
    temperature: float = 1.0
    """Temperature of the assistants, >= 0; 0 picks the most likely token."""
    seed: int = 0
    """Seed of everything random."""
    reference: str | None = None
    """The assistant that the others are compared with; None: the first."""
    trained_on: tuple[str, ...] = ()
    """`ASSISTANT=ENV`, its training simulator, for the generalization gap; or a mapping. By default what the
    `simgym.json` of a trained assistant says."""
    people: str | None = None
    """Records of a study of the same assistants (`simgym study export`), shown as another column; None: none."""
    batch_size: int = 32
    """Conversations that run at the same time, >= 1."""
    asynchronous: bool = False
    """Whether each conversation advances independently: faster behind servers."""
    retry_faults: tuple[str, ...] = ()
    """Kinds of faults whose stored conversations are run again; those that an outage ended always are."""
    ray: str | None = None
    """Address of a Ray cluster, or `local`; None: run in this process."""
    ray_resources: str | None = None
    """What a task on the cluster needs, JSON; None: one CPU."""
    response_cache: str | None = None
    """SQLite cache of responses from the configured models; None: no cache."""
    cache_mode: CacheMode = "record"
    """record: ask for what is not cached; read: the same, writing nothing; replay: never ask; off."""
    prices: tuple[str, ...] = ()
    """`ROLE=INPUT,OUTPUT`, per million tokens of assistant, user or judge; or a mapping to [INPUT, OUTPUT]."""
    max_tokens: int | None = None
    """The run stops once all roles together have used so many tokens; None: no limit."""
    max_cost: float | None = None
    """The run stops once it has cost this much; needs prices. None: no limit."""

    def __post_init__(self) -> None:
        for name, read in _READERS.items():
            object.__setattr__(self, name, read(name, getattr(self, name)))
        for name in ("user_max_new_tokens", "n", "max_turns", "max_new_tokens", "batch_size", "max_tokens"):
            _check_number(name, getattr(self, name), int, 1)
        for name in ("temperature", "max_cost"):
            _check_number(name, getattr(self, name), (int, float), 0)
            if getattr(self, name) is not None:  # 0 and 0.0 are one setting, and must not be two hashes
                object.__setattr__(self, name, float(getattr(self, name)))
        _check_number("seed", self.seed, int, None)
        for name in ("asynchronous", "answer_last_words"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}, expected true or false.")
        if self.cache_mode not in get_args(CacheMode):
            raise ConfigurationError(unknown("cache_mode", str(self.cache_mode), list(get_args(CacheMode))))
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"{name} is {value!r}, expected a text.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ExperimentConfig:
        """The experiment of a mapping, such as a YAML file gives.

        Raises:
            ConfigurationError: a key is unknown or missing, or a value is out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"An experiment is a mapping of its settings, not a {type(values).__name__}.")
        known = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigurationError(unknown("setting", str(key), known))
        if missing := [name for name in ("assistants", "output") if values.get(name) is None]:
            raise ConfigurationError(f"The experiment has no {missing[0]}.")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> ExperimentConfig:
        """The experiment in a YAML file.

        Args:
            path: The file.
            overrides: Settings that win over the file's; None leaves the file's.

        Raises:
            ConfigurationError: the file cannot be read, or see `from_mapping`; the message names the file.
        """
        values = read_yaml(path)
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls.from_mapping({**(values or {}), **given} if isinstance(values or {}, Mapping) else values)
        except ConfigurationError as error:
            raise type(error)(f"{path}: {error}") from error

    def to_mapping(self) -> dict[str, object]:
        """The settings that are not at their defaults, as YAML values.

        Raises:
            ConfigurationError: an assistant is an object, which no file can name.
        """
        values: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value != entry.default:
                values[entry.name] = list(value) if isinstance(value, tuple) else value
        values["assistants"] = {name: _plain(name, value) for name, value in self.assistants.items()}
        return values

    def to_yaml(self) -> str:
        """A YAML file's content that `from_yaml` reads as this experiment; errors as in `to_mapping`."""
        import yaml

        return str(yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True))


_TEXTS = ("output", "scenarios", "split", "judge", "judge_model", "reference", "people", "ray", "ray_resources",
          "response_cache")  # fmt: skip


def _assistants(name: str, value: object) -> Mapping[str, object]:
    """By name; texts without a name get that of their model when they are loaded."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Mapping):
        names = [(split_name(text)[0] or text, split_name(text)[1]) for text in _texts(name, value)]
        if len(dict(names)) < len(names):
            raise ConfigurationError("Two assistants have the same name. Name them: NAME=MODEL[+PROMPT].")
        value = dict(names)
    if not value:
        raise ConfigurationError("There is no assistant. Give at least one.")
    return dict(value)


def _texts(name: str, value: object) -> tuple[str, ...]:
    """A list of texts."""
    if isinstance(value, str):
        return (value,)
    texts = tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"{name} is {value!r}, expected a list of texts.")
    return texts


def _pairs(name: str, value: object) -> tuple[str, ...]:
    """`KEY=VALUE`, of a mapping to texts or to settings of a model."""
    if not isinstance(value, Mapping):
        return _texts(name, value)
    return tuple(f"{key}={item if isinstance(item, str) else json.dumps(item)}" for key, item in value.items())


def _options(name: str, value: object) -> tuple[str, ...]:
    """`KEY=VALUE`, of a mapping to JSON values; texts are quoted, for VALUE is read as JSON if it can be."""
    if not isinstance(value, Mapping):
        return _texts(name, value)
    return tuple(f"{key}={json.dumps(item)}" for key, item in value.items())


def _prices(name: str, value: object) -> tuple[str, ...]:
    """`ROLE=INPUT,OUTPUT`, of a mapping to two numbers."""
    if not isinstance(value, Mapping):
        return _texts(name, value)
    try:
        return tuple(f"{role}={first},{second}" for role, (first, second) in value.items())
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} is {value!r}, expected a mapping of roles to [INPUT, OUTPUT].") from None


_READERS = {
    "assistants": _assistants,
    **dict.fromkeys(("envs", "simulators", "retry_faults"), _texts),
    **dict.fromkeys(("models", "trained_on"), _pairs),
    **dict.fromkeys(("simulator_options", "judge_options"), _options),
    "prices": _prices,
}


def _check_number(name: str, value: Any, kind: Any, least: int | None) -> None:
    if value is None and name in ("n", "max_turns", "user_max_new_tokens", "max_tokens", "max_cost"):
        return
    if isinstance(value, bool) or not isinstance(value, kind) or (least is not None and not value >= least):
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigurationError(
            f"{name} is {value!r}, expected {wanted}{'' if least is None else f' of at least {least}'}."
        )


def _plain(name: str, assistant: object) -> object:
    if isinstance(assistant, str | Mapping):
        return assistant
    raise ConfigurationError(
        f"The assistant {name!r} is an object ({type(assistant).__name__}), which no file can name. "
        "Use py:module:Class instead."
    )
