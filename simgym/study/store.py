"""Where a study is kept: append-only events in SQLite (WAL) or PostgreSQL, committed before anybody is told.

`append` is a compare-and-set on the participant's number of events: two tabs, a doubled click or a second server can
race, and one of them wins; the other is told that nothing was written and reads again. Recruitment ids lie in a table
of their own. Drafts are the one thing that is overwritten. Participants are found by the hash of a secret that only
their browser has; their id is not a secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from simgym.errors import ConfigurationError
from simgym.study.journey import Event

SCHEMA_VERSION = 1
"""Raised when a table changes."""
_tables = sa.MetaData()
_study = sa.Table(
    "study",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),  # real, dry_run or synthetic
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("hash", sa.String(16), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
_participants = sa.Table(
    "participants",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("events", sa.Integer, nullable=False),
    sa.Column("withdrawn_at", sa.Float),
)
_events = sa.Table(
    "events",
    _tables,
    sa.Column("participant", sa.String(32), sa.ForeignKey("participants.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("study_hash", sa.String(16), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.UniqueConstraint("participant", "key"),
)
_assignments = sa.Table(
    "assignments",
    _tables,
    sa.Column("stratum", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("participant", sa.String(32), unique=True),
)
_recruits = sa.Table(
    "recruits",
    _tables,
    sa.Column("participant", sa.String(32), sa.ForeignKey("participants.id"), primary_key=True),
    sa.Column("person", sa.String(256), unique=True),
    sa.Column("parameters", sa.Text, nullable=False),
)
_drafts = sa.Table(
    "drafts",
    _tables,
    sa.Column("participant", sa.String(32), sa.ForeignKey("participants.id"), primary_key=True),
    sa.Column("field", sa.String(96), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)

# built once: building a statement takes longer than running it
_FIND = sa.select(_participants.c.id).where(
    _participants.c.secret_hash == sa.bindparam("secret_hash"), _participants.c.withdrawn_at.is_(None)
)
_EVENTS = (
    sa.select(_events.c.key, _events.c.payload, _events.c.at)
    .where(_events.c.participant == sa.bindparam("participant"))
    .order_by(_events.c.number)
)
_LOOK = (
    sa.select(_participants.c.id, _events.c.key, _events.c.payload, _events.c.at)
    .join(_events, _events.c.participant == _participants.c.id)
    .where(_participants.c.secret_hash == sa.bindparam("secret_hash"), _participants.c.withdrawn_at.is_(None))
    .order_by(_events.c.number)
)
_DRAFTS = sa.select(_drafts.c.field, _drafts.c.text).where(_drafts.c.participant == sa.bindparam("participant"))


class AlreadyTakesPart(Exception):
    """Somebody with the same recruitment id has consented before."""


@dataclass(frozen=True, slots=True)
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


class Store:
    """The database of one study."""

    def __init__(self, url: str) -> None:
        """Choose the database; nothing is opened yet.

        Args:
            url: `sqlite:///study.db` or `postgresql://user:password@host/name`.

        Raises:
            ConfigurationError: it is neither.
        """
        kind, separator, rest = url.partition("://")
        drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
        if not separator or kind not in drivers:
            raise ConfigurationError(
                f"The database is {kind!r}, expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
            )
        self.sqlite = kind == "sqlite"
        options: dict[str, Any] = {} if self.sqlite else {"pool_size": 10, "max_overflow": 10, "pool_pre_ping": True}
        self._engine = create_async_engine(f"{drivers[kind]}://{rest}", **options)
        if self.sqlite:
            sa.event.listen(self._engine.sync_engine, "connect", _tune_sqlite)
        # SQLite has one writer; a queue in the process is fairer than its busy loop
        self._writer = asyncio.Lock() if self.sqlite else None

    async def close(self) -> None:
        """Give back all connections."""
        await self._engine.dispose()

    async def begin(self, *, name: str, kind: str, settings: dict[str, Any], study_hash: str) -> None:
        """Make the tables, or check that they belong to this study.

        Raises:
            ConfigurationError: the database belongs to another study, another kind of run, or to the same with other
                settings.
        """
        async with self._write() as connection:
            await connection.run_sync(_tables.create_all)
            row = (await connection.execute(sa.select(_study).order_by(_study.c.id))).first()
            if row is None:
                value = {"schema_version": SCHEMA_VERSION, "name": name, "kind": kind, "hash": study_hash}
                text = json.dumps(settings, ensure_ascii=False)
                await connection.execute(sa.insert(_study).values(id=1, **value, settings=text, at=time.time()))
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
        if row.schema_version != SCHEMA_VERSION:
            raise ConfigurationError(f"The database has schema {row.schema_version}, expected {SCHEMA_VERSION}.")

    async def meta(self) -> StudyMeta:
        """What the database belongs to.

        Raises:
            ConfigurationError: there is no study in it.
        """
        try:
            async with self._engine.connect() as connection:
                row = (await connection.execute(sa.select(_study))).first()
        except sa.exc.DBAPIError as error:
            raise ConfigurationError(f"The database holds no study: {error.orig}") from error
        if row is None:
            raise ConfigurationError("The database holds no study.")
        return StudyMeta(row.name, row.kind, json.loads(row.settings), row.hash)

    async def open(self, study_hash: str) -> str:
        """A new participant with the event `opened`.

        Returns:
            The secret, which is stored nowhere.
        """
        secret, participant = secrets.token_urlsafe(32), f"p{secrets.token_hex(8)}"
        async with self._write() as connection:
            values = {"id": participant, "secret_hash": hash_secret(secret), "events": 1}
            await connection.execute(sa.insert(_participants).values(**values))
            await connection.execute(sa.insert(_events), [_row(participant, 0, Event("opened"), study_hash)])
        return secret

    async def find(self, secret: str) -> str | None:
        """The participant with that secret, unless withdrawn."""
        async with self._engine.connect() as connection:
            return (await connection.execute(_FIND, {"secret_hash": hash_secret(secret)})).scalar()

    async def look(self, secret: str) -> tuple[str, list[Event]] | None:
        """`find` and `events` together: who has that secret, and what they have done."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_LOOK, {"secret_hash": hash_secret(secret)})).all()
        return (rows[0].id, [Event(row.key, json.loads(row.payload), row.at) for row in rows]) if rows else None

    async def events(self, participant: str) -> list[Event]:
        """What a participant has done, in order."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_EVENTS, {"participant": participant})).all()
        return [Event(row.key, json.loads(row.payload), row.at) for row in rows]

    async def append(
        self,
        participant: str,
        known: int,
        events: Sequence[Event],
        study_hash: str,
        *,
        recruit: tuple[str | None, dict[str, str]] | None = None,
    ) -> bool:
        """Store events if exactly `known` are stored so far.

        Args:
            participant: Whose.
            known: How many events the caller has seen.
            events: What to add; all or nothing.
            study_hash: Of the settings under which it happened.
            recruit: The recruitment id that nobody else may have, and all parameters.

        Returns:
            False if nothing was stored, because something else was meanwhile, or the participant has withdrawn.

        Raises:
            AlreadyTakesPart: the recruitment id is taken.
        """
        return await self._append(participant, known, lambda _: events, study_hash, recruit=recruit)

    async def append_assigned(
        self, participant: str, known: int, stratum: str, event: Callable[[int], Event], study_hash: str
    ) -> bool:
        """As `append`, one event that holds how many have been assigned in the stratum before."""
        for _ in range(50):
            try:
                return await self._append(participant, known, lambda at: [event(at)], study_hash, stratum=stratum)
            except IntegrityError:
                await asyncio.sleep(0.01)  # another participant took the position
        raise RuntimeError(f"No position in the stratum {stratum!r} after 50 attempts.")

    async def _append(
        self,
        participant: str,
        known: int,
        events: Callable[[int], Sequence[Event]],
        study_hash: str,
        *,
        stratum: str | None = None,
        recruit: tuple[str | None, dict[str, str]] | None = None,
    ) -> bool:
        async with self._write() as connection:
            position = -1
            if stratum is not None:
                count = sa.select(sa.func.max(_assignments.c.position)).where(_assignments.c.stratum == stratum)
                last = (await connection.execute(count)).scalar()
                position = 0 if last is None else last + 1
            new = events(position)
            claim = (
                sa.update(_participants)
                .where(
                    _participants.c.id == participant,
                    _participants.c.events == known,
                    _participants.c.withdrawn_at.is_(None),
                )
                .values(events=known + len(new))
            )
            if (await connection.execute(claim)).rowcount != 1:
                return False
            rows = [_row(participant, known + number, event, study_hash) for number, event in enumerate(new)]
            await connection.execute(sa.insert(_events), rows)
            if stratum is not None:
                values = {"stratum": stratum, "position": position, "participant": participant}
                await connection.execute(sa.insert(_assignments).values(**values))
            if recruit is not None:
                person, parameters = recruit
                text = json.dumps(parameters, ensure_ascii=False)
                try:
                    await connection.execute(
                        sa.insert(_recruits).values(participant=participant, person=person, parameters=text)
                    )
                except IntegrityError as error:
                    raise AlreadyTakesPart from error
        return True

    async def person(self, participant: str) -> str | None:
        """The recruitment id of a participant; None if there is none."""
        query = sa.select(_recruits.c.person).where(_recruits.c.participant == participant)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar()

    async def save_draft(self, participant: str, field: str, text: str) -> None:
        """Keep what is being written; the last text of a field counts. Of who has withdrawn nothing is kept."""
        here = sa.select(_participants.c.id).where(
            (_participants.c.id == participant) & _participants.c.withdrawn_at.is_(None)
        )
        where = (_drafts.c.participant == participant) & (_drafts.c.field == field)
        async with self._write() as connection:
            if (await connection.execute(here.with_for_update())).first() is None:
                return
            await connection.execute(sa.delete(_drafts).where(where))
            await connection.execute(sa.insert(_drafts).values(participant=participant, field=field, text=text))

    async def drafts(self, participant: str) -> dict[str, str]:
        """What is being written, by field."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_DRAFTS, {"participant": participant})
            return {row.field: row.text for row in rows}

    async def withdraw(self, participant: str) -> None:
        """Delete all that a participant has given; only that somebody withdrew remains."""
        async with self._write() as connection:
            # first, so that an answer on its way is refused from here on
            await connection.execute(
                sa.update(_participants)
                .where(_participants.c.id == participant)
                .values(withdrawn_at=time.time(), secret_hash=secrets.token_hex(32))
            )
            for table in (_events, _drafts, _recruits):
                await connection.execute(sa.delete(table).where(table.c.participant == participant))
            await connection.execute(
                sa.update(_assignments).where(_assignments.c.participant == participant).values(participant=None)
            )
        await self._forget()

    async def purge(self, *, recruits: bool = False, drafts: bool = False) -> dict[str, int]:
        """Delete recruitment ids, or drafts; how many rows went."""
        gone = {}
        async with self._write() as connection:
            for table, wanted in ((_recruits, recruits), (_drafts, drafts)):
                if wanted:
                    gone[table.name] = (await connection.execute(sa.delete(table))).rowcount
        await self._forget()
        return gone

    async def journeys(self) -> AsyncIterator[tuple[str, list[Event]]]:
        """Every participant who has not withdrawn, with their events, in the order of their ids."""
        query = sa.select(_events).order_by(_events.c.participant, _events.c.number)
        current: str | None = None
        events: list[Event] = []
        async with self._engine.connect() as connection:
            for row in await connection.execute(query):
                if row.participant != current:
                    if current is not None:
                        yield current, events
                    current, events = row.participant, []
                events.append(Event(row.key, json.loads(row.payload), row.at))
        if current is not None:
            yield current, events

    async def withdrawn(self) -> int:
        """How many have withdrawn."""
        query = sa.select(sa.func.count()).where(_participants.c.withdrawn_at.is_not(None))
        async with self._engine.connect() as connection:
            return int((await connection.execute(query)).scalar() or 0)

    async def _forget(self) -> None:
        """Take what was deleted out of SQLite's log, too (pages are zeroed); PostgreSQL's vacuum does it later."""
        if self._writer is not None:
            async with self._writer, self._engine.connect() as connection:
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        if self._writer is None:
            async with self._engine.begin() as connection:
                yield connection
            return
        async with self._writer, self._engine.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits for writers of other processes from the start
            try:
                yield connection
            except BaseException:
                await connection.rollback()
                raise
            await connection.commit()


def hash_secret(secret: str) -> str:
    """What is stored of a secret (256 random bits, so a plain hash is enough)."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _row(participant: str, number: int, event: Event, study_hash: str) -> dict[str, Any]:
    return {
        "participant": participant,
        "number": number,
        "key": event.key,
        "payload": json.dumps(event.payload, ensure_ascii=False),
        "study_hash": study_hash,
        "at": time.time(),
    }


def _tune_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not at the first write
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
