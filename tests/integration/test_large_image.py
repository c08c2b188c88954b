"""One very large image with very many instances is labeled in little memory, from its file to its run lengths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


# 150 instances take no more memory than 6, but minutes.
MANY = pytest.mark.skipif("SAM3LT_TEST_LARGE" not in os.environ, reason="takes minutes: SAM3LT_TEST_LARGE=1")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_prompts", [2, pytest.param(50, marks=MANY)])
def test_an_image_of_72_million_pixels_takes_less_than_1_gb(tmp_path: Path, num_prompts: int) -> None:
    path = tmp_path / "large.jpg"
    coarse = np.random.RandomState(0).randint(0, 255, (60, 120, 3), np.uint8)
    Image.fromarray(coarse).resize((12000, 6000)).save(path, quality=85)
    command = [sys.executable, "-m", "tests.large_image_child", str(path), str(num_prompts)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    print(done.stdout)
    found = json.loads(done.stdout)
    assert found["size"] == [6000, 12000]
    assert found["instances"] == 3 * num_prompts
    assert found["grown_mb"] < 1000
