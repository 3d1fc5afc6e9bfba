"""The records, in SQLite or PostgreSQL through the same code, and the blobs beside them.

The only importer of SQLAlchemy. A service opens `Store.read` or `Store.write` and hands the transaction to the small
functions of one aggregate's file. Times are microseconds since the epoch, UTC; JSON is ASCII text.
"""
