"""A generation's thoughts, put where nobody in the conversation hears them; see `simgym.reasoning`."""

from __future__ import annotations

from dataclasses import replace

from simgym.language_models.base import Generation
from simgym.reasoning import has_marks, opened_by, split_reasoning


def without_reasoning(generation: Generation, *, raw: str | None = None) -> Generation:
    """A generation whose text is what is said; its thoughts, and the fault of having said nothing, stand beside it.

    Args:
        generation: As the model wrote it, its `prompt` included; thoughts that a server told apart may be there.
        raw: Its text with control tokens spelt out, if that differs: some marks are control tokens.
    """
    text = generation.text if raw is None else raw
    if generation.fault is not None:
        return generation
    if not has_marks(text) and not generation.reasoning and opened_by(generation.prompt) is None:
        return generation
    spoken = split_reasoning(text, prompt="" if generation.reasoning else generation.prompt)
    reasoning = "\n\n".join(filter(None, [generation.reasoning, spoken.reasoning]))
    if raw is not None and not reasoning and not spoken.unfinished:
        return generation  # marks that are quoted
    spoken = replace(spoken, reasoning=reasoning)
    fault = spoken.fault(generation.finish_reason)
    if fault is not None:
        return replace(generation, text="", reasoning=reasoning, finish_reason="fault", fault=str(fault))
    return replace(generation, text=spoken.text, reasoning=reasoning)
