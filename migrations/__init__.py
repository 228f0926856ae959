"""The schema of the shipped read models, as Alembic revisions."""
