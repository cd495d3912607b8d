"""What the engine raises on purpose; each has a parent in the standard library and can be pickled."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors raised by the engine."""


class InvalidSetting(EngineError, ValueError):
    """A field of `EngineConfig` or `Sequence` is outside its range."""


class UnsupportedModel(EngineError, ValueError):
    """The model keeps something other than keys and values, or its positions change with the batch."""


class AdapterMismatch(EngineError, ValueError):
    """An adapter was made for another model; the model is as it was before."""


class SequenceTooLarge(EngineError, MemoryError):
    """One sequence alone is longer than the model's context, or than the memory for keys and values."""
