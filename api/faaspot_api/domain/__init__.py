"""Pure rules: records, the state machine, parsing. No I/O, nothing of Flask, SQLAlchemy or Redis."""
