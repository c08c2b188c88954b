"""What cameras and image files do to a scene: blur, sensor noise, JPEG compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from sam3lt_ray.demo.arrays import ByteArray, FloatArray


@dataclass(frozen=True, slots=True)
class Degradation:
    """How strongly one image is degraded: blur radius and noise in pixels and grey levels, JPEG quality 40-95."""

    blur_radius: float
    noise_sigma: float
    jpeg_quality: int


def sample_degradation(rng: np.random.Generator) -> Degradation:
    """Draws the degradation of one image; half of the images are not blurred."""
    blur_radius = rng.uniform(0.3, 1.2) if rng.uniform() < 0.5 else 0.0
    return Degradation(blur_radius, rng.uniform(0.0, 11.0), int(rng.integers(40, 96)))


def encode_degraded(canvas_hwc: FloatArray, degradation: Degradation, rng: np.random.Generator) -> bytes:
    """Turns a clean canvas (RGB float32 [h, w, 3] in 0..255) into the bytes of a degraded JPEG file."""
    if degradation.blur_radius:
        blurred = Image.fromarray(_to_bytes(canvas_hwc)).filter(ImageFilter.BoxBlur(degradation.blur_radius))
        canvas_hwc = np.asarray(blurred, dtype=np.float32)
    noise = rng.standard_normal(canvas_hwc.shape, dtype=np.float32)
    noise *= np.float32(degradation.noise_sigma)
    noise += canvas_hwc
    buffer = io.BytesIO()
    Image.fromarray(_to_bytes(noise)).save(buffer, format="JPEG", quality=degradation.jpeg_quality)
    return buffer.getvalue()


def _to_bytes(canvas_hwc: FloatArray) -> ByteArray:
    return np.clip(canvas_hwc, 0.0, 255.0).astype(np.uint8)
