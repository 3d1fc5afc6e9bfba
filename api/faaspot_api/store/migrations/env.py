"""How alembic runs here: always on the transaction that `store.migrate` holds, never on a connection of its own."""

from __future__ import annotations

from alembic import context

from faaspot_api.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
