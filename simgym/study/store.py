"""The study's store: append-only events in SQLite (WAL) or PostgreSQL, committed before anybody is told.

`append` is a compare-and-set on the participant's number of events. Two tabs, a doubled click or a second server may
race: one wins, and the other is told that nothing was written, and reads again. Recruitment ids have a table of their
own, and only drafts are ever overwritten. A participant is found by the hash of a secret that only their browser holds;
their id is no secret.

Events are ordered by number. Their times are the clock at start plus the time passed since, so setting the clock while
the server runs distorts no duration.

`withdraw` deletes for every query at once; `erase` then removes the deleted rows from the disk. A withdrawn participant
holds a ticket, with which `erased` tells whether that is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from simgym.errors import ConfigurationError
from simgym.study import tables
from simgym.study.database import Deletion, current_transaction, open_database
from simgym.study.journey import Event
from simgym.study.recruitment import Recruit, canonical
from simgym.study.writes import Addition, Assigned, Written, append, append_assigned, open_participant, save_draft

T = TypeVar("T")
_STARTED = time.time() - time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyMeta:
    """What a database belongs to."""

    name: str
    """Name of the study."""
    kind: str
    """`real`, `dry_run` or `synthetic`."""
    settings: dict[str, Any]
    """The study, as JSON."""
    hash: str
    """Its hash."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Who holds a secret, and what they have done."""

    participant: str
    """Id in the store."""
    events: tuple[Event, ...]
    """In order."""
    drafts: Mapping[str, str] = field(default_factory=dict)
    """What is being written, by field."""


class _Recent(OrderedDict[str, T]):
    """The values set last, at most 1,000."""

    def __setitem__(self, key: str, value: T) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > 1000:
            self.popitem(last=False)


class Store:
    """The database of one study."""

    def __init__(self, url: str) -> None:
        """Choose the database; nothing is opened yet.

        Args:
            url: `sqlite:///study.db` or `postgresql://user:password@host/name`.

        Raises:
            ConfigurationError: it is neither.
        """
        self._database = open_database(url)
        self._recent: _Recent[tuple[Event, ...]] = _Recent()  # only ever added to, so only new ones are read again
        self._participants: _Recent[str] = _Recent()  # by the hash of their secret
        self._strata: dict[str, asyncio.Lock] = {}
        self._positions: dict[str, int] = {}  # of each stratum, the one that is probably next

    async def close(self) -> None:
        """Give back all connections."""
        await self._database.close()

    async def begin(self, *, name: str, kind: str, settings: dict[str, Any], study_hash: str) -> None:
        """Make the tables, or check that they belong to this study.

        Raises:
            ConfigurationError: the database belongs to another study, another kind of run, or to the same with other
                settings.
            DatabaseUnavailable: it cannot be reached or written.
        """

        def work(connection: sa.Connection) -> Any:
            tables.tables.create_all(connection)
            row = connection.execute(sa.select(tables.study).order_by(tables.study.c.id)).first()
            if row is None:
                text = json.dumps(settings, ensure_ascii=False)
                value = {"schema_version": tables.SCHEMA_VERSION, "name": name, "kind": kind, "hash": study_hash}
                connection.execute(sa.insert(tables.study).values(id=1, **value, settings=text, at=_now()))
            else:
                _make_canonical(connection)
            return row

        row = await self._database.write(work)
        if row is None:
            return
        if (row.name, row.kind) != (name, kind):
            raise ConfigurationError(
                f"The database belongs to the study {row.name!r} ({row.kind}), expected {name!r} ({kind}). Give "
                "another database."
            )
        if row.hash != study_hash:
            raise ConfigurationError(
                f"The study file has changed since the first participant (hash {study_hash}, expected {row.hash}). "
                "Restore it, or begin a new study with a new database."
            )
        if row.schema_version != tables.SCHEMA_VERSION:
            raise ConfigurationError(f"The database has schema {row.schema_version}, expected {tables.SCHEMA_VERSION}.")

    async def meta(self) -> StudyMeta:
        """What the database belongs to.

        Raises:
            ConfigurationError: there is no study in it.
            DatabaseUnavailable: it cannot be reached or read.
        """

        def work(connection: sa.Connection) -> Any:
            if not sa.inspect(connection).has_table(tables.study.name):
                return None
            return connection.execute(sa.select(tables.study)).first()

        row = await self._database.read(work)
        if row is None:
            raise ConfigurationError("The database holds no study.")
        return StudyMeta(name=row.name, kind=row.kind, settings=json.loads(row.settings), hash=row.hash)

    async def open(self, study_hash: str) -> tuple[str, Visit]:
        """A new participant with the event `opened`.

        Returns:
            The secret, which is stored nowhere, and the visit that it will give.
        """
        secret, participant, event = secrets.token_urlsafe(32), f"p{secrets.token_hex(8)}", Event("opened", {}, _now())
        hashed = hash_secret(secret)
        addition = Addition(participant=participant, known=0, events=(event,), study_hash=study_hash)
        await self._database.write_at_once(lambda connection: open_participant(connection, hashed, addition))
        self._recent[participant], self._participants[hashed] = (event,), participant
        return secret, Visit(participant, (event,))

    async def look(self, secret: str, *, drafts: bool = False) -> Visit | None:
        """Who holds that secret, and what they have done; None: nobody, or they have withdrawn."""
        hashed = hash_secret(secret)

        def work(connection: sa.Connection) -> Visit | None:
            query = tables.LOOK_WITH_DRAFTS if drafts else tables.LOOK
            rows = connection.execute(query, {"secret_hash": hashed}).all()
            if not rows:
                return None
            participant = self._participants[hashed] = str(rows[0].id)
            if not (events := self._events(connection, participant, rows[0].events)):
                return None  # withdrawn since the first query
            texts = {row.field: row.text for row in rows if row.field is not None} if drafts else {}
            return Visit(participant, events, texts)

        return await self._database.fetch(work)

    def remembered(self, secret: str) -> Visit | None:
        """As `look`, from what this server last read or wrote: good enough for `append`, which compares."""
        participant = self._participants.get(hash_secret(secret), "")
        events = self.remembered_events(participant)
        return Visit(participant, events) if events else None

    def remembered_events(self, participant: str) -> tuple[Event, ...]:
        """As `events`, with the same reservation; empty: this server knows none."""
        return self._recent.get(participant, ())

    async def events(self, participant: str) -> tuple[Event, ...]:
        """What a participant has done, in order."""

        def work(connection: sa.Connection) -> tuple[Event, ...]:
            count = connection.execute(tables.COUNT, {"participant": participant}).scalar()
            return self._events(connection, participant, count) if count else ()

        return await self._database.fetch(work)

    def _events(self, connection: sa.Connection, participant: str, count: int) -> tuple[Event, ...]:
        """Everything a participant with at least `count` events has done; empty: they have withdrawn meanwhile."""
        events = self.remembered_events(participant)
        if len(events) < count:
            rows = connection.execute(tables.EVENTS, {"participant": participant, "known": len(events)})
            events = (*events, *_events(rows))
            if len(events) < count:
                return ()
            self._recent[participant] = events
        return events

    def _remember(self, participant: str, known: int, events: tuple[Event, ...]) -> None:
        """Add what was stored behind `known` events, if exactly those are remembered."""
        before = self.remembered_events(participant)
        if events and len(before) == known:
            self._recent[participant] = (*before, *events)

    async def append(
        self,
        participant: str,
        known: int,
        events: Sequence[Event],
        study_hash: str,
        *,
        recruit: Recruit | None = None,
    ) -> bool:
        """Store events if exactly `known` are stored so far.

        Args:
            participant: Whose they are.
            known: How many events the caller has seen.
            events: What to add; all or nothing.
            study_hash: Of the settings under which it happened.
            recruit: The recruitment id that nobody else may have, and all parameters.

        Returns:
            False if nothing was stored: other events came first, or the participant has withdrawn.

        Raises:
            AlreadyTakesPart: the recruitment id is taken.
        """
        addition = Addition(
            participant=participant, known=known, events=_dated(events), study_hash=study_hash, recruit=recruit
        )
        written = await self._database.write_at_once(lambda connection: append(connection, addition))
        self._remember(participant, known, written.events)
        return bool(written.events)

    async def append_assigned(
        self, participant: str, known: int, stratum: str, event: Callable[[int], Event], study_hash: str
    ) -> bool:
        """As `append`, for one event made from the number of earlier assignments in the stratum."""
        addition = Addition(participant=participant, known=known, events=(), study_hash=study_hash)

        async def attempt() -> Written:
            assigned = Assigned(
                stratum=stratum,
                position=self._positions.get(stratum, 0),
                event=lambda position: replace(event(position), at=_now()),
            )
            written = await self._database.write_at_once(
                lambda connection: append_assigned(connection, addition, assigned)
            )
            self._positions[stratum] = max(written.next_position or 0, self._positions.get(stratum, 0))
            self._remember(participant, known, written.events)
            return written

        written = await attempt()
        if not written.outrun:
            return bool(written.events)
        # one at a time, or thirty-nine of forty would fail again; another server can still be faster
        async with self._strata.setdefault(stratum, asyncio.Lock()):
            for _ in range(50):
                if not (written := await attempt()).outrun:
                    return bool(written.events)
                await asyncio.sleep(0.01)
        raise RuntimeError(f"No position in the stratum {stratum!r} after 50 attempts.")

    async def person(self, participant: str) -> str | None:
        """The canonical recruitment id of a participant; None if there is none."""
        whose = {"participant": participant}
        return await self._database.fetch(lambda connection: connection.execute(tables.PERSON, whose).scalar())

    async def save_draft(self, participant: str, name: str, text: str) -> None:
        """Keep what is being written, in place of the field's last text; nothing is kept after a withdrawal."""
        await self._database.write_at_once(lambda connection: save_draft(connection, participant, name, text))

    async def withdraw(self, participant: str) -> str:
        """Delete everything a participant has given; only the fact that somebody withdrew remains.

        Returns:
            A ticket for `erased`.
        """
        ticket = secrets.token_urlsafe(32)
        await self._database.write(lambda connection: _withdraw(connection, participant, hash_secret(ticket)))
        self._recent.pop(participant, None)
        return ticket

    async def erased(self, ticket: str) -> bool | None:
        """Whether the deleted data is gone from the disk; None: no withdrawal has that ticket."""
        query = sa.select(tables.erasures.c.trace).where(tables.erasures.c.ticket_hash == hash_secret(ticket))
        row = await self._database.fetch(lambda connection: connection.execute(query).first())
        return None if row is None else row.trace is None

    async def erase(self) -> bool:
        """Try once to remove deleted data from the disk; whether none of it is left. Later withdrawals have to wait."""
        query = sa.select(tables.erasures).where(tables.erasures.c.trace.is_not(None))
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        if not rows:
            return True
        if not await self._database.erase([Deletion(row.trace[::-1], row.transaction) for row in rows]):
            return False
        done = [row.ticket_hash for row in rows]
        mark = sa.update(tables.erasures).where(tables.erasures.c.ticket_hash.in_(done)).values(trace=None)
        await self._database.write(lambda connection: connection.execute(mark).rowcount)
        return True

    async def purge(self, *, recruits: bool = False, drafts: bool = False, seconds: float = 10.0) -> Purge:
        """Delete recruitment ids or drafts, and try for so many seconds to remove them from the disk as well."""
        chosen = [table for table, wanted in ((tables.recruits, recruits), (tables.drafts, drafts)) if wanted]

        def work(connection: sa.Connection) -> tuple[dict[str, int], int | None]:
            gone = {table.name: connection.execute(sa.delete(table)).rowcount for table in chosen}
            return gone, current_transaction(connection)

        gone, transaction = await self._database.write(work)
        deadline = time.monotonic() + seconds
        deletion = Deletion(None, transaction)  # rows of many people have no trace in common
        while not (erased := await self._database.erase([deletion])) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return Purge(gone, erased)

    async def journeys(self) -> list[tuple[str, tuple[Event, ...]]]:
        """Every participant who has not withdrawn, with their events; ordered by id."""
        whole = tables.events.c
        query = sa.select(whole.participant, whole.key, whole.payload, whole.at)
        query = query.order_by(whole.participant, whole.number)
        by_participant: dict[str, list[Any]] = {}
        for participant, *event in await self._database.read(lambda connection: connection.execute(query).all()):
            by_participant.setdefault(str(participant), []).append(event)
        return [(participant, _events(rows)) for participant, rows in by_participant.items()]

    async def withdrawn(self) -> int:
        """How many have withdrawn."""
        query = sa.select(sa.func.count()).where(tables.participants.c.withdrawn_at.is_not(None))
        return await self._database.read(lambda connection: int(connection.execute(query).scalar() or 0))


@dataclass(frozen=True, slots=True)
class Purge:
    """What `Store.purge` did."""

    rows: Mapping[str, int]
    """Rows deleted, by table."""
    erased: bool
    """Whether they are gone from the disk; False: somebody is reading an older state of the database."""


def hash_secret(secret: str) -> str:
    """What is stored of a secret: 256 random bits, for which a plain hash is enough."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _withdraw(connection: sa.Connection, participant: str, ticket_hash: str) -> None:
    participants = tables.participants
    here = sa.select(participants.c.id).where(participants.c.id == participant).with_for_update()
    if connection.execute(here).first() is None:
        return
    for table in (tables.events, tables.drafts, tables.recruits):
        connection.execute(sa.delete(table).where(table.c.participant == participant))
    assignments = tables.assignments
    connection.execute(sa.update(assignments).where(assignments.c.participant == participant).values(participant=None))
    # the id goes as well: an answer on its way is refused, and the old id is a trace to search the disk for
    connection.execute(
        sa.update(participants)
        .where(participants.c.id == participant)
        .values(id=f"w{secrets.token_hex(8)}", withdrawn_at=_now(), secret_hash=secrets.token_hex(32), events=0)
    )
    values = {"ticket_hash": ticket_hash, "trace": participant[::-1], "transaction": current_transaction(connection)}
    connection.execute(sa.insert(tables.erasures).values(**values))


def _make_canonical(connection: sa.Connection) -> None:
    """Rewrite the recruitment ids of a database begun before ids were compared in canonical form."""
    recruits = tables.recruits
    rows = connection.execute(sa.select(recruits.c.participant, recruits.c.person)).all()
    taken = {row.person for row in rows}
    for row in rows:
        if row.person and (person := canonical(row.person)[:256]) != row.person and person not in taken:
            taken.add(person)
            where = recruits.c.participant == row.participant
            connection.execute(sa.update(recruits).where(where).values(person=person))


def _events(rows: Iterable[Any]) -> tuple[Event, ...]:
    return tuple(Event(key, json.loads(payload), at) for key, payload, at in rows)


def _dated(events: Sequence[Event]) -> tuple[Event, ...]:
    return tuple(replace(event, at=event.at or _now()) for event in events)


def _now() -> float:
    """Seconds since 1970, by a clock that nobody sets while the process runs."""
    return _STARTED + time.monotonic()
