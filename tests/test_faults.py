from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.faults import Fault, FaultKind, FaultScope, count_faults

known_kinds = st.sampled_from([kind for kind in FaultKind if kind is not FaultKind.OTHER])


@given(kind=known_kinds, detail=st.text(max_size=30).map(str.strip))
def test_a_fault_of_a_known_kind_survives_its_text(kind, detail):
    fault = Fault(kind, detail)
    assert Fault.parse(str(fault)) == fault
    assert fault.label == kind
    assert pickle.loads(pickle.dumps(fault)) == fault


@given(text=st.text(max_size=40))
def test_a_text_of_an_unknown_kind_stays_verbatim_and_is_counted_by_its_first_word(text):
    fault = Fault.parse(text)
    if fault.kind is FaultKind.OTHER:
        assert str(fault) == text
        assert fault.label == text.partition(":")[0]
    assert Fault.parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "kind", "scope", "is_outage"),
    [
        ("server: no connection to localhost:8000 (ConnectError)", FaultKind.SERVER, FaultScope.RUN, True),
        ("timeout: no answer from localhost within 5 s", FaultKind.TIMEOUT, FaultScope.RUN, True),
        ("refused: the input was flagged", FaultKind.REFUSED, FaultScope.REQUEST, False),
        ("context_overflow: 5000 tokens", FaultKind.CONTEXT_OVERFLOW, FaultScope.REQUEST, False),
        ("role_flip: 'as an AI'", FaultKind.ROLE_FLIP, FaultScope.CONVERSATION, False),
        ("repeated", FaultKind.REPEATED, FaultScope.CONVERSATION, False),
        ("my_plugin_broke: 3", FaultKind.OTHER, FaultScope.REQUEST, False),
        ("servers: are not a server", FaultKind.OTHER, FaultScope.REQUEST, False),
    ],
)
def test_the_texts_of_files_say_what_it_was_and_whom_it_concerns(text, kind, scope, is_outage):
    fault = Fault.parse(text)
    assert (fault.kind, fault.scope, fault.is_outage, str(fault)) == (kind, scope, is_outage, text)


def test_faults_are_counted_by_kind_whatever_they_are_given_as():
    faults = ["server: a", Fault(FaultKind.SERVER, "b"), None, "own: x", "own: y"]
    assert count_faults(faults) == {"own": 2, "server": 2, "unknown": 1}
