"""What a training run can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of one training run.

    The learning rate follows the share of the run that is done, which is the larger of the shares of `minutes` and of
    `steps`; a continued run counts what was done before.

    Attributes:
        output: Folder for the checkpoint, the curve and the figures.
        state: File to continue from where it exists, and to save to.
        minutes: Time to train, excluding the first compilation; None for no limit.
        steps: Steps to train; None for no limit.
        device: "cuda" or "cpu".
        images_per_step: Images of one step.
        present_prompts: Present prompts per image, 1 to 3.
        absent_prompts: Absent prompts per image.
        learning_rate: The highest learning rate.
        warmup_steps: Steps until the learning rate is at its highest.
        decay_from: Share of the run from which the learning rate falls, as half a cosine, to nothing.
        weight_decay: Of matrices; biases, norms and embeddings are left alone.
        ema_decay: How slowly the exported average of the weights follows.
        seed: Seed of initial weights, of prompts, and of the series of training scenes.
        held_out_seed: Series of the scenes that figures are taken on.
        held_out_scenes: How many of them at the end; a fifth of them on the way.
        workers: Rendering processes.
        ring_scenes: How many of the newest scenes are sampled from.
        evaluate_every_s: Seconds between evaluations on the way.
        log_every: Steps between lines of the curve.
        compile: Whether to compile the hot parts of a step.
        capture: Whether to replay steps as a CUDA graph, where there is a GPU.
    """

    output: Path
    state: Path
    minutes: float | None
    steps: int | None
    device: str = "cuda"
    images_per_step: int = 64
    present_prompts: int = 3
    absent_prompts: int = 5
    learning_rate: float = 6e-4
    warmup_steps: int = 600
    decay_from: float = 0.5
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    seed: int = 1
    held_out_seed: int = 20261123
    held_out_scenes: int = 1000
    workers: int = 16
    ring_scenes: int = 100_000
    evaluate_every_s: float = 150.0
    log_every: int = 100
    compile: bool = True
    capture: bool = True
