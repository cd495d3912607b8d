"""Let a fine-tuned user leave as often as people do: shift the logit of `<|endconversation|>`, chosen on held-out rows.

    python agents/calibrate_leaving.py runs/sft_user --conversations runs/users/test.jsonl

A model that was trained on when people leave knows how likely that is at a moment; drawn at temperature 0.7 from a
nucleus of 0.9 it leaves more often than it believes, since leaving is one token and staying is spread over many first
words. The shift is chosen so that the mean probability of leaving *as the simulator draws* equals the share of these
moments at which people left. Give conversations that were neither trained on nor are measured later.

The shift lives in the adapter, in the trained row of the token, so that any engine or server draws alike: along a
direction of the last hidden states that is 1 where a user's turn begins and 0 inside of it (ridge regression on the
same conversations). Writes `calibrated/` beside `final/`, and `leaving.json` in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simgym.chat_template import MASKED, add_end_token, flip
from simgym.data import LoggedConversation, read_logged
from simgym.data.logged import unusable
from simgym.integrations import run_script
from simgym.language_models import DEFAULT_MODEL, resolve_weights
from simgym.simulators import FineTuned

LIKELIEST = 2048
"""First words of a turn that can be in the nucleus; the mass of the others is counted."""
RIDGE = 1e-2
"""Of the direction, as a share of the mean squared norm of the hidden states."""
SHIFTS = np.round(np.arange(-5.0, 5.01, 0.1), 1)
"""Logits that are tried."""
ROW = "token_adapter.trainable_tokens_delta"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The moments of logged conversations at which it was the user's turn, the first turns left out."""

    hidden: Floats
    """(N, width) last hidden states, from which the next token is read."""
    inside: Floats
    """(M, width) of positions inside user turns."""
    likeliest: Floats
    """(N, LIKELIEST) logits of the likeliest tokens that are not the end of the conversation, falling."""
    rest: Floats
    """(N,) log of the summed exponentials of all other logits, each divided by the temperature first."""
    end: Floats
    """(N,) logits of the end of the conversation."""
    left: npt.NDArray[np.bool_]
    """(N,) whether the person left."""


def main() -> None:
    """Measure, choose, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="output folder of agents/sft_user.py")
    parser.add_argument("--conversations", type=Path, required=True, help="held-out, with intents")
    parser.add_argument("--limit", type=int, default=None, help="take the first so many conversations")
    parser.add_argument("--max_tokens", type=int, default=1024)
    options = parser.parse_args()
    sampling = FineTuned().sampling
    base = json.loads((options.run / "training_log.json").read_text())["model"]
    logged = [each for each in read_logged(options.conversations) if not unusable(each.conversation, each.intent)]
    logged = logged[: options.limit]
    moments = read_moments(options.run / "final", base, logged, options.max_tokens, sampling.temperature)
    direction = leaving_direction(moments)
    rates = {shift: leaving(moments, direction * shift, sampling.temperature, sampling.top_p) for shift in SHIFTS}
    people = float(moments.left.mean())
    shift = min(rates, key=lambda candidate: abs(float(rates[candidate].mean()) - people))
    record = {
        "conversations": len(logged),
        "moments": len(moments.left),
        "people_leave": people,
        "leaves_before": float(rates[0.0].mean()),
        "shift": float(shift),
        "leaves_after": float(rates[shift].mean()),
        "expected_f1_before": expected_f1(rates[0.0], moments.left),
        "expected_f1_after": expected_f1(rates[shift], moments.left),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "shift_where_turns_begin": _mean_and_deviation(moments.hidden @ direction * shift),
        "shift_inside_turns": _mean_and_deviation(moments.inside @ direction * shift),
    }
    write_shifted(options.run / "final", options.run / "calibrated", direction * shift)
    (options.run / "calibrated" / "leaving.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def read_moments(
    adapter: Path, base: str, logged: Sequence[LoggedConversation], max_tokens: int, temperature: float
) -> Moments:
    """Run the model over whole conversations, as in training, and keep what happens where the user speaks."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = str(resolve_weights(base).path) if base == DEFAULT_MODEL else base
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
    token = add_end_token(tokenizer, model)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
    head = model.get_output_embeddings().weight.detach().clone()
    if torch.cpu._is_amx_tile_supported():
        model = model.to(torch.bfloat16)
    parts: dict[str, list[Any]] = {key: [] for key in ("hidden", "inside", "likeliest", "rest", "end", "left")}
    for each in logged:
        example = flip(tokenizer, each.intent, each.conversation.messages, max_tokens=max_tokens)
        said = np.array(example.labels) != MASKED
        begins = np.flatnonzero(said[1:] & ~said[:-1])[1:]  # positions that predict a turn's first token
        if not begins.size:
            continue
        with torch.no_grad():
            states = model.model(torch.tensor([example.input_ids])).last_hidden_state[0].float()
            logits = states[torch.from_numpy(begins)] @ head.T
        ids = np.array(example.input_ids)
        end = logits[:, token].clone()
        logits[:, token] = -torch.inf
        ordered = logits.sort(dim=-1, descending=True).values
        parts["hidden"].append(states[begins].numpy())
        parts["inside"].append(states[np.flatnonzero(said[1:] & said[:-1])].numpy())
        parts["likeliest"].append(ordered[:, :LIKELIEST].numpy())
        parts["rest"].append(torch.logsumexp(ordered[:, LIKELIEST:] / temperature, dim=-1).numpy())
        parts["end"].append(end.numpy())
        parts["left"].append(ids[begins + 1] == token)
    return Moments(**{key: np.concatenate(arrays) for key, arrays in parts.items()})


def leaving_direction(moments: Moments) -> Floats:
    """(width,) whose product with a hidden state is about 1 where a user's turn begins and 0 inside of it."""
    states = np.concatenate([moments.hidden, moments.inside]).astype(np.float64)
    wanted = np.concatenate([np.ones(len(moments.hidden)), np.zeros(len(moments.inside))])
    weights = np.where(wanted == 1, 0.5 / len(moments.hidden), 0.5 / len(moments.inside))
    gram = (states * weights[:, None]).T @ states
    penalty = RIDGE * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), (states * weights[:, None]).T @ wanted)


def leaving(moments: Moments, row: Floats, temperature: float, top_p: float) -> Floats:
    """(N,) probabilities of leaving at once, as a simulator draws, if `row` is added to the token's row."""
    end = (moments.end + moments.hidden @ row) / temperature
    others = moments.likeliest / temperature
    total = np.logaddexp(np.logaddexp.reduce(others, axis=1), np.logaddexp(moments.rest, end))
    shares, own = np.exp(others - total[:, None]), np.exp(end - total)
    before = np.cumsum(shares, axis=1) - shares  # the mass of likelier words
    own_before = np.where(shares > own[:, None], shares, 0.0).sum(axis=1)
    before += np.where(shares <= own[:, None], own[:, None], 0.0)  # the end of the conversation among them
    kept = np.where(before < top_p, shares, 0.0).sum(axis=1)
    mine = np.where(own_before < top_p, own, 0.0)
    return mine / (mine + kept)


def expected_f1(chance: Floats, left: npt.NDArray[np.bool_]) -> float:
    """F1 of leaving where people left, in expectation over what is drawn (of the counts, not of their ratio)."""
    return float(2 * chance[left].sum() / (chance.sum() + left.sum()))


def write_shifted(source: Path, target: Path, row: Floats) -> None:
    """The adapter with `row` added to its token's row."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    weights = load_file(source / "adapter_model.safetensors")
    names = [name for name in weights if ROW in name]
    for name in names:
        weights[name] = weights[name] + torch.from_numpy(row).to(weights[name])
    save_file(weights, target / "adapter_model.safetensors")


def _mean_and_deviation(values: Floats) -> list[float]:
    return [float(values.mean()), float(values.std())]


if __name__ == "__main__":
    run_script(main)
