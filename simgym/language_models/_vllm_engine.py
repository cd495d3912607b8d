"""vLLM's engine in this process, shared by threads.

vLLM takes requests at any time and gives everybody's tokens out step by step, but its calls must not overlap. So one of
the callers leads, that is, hands in what has arrived and steps for all; when its own requests are done, another takes
over (as in `simgym.engine`). What else is to be done with the engine, such as adding an adapter, waits in line, too.

Its scheduler runs here rather than in a process of its own (`VLLM_ENABLE_V1_MULTIPROCESSING=0`): then a script needs no
`__main__` guard, nothing outlives it, and vLLM decides in the same order each time. vLLM's reports to its makers are
off (`VLLM_NO_USAGE_STATS=1`), and so is its chatter (`VLLM_LOGGING_LEVEL=WARNING`). Whoever sets these variables is
obeyed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from simgym.errors import ConfigurationError, WeightsError
from simgym.language_models.pretrained import shortened

if TYPE_CHECKING:
    from vllm import SamplingParams as VllmSampling
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Errand:
    """Something to be done with the engine, on its way."""

    begin: Callable[[LLMEngine, str], object]
    """Called once with the engine and a request id, by whoever leads."""
    is_request: bool
    """Whether it is done when vLLM says so, or when `begin` returns."""
    result: Any = None
    error: BaseException | None = None
    done: bool = False
    unwanted: bool = False
    """Nobody waits for it any more."""

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result, self.error, self.done = result, error, True


class VllmEngine:
    """An `LLMEngine` that any thread may ask."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._arrived: list[_Errand] = []
        self._running: dict[str, _Errand] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._led = False

    @property
    def context_length(self) -> int:
        """Tokens of prompt and reply together."""
        return int(self._engine.model_config.max_model_len)

    def generate(self, asked: Sequence[tuple[Sequence[int], VllmSampling, LoRARequest | None]]) -> list[RequestOutput]:
        """Run N requests to their end, beside those of other threads.

        Args:
            asked: Prompt tokens, vLLM's `SamplingParams`, and its `LoRARequest` or None.

        Returns:
            vLLM's `RequestOutput` of each, in the same order.

        Raises:
            ConfigurationError: vLLM refuses a request, such as a JSON schema that it cannot read.
        """
        return self._run([_Errand(partial(_submit, *each), is_request=True) for each in asked])

    def call(self, action: Callable[[LLMEngine], Result]) -> Result:
        """Do something with the engine between two steps; what the action returns."""
        result: Result = self._run([_Errand(lambda engine, _: action(engine), is_request=False)])[0]
        return result

    def _run(self, errands: list[_Errand]) -> list[Any]:
        with self._changed:
            self._arrived += errands
        try:
            while self._lead(errands):
                try:
                    while not all(errand.done for errand in errands):
                        self._step()
                finally:
                    self._follow()
        except BaseException:
            with self._changed:
                for errand in errands:
                    errand.unwanted = not errand.done
            raise
        if (failed := next((errand.error for errand in errands if errand.error), None)) is not None:
            raise failed
        return [errand.result for errand in errands]

    def _lead(self, errands: list[_Errand]) -> bool:
        """Wait until the errands are done (False), or nobody leads (True: the calling thread does from now on)."""
        with self._changed:
            self._changed.wait_for(lambda: not self._led or all(errand.done for errand in errands))
            if all(errand.done for errand in errands):
                return False
            self._led = True
            return True

    def _follow(self) -> None:
        with self._changed:
            self._led = False
            self._changed.notify_all()

    def _step(self) -> None:
        """Hand in what has arrived, take out what nobody wants, and add a token to everything that runs."""
        with self._changed:
            arrived, self._arrived = self._arrived, []
        for errand in arrived:
            self._begin(errand)
        unwanted = [number for number, errand in self._running.items() if errand.unwanted]
        if unwanted:
            self._engine.abort_request(unwanted)
            for number in unwanted:
                del self._running[number]
        if self._running:
            try:
                for output in self._engine.step():
                    if output.finished and output.request_id in self._running:
                        self._running.pop(output.request_id).end(output)
            except Exception as error:  # the batch is lost, and vLLM with it
                for errand in self._running.values():
                    errand.end(error=error)
                self._running.clear()
        with self._changed:
            self._changed.notify_all()

    def _begin(self, errand: _Errand) -> None:
        if errand.unwanted:
            return
        number = str(next(self._numbers))
        try:
            result = errand.begin(self._engine, number)
        except Exception as error:  # this errand's affair
            errand.end(error=error)
            return
        if errand.is_request:
            self._running[number] = errand
        else:
            errand.end(result)


def _submit(
    token_ids: Sequence[int], params: VllmSampling, lora: LoRARequest | None, engine: LLMEngine, number: str
) -> None:
    """Hand a request in."""
    from vllm.inputs.engine import tokens_input

    try:
        engine.add_request(number, tokens_input(list(token_ids)), params, lora_request=lora)
    except refusals() as error:
        raise ConfigurationError(f"vLLM refuses the request: {shortened(error)}") from error


def start_engine(name: str, settings: Mapping[str, object]) -> VllmEngine:
    """Load a model into vLLM.

    Args:
        name: What the user calls the model.
        settings: Arguments of `vllm.LLM`.

    Raises:
        WeightsError: vLLM cannot load or run it.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from vllm import LLM

    try:
        return VllmEngine(LLM(**settings).llm_engine)
    except Exception as error:  # checkpoints, memory, options, kernels: it raises what it likes
        raise WeightsError(
            f"vLLM cannot load the model {name!r}: {shortened(error)} Check the model and engine_options; whether "
            "memory suffices depends on gpu_memory_utilization or kv_cache_gib, and on context_length."
        ) from error


def refusals() -> tuple[type[Exception], ...]:
    """Classes of what vLLM raises for a request that it does not take."""
    from vllm.exceptions import VLLMValidationError

    return ValueError, VLLMValidationError
