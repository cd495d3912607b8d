"""A whole study under load: 300 scripted participants, 40 at once, on SQLite and on PostgreSQL.

    python benchmarks/study_load.py

The app is a process of its own on loopback; its assistants answer at once, so what is measured is pages, forms and the
database. A tenth of all forms is sent twice at the same time. Afterwards the export is compared with what every
participant knows they did: each message and choice exactly once, and none besides. Written to
`benchmarks/results/study_load.json`.

Participants pause a second (mean) before a form, a fiftieth of what people take, so 40 at once are a load of some 2,000
people. Without a pause the 40 keep one core busy without a break, and every request waits for 39 others: that measures
the queue, and is printed beside. Requests of a waiting page (`state`) are held until replies are there, so they are no
part of "all".

What helped: a whole transaction in one turn of a thread instead of a turn for each statement (a profile showed fifteen
hops between threads a request), Python's switch interval at 0.5 ms instead of 5 (each of those answers waits for the
event loop), statements built once, one query for who and what, rendered Markdown kept. Asking for the state in short
intervals cost half of all requests; held requests replaced it. SQLite's writes that wait are committed together, and
the few rows of a page are read in the event loop itself. Events are only ever added, so a page reads those that are
new. On PostgreSQL every round trip waits for a turn of a busy event loop: whatever a form stores is stored by one
statement (it was up to six), a form is checked against what the server remembers, for storing compares, and no
connection is tried before it is used. A third of the event loop's time went into sending: head and body of an answer
are sent together. The web framework's own layers took as long as the pages.

The participants themselves took as much of a core as the server: a general HTTP client needs longer for a request than
the server for its answer, and whole pages were parsed. They have a client of their own now (`simgym.study.browser`),
and look for forms alone.

`load` is the machine's load average (1 and 5 minutes) when a measurement began: on a busy machine it measures that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from simgym.statistics.votes import VoteDistribution
from simgym.study import Study, study_template
from simgym.study.config import read_study
from simgym.study.records import export
from simgym.study.serving import served
from simgym.study.simulate import Ledger, Traffic, disagreements, play
from simgym.study.store import Store
from simgym.testing.postgresql import find_postgresql, temporary_postgresql

RESULTS = Path(__file__).parent / "results" / "study_load.json"


def main() -> None:
    """Measure both databases and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=40)
    parser.add_argument("--think", type=float, nargs="+", default=[1.0, 0.0], help="mean pauses before a form, seconds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        settings = read_study(study_template(), "template").model_dump(mode="json")
        settings["turns"] |= {"minimum": 5, "maximum": 5}
        study = Study.model_validate(settings)
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        for think in args.think:
            rows.append(measure("sqlite", f"sqlite:///{folder}/{think}.db", file, study, args, think))
            if find_postgresql() is None:
                print("postgresql: not installed, not measured")
                continue
            with temporary_postgresql() as url:
                rows.append(measure("postgresql", url, file, study, args, think))
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    result = {"participants": args.participants, "at_once": args.at_once, "machine": machine, "rows": rows}
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(name: str, url: str, file: Path, study: Study, args: argparse.Namespace, think: float) -> dict:
    """One study on one database."""
    load = [round(value, 1) for value in os.getloadavg()[:2]]
    with served(file, url, "--synthetic") as (address, process):
        started = time.monotonic()
        ledgers = asyncio.run(
            play(
                address,
                study,
                participants=args.participants,
                truth=VoteDistribution(),
                traffic=Traffic(at_once=args.at_once, doubled=0.1, think=think),
            )
        )
        seconds = time.monotonic() - started
        process.terminate()
        _, errors = process.communicate(timeout=30)
    problems = disagreements(ledgers, asyncio.run(read(url)), study.pairs)
    row = {
        "database": name,
        "think_seconds": think,
        "load": load,
        "seconds": round(seconds, 1),
        "requests": sum(len(ledger.times) for ledger in ledgers),
        "milliseconds": {kind: quantiles(ledgers, kind) for kind in ("page", "form", "state", None)},
        "messages": sum(len(ledger.messages) for ledger in ledgers),
        "choices": sum(len(ledger.outcomes) for ledger in ledgers),
        "codes": sum(ledger.code is not None for ledger in ledgers),
        "disagreements": len(problems),
        "database_is_locked": errors.count("database is locked"),
        "errors_logged": errors.count("Traceback"),
    }
    row["milliseconds"]["all"] = row["milliseconds"].pop(None)
    print(
        f"{name}, pause {think:g} s: {row['codes']} participants in {row['seconds']} s, {row['requests']:,} requests, "
        f"p95 {row['milliseconds']['all']['p95']:.0f} ms (forms {row['milliseconds']['form']['p95']:.0f} ms); "
        f"{row['messages']:,} messages and {row['choices']:,} choices, {len(problems)} lost or doubled; "
        f"'database is locked' {row['database_is_locked']} times, {row['errors_logged']} errors logged",
        flush=True,
    )
    for problem in problems[:5]:
        print(f"  {problem}")
    return row


async def read(url: str) -> list[dict]:
    """What the study exports."""
    store = Store(url)
    try:
        return await export(store)
    finally:
        await store.close()


def quantiles(ledgers: list[Ledger], kind: str | None) -> dict[str, float]:
    """Of the times of one kind of request, or of all, milliseconds."""
    times = [
        1000 * seconds
        for ledger in ledgers
        for what, seconds in ledger.times
        if what == kind or (kind is None and what != "state")
    ]
    p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99])
    return {
        "n": len(times),
        "p50": round(p50, 1),
        "p95": round(p95, 1),
        "p99": round(p99, 1),
        "max": round(max(times), 1),
    }


if __name__ == "__main__":
    main()
