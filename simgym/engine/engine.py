"""The engine: token prompts in, tokens out, all sequences together, whoever asked for them.

A sequence's life: (1) `generate` gives it to the scheduler, where it waits; (2) `step` admits it; (3) what the prefix
cache matches of its prompt is copied into a slot of the KV cache; (4) what it shares with others that enter is
prefilled once, the rest beside them; (5) the sampler draws its next token; (6) as long as that is not its last, the
model decodes it in one forward pass with all that run, and (5) follows; (7) at its end its keys and values are inserted
into the prefix cache, where the conversation's next turn will match them; (8) its caller gets a `Completion`.

`generate` may be called from many threads. One of the callers leads, that is, does the work for all of them; when its
own sequences are done, another takes over. So simulators, judges and assistants of many environments fill one batch,
and a long completion holds up nobody.

The engine knows token ids, a model and a tokenizer of transformers. It knows nothing of messages and chat templates,
and calls nobody but those two.
"""

from __future__ import annotations

import contextlib
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from simgym.engine.attention import token_bytes
from simgym.engine.config import EngineConfig
from simgym.engine.errors import SequenceTooLarge
from simgym.engine.grammar import Grammar
from simgym.engine.kv_cache import KVCache
from simgym.engine.model_runner import ModelRunner
from simgym.engine.openvino_decoder import MOST_TOKENS
from simgym.engine.prefill import Chunk, passes, shared_prefixes, unmatched
from simgym.engine.prefix_cache import PrefixCache
from simgym.engine.sampler import Sampler
from simgym.engine.scheduler import Scheduler
from simgym.engine.sequence import Completion, Sequence
from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(slots=True)
class EngineStats:
    """What an engine has done so far, in tokens; see `benchmarks/throughput.py`."""

    prefill_tokens: int = 0
    """Prompt tokens that went through the model."""
    decode_tokens: int = 0
    """Sampled tokens that went through the model (the last one of a completion does not)."""
    padding_tokens: int = 0
    """Positions that went through the model for nothing."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were known."""
    forward_passes: int = 0
    """Calls of the model."""


class Engine:
    """Runs sequences through one model; see the module."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: EngineConfig | None = None,
        *,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """Allocate nothing yet.

        Args:
            model: A causal language model of transformers; see `attention.check_supported`.
            tokenizer: Its tokenizer: grammars are compiled for it, and stop texts looked for with it.
            config: Bounds.
            lock: Held during each forward pass, as by whoever else uses the model; None: nobody does.
        """
        config = config or EngineConfig()
        gpu_paths = model.device.type == "cuda" if config.gpu_paths is None else config.gpu_paths
        self.config = config.resolved(gpu_paths=gpu_paths)
        self.stats = EngineStats()
        free_bytes = _free_bytes(model.device)
        packed_bytes = free_bytes // 4 if config.max_packed_bytes is None else config.max_packed_bytes
        self.runner = ModelRunner(model, replace(self.config, max_packed_bytes=packed_bytes), lock or threading.RLock())
        kept_bytes = free_bytes // 8 if model.device.type == "cuda" else 2 * 2**30
        self.prefix_cache = PrefixCache(kept_bytes if config.max_prefix_bytes is None else config.max_prefix_bytes)
        max_bytes = config.max_kv_bytes or free_bytes // 2
        self.kv_cache: KVCache = KVCache(
            model.device,
            max_bytes=max_bytes,
            token_bytes=token_bytes(model.config.get_text_config(), model.dtype),
            for_gpu=gpu_paths,
        )
        self._plain_cache = self.kv_cache
        self._paged_cache = None if self.runner.openvino is None else self.runner.openvino.new_cache(max_bytes)
        self.scheduler = Scheduler(self.config, self.kv_cache)
        self.scheduler.mixes_adapters = self.runner.cpu_decoder is None
        self.grammar = Grammar(tokenizer, self.runner.lora_bank.vocabulary_size)
        self.sampler = Sampler(self.grammar, on_device=gpu_paths)
        self._tokenizer = tokenizer
        self._logits: Tensor | None = None
        self._outdated = False

    def generate(self, sequences: list[Sequence]) -> list[Completion]:
        """Run N sequences to their end, beside those of other threads.

        Returns:
            N completions in the same order; one that could not be made has an `error`.

        Raises:
            RuntimeError: of torch, if the batch fails while this thread leads, or xgrammar refuses a schema.
        """
        for sequence in sequences:
            if sequence.json_schema is not None:
                sequence.matcher = self.grammar.matcher(sequence.json_schema, sequence.stop_token_ids)
        try:
            self.scheduler.add(sequences)
            while self.scheduler.lead(sequences):
                self._step_until_done(sequences)
                self.scheduler.follow()
        except BaseException:
            self.scheduler.cancel(sequences)
            self.scheduler.follow()
            raise
        return [sequence.completion() for sequence in sequences]

    def step(self) -> None:
        """Add one token to every running sequence, those that are admitted now included."""
        running = self.scheduler.running
        if admitted := self.scheduler.schedule():
            if len(admitted) == len(running):
                self._choose_cache(admitted[0].adapter)
            self._logits = _joined(self._logits, self._prefill(admitted))
        if self._logits is not None and running:
            for sequence, sample in zip(running, self.sampler.sample(self._logits, running), strict=True):
                try:
                    sequence.append(sample, self._tokenizer)
                except Exception as error:  # a grammar or a tokenizer that fails is this sequence's affair
                    sequence.error = error
            self._retire()
        self._logits = self._decode() if running else None

    def clear(self) -> None:
        """Drop all keys and values, as after a change of the weights; sequences that run begin again."""
        self._outdated = True
        if self.scheduler.try_lead():
            self._restart()
            self.scheduler.follow()

    def forget(self) -> None:
        """Drop what was kept of earlier prompts, after weights were updated in place, as an optimizer does.

        Recorded passes read the weights where they are, so they stay. To be called while nothing runs.
        """
        self.prefix_cache.clear()
        self.runner.forget()

    def _choose_cache(self, adapter: str | None) -> None:
        """Where keys and values of those that run from now on go; they have adapters, or none of them has."""
        chosen = self._plain_cache
        if self._paged_cache is not None and adapter is None:
            if self.runner.uses_openvino():
                chosen = self._paged_cache
            else:
                self._paged_cache = None
                self.prefix_cache.clear()  # what it kept is in blocks
        if chosen is not self.kv_cache:
            self.kv_cache.free()
            self.kv_cache = chosen

    def _prefill(self, admitted: list[Sequence]) -> Tensor:
        """Give new sequences a slot each and read their prompts; logits after their last tokens, shape (N, V)."""
        running = self.scheduler.running
        first = len(running) - len(admitted)
        while shared := shared_prefixes(admitted, self.prefix_cache, self.config):
            self.kv_cache.reserve(first + len(shared), max(chunk.end for chunk in shared))
            for batch in passes(shared, self._pass_bounds()):
                self._read(batch)
                for slot, chunk in reversed(list(enumerate(batch, first))):
                    self._insert(chunk.sequence, chunk.end, slot)
                    self.kv_cache.remove(slot)
        self.kv_cache.reserve(len(running), max(sequence.max_length for sequence in running))
        batches = passes(unmatched(admitted, self.prefix_cache), self._pass_bounds())
        running[first:] = [chunk.sequence for batch in batches for chunk in batch]
        return _joined(*[self._read(batch) for batch in batches])

    def _pass_bounds(self) -> EngineConfig:
        """What may be read in one pass; where nothing is padded, prompts of any lengths."""
        if self.kv_cache is not self._paged_cache:
            return self.config
        most = min(MOST_TOKENS, self.config.max_pass_tokens or MOST_TOKENS)
        return replace(self.config, max_pass_tokens=most, free_padding=most)

    def _read(self, chunks: list[Chunk]) -> Tensor:
        """Read chunks into new slots, behind what the prefix cache matches; logits after the last tokens."""
        first, new_N = len(self.kv_cache.lengths), [chunk.length for chunk in chunks]
        for slot, chunk in enumerate(chunks, first):
            match = self.prefix_cache.match(chunk.sequence.adapter, chunk.sequence.prompt[: chunk.start])
            for piece in match.pieces:
                self.kv_cache.write(slot, piece.start, piece.block)
            self.kv_cache.lengths.append(chunk.start)
            self.stats.cached_tokens += chunk.start
        width = max(new_N)
        padded = [
            [self.config.pad_token_id] * (width - chunk.length) + chunk.sequence.prompt[chunk.start : chunk.end]
            for chunk in chunks
        ]
        self.stats.prefill_tokens += sum(new_N)
        if self.kv_cache is not self._paged_cache:
            self.stats.padding_tokens += width * len(chunks) - sum(new_N)
        self.stats.forward_passes += 1
        inputs = to_device(padded, self.runner.device)
        adapters = [chunk.sequence.adapter for chunk in chunks]
        return self.runner.forward(inputs, self.kv_cache, first, new_N, adapters)

    def _decode(self) -> Tensor:
        """Read the last token of every running sequence."""
        running = self.scheduler.running
        self.stats.decode_tokens += len(running)
        self.stats.forward_passes += 1
        last_tokens = [sequence.token_ids[-1] for sequence in running]
        return self.runner.decode(last_tokens, self.kv_cache, [sequence.adapter for sequence in running])

    def _retire(self) -> None:
        """Let sequences that are done leave their slots, and keep what was read for the next turn."""
        running = self.scheduler.running
        done = [slot for slot, sequence in enumerate(running) if sequence.done]
        for slot in reversed(done):
            if self.prefix_cache.max_bytes:
                self._insert(running[slot], self.kv_cache.lengths[slot], slot)
            self.kv_cache.remove(slot)
            running[slot] = running[-1]
            running.pop()
        if done:
            self.prefix_cache.evict()
            self.scheduler.notify()

    def _insert(self, sequence: Sequence, length: int, slot: int) -> None:
        tokens = [*sequence.prompt, *sequence.token_ids][:length]
        self.prefix_cache.insert(sequence.adapter, tokens, self.kv_cache, slot)

    def _step_until_done(self, sequences: list[Sequence]) -> None:
        """Lead: do everybody's work until `sequences` are done."""
        import torch

        try:
            with torch.inference_mode(), _on_device(self.runner.device):
                while not all(sequence.done for sequence in sequences):
                    if self._outdated:
                        self._restart()
                    try:
                        self.step()
                    except torch.OutOfMemoryError as error:
                        self._make_room(error)
        except BaseException as error:
            self._abandon(sequences, error)
            raise

    def _make_room(self, error: BaseException) -> None:
        """The device has less memory than was thought: go on with half as many sequences."""
        running = self.scheduler.running
        if len(running) <= 1:
            for sequence in running:
                sequence.error = SequenceTooLarge(f"The device ran out of memory with one sequence: {error}")
        self.scheduler.max_sequences = max(1, len(running) // 2)
        self._restart()

    def _abandon(self, own: list[Sequence], error: BaseException) -> None:
        """The batch is lost. Other callers' sequences begin again, but only once."""
        callers = {id(sequence) for sequence in own}
        for sequence in self.scheduler.running:
            sequence.failures += 1
            if sequence.failures > 1 and id(sequence) not in callers:
                sequence.error = error
        self._restart()

    def _restart(self) -> None:
        self._outdated, self._logits = False, None
        self.runner.clear()
        self.scheduler.restart()
        self.kv_cache.free()
        self.prefix_cache.clear()


def _joined(*logits: Tensor | None) -> Tensor:
    """Logits of all rows; a row whose adapter knows fewer tokens gets -inf for those of others."""
    import torch

    present = [rows for rows in logits if rows is not None]
    width = max(rows.shape[-1] for rows in present)
    padded = [torch.nn.functional.pad(rows, (0, width - rows.shape[-1]), value=float("-inf")) for rows in present]
    return torch.cat(padded)


def _on_device(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The device as the current one: that is one for each thread, and any thread may lead."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, as far as it can be told."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 8 * 2**30
    kib = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(kib["MemAvailable"].split()[0]) * 1024
