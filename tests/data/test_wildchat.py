from __future__ import annotations

import json

import pytest

from simgym.conversation import INTENT_PREFIX
from simgym.data import import_log, load_scenarios, read_logged, wildchat_scenarios
from simgym.data.wildchat import read_wildchat
from simgym.errors import ConfigurationError, MalformedFile


def row(number, language="English", opening="please  help\nwith thing {}", **changes):
    return {
        "conversation_hash": f"h{number}",
        "conversation": [
            {"role": "user", "content": opening.format(number), "language": language},
            {"role": "assistant", "content": "Sure.", "language": language},
        ],
        "language": language,
        "hashed_ip": f"ip{number % 2}",
        "country": "France",
        "turn": 1,
        "toxic": False,
        "redacted": False,
        **changes,
    }


def write(path, rows):
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


MISSING = [float("nan"), None, "nan", "None", "", " ", "NULL", "N/A", "NA", "<NA>", "undefined", "unknown", r"\N", "-"]


@pytest.mark.parametrize("missing", MISSING, ids=repr)
def test_strangers_are_never_one_user_however_a_missing_value_is_spelt(tmp_path, missing):
    rows = [row(number, hashed_ip=missing, country=missing) for number in range(4)]
    path = write(tmp_path / "log.jsonl", rows)
    assert len({logged.user_key for logged in read_wildchat(path)}) == 4
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    chats = write(tmp_path / "chats.jsonl", [{"id": missing, "messages": talk, "user": missing} for _ in rows])
    import_log(chats, tmp_path / "chats_in.jsonl", format="openai")
    assert len({logged.user_key for logged in read_logged(tmp_path / "chats_in.jsonl")}) == 4
    with pytest.raises(MalformedFile, match="conversation_hash is empty"):
        list(read_wildchat(write(tmp_path / "log.jsonl", [row(0, conversation_hash=missing)])))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_are_streamed_filtered_by_language_and_keep_track_of_users(tmp_path, kind):
    source = write(tmp_path / f"log.{kind}", [row(0), row(1, "French"), row(2), row(3), row(4, country="Peru")])
    logged = list(read_wildchat(source))
    assert [conversation.id for conversation in logged] == ["h0", "h2", "h3", "h4"]
    assert logged[0].user_key == logged[1].user_key
    assert (
        len({conversation.user_key for conversation in logged}) == 3
    )  # another IP, and the same IP in another country
    assert logged[0].conversation.said_by("assistant") == ["Sure."]


def test_every_row_read_is_kept_or_counted_as_dropped(tmp_path):
    rows = [row(0), row(1, "French"), row(2, opening=" "), row(3, opening="\ud83d"), row(4, opening="a" * 9000), row(0)]
    outcome = wildchat_scenarios(write(tmp_path / "log.jsonl", [*rows, row(5), row(6)]), limit=2)
    assert [scenario.id for scenario in outcome.scenarios] == ["wildchat-h0", "wildchat-h5"]
    assert outcome.dropped == {
        "language other than English": 1,
        "no opening by the user": 1,
        "lone surrogates": 1,
        "opening of more than 8000 characters": 1,
        "repeated conversation": 1,
    }
    assert outcome.read == 7  # reading stopped at the limit


def test_the_intent_claims_no_more_than_the_opening_says(tmp_path):
    source = write(tmp_path / "log.jsonl", [row(0), row(1, opening="word " * 200)])
    short, long = load_scenarios(f"wildchat:{source}")
    assert short.opening == "please  help\nwith thing 0"
    assert short.intent == f"{INTENT_PREFIX}get help with this request: please help with thing 0"
    assert len(long.goal) < 350
    assert [message.content for message in short.history] == [short.opening, "Sure."]


@pytest.mark.parametrize(
    "malformed", ['{"conversation_hash": "h1"}', '{"broken', json.dumps(row(1, conversation=[{"role": "bot"}])), "[1]"]
)
def test_a_malformed_row_is_named_by_file_and_number(tmp_path, malformed):
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(row(0))}\n\n{malformed}\n")
    with pytest.raises(MalformedFile, match=r"log\.jsonl, row 3: "):
        list(read_wildchat(str(path)))


def test_sources_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no file"):
        wildchat_scenarios(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigurationError, match=r"neither a \.jsonl or \.parquet file nor a Hugging Face id"):
        wildchat_scenarios("WildChat")
    source = write(tmp_path / "french.jsonl", [row(0, "French")])
    with pytest.raises(ConfigurationError, match="gave no scenario: 1 rows read"):
        load_scenarios(f"wildchat:{source}")
    (tmp_path / "broken.parquet").write_text("not parquet")
    with pytest.raises(MalformedFile, match="cannot be read as Parquet"):
        wildchat_scenarios(str(tmp_path / "broken.parquet"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_are_read_through_in_the_order_of_their_names(tmp_path, kind):
    for shard, numbers in {"b": [2, 3], "a": [0, 1]}.items():
        write(tmp_path / f"train-{shard}.{kind}", [row(number) for number in numbers])
    for source in (str(tmp_path), str(tmp_path / f"train-*.{kind}")):
        assert [conversation.id for conversation in read_wildchat(source)] == ["h0", "h1", "h2", "h3"]
        assert [conversation.id for conversation in read_wildchat(source, start=4)] == ["h3"]
    write(tmp_path / ("other.jsonl" if kind == "parquet" else "other.parquet"), [row(9)])
    with pytest.raises(ConfigurationError, match="one kind"):
        list(read_wildchat(str(tmp_path)))
    with pytest.raises(ConfigurationError, match="There is no file"):
        list(read_wildchat(str(tmp_path / "valid-*.jsonl")))
