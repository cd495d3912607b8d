"""Reads the folder of a saved policy; unpickles nothing.

`policy.json` has the action set, the features and the shape of the network, `policy.safetensors` its weights and the
projection of the features. What was saved must still mean the same: a strategy's text that has changed, or another
model, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simgym.assistants.action_sets import ActionSet, action_set_from_json
from simgym.assistants.training_record import read_training_record
from simgym.envs.features import ConversationFeatures, Projection
from simgym.errors import ConfigurationError, WeightsError
from simgym.integrations.policy_assistant import ACTIVATIONS, POLICY, SETTINGS, PolicyAssistant
from simgym.jsonl import read_json
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.weights import DEFAULT_MODEL


def load_policy(folder: str | Path, model: LanguageModelSpec | None = None) -> PolicyAssistant:
    """The assistant that `PolicyAssistant.save` wrote.

    Args:
        folder: What was saved.
        model: Who writes the replies and is read for observations; it has to be the model of the training. None: the
            one that the record of the training names, else the default model.

    Raises:
        WeightsError: the folder holds no policy.
        MalformedFile: the record of the training cannot be read.
        ConfigurationError: a strategy's text has changed since, or the policy was trained on another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    training = read_training_record(folder)
    if model is None:
        model = training.base_model if training is not None else DEFAULT_MODEL
    try:
        settings = read_json(Path(folder) / SETTINGS)
        tensors = load_file(Path(folder) / POLICY)
        action_set = action_set_from_json(settings["choices"], model)
        features = _stored_features(settings["features"], tensors, model)
        writer = settings["choices"]["writer"]["model"]
        if features.to_json() != settings["features"] or action_set.to_json()["writer"]["model"] != writer:
            raise ConfigurationError(f"The policy in {folder} was trained on {writer}. Give that model.")
        policy = _stored_policy(settings, tensors, action_set, features)
        deterministic = bool(settings["deterministic"])
    except ConfigurationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no policy: {error!r}. Save one with PolicyAssistant.save.") from error
    return PolicyAssistant(policy, action_set, features, deterministic=deterministic, training=training)


def _stored_features(
    stored: Mapping[str, Any], tensors: Mapping[str, Any], model: LanguageModelSpec
) -> ConversationFeatures:
    projection = None
    if "projection.mean" in tensors:
        projection = Projection(tensors["projection.mean"], tensors["projection.components"])
    return ConversationFeatures(model, layer=stored["layer"], max_turns=stored["max_turns"], projection=projection)


def _stored_policy(
    settings: Mapping[str, Any], tensors: Mapping[str, Any], action_set: ActionSet, features: ConversationFeatures
) -> object:
    import gymnasium.spaces
    import torch
    from stable_baselines3.common.policies import ActorCriticPolicy

    from simgym.integrations.candidate_policy import CandidatePolicy

    if settings["activation"] not in ACTIVATIONS:
        raise ValueError(settings["activation"])
    kinds = {kind.__name__: kind for kind in (ActorCriticPolicy, CandidatePolicy)}
    policy = kinds[settings.get("policy", "ActorCriticPolicy")](
        features.space(action_set),
        gymnasium.spaces.Discrete(action_set.num_actions),
        lambda _: 0.0,
        net_arch=settings["net_arch"],
        activation_fn=getattr(torch.nn, settings["activation"]),
    )
    weights = {name.removeprefix("policy."): value for name, value in tensors.items() if name.startswith("policy.")}
    policy.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return policy.eval()
