"""A generation's thoughts, put where nobody in the conversation hears them; see `simgym.reasoning`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from simgym.language_models.base import Generation
from simgym.reasoning import has_marks, opened_by, split_reasoning


def without_reasoning(
    generation: Generation,
    *,
    raw: str | None = None,
    clean: Callable[[str], str] = str,
    prompt_known: bool = True,
) -> Generation:
    """A generation whose text is what is said; its thoughts, and the fault of having said nothing, stand beside it.

    Args:
        generation: As the model wrote it, its `prompt` included; thoughts that a server told apart may be there.
        raw: Its text with control tokens spelt out, if that differs: some marks are control tokens.
        clean: Drops control tokens from what is said of `raw`.
        prompt_known: Whether `prompt` is the text that the model read; a server's template may open a block unseen.
    """
    text = generation.text if raw is None else raw
    if generation.fault is not None:
        return generation
    prompt = generation.prompt if prompt_known else None
    if generation.reasoning:  # the server has taken the block out
        prompt = ""
    if not has_marks(text) and not generation.reasoning and opened_by(prompt or "") is None:
        return generation
    spoken = split_reasoning(text, prompt=prompt)
    if raw is not None and not spoken.divided and not generation.reasoning:
        return generation  # marks that are quoted
    reasoning = "\n\n".join(filter(None, [generation.reasoning, spoken.reasoning]))
    spoken = replace(spoken, text=clean(spoken.text), reasoning=reasoning)
    fault = spoken.fault(generation.finish_reason)
    if fault is not None:
        return replace(generation, text="", reasoning=spoken.reasoning, finish_reason="fault", fault=str(fault))
    return replace(generation, text=spoken.text, reasoning=spoken.reasoning)
