"""``python -m tests.large_image_child FILE PROMPTS``: labels one image with three instances for each prompt.

Prints a line of JSON: how many instances it had, by how many MB the process had grown at most over the loaded model
that has labeled a small image, and the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

from sam3lt_ray import Labeler
from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.forcing import EngineSeam
from sam3lt_ray.benchmark.workloads import Workload, make_prompts
from sam3lt_ray.engine.segmenter import Segmenter
from tests.peak_memory import PeakMemory


def main() -> None:
    """Label, and say what it took."""
    path, num_prompts = sys.argv[1], int(sys.argv[2])
    labeler = Labeler("demo", list(make_prompts(num_prompts)), device="cpu")
    segmenter = labeler._images._engine
    assert isinstance(segmenter, Segmenter)
    answers = ForcedAnswers(Workload(num_prompts, num_prompts), segmenter.num_queries, torch.device("cpu"))
    EngineSeam(segmenter, answers)
    labeler(np.zeros((300, 400, 3), np.uint8))
    memory, begun_s = PeakMemory(), time.perf_counter()
    labels = labeler(path)
    result = {
        "size": [labels.height, labels.width],
        "instances": sum(1 for one in labels.instances if one.area > 1_000_000),
        "grown_mb": memory.grown_mb(),
        "seconds": round(time.perf_counter() - begun_s, 1),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
