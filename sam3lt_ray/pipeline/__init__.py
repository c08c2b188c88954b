"""Planning and running: Ray Data, actors, passes, summaries. Ray lives here only."""
