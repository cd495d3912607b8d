from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.errors import ConfigurationError, UnknownName
from simgym.language_models import AnswerCache, ModelSpec, ScriptedLM, load_language_model
from simgym.language_models.model_spec import check_named_model
from simgym.language_models.secret import Secret

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("written", "kind", "arguments"),
    [
        ("smollm2-135m-instruct", "transformers", {"model": "smollm2-135m-instruct"}),
        ("owner/model@v2", "transformers", {"model": "owner/model@v2"}),
        ("openai:gpt-5", "openai", {"model": "gpt-5"}),
        (f"openai:Qwen/Qwen2.5-14B-Instruct@{URL}", "openai", {"model": "Qwen/Qwen2.5-14B-Instruct", "base_url": URL}),
        (f"openai:@cf/meta/llama@{URL}", "openai", {"model": "@cf/meta/llama", "base_url": URL}),
        ("scripted:a@http://x: y", "scripted", {"model": "a@http://x: y"}),
        ("py:package.module:Class", "py:package.module:Class", {}),
        ('{"kind": "openai", "model": "m"}', "openai", {"model": "m"}),
        ({"model": f"openai:m@{URL}", "timeout": 3}, "openai", {"model": "m", "base_url": URL, "timeout": 3}),
        ({"dtype": "bfloat16"}, "transformers", {"dtype": "bfloat16"}),
    ],
)
def test_every_way_to_name_a_model_is_read_by_one_parser(written, kind, arguments):
    spec = ModelSpec.parse(written)
    assert (spec.kind, dict(spec.arguments)) == (kind, arguments)
    assert ModelSpec.parse(spec.to_json()) == spec == ModelSpec.parse(json.dumps(spec.to_json()))


@given(st.text(alphabet="abc/-.@:+=,{}", max_size=12), st.sampled_from(["", f"@{URL}"]))
def test_a_text_is_a_specification_that_survives_json_or_a_sentence(name, address):
    try:
        spec = ModelSpec.parse(f"openai:{name}{address}")
    except ConfigurationError:
        return  # such as no name, or an address without a scheme
    assert ModelSpec.parse(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("openia:gpt", "Did you mean 'openai'"),
        ({"kind": "scripte", "model": "x"}, "Did you mean 'scripted'"),
        ("openai:m@localhost:8000/v1", "Did you mean 'openai:m@http://localhost:8000/v1'"),
        ("openai:", "no model name"),
        ("", "empty"),
        ('{"kind": ', "is none"),
        (3, "is a int"),
        ({"kind": "openai", "model": "m", "base_ulr": URL}, "Did you mean 'base_url'"),
        ({"kind": "cached", "path": "x", "model": {"model": "scripted:a", "modell": 1}}, "Did you mean 'model'"),
    ],
)
def test_what_names_no_model_is_a_sentence_before_anything_is_loaded(written, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        check_named_model(written)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "openai", "model": "m", "api_key": "sk-secret"},
        {"kind": "openai", "model": "m", "extra_body": {"api_key": "sk-secret"}},
        {"kind": "openai", "model": "m", "base_url": "http://me:sk-secret@host/v1"},
        {"kind": "openai", "model": "m", "base_url": "http://me:sk-secret@[host/v1"},
        {"kind": "openai", "model": "m", "base_url": "http://host/v1?api-key=sk-secret"},
        {"kind": "cached", "path": "x", "model": {"kind": "openai", "model": "m", "api_key": "sk-secret"}},
    ],
)
def test_a_key_is_refused_where_it_would_be_stored_and_never_repeated(settings):
    for written in (settings, json.dumps(settings)):
        with pytest.raises(ConfigurationError, match="OPENAI_") as refusal:
            ModelSpec.parse(written)
        assert "sk-secret" not in str(refusal.value)


def test_no_form_of_a_specification_shows_a_key() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        ModelSpec(kind="openai", arguments={"model": "m", "api_key": "sk-secret"})
    with pytest.raises(ConfigurationError) as broken:
        ModelSpec.parse('{"model": "openai:m", "api_key": "sk-secret",')
    assert "sk-secret" not in f"{refusal.value}{broken.value}"
    spec = ModelSpec(kind="openai", arguments={"model": "m", "api_key": Secret("JUDGE_KEY", "sk-secret")})
    assert copy.deepcopy(spec).arguments["api_key"].reveal() == "sk-secret"  # within the process it is the key
    assert "sk-secret" not in repr(spec)
    assert spec.to_json() == {"kind": "openai", "model": "m", "api_key_env": "JUDGE_KEY"}
    assert b"sk-secret" not in pickle.dumps(spec)


def test_a_key_that_stands_for_none_is_no_secret():
    assert ModelSpec.parse({"kind": "openai", "model": "m", "api_key": "EMPTY"}).arguments["api_key"] == "EMPTY"


def test_a_key_can_be_given_in_python_or_by_the_name_of_a_variable(monkeypatch):
    spec = ModelSpec.parse({"kind": "openai", "model": "m", "base_url": URL, "api_key_env": "JUDGE_KEY"})
    monkeypatch.setenv("JUDGE_KEY", "from-environment")
    assert load_language_model(spec)._key() == "from-environment"
    direct = load_language_model(f"openai:m@{URL}", api_key="in-memory")
    assert direct._key() == "in-memory"
    assert "in-memory" not in repr(direct) + json.dumps(direct.fingerprint())


def test_names_that_mean_the_same_share_one_instance_whose_fingerprint_is_that_of_old():
    model = load_language_model("scripted:hello")
    assert load_language_model({"kind": "scripted", "model": "hello"}) is model
    assert load_language_model('{"kind": "scripted", "model": "hello"}') is model
    assert load_language_model(ModelSpec.parse("scripted:hello")) is model
    assert model.fingerprint() == {"kind": "scripted", "model": "hello"}


def test_an_instance_is_a_specification_that_no_file_can_hold():
    model = ScriptedLM("x")
    assert load_language_model(ModelSpec.parse(model)) is model
    with pytest.raises(ConfigurationError, match="cannot be written"):
        ModelSpec.parse(model).to_json()


def test_a_response_cache_is_not_made_before_there_is_a_response(tmp_path):
    path = tmp_path / "folder" / "answers.sqlite"
    spec = AnswerCache(path).around(ModelSpec.parse("scripted:x"))
    assert spec.name == "scripted:x"
    load_language_model(spec).fingerprint()
    assert not path.parent.exists()


def test_python_code_can_be_a_model(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text("from simgym.language_models.scripted_lm import ScriptedLM as Mine\n")
    monkeypatch.chdir(tmp_path)
    assert load_language_model("py:my_models:Mine").fingerprint()["model"] == "echo"
    with pytest.raises(UnknownName, match="Did you mean 'Mine'"):
        load_language_model("py:my_models:Mien")
