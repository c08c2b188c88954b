"""`python -m sam3lt_ray.demo.training`: trains the demo checkpoint, or continues a training run."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from types import FrameType

from sam3lt_ray.demo.training.loop import train
from sam3lt_ray.demo.training.settings import TrainingSettings


def main() -> None:
    """Reads the command line, trains, prints the figures. SIGTERM ends training early, in good order."""
    defaults = TrainingSettings(Path(), Path(), None, None)
    parser = argparse.ArgumentParser(prog="python -m sam3lt_ray.demo.training", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, curve and figures")
    parser.add_argument("--state", type=Path, required=True, help="training state: continued if it exists, then saved")
    parser.add_argument("--minutes", type=float, help="train for this long")
    parser.add_argument("--steps", type=int, help="train for this many steps")
    for name, meaning in (
        ("device", "cuda or cpu"),
        ("images_per_step", "images in one step"),
        ("learning_rate", "highest learning rate"),
        ("warmup_steps", "steps until it is reached"),
        ("seed", "seed of weights, prompts and training scenes"),
        ("held_out_scenes", "scenes to take figures on"),
        ("workers", "rendering processes"),
        ("ring_scenes", "newest scenes to sample from"),
        ("evaluate_every_s", "seconds between evaluations"),
        ("log_every", "steps between lines of the curve"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=meaning)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run the step uncompiled")
    parser.add_argument("--no-capture", dest="capture", action="store_false", help="do not replay a CUDA graph")
    arguments = parser.parse_args()
    if arguments.minutes is None and arguments.steps is None:
        parser.error("give --minutes or --steps, or training would not end")
    ended: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        ended.append(number)

    signal.signal(signal.SIGTERM, end)
    figures = train(TrainingSettings(**vars(arguments)), stop_wanted=lambda: bool(ended))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
