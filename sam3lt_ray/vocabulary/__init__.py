"""What to look for: labels, their prompts and their ids."""

from sam3lt_ray.vocabulary.ids import assign_ids
from sam3lt_ray.vocabulary.labels import Label, Prompt, Vocabulary
from sam3lt_ray.vocabulary.loading import load_vocabulary

__all__ = ["Label", "Prompt", "Vocabulary", "assign_ids", "load_vocabulary"]
