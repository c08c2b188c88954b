"""From the bytes of an image file to RGB pixels as a viewer shows them, or to a reason why not.

What other kinds of pixels mean here:

* EXIF orientation is applied.
* Palette images take their palette's colours. Grey becomes three equal channels. 1 bit becomes black and white.
* Transparency (alpha, transparent palette entry or colour) is laid over white.
* CMYK, YCbCr and HSV are converted by Pillow's plain formulas; embedded colour profiles are ignored.
* 16-bit channels keep their high byte, whatever part of the range an image uses (12-bit TIFFs: their high 8 bits).
* Animations: the first frame. Documents with several pages: the first page.
* 32-bit integer, floating point and Lab pixels have no agreed meaning as colours: "unsupported".
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError, features

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.pillow_guard import quiet_pillow
from sam3lt_ray.images.signatures import DECODED_FORMATS, detect_format, seems_cut_off

_ORIENTATION_TAG: Final = 0x0112
_TRANSPOSE_BY_ORIENTATION: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS_PER_SAMPLE: Final = 258
_TIFF_PHOTOMETRIC: Final = 262
_TIFF_WHITE_IS_ZERO: Final = 0
_OPTIONAL_FEATURES: Final = {"WebP": "webp", "AVIF": "avif", "JPEG 2000": "jpg_2000"}
_STRIP_ROWS: Final = 256
_TRUNCATION_HINTS: Final = ("truncated", "unexpected end")


def decode_image(data: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode one image file into an array: :func:`decode_rgb` has arguments and errors.

    Returns:
        uint8[height, width, 3], RGB, as displayed, writable and contiguous.
    """
    return np.array(decode_rgb(data, max_pixels=max_pixels))


def decode_rgb(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode one image file. Thread-safe; no warning leaves it.

    Pillow's image is what is resized: making an array of it first would hold Python's lock for every full-size pixel.

    Args:
        data: The file's content.
        max_pixels: Largest width times height; checked on the header, before pixels are decoded.

    Returns:
        A loaded image of mode RGB, as displayed (EXIF orientation applied).

    Raises:
        ImageError: ``empty``, ``not_an_image``, ``truncated``, ``too_large``, ``unsupported``, ``corrupt`` or
            ``out_of_memory``, with a message for people.
    """
    format_name = require_decodable(data)
    with quiet_pillow(max_pixels):
        try:
            with Image.open(io.BytesIO(data), formats=DECODED_FORMATS[format_name]) as image:
                _check_size(image.size, max_pixels)
                image.load()
                return _to_rgb(_apply_orientation(image), format_name)
        except ImageError:
            raise
        except Image.DecompressionBombError:
            raise ImageError(
                "too_large", f"The image has far more pixels than allowed; {_limit(max_pixels)}."
            ) from None
        except MemoryError:
            raise _out_of_memory() from None
        except Exception as error:  # decoders meet arbitrary bytes and raise whatever they stumble over
            raise _explain_failure(data, format_name, error) from None


def as_displayed(image: Image.Image) -> Image.Image:
    """An image that Pillow has opened in RGB, by the same rules as :func:`decode_rgb`.

    Args:
        image: Any mode; loaded if it was not.

    Raises:
        ImageError: ``truncated``, ``corrupt``, ``out_of_memory``, or ``unsupported``: pixels without an agreed meaning
            as colours.
    """
    try:
        image.load()
    except MemoryError:
        raise _out_of_memory() from None
    except Exception as error:  # decoders meet arbitrary bytes and raise whatever they stumble over
        name = image.format or "image"
        if _tells_of_end(error):
            raise ImageError("truncated", f"The {name} file ends too early: {_said(error)}.") from None
        raise ImageError("corrupt", f"The {name} file is damaged: {_said(error)}.") from None
    return _to_rgb(_apply_orientation(image), image.format or "")


def require_decodable(data: bytes) -> str:
    """Name of the format that a file begins like, one of those that are decoded.

    Raises:
        ImageError: ``empty``, ``not_an_image`` or ``unsupported``.
    """
    if not data:
        raise ImageError("empty", "The file has no bytes.")
    format_name = detect_format(data)
    if format_name is None:
        raise ImageError(
            "not_an_image", f"The file does not begin like an image: {len(data)} bytes, beginning with {data[:12]!r}."
        )
    if format_name not in DECODED_FORMATS:
        raise ImageError("unsupported", f"The file is {format_name}; decoded are {', '.join(DECODED_FORMATS)}.")
    return format_name


def _check_size(size_wh: tuple[int, int], max_pixels: int) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"The header says {width} x {height} pixels.")
    if width * height > max_pixels:
        raise ImageError(
            "too_large", f"The image is {width} x {height} pixels = {width * height:,}; {_limit(max_pixels)}."
        )


def _limit(max_pixels: int) -> str:
    return f"the limit is {max_pixels:,} pixels (input.max_pixels)"


def _apply_orientation(image: Image.Image) -> Image.Image:
    # Read after load(): Pillow turns TIFFs itself and then removes the tag.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to lose the pixels; viewers show such images unturned
        return image
    method = _TRANSPOSE_BY_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info.update(image.info)
    return turned


def _to_rgb(image: Image.Image, format_name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _in_strips(image, _high_byte_of(image))
    if image.mode == "I" and format_name == "PNM":  # Pillow scales PNM with more than 8 bits to 0..65535
        return _in_strips(image, _high_byte_of(image))
    if image.mode in ("I", "F", "LAB"):
        meaning = {"I": "32-bit integer", "F": "floating point", "LAB": "Lab colour"}[image.mode]
        raise ImageError("unsupported", f"The pixels are {meaning} values, whose display is not defined.")
    if image.has_transparency_data:
        return _in_strips(image, _over_white)
    return image.convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert some rows at a time: what stands between two images is several times larger than they are."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        result.paste(convert(strip), (0, top))
    return result


def _high_byte_of(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What turns strips of a 16-bit image into RGB, by what its tags say about its values."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))
    shift = 4 if bits == (12,) else 8
    white_is_zero = tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.int64)
        grey = (np.clip(values, 0, 65535) >> shift).astype(np.uint8)
        return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")

    return convert


def _over_white(strip: Image.Image) -> Image.Image:
    white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB")


def _explain_failure(data: bytes, format_name: str, error: Exception) -> ImageError:
    feature = _OPTIONAL_FEATURES.get(format_name)
    if isinstance(error, UnidentifiedImageError):
        if feature is not None and not features.check(feature):
            return ImageError("unsupported", f"The file is {format_name}, which this build of Pillow cannot decode.")
        said = "its header cannot be read"
    else:
        said = _said(error)
    if _tells_of_end(error) or seems_cut_off(data, format_name):
        return ImageError("truncated", f"The {format_name} file ends too early, at {len(data)} bytes ({said}).")
    return ImageError("corrupt", f"The {format_name} file is damaged: {said}.")


def _out_of_memory() -> ImageError:
    return ImageError("out_of_memory", "Decoding this image did not fit into memory.")


def _said(error: Exception) -> str:
    return f"the decoder says: {error}" if str(error) else f"the decoder failed with {type(error).__name__}"


def _tells_of_end(error: Exception) -> bool:
    return isinstance(error, EOFError) or any(hint in str(error).lower() for hint in _TRUNCATION_HINTS)
