"""The data plane: what runs on a spot. It knows Redis and the blob store, never the database."""
