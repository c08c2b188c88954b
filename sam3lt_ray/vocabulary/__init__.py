"""What to look for: labels, their prompts and their ids."""

from sam3lt_ray.vocabulary.history import continue_labels
from sam3lt_ray.vocabulary.labels import Label, Prompt, Vocabulary
from sam3lt_ray.vocabulary.loading import load_vocabulary

__all__ = ["Label", "Prompt", "Vocabulary", "continue_labels", "load_vocabulary"]
