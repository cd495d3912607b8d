"""The tables of a study's database, and the queries of its pages, built once: building takes longer than running."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 1
"""Incremented when a table changes; a new table is simply added."""
tables = sa.MetaData()
study = sa.Table(
    "study",
    tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),  # real, dry_run or synthetic
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("hash", sa.String(16), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
participants = sa.Table(
    "participants",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("events", sa.Integer, nullable=False),
    sa.Column("withdrawn_at", sa.Float),
)
events = sa.Table(
    "events",
    tables,
    sa.Column("participant", sa.String(32), sa.ForeignKey("participants.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("study_hash", sa.String(16), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.UniqueConstraint("participant", "key"),
)
assignments = sa.Table(
    "assignments",
    tables,
    sa.Column("stratum", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("participant", sa.String(32), unique=True),
)
recruits = sa.Table(
    "recruits",
    tables,
    sa.Column("participant", sa.String(32), sa.ForeignKey("participants.id"), primary_key=True),
    sa.Column("person", sa.String(256), unique=True),
    sa.Column("parameters", sa.Text, nullable=False),
)
drafts = sa.Table(
    "drafts",
    tables,
    sa.Column("participant", sa.String(32), sa.ForeignKey("participants.id"), primary_key=True),
    sa.Column("field", sa.String(96), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)
erasures = sa.Table(
    "erasures",
    tables,
    sa.Column("ticket_hash", sa.String(64), primary_key=True),
    # the withdrawn participant's id, reversed so that a search for it does not find this row; null: nothing is left
    sa.Column("trace", sa.String(32)),
    sa.Column("transaction", sa.BigInteger),  # PostgreSQL's number of the deletion
)

COUNT = sa.select(participants.c.events).where(
    participants.c.id == sa.bindparam("participant"), participants.c.withdrawn_at.is_(None)
)
EVENTS = (
    sa.select(events.c.key, events.c.payload, events.c.at)
    .where(events.c.participant == sa.bindparam("participant"), events.c.number >= sa.bindparam("known"))
    .order_by(events.c.number)
)
"""From that number on."""
LOOK = sa.select(participants.c.id, participants.c.events).where(
    participants.c.secret_hash == sa.bindparam("secret_hash"), participants.c.withdrawn_at.is_(None)
)
LOOK_WITH_DRAFTS = LOOK.add_columns(drafts.c.field, drafts.c.text).outerjoin(
    drafts, drafts.c.participant == participants.c.id
)
"""One row per draft; without drafts, one row."""
PERSON = sa.select(recruits.c.person).where(recruits.c.participant == sa.bindparam("participant"))
INSERT_PARTICIPANT = sa.insert(participants)
INSERT_EVENTS = sa.insert(events)
UNCHANGED = (
    participants.c.id == sa.bindparam("participant"),
    participants.c.events == sa.bindparam("known"),
    participants.c.withdrawn_at.is_(None),
)
"""A participant with so many events who has not withdrawn."""
CLAIM = sa.update(participants).where(*UNCHANGED).values(events=sa.bindparam("then"))
"""Reserves the numbers of new events: one row is updated, or somebody else was faster."""
