"""OpenVINO GenAI's continuous batching, for `throughput.py`: its pipeline in process, fed as soon as a turn is due.

`python throughput_openvino.py` reads a job as JSON from standard input and writes its result to standard output. The
weights are those of llama.cpp: OpenVINO reads its files too. For float32 the file is in float16, which holds the
default model's bfloat16 weights exactly but for the smallest; sums and cache are in float32. Q8_0 runs with OpenVINO's
own choices, among them a cache of 8 bits. Needs `pip install openvino-genai` beside simgym.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from throughput_systems import NEW_TOKENS, NOTHING, hash_of, peak_mb, reset_peak, swapped, users

SLOTS = 16
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def main() -> None:
    """One job; its result has the most memory that the process took once it was warm, MB."""
    job = json.load(sys.stdin)
    result = {"converse": converse, "phases": phases}[job.pop("kind")](**job)
    print(json.dumps(result))


class Pipeline:
    """Requests of token ids, at most 16 at a time."""

    def __init__(self, system: str, weights: str) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 2  # GB, as vLLM has
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = SLOTS
        own = FLOAT32 if system.endswith("float32") else {}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(weights, scheduler, "CPU", own)
        self.asked = 0

    def add(self, prompt: Sequence[int], tokens: int, end: int | None) -> Any:
        """A handle of the request, which `end` ends, if given."""
        import numpy as np
        import openvino
        import openvino_genai

        settings = openvino_genai.GenerationConfig()
        settings.max_new_tokens, settings.do_sample = tokens, False
        if end is None:
            settings.ignore_eos = True
        else:
            settings.eos_token_id, settings.stop_token_ids = end, {end}
        self.asked += 1
        return self.pipeline.add_request(self.asked, openvino.Tensor(np.array([prompt], dtype=np.int64)), settings)

    def step(self) -> None:
        """One pass over what is under way."""
        self.pipeline.step()


def converse(system: str, conversations: int, turns: int, weights: str) -> dict[str, Any]:
    """All conversations, each asking on as soon as it is answered."""
    import openvino_genai
    from transformers import AutoTokenizer

    from simgym.language_models import DEFAULT_MODEL, resolve_weights

    tokenizer = AutoTokenizer.from_pretrained(resolve_weights(DEFAULT_MODEL).path)
    pipeline, end = Pipeline(system, weights), int(tokenizer.eos_token_id)
    people = users(conversations)
    chats = [[("user", person["opening"])] for person in people]
    written = 0

    def ask(number: int) -> Any:
        chat = chats[number]
        seen = chat if chat[-1][0] == "user" else [("system", people[number]["system"]), *swapped(chat)]
        rows = [{"role": role, "content": text} for role, text in seen]
        prompt = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=False)
        return pipeline.add(prompt, NEW_TOKENS, end)

    warm = pipeline.add([1, 2, 3], 2, None)
    while warm.get_status() == openvino_genai.GenerationStatus.RUNNING:
        pipeline.step()
    reset_peak()
    started = time.perf_counter()
    waiting = {number: ask(number) for number in range(conversations)}
    while waiting:
        pipeline.step()
        for number, handle in list(waiting.items()):
            if handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
                continue
            ids = handle.read_all()[0].generated_ids
            written += len(ids)
            text = tokenizer.decode(ids, skip_special_tokens=True).strip() or NOTHING
            chats[number].append(({"user": "assistant", "assistant": "user"}[chats[number][-1][0]], text))
            if len(chats[number]) < 2 * turns:
                waiting[number] = ask(number)
            else:
                del waiting[number]
    seconds = time.perf_counter() - started
    measured = {"seconds": seconds, "hash": hash_of(chats), "said": chats, "written": written, "processed": None}
    return {**measured, "peak_mb": peak_mb()}


def phases(system: str, weights: str, length: int, written: int) -> dict[str, Any]:
    """See `throughput_phases.py`."""
    import openvino_genai
    from throughput_phases import timed

    pipeline = Pipeline(system, weights)

    def ask(prompts: list[list[int]], tokens: int) -> None:
        handles = [pipeline.add(prompt, tokens, None) for prompt in prompts]
        while any(handle.get_status() == openvino_genai.GenerationStatus.RUNNING for handle in handles):
            pipeline.step()
        lengths = {len(handle.read_all()[0].generated_ids) for handle in handles}
        if lengths != {tokens}:
            raise SystemExit(f"Asked for {tokens} tokens, got {sorted(lengths)}.")

    return timed(ask, length, written)


if __name__ == "__main__":
    main()
