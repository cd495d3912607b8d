from __future__ import annotations

import pytest

from simgym.assistants import load_assistant
from simgym.errors import ConfigurationError
from simgym.language_models import ModelSpec, SamplingParams

FEW = SamplingParams(max_new_tokens=4)
URL = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("text", "name", "model", "prompted"),
    [
        ("scripted:hello", "scripted:hello", "scripted:hello", False),
        ("mine=scripted:hello+clarify", "mine", "scripted:hello", True),
        ("scripted:1=1+clarify", "scripted:1=1+clarify", "scripted:1=1", True),
        (f"openai:m@{URL}?a=b", "openai:m", f"openai:m@{URL}?a=b", False),
        ("openai:m@http://host/a+b/v1", "openai:m", "openai:m@http://host/a+b/v1", False),
        (f"q=openai:m@{URL}+clarify", "q", f"openai:m@{URL}", True),
        ('{"model": "scripted:a+b=c, d"}+clarify', "scripted:a+b=c, d+clarify", "scripted:a+b=c, d", True),
        ('x={"model": "scripted:a+b=c, d"}', "x", "scripted:a+b=c, d", False),
    ],
)
def test_signs_inside_json_and_addresses_mean_nothing(text, name, model, prompted):
    named = load_assistant(text, FEW)
    assert named.name == name
    assert ModelSpec.parse(named.assistant.model_spec) == ModelSpec.parse(model)
    assert (named.assistant.system_prompt is not None) == prompted


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("scripted:hello+clarfy", "Did you mean 'clarify'"),
        ("name=", "no model"),
        ("=scripted:x", "no model"),
        ('{"model": "scripted:x"} clarify', "Behind the JSON"),
        ('{"model": ', "is none"),
        ("py:no_such_module:Class", "no module"),
        ("py:collections:OrderedDict", "expected an assistant"),
    ],
)
def test_what_is_no_assistant_is_a_sentence(text, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        load_assistant(text, FEW)
