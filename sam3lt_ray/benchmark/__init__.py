"""The engine against transformers, side by side in one run: ``sam3lt bench``."""
