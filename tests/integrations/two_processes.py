"""A process of `test_trl_processes.py`: rollouts whose replies come from TRL's own vLLM client code, all gathered.

Begun as torchrun begins it, in one of two tests: `replies` (who gets which), `openings` (who meets whom). The server
answers each prompt with an echo of the last words in it, so that a reply to another conversation is seen.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer
from trl.generation.vllm_generation import VLLMGeneration

from simgym.conversation import INTENT_PREFIX, Message, Scenario
from simgym.integrations import make_rollout_func
from simgym.judges import Judgement
from simgym.simulators import UserTurn


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


class OpensDifferently:
    """A user who never opens twice alike, as a served one in bfloat16 may."""

    def open(self, scenarios, *, seeds):
        return [UserTurn(f"process {os.getpid()} seed {seed}") for seed in seeds]

    def reply(self, scenarios, conversations, *, seeds):
        return [UserTurn("and?") for _ in scenarios]

    def fingerprint(self):
        return {"simulator": "opens differently"}


class FailsOn(Constant):
    """A judge that cannot judge one scenario."""

    def judge(self, scenarios, conversations, *, seeds):
        return [
            Judgement(None, fault="refused: on purpose") if scenario.id == "both" else Judgement(0.5)
            for scenario in scenarios
        ]


def make_trainer(tokenizer, accelerator):
    """What of a `GRPOTrainer` a rollout function asks for."""
    generation = Served(
        model=None, accelerator=accelerator, processing_class=tokenizer, mode="server",
        max_completion_length=20,
    )  # fmt: skip

    def generate(prompt_ids, images, fields, count):
        _, completions, logprobs, _ = generation.generate(prompts=prompt_ids, images=images, num_generations=count)
        return completions, [[values[0] for values in row] for row in logprobs]

    return SimpleNamespace(
        processing_class=tokenizer, accelerator=accelerator, use_vllm=True, _generate_single_turn=generate,
        model=SimpleNamespace(training=True, config=SimpleNamespace(max_position_embeddings=4096)),
        state=SimpleNamespace(global_step=0), vllm_generation=generation, chat_template_kwargs={},
        args=SimpleNamespace(max_completion_length=20, vllm_max_model_length=None),
    )  # fmt: skip


def replies(rank, turns):
    scenarios = [scenario(f"p{rank}c{number}", count) for number, count in enumerate(turns[rank])]
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Constant(), max_turns=9)
    return rollouts, [each.id for each in scenarios]


def openings(rank, names):
    scenarios = [scenario(name, 1) for name in sorted({name for theirs in names for name in theirs})]
    rollouts = make_rollout_func(
        "UserSim-Replay-v0", scenarios=scenarios, simulator=OpensDifferently(), judge=FailsOn(), max_turns=1
    )
    return rollouts, names[rank]


def main():
    test, tokenizer_folder, settings, out = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    rollouts, names = {"replies": replies, "openings": openings}[test](rank, settings)
    trainer = make_trainer(AutoTokenizer.from_pretrained(tokenizer_folder), accelerator)
    output = rollouts([[{"role": "user", "content": name}] for name in names], trainer)
    result = {
        "conversations": output["conversation"],
        "seeds": [dialogue.seed for dialogue in rollouts.latest],
        "faults": rollouts.faults,
    }
    out.with_suffix(f".{rank}").write_text(json.dumps(result))
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()  # its threads, left to the end of the process, may abort it


if __name__ == "__main__":
    main()
