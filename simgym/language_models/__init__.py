"""Language models behind one protocol: in process, over a server, or scripted."""

from simgym.language_models._server_connection import interrupt_requests
from simgym.language_models.adapters import adapter_fingerprint
from simgym.language_models.base import Generation, LanguageModel, Likelihood, Request, SamplingParams, record_call
from simgym.language_models.loading import LanguageModelSpec, load_language_model
from simgym.language_models.model_spec import AnswerCache, ModelSpec
from simgym.language_models.openai_lm import OpenAILM
from simgym.language_models.response_cache import CachedLM
from simgym.language_models.scripted_lm import ScriptedLM
from simgym.language_models.secret import Secret
from simgym.language_models.transformers_lm import TransformersLM
from simgym.language_models.vllm_lm import VllmLM
from simgym.language_models.weights import DEFAULT_MODEL, resolve_weights
from simgym.language_models.wrappers import CountingLM, Counts

__all__ = [
    # the protocol
    "LanguageModel",
    "Request",
    "SamplingParams",
    "Generation",
    "Likelihood",
    "record_call",
    # which model
    "ModelSpec",
    "AnswerCache",
    "LanguageModelSpec",
    "load_language_model",
    "DEFAULT_MODEL",
    "resolve_weights",
    "adapter_fingerprint",
    # who implements it
    "TransformersLM",
    "VllmLM",
    "OpenAILM",
    "ScriptedLM",
    "CachedLM",
    "Secret",
    "interrupt_requests",
    "CountingLM",
    "Counts",
]
