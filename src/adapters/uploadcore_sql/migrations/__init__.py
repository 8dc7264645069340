"""Alembic revisions. Frozen: a change of the tables is a new one. How they are run is in `uploadcore_sql.schema`."""
