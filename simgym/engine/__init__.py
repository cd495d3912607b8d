"""In-process inference, tokens in, tokens out: continuous batching, a prefix cache, LoRA adapters, JSON grammars.

    engine = Engine(model, tokenizer, EngineConfig(max_sequences=64))
    sequence = Sequence(prompt=token_ids, temperature=0.7, seed=1, stop_token_ids=frozenset({2}))
    (completion,) = engine.generate([sequence])

It imports nothing else of simgym: whoever wants text round it (`simgym.language_models.TransformersLM`) turns text into
token ids and back.
"""

from simgym.engine.attention import check_supported
from simgym.engine.config import EngineConfig
from simgym.engine.engine import Engine, EngineStats
from simgym.engine.errors import AdapterMismatch, EngineError, InvalidSetting, SequenceTooLarge, UnsupportedModel
from simgym.engine.grammar import Grammar
from simgym.engine.kv_cache import KVCache
from simgym.engine.lora_bank import LoraAdapter, LoraBank
from simgym.engine.model_runner import ModelRunner, Scored
from simgym.engine.prefix_cache import PrefixCache
from simgym.engine.sampler import Sampler
from simgym.engine.scheduler import Scheduler
from simgym.engine.sequence import Completion, Sequence

__all__ = [
    "AdapterMismatch",
    "Completion",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineStats",
    "Grammar",
    "InvalidSetting",
    "KVCache",
    "LoraAdapter",
    "LoraBank",
    "ModelRunner",
    "PrefixCache",
    "Sampler",
    "Scheduler",
    "Scored",
    "Sequence",
    "SequenceTooLarge",
    "UnsupportedModel",
    "check_supported",
]
