"""A run measured against ground truth."""
