"""What each exact shortcut of the engine saves, with it and without it side by side: on a CPU, in fp32.

    python -m tests.benchmarks.bench_tricks [--quick] [--json FILE]

CPU milliseconds of one core, and GFLOP by torch's own counter. Layers have the published size where it is not said that
they are the demo checkpoint's, with few (image, prompt) pairs. All shortcuts take turns, in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tests.benchmarks.measuring import finish, load_now, print_table, read_options, spread
from tests.benchmarks.tricks_of_masks import head_tricks, overlap_trick, run_length_tricks
from tests.benchmarks.tricks_of_prompts import Trick, demo_tricks, encoder_tricks

FULL_SIDE, SMALL_SIDE = 72, 16  # of the grid of image tokens


def cpu_ms(work: Callable[[], Any]) -> float:
    """Of one call, by the clock that stands still while others have the core."""
    begun_s = time.process_time()
    work()
    return 1000 * (time.process_time() - begun_s)


def count(trick: Trick) -> tuple[float, float]:
    """GFLOP with it and without it; and both are the same to rounding."""
    found, with_it = gflop(trick.with_it)
    expected, without_it = gflop(trick.without_it)
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        error = float((found - expected).norm() / expected.norm())
        if error > 1e-4:
            raise RuntimeError(f"{trick.name}: the two ways differ by {error:.1e}")
    return with_it, without_it


def gflop(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and its products and convolutions; the counter does not know attention on CPUs by itself."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        result = work()
    return result, counter.get_total_flops() / 1e9


def make_tricks(quick: bool) -> list[Trick]:
    side = SMALL_SIDE if quick else FULL_SIDE
    overlaps = [overlap_trick(count) for count in ((2, 8) if quick else (2, 8, 32, 100))]
    return [*demo_tricks(20), *encoder_tricks(side), *head_tricks(side), *run_length_tricks(), *overlaps]


@torch.inference_mode()
def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tricks = make_tricks(options.quick)
    counted = {trick.name: count(trick) for trick in tricks}  # which also warms them up
    times: dict[str, tuple[list[float], list[float]]] = {trick.name: ([], []) for trick in tricks}
    for _ in range(1 if options.quick else 5):
        for trick in tricks:
            times[trick.name][0].append(cpu_ms(trick.with_it))
            times[trick.name][1].append(cpu_ms(trick.without_it))
    rows, figures = [], []
    for trick in tricks:
        with_it, without_it = (spread(values) for values in times[trick.name])
        flop = counted[trick.name]
        ratio = without_it.median / max(with_it.median, 1e-6)
        used = "used" if trick.used else "rejected"
        flop_text = [f"{value:.2f}" if max(flop) > 0 else "" for value in flop]
        rows.append([trick.name, used, with_it.text(), without_it.text(), f"{ratio:.2f}", *flop_text])
        figures.append(
            {
                "trick": trick.name,
                "used": trick.used,
                "with_ms": with_it.to_json(),
                "without_ms": without_it.to_json(),
                "with_gflop": flop[0],
                "without_gflop": flop[1],
            }
        )
    print_table(["shortcut", "", "ms with", "ms without", "ratio", "GFLOP with", "without"], rows)
    finish(options, {"tricks": figures}, load_before)


if __name__ == "__main__":
    main()
