"""What a request writes, all or nothing, in as few statements as its database can.

SQLite is in this process: one statement follows the other in a transaction. With PostgreSQL each statement, `BEGIN` and
`COMMIT` included, waits for a turn of a busy event loop, so there a whole write is one statement, whose parts (`WITH`)
depend on each other: the participant's row is locked if it is as the caller knew it, and nothing is written otherwise.

A statement whose connection breaks may be sent again (`Database.write_at_once`): the second time the participant's row
is no longer as the caller knew it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from simgym.study import tables
from simgym.study.journey import Event
from simgym.study.recruitment import Recruit


class AlreadyTakesPart(Exception):
    """Someone with the same recruitment id has already consented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Events to store for a participant if `known` are stored so far, and what goes with them."""

    participant: str
    """Whose."""
    known: int
    """How many events the caller has seen."""
    events: tuple[Event, ...]
    """What to add, with their times."""
    study_hash: str
    """Of the settings under which it happened."""
    recruit: Recruit | None = None
    """The recruitment id that nobody else may have, and all parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A place in a stratum, and the event that depends on it."""

    stratum: str
    """In which assignments are counted."""
    position: int
    """How many there probably are."""
    event: Callable[[int], Event]
    """The event at a position, with its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of a write."""

    events: tuple[Event, ...] = ()
    """What was stored; empty: nothing."""
    next_position: int | None = None
    """How many assignments the stratum has by now, if there is one."""
    outrun: bool = False
    """Nothing was stored, for the position was taken: it is to be tried with `next_position`."""


def open_participant(connection: sa.Connection, secret_hash: str, addition: Addition) -> None:
    """Store a new participant with their first event."""
    values = {"participant": addition.participant, "secret_hash": secret_hash}
    rows = _rows(addition, addition.events)
    if connection.dialect.name == "postgresql":
        connection.execute(_opening(), values | _numbered(rows))
        return
    connection.execute(tables.INSERT_PARTICIPANT, {"id": addition.participant, "secret_hash": secret_hash, "events": 1})
    connection.execute(tables.INSERT_EVENTS, rows)


def append(connection: sa.Connection, addition: Addition) -> Written:
    """Store events, if what was stored before is what the caller knew.

    Raises:
        AlreadyTakesPart: the recruitment id is taken; nothing is stored.
    """
    rows, recruit = _rows(addition, addition.events), addition.recruit
    values = {"participant": addition.participant, "known": addition.known, "then": addition.known + len(rows)}
    person = None if recruit is None else _person(recruit)
    if connection.dialect.name == "postgresql":
        statement = _appending(len(rows), person is not None)
        outcome = connection.execute(statement, values | _numbered(rows) | (person or {})).one()
        if outcome.here and not outcome.stored:
            raise AlreadyTakesPart
        return Written(events=addition.events if outcome.stored else ())
    if connection.execute(tables.CLAIM, values).rowcount != 1:
        return Written()
    connection.execute(tables.INSERT_EVENTS, rows)
    if person is not None:
        # a conflict as a count and not as an error, as with PostgreSQL
        insert = sqlite.insert(tables.recruits).on_conflict_do_nothing()
        if connection.execute(insert, person | {"participant": addition.participant}).rowcount != 1:
            raise AlreadyTakesPart
    return Written(events=addition.events)


def append_assigned(connection: sa.Connection, addition: Addition, assigned: Assigned) -> Written:
    """Store the event of the next position of a stratum; with PostgreSQL only if `position` is the next."""
    known, stratum = addition.known, assigned.stratum
    values = {"participant": addition.participant, "known": known, "then": known + 1, "stratum": stratum}
    if connection.dialect.name == "postgresql":
        event = assigned.event(assigned.position)
        values |= {"position": assigned.position} | _numbered(_rows(addition, (event,)))
        outcome = connection.execute(_assigning(), values).one()
        if outcome.stored:
            return Written(events=(event,), next_position=assigned.position + 1)
        return Written(next_position=outcome.next_position, outrun=bool(outcome.here))
    position = int(connection.execute(_NEXT_POSITION, {"stratum": stratum}).scalar_one())
    if connection.execute(tables.CLAIM, values).rowcount != 1:
        return Written(next_position=position)
    event = assigned.event(position)
    connection.execute(tables.INSERT_EVENTS, _rows(addition, (event,)))
    taken = {"stratum": stratum, "position": position, "participant": addition.participant}
    connection.execute(_INSERT_ASSIGNMENT, taken)
    return Written(events=(event,), next_position=position + 1)


def save_draft(connection: sa.Connection, participant: str, name: str, text: str) -> None:
    """Keep a text of somebody who has not withdrawn, instead of the one before."""
    statement = _SAVE_DRAFT[connection.dialect.name]
    connection.execute(statement, {"participant": participant, "name": name, "draft": text})


def _rows(addition: Addition, events: tuple[Event, ...]) -> list[dict[str, Any]]:
    """Of the table of events."""
    return [
        {
            "participant": addition.participant,
            "number": number,
            "key": event.key,
            "payload": json.dumps(event.payload, ensure_ascii=False),
            "study_hash": addition.study_hash,
            "at": event.at,
        }
        for number, event in enumerate(events, addition.known)
    ]


def _numbered(rows: list[dict[str, object]]) -> dict[str, object]:
    """The rows as parameters of one statement."""
    return {f"{name}_{at}": value for at, row in enumerate(rows) for name, value in row.items()}


def _person(recruit: Recruit) -> dict[str, object]:
    """Of the table of recruitment ids."""
    return {"person": recruit.person, "parameters": json.dumps(recruit.parameters, ensure_ascii=False)}


_participants, _events, _recruits = tables.participants, tables.events, tables.recruits
_assignments, _drafts = tables.assignments, tables.drafts
_NEXT_POSITION = sa.select(sa.func.coalesce(sa.func.max(_assignments.c.position), -1) + 1).where(
    _assignments.c.stratum == sa.bindparam("stratum")
)
_INSERT_ASSIGNMENT = sa.insert(_assignments)


def _bound(name: str, column: sa.Column[object]) -> sa.ColumnElement[object]:
    # of a parameter in a union PostgreSQL would not guess the type
    return sa.cast(sa.bindparam(name, type_=column.type), column.type)


def _count(part: sa.FromClause) -> Any:
    return sa.select(sa.func.count()).select_from(part).scalar_subquery()


def _stored(count: int, owner: sa.CTE) -> sa.CTE:
    """So many new events, if `owner` has a row."""
    rows = [
        sa.select(*(_bound(f"{column.name}_{at}", column) for column in _events.c)).select_from(owner)
        for at in range(count)
    ]
    source = rows[0] if count == 1 else sa.union_all(*rows)
    names = [column.name for column in _events.c]
    return sa.insert(_events).from_select(names, source).returning(_events.c.number).cte("stored")


@cache
def _opening() -> sa.Executable:
    """PostgreSQL: a participant and the first event."""
    insert = postgresql.insert(_participants).values(
        id=sa.bindparam("participant"), secret_hash=sa.bindparam("secret_hash"), events=1
    )
    # sent again: they are there already
    new = insert.on_conflict_do_nothing().returning(_participants.c.id).cte("new")
    return sa.select(_count(_stored(1, new)))


@cache
def _appending(count: int, with_recruit: bool) -> sa.Executable:
    """PostgreSQL: `here` 1 if the participant was as known, `stored` the number of new events."""
    if not with_recruit:
        claim = tables.CLAIM.returning(_participants.c.id).cte("claim")
        return sa.select(_count(claim).label("here"), _count(_stored(count, claim)).label("stored"))
    here = _here()
    source = sa.select(here.c.id, _bound("person", _recruits.c.person), _bound("parameters", _recruits.c.parameters))
    insert = postgresql.insert(_recruits).from_select(["participant", "person", "parameters"], source)
    # a conflict as a count and not as an error, which PostgreSQL writes into its own log with the id
    only = insert.on_conflict_do_nothing().returning(_recruits.c.participant).cte("only")
    stored = _stored(count, _claim(only.c.participant))
    return sa.select(_count(here).label("here"), _count(stored).label("stored"))


@cache
def _assigning() -> sa.Executable:
    """PostgreSQL: as `_appending`, and `next_position`."""
    here, next_position = _here(), _NEXT_POSITION.scalar_subquery()
    position = _bound("position", _assignments.c.position)
    source = sa.select(_bound("stratum", _assignments.c.stratum), position, here.c.id).where(next_position == position)
    insert = postgresql.insert(_assignments).from_select(["stratum", "position", "participant"], source)
    place = insert.on_conflict_do_nothing().returning(_assignments.c.participant).cte("place")
    stored = _stored(1, _claim(place.c.participant))
    counts = _count(here).label("here"), _count(stored).label("stored")
    return sa.select(*counts, next_position.label("next_position"))


def _here() -> sa.CTE:
    """The participant, locked, if they are as the caller knew them."""
    return sa.select(_participants.c.id).where(*tables.UNCHANGED).with_for_update().cte("here")


def _claim(participant: sa.ColumnElement[object]) -> sa.CTE:
    """The participant, with the new number of events, if the part before has written its row."""
    update = sa.update(_participants).where(_participants.c.id.in_(sa.select(participant)))
    return update.values(events=sa.bindparam("then")).returning(_participants.c.id).cte("claim")


def _saving(insert: Any, *, lock: bool) -> sa.Executable:
    source = sa.select(_participants.c.id, _bound("name", _drafts.c.field), _bound("draft", _drafts.c.text)).where(
        _participants.c.id == sa.bindparam("participant"), _participants.c.withdrawn_at.is_(None)
    )
    if lock:  # whoever withdraws meanwhile waits, or has withdrawn
        source = source.with_for_update()
    statement = insert(_drafts).from_select(["participant", "field", "text"], source)
    keys, text = ["participant", "field"], {"text": statement.excluded.text}
    return statement.on_conflict_do_update(index_elements=keys, set_=text)  # type: ignore[no-any-return]


_SAVE_DRAFT = {"sqlite": _saving(sqlite.insert, lock=False), "postgresql": _saving(postgresql.insert, lock=True)}
