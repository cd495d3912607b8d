from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.conversation import Conversation
from simgym.data import (
    LoggedConversation,
    StepOutput,
    chitchat_conversations,
    chitchat_splits,
    read_logged,
    split_conversations,
)
from simgym.data.splits import SPLITS, assign_users, wildbench_ids
from simgym.errors import ConfigurationError

TALK = Conversation().add("user", "hi").add("assistant", "hello")


def logged(number, user, country="France"):
    return LoggedConversation(id=f"h{number}", user_key=user, country=country, language="English", conversation=TALK)


logs = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["France", "Peru", ""])), min_size=1, max_size=120)


@settings(max_examples=30, deadline=None)
@given(logs, st.sets(st.integers(0, 119), max_size=5), st.integers(0, 3))
def test_no_user_and_no_wildbench_conversation_is_in_two_splits(tmp_path_factory, users, forced, seed):
    folder = tmp_path_factory.mktemp("splits")
    rows = [logged(number, f"u{user}", country) for number, (user, country) in enumerate(users)]
    wildbench = {f"h{number}" for number in forced}
    summary = split_conversations(rows, rows, folder, forced_test=wildbench, seed=seed)
    split_rows = {name: list(read_logged(folder / f"{name}.jsonl")) for name in SPLITS}
    assert sorted(row.id for split in split_rows.values() for row in split) == sorted(row.id for row in rows)
    owners = [{row.user_key for row in split} for split in split_rows.values()]
    assert sum(map(len, owners)) == len(set.union(*owners)) == sum(summary.users.values())
    assert {row.id for row in rows} & wildbench <= {row.id for row in split_rows["test"]}


def test_the_shares_hold_in_every_country():
    rows = [(f"h{n}", f"u{n}", f"country{n % 7}") for n in range(7000)]
    split_of = assign_users(rows).split_of
    for country in range(7):
        counts = Counter(split_of[f"u{n}"] for n in range(country, 7000, 7))
        assert abs(counts["train"] - 890) <= 3
        assert abs(counts["validation"] - 50) <= 3
        assert abs(counts["test"] - 60) <= 3
    assert assign_users(rows, seed=1).split_of != split_of
    with pytest.raises(ConfigurationError, match="sum to"):
        assign_users(rows, shares={"train": 0.5, "validation": 0.1, "test": 0.1})


def test_wildbench_ids_come_from_a_column_or_a_list(tmp_path):
    (tmp_path / "ids.txt").write_text("a\n\nb\n")
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps({"session_id": session}) + "\n" for session in "cd"))
    (tmp_path / "none.jsonl").write_text('{"id": 1}\n')
    assert wildbench_ids(str(tmp_path / "ids.txt")) == {"a", "b"}
    assert wildbench_ids(str(tmp_path / "tasks.jsonl")) == {"c", "d"}
    with pytest.raises(ConfigurationError, match="no session ids"):
        wildbench_ids(str(tmp_path / "none.jsonl"))


def test_the_people_of_chitchat_are_in_one_split_each():
    pytest.importorskip("chitchat_dataset", reason="the extra simgym[chitchat] is not installed")
    splits = chitchat_splits(chitchat_conversations().conversations)
    people = [{row.user_key for row in split} for split in splits.values()]
    assert all(people)
    assert sum(map(len, people)) == len(set.union(*people))


def test_a_step_that_fails_leaves_no_finished_file(tmp_path):
    def interrupted():
        with StepOutput(tmp_path / "x.jsonl") as output:
            output.keep({"a": 1})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "x.jsonl").exists()
    assert (tmp_path / "x.jsonl.partial").exists()
