"""A process of `test_trl_processes.py`: rollouts whose replies come from TRL's own vLLM client code, all gathered.

Run by torchrun. The server answers each prompt with an echo of the last words in it, so that a reply that was written
for another conversation is seen.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from accelerate import Accelerator
from transformers import AutoTokenizer
from trl.generation.vllm_generation import VLLMGeneration

from simgym.conversation import INTENT_PREFIX, Message, Scenario
from simgym.integrations import make_rollout_func
from simgym.judges import Judgement


class Constant:
    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(0.5)] * len(scenarios)

    def fingerprint(self):
        return {"judge": "constant"}


class Echo:
    """vLLM's client as TRL calls it."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def get_server_info(self):
        return {"model_config": {"max_model_len": 4096}}

    def generate(self, prompts, features, **sampling):
        assert sampling["n"] == 1
        replies = []
        for prompt in prompts:
            last = self.tokenizer.decode(prompt).split("<|user|>")[-1].split("<|end|>")[0]
            replies.append(self.tokenizer(f"echo {last}", add_special_tokens=False)["input_ids"])
        logprobs = [[[-1.0]] * len(reply) for reply in replies]
        return {"prompt_ids": prompts, "completion_ids": replies, "logprobs": logprobs}


class Served(VLLMGeneration):
    def _init_vllm(self):
        self.vllm_client = Echo(self.processing_class)


def scenario(name, turns):
    said = [Message(role, f"{name} {turn}") for turn in range(turns) for role in ("user", "assistant")]
    return Scenario(name, f"{INTENT_PREFIX}count", opening=f"{name} 0", history=tuple(said))


def main():
    tokenizer_folder, turns, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    generation = Served(
        model=None, accelerator=accelerator, processing_class=tokenizer, mode="server",
        max_completion_length=20,
    )  # fmt: skip

    def generate(prompt_ids, images, fields, count):
        _, completions, logprobs, _ = generation.generate(prompts=prompt_ids, images=images, num_generations=count)
        return completions, [[values[0] for values in row] for row in logprobs]

    trainer = SimpleNamespace(
        processing_class=tokenizer, accelerator=accelerator, use_vllm=True, chat_template_kwargs={},
        _generate_single_turn=generate,
        model=SimpleNamespace(training=True, config=SimpleNamespace(max_position_embeddings=4096)),
        state=SimpleNamespace(global_step=0), vllm_generation=generation,
        args=SimpleNamespace(max_completion_length=20, vllm_max_model_length=None),
    )  # fmt: skip
    scenarios = [scenario(f"p{rank}c{number}", count) for number, count in enumerate(turns[rank])]
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Constant(), max_turns=9)
    output = rollouts([[{"role": "user", "content": one.id}] for one in scenarios], trainer)
    out.with_suffix(f".{rank}").write_text(json.dumps(output["conversation"]))


if __name__ == "__main__":
    main()
