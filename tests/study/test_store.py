"""Both databases: events once, races with one winner, deletion."""

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from people import small_study

from simgym.errors import ConfigurationError, DatabaseUnavailable
from simgym.study.analysis import analyse
from simgym.study.design import assign
from simgym.study.journey import Event
from simgym.study.records import export
from simgym.study.recruitment import Recruit
from simgym.study.store import Store
from simgym.study.tables import drafts
from simgym.study.writes import AlreadyTakesPart

STUDY = small_study()


def run(url, scenario):
    async def opened():
        store = Store(url)
        try:
            await store.begin(name="s", kind="real", settings={}, study_hash="h")
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(opened())


async def drafts_of(store, participant):
    query = sa.select(drafts.c.field, drafts.c.text).where(drafts.c.participant == participant)
    return dict(await store._database.fetch(lambda connection: connection.execute(query).all()))


def test_of_many_that_append_at_once_one_wins(database):
    async def scenario(store):
        participant = (await store.open("h"))[1].participant
        events = [[Event("consented", {"by": number})] for number in range(20)]
        won = await asyncio.gather(*(store.append(participant, 1, event, "h") for event in events))
        return won, await store.events(participant)

    won, events = run(database, scenario)
    assert sum(won) == 1
    assert [event.key for event in events] == ["opened", "consented"]
    assert events[1].payload["by"] == won.index(True)


async def fresh(url, participant):
    """The events as somebody reads them who has read nothing before."""
    store = Store(url)
    try:
        return await store.events(participant)
    finally:
        await store.close()


def test_what_a_server_remembers_is_what_is_stored_whoever_stored_it(database):
    async def scenario(first):
        second = Store(database)
        secret, visit = await first.open("h")
        who, known, seen = visit.participant, 1, []
        for store in (first, second, second, first, first, second):
            event = Event(f"k{known}", {"text": f"\u2028 {known}", "list": [1, {"a": None}]})
            assert await store.append(who, known, [event], "h")
            known += 1
            stored = await fresh(database, who)
            seen += [stored == (await each.look(secret)).events == await each.events(who) for each in (first, second)]
        await second.withdraw(who)
        gone = [await first.look(secret), await first.events(who), await second.look(secret), await second.events(who)]
        await second.close()
        return seen, gone

    assert run(database, scenario) == ([True] * 12, [None, (), None, ()])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_connections_that_a_restarted_server_has_closed_are_made_anew(database):
    async def scenario(store):
        who = (await store.open("h"))[1].participant
        for known in (1, 2):
            await store.events(who)  # a connection of either kind lies ready
            admin = await asyncpg.connect(database)
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            await admin.close()
            assert await store.append(who, known, [Event(f"k{known}")], "h")
        return [event.key for event in await fresh(database, who)]

    assert run(database, scenario) == ["opened", "k1", "k2"]


def test_two_servers_at_one_database_assign_every_position_once(database):
    async def scenario(first):
        second = Store(database)
        stores = [first, second]
        participants = [(await first.open("h"))[1].participant for _ in range(30)]
        claims = [
            stores[number % 2].append_assigned(participant, 1, "advice", lambda at: Event("task", {"at": at}), "h")
            for number, participant in enumerate(participants)
        ]
        assert all(await asyncio.gather(*claims))
        positions = [(await first.events(participant))[-1].payload["at"] for participant in participants]
        await second.close()
        return positions

    assert sorted(run(database, scenario)) == list(range(30))


def test_what_is_committed_together_fails_apart(tmp_path):
    async def main():
        store = Store(f"sqlite:///{tmp_path}/study.db")
        await store.begin(name="s", kind="real", settings={}, study_hash="h")
        _, visit = await store.open("h")
        events = [Event("a")], [Event("b")], [Event("a")]
        stored = await asyncio.gather(*(store.append(visit.participant, 1, new, "h") for new in events))
        database = store._database

        def insert(name, then=None):
            def work(connection):
                values = {"participant": visit.participant, "field": name, "text": ""}
                connection.execute(sa.insert(drafts).values(**values))
                if then is not None:
                    connection.exec_driver_sql(then)

            return database.write(work)

        together = await asyncio.gather(insert("1"), insert("2", "nonsense"), insert("3"), return_exceptions=True)
        kept = await drafts_of(store, visit.participant)
        undone = await asyncio.gather(insert("4"), insert("5", "ROLLBACK"), insert("6"), return_exceptions=True)
        after = await drafts_of(store, visit.participant)
        await store.close()
        return stored, together, kept, undone, after

    stored, together, kept, undone, after = asyncio.run(main())
    assert stored == [True, False, False]
    assert [type(error) for error in together] == [type(None), DatabaseUnavailable, type(None)]
    assert after == kept == {"1": "", "3": ""}
    # a full disk undoes the whole transaction: nobody is told that theirs was kept
    assert all(isinstance(error, DatabaseUnavailable) for error in undone)


def test_a_recruitment_id_takes_part_once_and_nothing_else_is_stored_with_it(database):
    async def scenario(store):
        first, second = [(await store.open("h"))[1].participant for _ in range(2)]
        await store.append(first, 1, [Event("consented")], "h", recruit=Recruit("me", {"ID": "me"}))
        with pytest.raises(AlreadyTakesPart):
            await store.append(second, 1, [Event("consented")], "h", recruit=Recruit("me", {"ID": "me"}))
        return await store.events(second), (await store.purge(recruits=True)).rows, await store.events(first)

    events, gone, kept = run(database, scenario)
    assert [event.key for event in events] == ["opened"]
    assert gone == {"recruits": 1}
    assert len(kept) == 2


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_log_of_the_database_names_nobody_who_comes_twice(database):
    async def scenario(store):
        for _ in range(2):
            who = (await store.open("h"))[1].participant
            with contextlib.suppress(AlreadyTakesPart):
                await store.append(who, 1, [Event("consented")], "h", recruit=Recruit("named-twice", {"ID": "me"}))
        admin = await asyncpg.connect(database)
        data = Path(await admin.fetchval("SHOW data_directory"))
        await admin.close()
        return (data.parent / "log").read_text()

    assert "named-twice" not in run(database, scenario)


def test_sqlite_writes_no_temporary_files(tmp_path):
    def place(connection):
        return connection.exec_driver_sql("PRAGMA temp_store").scalar()

    async def scenario(store):
        database = store._database
        return await database.read(place), await database.fetch(place), await database.write(place)

    assert run(f"sqlite:///{tmp_path}/s.db", scenario) == (2, 2, 2)  # 2: in memory


def test_whoever_has_withdrawn_can_store_nothing_more(database):
    async def scenario(store):
        secret, visit = await store.open("h")
        participant = visit.participant
        await store.save_draft(participant, "f", "text")
        await store.withdraw(participant)
        stored = await store.append(participant, 1, [Event("consented")], "h")
        left = await store.journeys()
        return stored, await store.look(secret), left, await drafts_of(store, participant), await store.withdrawn()

    assert run(database, scenario) == (False, None, [], {}, 1)


def test_any_text_comes_back_as_it_was(database):
    text = "NUL \x00, quote ' \" , emoji 🧵, right-to-left \u202e, \\u0000"

    async def scenario(store):
        participant = (await store.open("h"))[1].participant
        await store.append(participant, 1, [Event("k", {"text": text})], "h")
        return (await fresh(database, participant))[-1].payload["text"]

    assert run(database, scenario) == text


def test_a_database_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="expected sqlite:///FILE or postgresql://"):
        Store("mysql://host/name")
    with pytest.raises(ConfigurationError, match="holds no study"):
        asyncio.run(Store(f"sqlite:///{tmp_path}/none.db").meta())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), blocks=st.integers(1, 5), pairs=st.integers(1, 3))
def test_full_blocks_balance_pair_and_side_within_a_task(seed, blocks, pairs):
    names = ["a", "b", "c"]
    spec = {"model": "m"}
    study = small_study(
        seed=seed, assistants=dict.fromkeys(names, spec), pairs=[["a", "b"], ["b", "c"], ["a", "c"]][:pairs]
    )
    given_ = [assign(study, "advice", position) for position in range(blocks * pairs * 2)]
    counts = {}
    for assignment in given_:
        counts[assignment.arm, assignment.flipped] = counts.get((assignment.arm, assignment.flipped), 0) + 1
    assert set(counts.values()) == {blocks}
    assert len(counts) == 2 * pairs


def test_blocks_differ_between_tasks_and_seeds():
    def order(seed, task):
        return [assign(small_study(seed=seed), task, at).flipped for at in range(40)]

    assert order(1, "advice") != order(1, "story")
    assert order(1, "advice") != order(2, "advice")
    assert order(1, "advice") == order(1, "advice")
    random.seed(0)  # the global generator has no part in it
    assert order(1, "advice") == order(1, "advice")


def test_a_draft_that_comes_behind_a_withdrawal_is_not_kept(database):
    async def scenario(store):
        participant = (await store.open("h"))[1].participant
        await store.save_draft(participant, "document", "what I wrote")
        before = await drafts_of(store, participant)
        await store.withdraw(participant)
        await store.save_draft(participant, "document", "what I wrote")
        return before, await drafts_of(store, participant)

    before, after = run(database, scenario)
    assert before == {"document": "what I wrote"}
    assert after == {}


def test_the_database_of_an_earlier_version_is_exported(tmp_path):
    path = tmp_path / "study.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parents[1] / "earlier_files" / "study.sql").read_text("utf-8"))

    async def exported():
        store = Store(f"sqlite:///{path}")
        try:
            return await export(store)
        finally:
            await store.close()

    (record,) = asyncio.run(exported())
    (turn,) = record["conversations"][0]["turns"]
    assert list(record["steps"]) == ["opened", "consented", "instructed", "task"]
    assert (turn["message"], turn["preference"], turn["left"]) == ("hello", "model1", "model1")
    assert analyse([record], resamples=99).kind == "real"
