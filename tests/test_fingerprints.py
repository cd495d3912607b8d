from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simgym.fingerprints import describe_difference, differences, note_on_earlier

EARLIER = {"kind": "transformers", "model": "./m", "weights": "sha256:1", "dtype": "auto"}
CURRENT = {**EARLIER, "tokenizer": "sha256:2", "chat_template": "ab"}
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(values, values)
def test_there_are_differences_exactly_where_two_fingerprints_are_not_equal(written, current):
    assert bool(differences(written, current)) == (written != current)
    assert differences(written, written) == []


def test_what_differs_is_named_however_deep_it_is():
    written = {"judge": "ensemble", "judges": [{"model": EARLIER}, {"model": EARLIER}], "temperature": 1}
    current = {**written, "judges": [{"model": EARLIER}, {"model": {**EARLIER, "dtype": "int8"}}], "temperature": 0}
    assert differences(written, current) == ["judges.model.dtype", "temperature"]
    assert describe_difference(written, current) == " (different: judges.model.dtype, temperature)."


def test_a_file_of_an_earlier_version_is_told_from_another_model():
    assert "earlier simgym" in describe_difference({"model": EARLIER}, {"model": CURRENT})
    assert "earlier simgym" not in describe_difference(
        {"model": EARLIER}, {"model": {**CURRENT, "weights": "sha256:9"}}
    )
    assert note_on_earlier(CURRENT, {**CURRENT, "chat_template": "cd"}) == ""
    assert note_on_earlier(EARLIER, {**EARLIER, "chat_template": "cd"}) == ""  # a template was given, now
