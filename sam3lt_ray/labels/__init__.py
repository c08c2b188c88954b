"""Label rows: their schema, how they are made, read back and counted."""
