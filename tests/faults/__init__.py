"""Faults that are really inflicted: processes killed, hung and starved, storage that fails."""
