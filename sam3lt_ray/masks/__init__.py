"""Masks as COCO run lengths, and what can be done with them without pixels."""
