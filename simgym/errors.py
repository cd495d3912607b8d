"""Every error that simgym raises on purpose, in one tree.

    SimgymError
    ├── ConfigurationError (ValueError)    a setting, name or file cannot be used as given
    │   ├── UnknownName (LookupError)      no simulator, judge, model or scenario set has that name
    │   ├── UnknownRequest                 a replay without a model was asked something that was not recorded
    │   └── MalformedFile                  a line of a JSONL file cannot be read; the message names the line
    ├── MissingDependency (ImportError)    an optional package is not installed; the message names the extra
    ├── WeightsError (OSError)             weights cannot be found, downloaded, verified or converted
    ├── EpisodeError (RuntimeError)        step before reset, or after the end of the conversation
    ├── InvalidAction (ValueError)         an assistant utterance outside the action space
    ├── BudgetReached (RuntimeError)       a run has used the tokens or the money it was given
    ├── ServersDown (ConnectionError)      in training, all conversations failed because a server is silent
    ├── CacheError (OSError)               a file of remembered answers cannot be read or written any more
    ├── TrainingFailed (RuntimeError)      a training recipe ended with an error; what it wrote is kept
    ├── OutputInUse (BlockingIOError)      another process or thread is writing the same file or folder
    └── TranscriptError (OSError)          a file cannot be written; what was written before is intact

A failure *of a model, judge or person during a conversation* is not an error but data: it is recorded as a
`fault` on the turn or judgement, counted, and kept out of means. Each class has a standard-library parent, so
that code which knows nothing of simgym can still catch it, and each can be pickled (errors cross processes).
"""

from __future__ import annotations


class SimgymError(Exception):
    """Base of all errors raised by simgym."""


class ConfigurationError(SimgymError, ValueError):
    """A setting, name or file cannot be used as given."""


class UnknownName(ConfigurationError, LookupError):
    """No simulator, judge, model or scenario set has the given name."""


class UnknownRequest(ConfigurationError):
    """A replay of recorded answers was asked something that was not recorded."""


class MalformedFile(ConfigurationError):
    """A file has content that cannot be read; the message names path and line."""


class MissingDependency(SimgymError, ImportError):
    """An optional package is not installed; the message names the extra to install."""


class WeightsError(SimgymError, OSError):
    """Model weights cannot be found, downloaded, verified or converted."""


class EpisodeError(SimgymError, RuntimeError):
    """`step` was called before `reset`, or after the conversation had ended."""


class InvalidAction(SimgymError, ValueError):
    """An assistant utterance is empty, too long, or not text."""


class BudgetReached(SimgymError, RuntimeError):
    """A run has used the tokens or the money it was given; what it held is kept."""


class ServersDown(SimgymError, ConnectionError):
    """In training, every conversation of a batch failed because a model's server does not answer, time and again."""


class CacheError(SimgymError, OSError):
    """A file of remembered answers cannot be read or written; what was written earlier is intact."""


class TrainingFailed(SimgymError, RuntimeError):
    """A training recipe ended with an error; its checkpoints are kept."""


class OutputInUse(SimgymError, BlockingIOError):
    """Another process or thread is writing the same file or folder; the message says which."""


class TranscriptError(SimgymError, OSError):
    """A file of transcripts, results or a report cannot be written; lines written earlier are intact."""
