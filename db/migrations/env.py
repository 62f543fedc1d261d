"""Run the scripts over the connection `db/migrate.py` hands in: it holds the lock and the time limits."""

from alembic import context

connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    target_metadata=context.config.attributes["metadata"],
    version_table=context.config.attributes["version_table"],
    include_name=context.config.attributes["include_name"],
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
