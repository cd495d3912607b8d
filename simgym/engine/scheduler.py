"""Which sequences run: those that wait are admitted in the order of their arrival, while there is room.

Room is a number of sequences and a number of bytes for their keys and values. A sequence that would not fit into an
empty batch is refused, alone; one that does not fit beside those that run waits for one of them to finish. Where passes
without adapters are computed in another way than those with (`cpu_decoder`), the two never run together: what a
sequence says would depend, in a last bit, on its company. Callers in many threads add sequences and wait for them; one
of the threads leads, that is, runs the engine for all of them.
"""

from __future__ import annotations

import threading

from simgym.engine.config import EngineConfig
from simgym.engine.errors import SequenceTooLarge
from simgym.engine.kv_cache import KVCache
from simgym.engine.sequence import Sequence


class Scheduler:
    """The sequences that wait, those that run, and the thread that leads."""

    def __init__(self, config: EngineConfig, kv_cache: KVCache) -> None:
        self.max_sequences = config.max_sequences
        """Sequences that may run at a time."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        """In the order of their slots. Only the leading thread changes it."""
        self.mixes_adapters = True
        """Whether sequences with and without an adapter may run at the same time."""
        self._max_length = config.max_length
        self._kv_cache = kv_cache
        self._leader: int | None = None
        self._changed = threading.Condition()

    def add(self, sequences: list[Sequence]) -> None:
        """Let sequences wait, short ones first."""
        with self._changed:
            self.waiting += sorted(sequences, key=lambda sequence: len(sequence.prompt))

    def schedule(self) -> list[Sequence]:
        """Admit what there is room for; admitted sequences run from now on, behind those that ran before.

        Few at a time would cost as many forward passes as many together, so a quarter of the batch has to be free.
        """
        with self._changed:
            self._refuse_what_never_fits()
            free = self.max_sequences - len(self.running)
            if free < min(len(self.waiting), max(1, self.max_sequences // 4)):
                return []
            admitted: list[Sequence] = []
            longest = max((sequence.max_length for sequence in self.running), default=0)
            for sequence in self.waiting[:free]:
                if not self.mixes_adapters and not _alike(sequence, [*self.running, *admitted]):
                    break  # nobody behind it goes first, or it would wait for ever
                longest = max(longest, sequence.max_length)
                if not self._kv_cache.fits(len(self.running) + len(admitted) + 1, longest):
                    break
                admitted.append(sequence)
            self.waiting = self.waiting[len(admitted) :]
            self.running += admitted
            return admitted

    def cancel(self, sequences: list[Sequence]) -> None:
        """Nobody wants these sequences any more."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            self.waiting = [sequence for sequence in self.waiting if not sequence.cancelled]

    def restart(self) -> None:
        """Let everything that is not done wait again, as before its first token."""
        with self._changed:
            self.waiting = [sequence for sequence in [*self.running, *self.waiting] if not sequence.done]
            self.running = []
            for sequence in self.waiting:
                sequence.restart()

    def lead(self, sequences: list[Sequence]) -> bool:
        """Wait until the sequences are done (False), or nobody leads (True: the calling thread does from now on)."""
        with self._changed:
            while True:
                if all(sequence.done for sequence in sequences):
                    return False
                if self._leader is None:
                    self._leader = threading.get_ident()
                    return True
                self._changed.wait()

    def follow(self) -> None:
        """Leave the lead, if the calling thread has it, to another."""
        with self._changed:
            if self._leader == threading.get_ident():
                self._leader = None
                self._changed.notify_all()

    def try_lead(self) -> bool:
        """Lead if nobody does, without waiting."""
        with self._changed:
            if self._leader is not None:
                return False
            self._leader = threading.get_ident()
            return True

    def notify(self) -> None:
        """Let waiting threads see what is done."""
        with self._changed:
            self._changed.notify_all()

    def _refuse_what_never_fits(self) -> None:
        for sequence in self.waiting:
            tokens = f"{len(sequence.prompt)} prompt tokens and {sequence.max_new_tokens} new ones"
            if self._max_length is not None and sequence.max_length > self._max_length:
                sequence.error = SequenceTooLarge(f"{tokens} exceed the context of {self._max_length}")
            elif not self._kv_cache.fits(1, sequence.max_length):
                sequence.error = SequenceTooLarge(
                    f"{tokens} need "
                    f"{sequence.max_length * self._kv_cache.token_bytes / 2**30:.2f} GiB of keys and values, and "
                    f"running sequences may take {self._kv_cache.max_bytes / 2**30:.2f} GiB."
                )
        if any(sequence.done for sequence in self.waiting):
            self.waiting = [sequence for sequence in self.waiting if not sequence.done]
            self._changed.notify_all()


def _alike(sequence: Sequence, others: list[Sequence]) -> bool:
    return all((other.adapter is None) == (sequence.adapter is None) for other in others[:1])
