"""Batches of feedback, and states of users as they were a while ago."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(200), unique=True),
        sa.Column("digest", sa.String(64)),
        sa.Column("made", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batch_people",
        sa.Column("person", NUMBER, sa.ForeignKey("people.number"), primary_key=True),
        sa.Column("batch", NUMBER, sa.ForeignKey("batches.number"), primary_key=True),
    )
    op.rename_table("states", "states_before")
    op.create_table(
        "states",
        sa.Column("user_id", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("upto", sa.BigInteger, nullable=False),
        sa.Column("made", sa.Float, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.execute(
        "INSERT INTO states (user_id, method, seq, upto, made, state) SELECT user_id, method, seq, "
        "(SELECT COALESCE(MAX(seq), 0) FROM events), 0, state FROM states_before"
    )
    op.drop_table("states_before")


def downgrade() -> None:
    op.execute(
        "DELETE FROM states WHERE EXISTS (SELECT 1 FROM states newer WHERE newer.user_id = states.user_id "
        "AND newer.method = states.method AND newer.seq > states.seq)"
    )
    op.rename_table("states", "states_after")
    op.create_table(
        "states",
        sa.Column("user_id", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.execute(
        "INSERT INTO states (user_id, method, seq, state) SELECT user_id, method, seq, state FROM states_after"
    )
    for name in ("states_after", "batch_people", "batches"):
        op.drop_table(name)
