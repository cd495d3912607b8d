"""Databases of both kinds, and a small study."""

import asyncio
import time

import asyncpg
import pytest
from people import small_study

from simgym.study import Study
from simgym.testing.postgresql import find_postgresql, temporary_postgresql


@pytest.fixture(scope="session")
def postgresql():
    if find_postgresql() is None:
        pytest.skip("PostgreSQL is not installed")
    with temporary_postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    url = request.getfixturevalue("postgresql")
    return _fresh(url)


def _fresh(url: str) -> str:
    name = f"study_{time.monotonic_ns()}"

    async def create() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return url.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def study() -> Study:
    return small_study()
