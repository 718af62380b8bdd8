"""The first tables: people, events, shown, states, lists, keys, changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "people",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String(200), nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("seq", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(200), nullable=False, unique=True),
        sa.Column("person", NUMBER, sa.ForeignKey("people.number"), nullable=False),
        sa.Column("item_id", sa.String(200), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("received", sa.Float, nullable=False),
        sa.Column("recommendation_id", sa.String(200)),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_person", "events", ["person", "seq"])
    op.create_index("events_by_recommendation", "events", ["recommendation_id"])
    op.create_table(
        "shown",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(200)),
        sa.Column("made", sa.Float, nullable=False),
        sa.Column("arm", sa.String(200)),
        sa.Column("method", sa.String(200), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
    )
    op.create_index("ix_shown_user_id", "shown", ["user_id"])
    op.create_index("ix_shown_made", "shown", ["made"])
    op.create_table(
        "states",
        sa.Column("user_id", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "lists",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("made", sa.Float, nullable=False),
        sa.Column("ids", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("made", sa.Float, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("seq", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for name in ("changes", "keys", "lists", "states", "shown", "events", "people"):
        op.drop_table(name)
