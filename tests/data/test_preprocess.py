from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.data import _preprocess as module
from simgym.data import preprocess, read_logged
from simgym.data._preprocess import FrequentNgrams, ngram_hashes
from simgym.errors import MalformedFile

SCRIPT = "as a prompt generator you will create image prompts"


def row(number, opening="", language="English", **changes):
    return {
        "conversation_hash": f"h{number}",
        "conversation": [
            {"role": "user", "content": opening or f"question {number} about bread"},
            {"role": "assistant", "content": "Slowly."},
        ],
        "language": language,
        "hashed_ip": f"ip{number}",
        "country": "France",
        **changes,
    }


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reasons(path):
    lines = path.with_name(f"{path.stem}.skipped.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


def test_mass_produced_openings_go_and_what_is_left_out_is_listed(tmp_path):
    rows = [row(n) for n in range(8)]
    rows += [row(10 + n, f"{SCRIPT} {n}") for n in range(4)]
    rows += [row(20, language="German"), row(3), row(21, conversation=turns(("assistant", "Hi")))]
    path = tmp_path / "clean.jsonl"
    summary = preprocess(write(tmp_path / "log.jsonl", rows), path, threshold=3)
    assert [logged.id for logged in read_logged(path)] == [f"h{n}" for n in range(8)]
    assert (summary.read, summary.kept) == (15, 8)
    assert Counter(reasons(path).values()) == summary.skipped
    assert summary.skipped == {
        "7-gram in more than 3 first turns": 4,
        "does not begin with the user": 1,
        "language other than English": 1,
        "repeated conversation": 1,
    }
    assert json.loads((tmp_path / "clean.summary.json").read_text())["kept"] == 8
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")) == [
        "clean.jsonl", "clean.skipped.jsonl", "clean.summary.json", "log.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], "no turns"),
        (turns(("user", "hi"), ("user", "hi")), "roles out of order"),
        (turns(("user", "hi"), ("assistant", "  ")), "empty turn"),
        (turns(("user", "hi"), ("assistant", None)), "empty turn"),
        (turns(("user", "broken \ud83d"), ("assistant", "x")), "lone surrogates"),
        (turns(("user", "hi"), ("tool", "x")), "bad value"),
        ([{"content": "no role"}], "bad value"),
        ("not a list", "bad value"),
        (None, "bad value"),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_is_listed_with_its_reason(tmp_path, conversation, reason):
    path = tmp_path / "clean.jsonl"
    summary = preprocess(write(tmp_path / "log.jsonl", [row(0, conversation=conversation), row(1)]), path)
    assert (summary.kept, reasons(path)) == (1, {"h0": reason})


def test_odd_rows_are_listed_and_broken_lines_are_named(tmp_path):
    path = tmp_path / "clean.jsonl"
    rows = [row(0), None, 5, row(1, country="\ud83d"), row("\ud83d"), row(2)]
    summary = preprocess(write(tmp_path / "log.jsonl", rows), path, language=None)
    assert (summary.kept, summary.skipped) == (2, {"bad value": 4})
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(MalformedFile, match="row 1"):
        preprocess(str(tmp_path / "deep.jsonl"), tmp_path / "x.jsonl")
    (tmp_path / "clean.jsonl").write_bytes(b'{"conversation_hash": "\xff"}\n')
    with pytest.raises(MalformedFile, match="line 1"):
        list(read_logged(path))


def test_a_missing_column_is_an_error_that_names_it(tmp_path):
    rows = [row(0), {"conversation_hash": "h1", "language": "English"}]
    with pytest.raises(MalformedFile, match=r"row 2: .*'conversation' is missing"):
        preprocess(write(tmp_path / "log.jsonl", rows), tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()


def test_an_interrupted_run_goes_on_where_it_last_saved_and_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SAVE_EVERY", 5)
    rows = [row(n, SCRIPT if n % 4 == 0 else "") for n in range(23)] + [row(n) for n in range(3)]
    source = write(tmp_path / "log.jsonl", rows)
    preprocess(source, tmp_path / "whole.jsonl", threshold=3)
    seen = []

    class Killed(Exception):
        pass

    def read(*args, start, on_row, **options):
        def watch(number):
            seen.append(number)
            if len(seen) == 17:
                raise Killed
            on_row(number)

        return original(*args, start=start, on_row=watch, **options)

    original = module.read_wildchat
    monkeypatch.setattr(module, "read_wildchat", read)
    with pytest.raises(Killed):
        preprocess(source, tmp_path / "again.jsonl", threshold=3)
    assert not (tmp_path / "again.jsonl").exists()
    preprocess(source, tmp_path / "again.jsonl", threshold=3)
    assert seen[17] == 16  # the row behind the place saved last, not the first
    for ending in (".jsonl", ".skipped.jsonl", ".summary.json"):
        assert (tmp_path / f"again{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()


texts = st.lists(st.lists(st.sampled_from("abc"), min_size=5, max_size=12).map(" ".join), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None)
@given(texts, st.integers(1, 4))
def test_frequent_ngrams_are_those_of_exact_counting(sequences, threshold):
    def exact(text):
        words = text.split()
        return {tuple(words[i : i + 7]) for i in range(len(words) - 6)}

    counts = Counter(ngram for text in sequences for ngram in exact(text))
    frequent = FrequentNgrams(threshold)
    for text in sequences:
        frequent.add(text)
    for text in sequences:
        frequent.count(text)
    for text in sequences:
        assert frequent.holds_one(text) == any(counts[ngram] > threshold for ngram in exact(text))


def test_ngrams_ignore_case_and_white_space_and_short_texts_have_none():
    assert set(ngram_hashes("A b c d e f  g")) == set(ngram_hashes("a B c d\ne f g"))
    assert not ngram_hashes("a b c d e f").size
    assert len(ngram_hashes("a b c d e f g h")) == 2
