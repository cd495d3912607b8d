"""A language model that remembers its answers in an SQLite file, so that an evaluation can be repeated without it.

    model = {"kind": "cached", "path": "runs/answers.sqlite", "mode": "record",
             "model": {"kind": "openai", "model": "judge", "base_url": "http://localhost:8000/v1"}}

An answer is found by the SHA-256 of everything that it depends on: the model's fingerprint and the request with prompt,
sampling, seed, schema and adapter (or the texts that are scored). Modes:

* `record`: what is known is answered from the file, the rest is asked for and written down at once;
* `read`: the same, but nothing is written;
* `replay`: nothing is asked for; a request that is not in the file is an error. A run whose requests were all answered
  is repeated bit for bit;
* `off`: everything is asked for.

A fault (a server that was busy) is kept for `replay` until the same request is answered; in the other modes it is asked
for again. Remembered are texts and likelihoods; what else a model can do (hidden states, choices among tokens, for
models in this process) goes to it directly, in every mode. Several threads and processes may use one file; of two that
ask the same at the same time both get the answer that was written first.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from simgym._forks import ForkSafeLock
from simgym.errors import CacheError, ConfigurationError, UnknownRequest
from simgym.jsonl import parse_json
from simgym.language_models.base import Generation, LanguageModel, Likelihood, Purpose, Request, check_pairs
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model, unwrapped
from simgym.typed_json import from_json

Mode = Literal["off", "read", "record", "replay"]
_Answer = TypeVar("_Answer", Generation, Likelihood)
_VERSION = 1
"""Of the table and of what a key is made of; in the file's `user_version`."""
_PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""


class CachedLM:
    """Remembers what a language model has answered; implements `LanguageModel`."""

    def __init__(self, model: LanguageModelSpec, *, path: str, mode: Mode = "record") -> None:
        """Open the file if there is one; a new one is made when there is something to write down.

        Args:
            model: Whose answers: a name, settings or instance; see `load_language_model`.
            path: SQLite file; made where the mode is `record` and there is none.
            mode: See above.

        Raises:
            ConfigurationError: the mode is unknown, there is no file to read from, or it is none of ours.
        """
        if mode not in get_args(Mode):
            raise ConfigurationError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}.")
        self.model = load_language_model(model)
        self.path = path
        self.mode = mode
        self.hits = 0
        """Answers that came from the file."""
        self.__setstate__({})
        self._opened = False
        if mode != "off" and (mode != "record" or Path(path).exists()):
            self._open()
            self._opened = True

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_identity")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = ForkSafeLock()
        self._identity: str | None = None

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or "model" not in self.__dict__:  # asked before there is a model, when unpickled
            raise AttributeError(name)
        return getattr(self.model, name)

    @property
    def unwrapped(self) -> LanguageModel:
        """The model itself, for what is not remembered."""
        return unwrapped(self.model)

    def check(self, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
        """The inner model's check, unless nothing is going to be asked of it."""
        if self.mode != "replay":
            check_language_model(self.model, purpose, adapter=adapter)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        Raises:
            UnknownRequest: in `replay`, an answer is not in the file.
        """
        keys = [self._key("generate", asdict(request)) for request in requests]
        known = {
            key: answer
            for key, answer in self._read(Generation, keys).items()
            if answer.fault is None or self.mode == "replay"
        }
        self._check(keys, known)
        first_of = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if first_of:
            answers = self.model.generate(list(first_of.values()))
            known |= zip(first_of, answers, strict=True)
            known |= self._write(Generation, {key: asdict(known[key]) for key in first_of})
        return [known[key] for key in keys]

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt; see `LanguageModel.loglikelihood`.

        Raises:
            UnknownRequest: in `replay`, an answer is not in the file.
        """
        check_pairs(prompts, continuations)
        pairs = list(zip(prompts, continuations, strict=True))
        keys = [self._key("score", [*pair, adapter]) for pair in pairs]
        known = self._read(Likelihood, keys)
        self._check(keys, known)
        first_of = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        if first_of:
            heads, tails = zip(*first_of.values(), strict=True)
            known |= zip(first_of, self.model.loglikelihood(heads, tails, adapter=adapter), strict=True)
            known |= self._write(Likelihood, {key: asdict(known[key]) for key in first_of})
        return [known[key] for key in keys]

    def fingerprint(self) -> dict[str, object]:
        """The inner model's: remembering changes no answer."""
        return self.model.fingerprint()

    def _key(self, kind: str, request: object) -> str:
        if self._identity is None:
            self._identity = json.dumps(self.model.fingerprint(), sort_keys=True)
        text = json.dumps([_VERSION, kind, self._identity, request], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _check(self, keys: Sequence[str], known: dict[str, Any]) -> None:
        with self._lock:
            self.hits += sum(key in known for key in keys)
        missing = sum(key not in known for key in keys)
        if self.mode == "replay" and missing:
            raise UnknownRequest(
                f"{self.path} does not hold {missing} of {len(keys)} answers of {self.model.fingerprint()}. Replay "
                "repeats what was recorded: give the same model, prompts and seeds, or record again."
            )

    def _connect(self) -> closing[sqlite3.Connection]:
        # a connection a call: it is cheap beside a model, and SQLite ties one to its thread and process
        return closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if not self._opened:
            try:
                self._open()
            except ConfigurationError as error:
                raise CacheError(str(error)) from error
            self._opened = True  # not before: other threads would look for a table that is still being made
        try:
            with self._connect() as database:
                yield database
        except sqlite3.Error as error:
            raise CacheError(
                f"{self.path} cannot be read or written: {error}. What was written is kept; free the file, or give "
                "another one."
            ) from error

    def _open(self) -> None:
        there = Path(self.path).is_file()
        if not there and self.mode != "record":
            raise ConfigurationError(f"There is no file {self.path} to {self.mode} from. Record one first.")
        try:
            if not there:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            with self._connect() as database:
                database.execute("BEGIN IMMEDIATE" if self.mode == "record" else "BEGIN")  # two may begin at once
                (version,) = database.execute("PRAGMA user_version").fetchone()
                tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if version == _VERSION and "answers" in tables:
                    return
                if tables or version or self.mode != "record":
                    raise ConfigurationError(f"{self.path} is no file of answers of this version. Choose another path.")
                database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
                database.execute(f"PRAGMA user_version = {_VERSION}")
                database.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"{self.path} cannot be used as a file of answers: {error}.") from error

    def _read(self, kind: type[_Answer], keys: Sequence[str]) -> dict[str, _Answer]:
        if self.mode == "off":
            return {}
        with self._connected() as database:
            query = "SELECT key, answer FROM answers WHERE key IN (SELECT value FROM json_each(?))"
            rows = database.execute(query, [json.dumps(list(keys))]).fetchall()
        return {key: self._answer(kind, key, answer) for key, answer in rows}

    def _answer(self, kind: type[_Answer], key: str, text: object) -> _Answer:
        try:
            return from_json(kind, parse_json(str(text)), "answer")
        except ValueError as error:
            raise CacheError(
                f"{self.path}, entry {key[:16]}: not an answer of this version ({error}). Remove the file, or give "
                "another one."
            ) from error

    def _write(self, kind: type[_Answer], answers: dict[str, object]) -> dict[str, _Answer]:
        """Write down what is new; returns what now stands in the file, which another process may have written."""
        if self.mode != "record":
            return {}
        rows = [(key, json.dumps(answer)) for key, answer in answers.items()]
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                # a fault gives way to an answer, nothing else does
                "INSERT INTO answers VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET answer = excluded.answer "
                "WHERE json_extract(answers.answer, '$.fault') IS NOT NULL",
                rows,
            )
            database.execute("COMMIT")
        return self._read(kind, list(answers))
