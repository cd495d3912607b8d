"""SQLite or PostgreSQL under a study: a function of a connection runs as one read or as one transaction.

SQLite's work is done in threads, readers have a few of their own; the few rows of a page are read in the event loop. A
commit waits for the disk, which takes as long for one write as for many: all that waits while one is under way is
committed together, each write in a savepoint of its own, and nobody is told before. PostgreSQL is spoken to over
asyncpg. Parameters of statements appear in no error. What can only be waited for (no such server, a full disk, a lock
held elsewhere) becomes `DatabaseUnavailable`.

`erase` makes sure that deleted rows are gone from the disk, and never makes a writer wait for a reader: it tries once,
and says whether it is done. SQLite: pages are zeroed on deletion, the log is emptied (only possible while nobody reads
an older state), and both files are searched. PostgreSQL: tables are rewritten once no transaction can see the rows any
more; its own log of changes (`pg_wal`) and backups are kept as long as the server is told to keep them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from simgym.errors import ConfigurationError, DatabaseUnavailable

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""What is done with a connection; it may run in another thread."""
_READERS = 4
"""Threads that read SQLite."""
_CONNECTIONS = 16
"""Connections to PostgreSQL for single statements: all pages."""
_TRANSACTIONS = 4
"""Connections to PostgreSQL for transactions: the start, withdrawals."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted and is perhaps still on the disk."""

    trace: str | None
    """A text that every deleted row held, and nothing else holds; None: there is none to look for."""
    transaction: int | None
    """Number of the deleting transaction; None with SQLite."""


class Database(Protocol):
    """SQLite or PostgreSQL; what reads and writes raises `DatabaseUnavailable` if the database cannot be used."""

    async def read(self, work: Work[T]) -> T:
        """Run a function that only reads."""

    async def fetch(self, work: Work[T]) -> T:
        """Run a function that reads a few rows by their keys: the queries of every page."""

    async def write(self, work: Work[T]) -> T:
        """Run a function in a transaction that is committed when it returns, and rolled back when it raises."""

    async def write_at_once(self, work: Work[T]) -> T:
        """Run a function that writes with a single statement (SQLite: with any), which is committed when it returns.

        If a connection breaks, the function is run again.
        """

    async def erase(self, deletions: Sequence[Deletion]) -> bool:
        """Try to remove what was deleted from the disk; True if nothing of it is left."""

    async def close(self) -> None:
        """Give back all connections."""


def open_database(url: str) -> Database:
    """The database at an address; nothing is opened yet.

    Raises:
        ConfigurationError: it is neither `sqlite:///FILE` nor `postgresql://USER:PASSWORD@HOST/NAME`.
    """
    kind, separator, rest = url.partition("://")
    if separator and kind == "sqlite":
        return Sqlite(url)
    if separator and kind in ("postgresql", "postgres"):
        return Postgresql(f"postgresql+asyncpg://{rest}")
    raise ConfigurationError(
        f"The database is {kind!r}, expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
    )


@dataclass(frozen=True, slots=True)
class _Write:
    """A write that waits for its turn."""

    work: Work[object]
    """What is done."""
    answer: asyncio.Future[Any]
    """What it returned, or raised, once that is committed."""


class Sqlite:
    """A file; several processes may use it."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, hide_parameters=True, connect_args={"check_same_thread": False})
        sa.event.listen(self._engine, "connect", _tune_sqlite)
        self._path = Path(self._engine.url.database or ":memory:")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="study-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="study-reader")
        self._nearby: sa.Connection | None = None  # the event loop's own
        self._waiting: list[_Write] = []
        self._committing: asyncio.Task[None] | None = None

    async def read(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def fetch(self, work: Work[T]) -> T:
        # in the event loop: a few rows are read faster than another thread is woken, and with a log of writes (WAL)
        # no reader waits for a writer
        try:
            if self._nearby is None:
                self._nearby = self._engine.connect()
                self._nearby.exec_driver_sql("PRAGMA busy_timeout=0")
            return work(self._nearby)
        except DBAPIError:
            if self._nearby is not None:
                self._nearby.close()
                self._nearby = None
            return await self.read(work)  # which waits, or says in a sentence why it cannot be

    async def write(self, work: Work[T]) -> T:
        loop = asyncio.get_running_loop()
        waiting = _Write(work, loop.create_future())
        self._waiting.append(waiting)
        if self._committing is None or self._committing.done():
            self._committing = loop.create_task(self._commit())
        answer: T = await waiting.answer
        return answer

    async def write_at_once(self, work: Work[T]) -> T:
        return await self.write(work)

    async def erase(self, deletions: Sequence[Deletion]) -> bool:
        traces = [deletion.trace.encode() for deletion in deletions if deletion.trace]
        return await asyncio.to_thread(_erase_sqlite, self._path, traces)

    async def close(self) -> None:
        if self._committing is not None and not self._committing.done():
            await self._committing
        for threads in (self._writer, self._readers):
            await asyncio.to_thread(threads.shutdown)
        if self._nearby is not None:
            self._nearby.close()
        self._engine.dispose()

    def _read(self, work: Work[T]) -> T:
        with _unavailable(), self._engine.connect() as connection:
            return work(connection)

    async def _commit(self) -> None:
        """Commit what waits, all of it together, until nothing does."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            writes, self._waiting = [write for write in self._waiting if not write.answer.done()], []
            try:
                outcomes = await loop.run_in_executor(self._writer, self._write, [write.work for write in writes])
            except Exception as error:  # nothing was committed: everybody is told so
                outcomes = [error] * len(writes)
            for write, outcome in zip(writes, outcomes, strict=True):
                if write.answer.done():  # whoever asked is gone
                    continue
                if isinstance(outcome, Exception):
                    write.answer.set_exception(outcome)
                else:
                    write.answer.set_result(outcome)

    def _write(self, works: Sequence[Work[object]]) -> list[object]:
        """What each write returned, or the error it raised; one that raised has changed nothing."""
        with _unavailable(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits for writers of other processes from the start
            if len(works) == 1:
                outcomes = [works[0](connection)]
            else:
                outcomes, sqlite_connection = [], cast(Any, connection.connection)
                for work in works:
                    outcomes.append(outcome := _apart(connection, work))
                    if not sqlite_connection.in_transaction:  # a full disk undoes all of it
                        raise outcome if isinstance(outcome, Exception) else DatabaseUnavailable(_sentence(None))
            connection.commit()
            return outcomes


class Postgresql:
    """A server."""

    def __init__(self, url: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        # a pool for single statements: one round trip instead of three, and nothing to be set back afterwards
        options: dict[str, Any] = {"max_overflow": 0, "hide_parameters": True}
        self._at_once = create_async_engine(url, isolation_level="AUTOCOMMIT", pool_size=_CONNECTIONS, **options)
        self._transactions = create_async_engine(url, pool_size=_TRANSACTIONS, **options)

    async def read(self, work: Work[T]) -> T:
        with _unavailable():
            try:
                return await self._read(work)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return await self._read(work)  # the server has been restarted: its old connections are gone by now

    async def fetch(self, work: Work[T]) -> T:
        return await self.read(work)

    async def write(self, work: Work[T]) -> T:
        with _unavailable():
            for attempt in (1, 2):
                async with self._transactions.connect() as connection:
                    transaction = await connection.begin()
                    try:
                        value = await connection.run_sync(work)
                    except DBAPIError as error:
                        if attempt == 1 and error.connection_invalidated:
                            continue  # as above; nothing was committed
                        raise
                    await transaction.commit()
                    return value
        raise AssertionError("unreachable")

    async def write_at_once(self, work: Work[T]) -> T:
        return await self.read(work)  # a statement by itself is a transaction

    async def _read(self, work: Work[T]) -> T:
        async with self._at_once.connect() as connection:
            return await connection.run_sync(work)

    async def erase(self, deletions: Sequence[Deletion]) -> bool:
        numbers = [deletion.transaction for deletion in deletions if deletion.transaction is not None]
        with _unavailable():
            async with self._at_once.connect() as connection:
                return await connection.run_sync(_erase_postgresql, numbers)

    async def close(self) -> None:
        await self._at_once.dispose()
        await self._transactions.dispose()


def _apart(connection: sa.Connection, work: Work[object]) -> object:
    """One write among those of a transaction: what it raises undoes it alone."""
    try:
        with _unavailable(), connection.begin_nested():
            return work(connection)
    except Exception as error:  # the boundary: it is raised where the write was asked for
        return error


def current_transaction(connection: sa.Connection) -> int | None:
    """PostgreSQL's number of the transaction under way, modulo 2 ** 32; None with SQLite."""
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.exec_driver_sql("SELECT txid_current()").scalar_one()) % 2**32


def _erase_sqlite(path: Path, traces: Sequence[bytes]) -> bool:
    try:
        # no waiting: whoever waits for readers here makes all writers wait as well
        with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                return False
            if not _bytes_left(connection, path, traces):
                return True
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("VACUUM")  # a row was deleted by a program that does not zero what it deletes
            return False  # the log is to be emptied again
    except sqlite3.OperationalError:  # somebody writes
        return False


def _bytes_left(connection: sqlite3.Connection, path: Path, traces: Sequence[bytes]) -> bool:
    # SQLite reads the file, unused pages included: if this process opened and closed it itself, the system would drop
    # the locks of all its connections, and the next program that leaves the database would take the log away
    content = connection.serialize() if traces else b""
    log = path.with_name(f"{path.name}-wal")
    written = log.read_bytes() if log.is_file() else b""  # nobody locks this one
    return any(trace in content or trace in written for trace in traces)


def _erase_postgresql(connection: sa.Connection, transactions: Sequence[int]) -> bool:
    older = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_xmin IS NOT NULL AND age(backend_xmin) >= age(CAST(CAST(:number AS text) AS xid))"
    )
    if any(connection.execute(older, {"number": str(number)}).scalar() for number in transactions):
        return False  # a transaction that began before can still see the rows, and a rewrite would keep them
    connection.exec_driver_sql("SET lock_timeout = '500ms'")
    try:
        for table in ("events", "drafts", "recruits", "participants", "assignments"):
            connection.exec_driver_sql(f"VACUUM FULL {table}")
    except DBAPIError:  # the table is in use
        return False
    finally:
        connection.exec_driver_sql("RESET lock_timeout")
    return True


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        if not (isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated):
            raise
        raise DatabaseUnavailable(_sentence(error.orig)) from error
    except (OSError, sa.exc.TimeoutError) as error:
        raise DatabaseUnavailable(_sentence(error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "asyncpg":  # it refuses a connection in its own words
            raise
        raise DatabaseUnavailable(_sentence(error)) from error


def _sentence(error: BaseException | None) -> str:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return (
        f"The study's database cannot be used: {reason.rstrip('.')}. Check its address, and whether it can be reached."
    )


def _tune_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not at the first write
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=30000",
        "secure_delete=ON",
        "temp_store=MEMORY",  # what a temporary file has held is zeroed by nobody
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
