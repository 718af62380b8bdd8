"""Alembic's environment: versions run on the connection that `serving.state.store` gives, within its transaction."""

from __future__ import annotations

from alembic import context

from serving.state.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
