"""How much is asked of the device at once: less, from then on, where its memory turns out to be too small."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from sam3lt_ray.engine.failures import is_out_of_memory, let_go

logger = logging.getLogger(__name__)


class AtOnce:
    """Sizes of what goes through the parts of the model together.

    Attributes:
        images: Encoded together.
        prompts: Pairs of a prompt with an image that are grounded together.
        masks: Pairs that go through the mask head together.
        halvings: How often one of these was too much for the memory.

    Args:
        device: Its name, for the log.
        images: To begin with.
        prompts: To begin with.
        masks: To begin with.
    """

    def __init__(self, device: str, *, images: int, prompts: int, masks: int) -> None:
        self._device = device
        self.images, self.prompts, self.masks = images, prompts, masks
        self.halvings = 0

    def fits(self, work: Callable[[], None], halve: Callable[[], bool], spare: Callable[[], bool]) -> bool:
        """Whether work was done; when the device's memory is too small, less is to be asked of it, if there is less.

        Args:
            work: What to do; what it took is free again before anything else is tried.
            halve: Has less asked next time; False: there is nothing less.
            spare: The last resort: frees something else; False: there is nothing else.

        Raises:
            torch.OutOfMemoryError: Not even the least fits.
        """
        try:
            work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
            if halve():
                self.halvings += 1
            elif not spare():
                raise
            torch.cuda.empty_cache()
            return False
        return True

    def halve_images(self, count: int) -> bool:
        """So many were too many."""
        if count > 1:
            self._warn(count, "images", "compute.images_per_batch")
            self.images = count // 2
        return count > 1

    def halve_prompts(self, count: int) -> bool:
        """So many were too many."""
        if count > 1:
            self._warn(count, "prompts", "compute.prompts_per_batch")
            self.prompts = count // 2
        return count > 1

    def halve_masks(self) -> bool:
        """They were too many."""
        if self.masks == 1:
            return False
        self.masks //= 2
        return True

    def _warn(self, count: int, what: str, setting: str) -> None:
        logger.warning(
            "The memory of %s is too small for %d %s at once; going on with %d. Set %s to that to begin with it.",
            self._device,
            count,
            what,
            count // 2,
            setting,
        )
