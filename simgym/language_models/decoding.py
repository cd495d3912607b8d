"""The decoding loop: token prompts in, token lists out, all rows together, whoever asked for them.

`Decoder.run` may be called from many threads. One of the callers does the work for all of them: at every step it lets
waiting rows in, runs the model once, and lets finished rows leave; when its own rows are done, another caller takes
over. So simulators, judges and assistants of many environments fill one batch, and a long reply holds up nobody.

A row enters in three steps. What the prefix tree knows of its prompt is copied; what several entering rows have in
common beyond that (a system prompt, a rubric, the history of a fork) is read once; the rest is read row by row,
together. When it leaves, what was read and written goes to the tree, where the conversation's next turn will find it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from simgym.language_models.base import FinishReason, Sampling
from simgym.language_models.prefix_tree import PrefixTree, shared_length
from simgym.language_models.sampling import draw_tokens
from simgym.language_models.slot_cache import SlotCache
from simgym.seeding import generator

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST_TRUNK = 16
"""Tokens; a shorter beginning is not worth a forward pass of its own."""
_WIDEST = 4096
"""Tokens, padding included, that are read in one forward pass."""
_MOST_PADDING = 1.25
"""Tokens with padding as a multiple of tokens; beyond it, a pass is divided."""


@dataclass(slots=True, eq=False)
class Row:
    """One request on its way through the loop."""

    prompt: list[int]
    """Token ids of the prompt, at least one."""
    sampling: Sampling
    """How to draw."""
    seed: int
    """Keys the row's random numbers."""
    adapter: str
    """Adapter name as PEFT expects it; `__base__` for none."""
    matcher: Any | None = None
    """JSON grammar matcher, or None."""
    tokens: list[int] = field(default_factory=list)
    """Sampled so far."""
    logprobs: list[float] = field(default_factory=list)
    """Of the sampled tokens, under the unconstrained model at temperature 1."""
    finish_reason: FinishReason | None = None
    """None while the row is running."""
    choices: tuple[int, ...] = ()
    """Tokens whose log-probability as the first one is asked for."""
    choice_logprobs: tuple[float, ...] = ()
    """Those log-probabilities, in order."""
    error: BaseException | None = None
    """What went wrong with this row."""
    failures: int = 0
    """Batches that it was in when they were lost."""
    cancelled: bool = False
    """Whether its caller has given up."""
    uniforms: np.random.Generator = field(init=False)
    """Source of one number per token."""

    def __post_init__(self) -> None:
        self.uniforms = generator(self.seed)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.finish_reason is not None or self.error is not None or self.cancelled

    def restart(self) -> None:
        """As it was before the first token."""
        self.tokens, self.logprobs, self.uniforms = [], [], generator(self.seed)
        if self.matcher is not None:
            self.matcher.reset()


@dataclass(slots=True)
class Work:
    """What a decoder has done so far, in tokens; see `benchmarks/throughput.py`."""

    read: int = 0
    """Prompt tokens that went through the model."""
    written: int = 0
    """Sampled tokens that went through the model (the last one of a reply does not)."""
    padding: int = 0
    """Positions that went through the model for nothing."""
    reused: int = 0
    """Prompt tokens whose keys and values were known."""
    passes: int = 0
    """Forward passes."""


class Decoder:
    """One model's batch; see the module."""

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        lock: Any,
        device: Any,
        pad_token: int,
        max_rows: int,
        memory: int,
        stop_tokens: Callable[[], frozenset[int]],
        text_of: Callable[[list[int]], str],
        mask: Callable[[Tensor, Sequence[Any | None]], Tensor],
    ) -> None:
        """Choose model and bounds.

        Args:
            forward: The model's forward call, taking also `adapter_names` (one per row) and `visible`.
            lock: Held during each pass; whoever else uses the model holds it, too.
            device: Where the model lives.
            pad_token: Any token id; padded positions are masked out.
            max_rows: Rows of a batch.
            memory: Bytes of keys and values that are kept between calls.
            stop_tokens: Tokens that end a row; they are kept in `tokens`.
            text_of: Decodes token ids, to look for stop texts.
            mask: Applies grammar matchers to the logits.
        """
        self.tree = PrefixTree(memory)
        self.work = Work()
        self._forward, self._lock, self._device, self._pad = forward, lock, device, pad_token
        self._max_rows, self._stop_tokens, self._text_of, self._mask = max_rows, stop_tokens, text_of, mask
        self._cache = SlotCache(device)
        self._running: list[Row] = []
        self._logits: Any = None
        self._waiting: list[Row] = []
        self._leader: int | None = None
        self._outdated = False
        self._changed = threading.Condition()

    def run(self, rows: Sequence[Row]) -> None:
        """Run all rows to their end; results are left in the rows.

        An error that a row itself causes is raised by the call that brought it, after its other rows are done.
        """
        with self._changed:
            self._waiting += sorted(rows, key=lambda row: len(row.prompt))
        try:
            while self._take_the_lead(rows):
                try:
                    self._lead(rows)
                except BaseException as error:
                    self._abandon(rows, error)
                    raise
                finally:
                    self._hand_over()
        except BaseException:
            self._cancel(rows)
            raise
        for row in rows:
            if row.error is not None:
                raise row.error

    def forget(self) -> None:
        """Drop what was read, as after a change of the weights; rows that are running begin again."""
        with self._changed:
            self._outdated = True
            if self._leader is None:
                self._start_over()

    def _take_the_lead(self, rows: Sequence[Row]) -> bool:
        """Wait until the rows are done (False), or nobody leads (True: the caller does now)."""
        with self._changed:
            while True:
                if all(row.done for row in rows):
                    return False
                if self._leader is None:
                    self._leader = threading.get_ident()
                    return True
                self._changed.wait()

    def _hand_over(self) -> None:
        with self._changed:
            self._leader = None
            self._changed.notify_all()

    def _lead(self, rows: Sequence[Row]) -> None:
        """Do everybody's work until `rows` are done."""
        import torch

        with torch.inference_mode():
            while not all(row.done for row in rows):
                with self._changed:
                    if self._outdated:
                        self._start_over()
                if entering := self._entering():
                    self._enter(entering)
                if self._running:
                    self._draw()
                    self._leave()
                if self._running:
                    self._step()

    def _abandon(self, rows: Sequence[Row], error: BaseException) -> None:
        """After an exception: the batch is lost. Other callers' rows begin again, but only once."""
        with self._changed:
            mine = {id(row) for row in rows}
            for row in self._running:
                row.failures += 1
                if row.failures > 1 and id(row) not in mine:
                    row.error = error
            self._start_over()

    def _cancel(self, rows: Sequence[Row]) -> None:
        """Nobody wants these rows any more."""
        with self._changed:
            if self._leader == threading.get_ident():  # interrupted between taking the lead and leading
                self._leader = None
                self._changed.notify_all()
            for row in rows:
                row.cancelled = True
            self._waiting = [row for row in self._waiting if not row.cancelled]

    def _start_over(self) -> None:
        lost = {id(row): row for row in [*self._running, *self._waiting]}
        self._waiting = [row for row in lost.values() if not row.done]
        for row in self._waiting:
            row.restart()
        self._running, self._logits, self._outdated = [], None, False
        self._cache.free()
        self.tree.clear()

    def _entering(self) -> list[Row]:
        """Rows that may come in now: a few at a time would cost as many passes as many together."""
        with self._changed:
            free = self._max_rows - len(self._running)
            enough = min(len(self._waiting), max(1, self._max_rows // 4))
            return self._waiting[:free] if free >= enough else []

    def _enter(self, rows: list[Row]) -> None:
        import torch

        self._read_trunks(rows)
        logits = [] if self._logits is None else [self._logits]
        longest = max(len(row.prompt) + row.sampling.max_new_tokens for row in rows)
        self._cache.reserve(len(self._running) + len(rows), longest)
        for some in self._passes(
            [(row, self.tree.find(row.adapter, row.prompt[:-1])[0], len(row.prompt)) for row in rows]
        ):
            logits.append(self._read(some))
            self._running += [row for row, _, _ in some]
        width = max(one.shape[-1] for one in logits)
        self._logits = torch.cat([_widened(one, width) for one in logits])
        with self._changed:
            entered = {id(row) for row in rows}
            self._waiting = [row for row in self._waiting if id(row) not in entered]

    def _read_trunks(self, rows: list[Row]) -> None:
        """Put into the tree what several rows begin with; again, as long as branches share something further."""
        while True:
            groups: dict[tuple[Any, ...], list[tuple[Row, int]]] = {}
            for row in rows:
                known = self.tree.find(row.adapter, row.prompt[:-1])[0]
                begin = row.prompt[: known + _SHORTEST_TRUNK]
                if len(begin) == known + _SHORTEST_TRUNK < len(row.prompt):
                    groups.setdefault((row.adapter, *begin), []).append((row, known))
            jobs = []
            for group in groups.values():
                if len(group) > 1:
                    # what the first and the last in order share, all share
                    ordered = sorted((row.prompt for row, _ in group))
                    end = min(shared_length(ordered[0], ordered[-1]), min(map(len, ordered)) - 1)
                    jobs.append((group[0][0], group[0][1], end))
            if not jobs:
                return
            first = len(self._running)
            self._cache.reserve(first + len(jobs), max(end for _, _, end in jobs))
            for some in self._passes(jobs):
                self._read(some)
                for number, (row, _, end) in reversed(list(enumerate(some, first))):
                    self._store(row, end, number)
                    self._cache.remove(number)

    def _passes(self, jobs: list[tuple[Row, int, int]]) -> list[list[tuple[Row, int, int]]]:
        """Jobs (row, first token to be read, end) in groups of similar size: padding is work for nothing."""
        groups: list[list[tuple[Row, int, int]]] = []
        tokens = 0
        for job in sorted(jobs, key=lambda job: job[2] - job[1]):
            new = job[2] - job[1]
            padded = (len(groups[-1]) + 1) * new if groups else 0
            if groups and padded <= _WIDEST and padded <= _MOST_PADDING * (tokens + new) + 32:
                groups[-1].append(job)
                tokens += new
            else:
                groups.append([job])
                tokens = new
        return groups

    def _read(self, jobs: list[tuple[Row, int, int]]) -> Tensor:
        """Read tokens into new slots; logits after the last, shape (N, V)."""
        import torch

        first, new_N = len(self._cache.lengths), [end - start for _, start, end in jobs]
        for number, (row, start, _) in enumerate(jobs):
            for column, layers in self.tree.find(row.adapter, row.prompt[:start])[1]:
                self._cache.write(first + number, column, layers)
            self._cache.lengths.append(start)
            self.work.reused += start
        width = max(new_N)
        padded = [[self._pad] * (width - end + start) + row.prompt[start:end] for row, start, end in jobs]
        self.work.read += sum(new_N)
        self.work.padding += width * len(jobs) - sum(new_N)
        return self._pass(first, new_N, torch.tensor(padded, device=self._device), [row for row, _, _ in jobs])

    def _step(self) -> None:
        import torch

        tokens = torch.tensor([[row.tokens[-1]] for row in self._running], device=self._device)
        self.work.written += len(tokens)
        self._logits = self._pass(0, [1] * len(tokens), tokens, self._running)

    def _pass(self, first: int, new_N: list[int], tokens: Tensor, rows: list[Row]) -> Tensor:
        self.work.passes += 1
        with self._lock:
            logits: Tensor = self._forward(
                input_ids=tokens,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                adapter_names=[row.adapter for row in rows],
                **self._cache.aim(first, new_N),
            ).logits
        return logits[:, -1]

    def _draw(self) -> None:
        raw, stop_tokens = self._logits, self._stop_tokens()
        constrained = any(row.matcher is not None for row in self._running)
        allowed = self._mask(raw, [row.matcher for row in self._running]) if constrained else raw
        tokens = draw_tokens(
            allowed, [row.sampling for row in self._running], [float(row.uniforms.random()) for row in self._running]
        )
        logprobs = raw.float().log_softmax(-1)
        chosen = logprobs.gather(-1, tokens.to(raw.device)[:, None])[:, 0]
        for number, (row, token, logprob) in enumerate(
            zip(self._running, tokens.tolist(), chosen.tolist(), strict=True)
        ):
            if row.choices and not row.tokens:
                row.choice_logprobs = tuple(logprobs[number, list(row.choices)].tolist())
            try:
                _advance(row, token, logprob, stop_tokens, self._text_of)
            except Exception as error:  # a grammar or a tokenizer that fails is this row's affair
                row.error = error

    def _leave(self) -> None:
        ended = [number for number, row in enumerate(self._running) if row.done]
        for number in reversed(ended):
            row = self._running[number]
            if self.tree.bound:
                self._store(row, self._cache.lengths[number], number)
            self._cache.remove(number)
            self._running[number] = self._running[-1]
            self._running.pop()
        if ended:
            self.tree.trim()
            with self._changed:
                self._changed.notify_all()
        if not self._running:
            self._logits = None

    def _store(self, row: Row, end: int, slot: int) -> None:
        known = [*row.prompt, *row.tokens][:end]
        self.tree.store(row.adapter, known, lambda start, stop: self._cache.read(slot, start, stop))


def _widened(logits: Tensor, width: int) -> Tensor:
    """Logits of rows whose adapters know fewer tokens, as if they knew as many."""
    import torch

    return torch.nn.functional.pad(logits, (0, width - logits.shape[-1]), value=float("-inf"))


def _advance(
    row: Row, token: int, logprob: float, stop_tokens: frozenset[int], text_of: Callable[[list[int]], str]
) -> None:
    row.tokens.append(token)
    row.logprobs.append(logprob)
    if row.matcher is not None:
        row.matcher.accept_token(token)
    ended = token in stop_tokens or (row.matcher is not None and row.matcher.is_terminated())
    if ended or (row.sampling.stop and any(stop in text_of(row.tokens) for stop in row.sampling.stop)):
        row.finish_reason = "stop"
    elif len(row.tokens) >= row.sampling.max_new_tokens:
        row.finish_reason = "length"
