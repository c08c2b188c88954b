"""What happens to a unit: read, label, commit. Plain callables, no Ray."""
