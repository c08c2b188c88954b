"""Rendered demo scenes, the code that trains the demo checkpoint on them, and the checkpoint itself."""
