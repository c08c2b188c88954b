"""What a file is, told from its first bytes, and whether it looks cut off. Never decodes anything."""

from __future__ import annotations

import re
from typing import Final

# Formats we decode -> the names of Pillow's plugins that may open them. A closed list: Pillow also knows formats that
# start other programs (EPS runs Ghostscript), which no image of a bucket should be able to ask for.
DECODED_FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "JPEG": ("JPEG",),
    "PNG": ("PNG",),
    "WebP": ("WEBP",),
    "GIF": ("GIF",),
    "BMP": ("BMP",),
    "TIFF": ("TIFF",),
    "PNM": ("PPM",),
    "JPEG 2000": ("JPEG2000",),
    "AVIF": ("AVIF",),
}

# File name extensions of these formats, lower case: how inputs tell images from other files.
IMAGE_EXTENSIONS: Final = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"}
    | {"pbm", "pgm", "ppm", "pnm", "jp2", "j2k", "jpx", "avif"}
)

# Those of formats that are known and not decoded: such files are images too, and become error rows. Left out are
# extensions that are as often something else (.hdr, .raw, .fit).
_CAMERA_RAW_EXTENSIONS: Final = frozenset(
    {"3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mrw", "nef", "nrw", "orf", "pef"}
    | {"raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f"}
)
UNDECODED_EXTENSIONS: Final = _CAMERA_RAW_EXTENSIONS | frozenset(
    {
        "heic",
        "heics",
        "heif",
        "hif",
        "jxl",
        "jxr",
        "svg",
        "svgz",
        "pdf",
        "eps",
        "psd",
        "psb",
        "xcf",
        "ico",
        "dds",
        "exr",
    }
    | {"fits", "qoi", "tga"}
)

_PREFIXES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    # Known, but not decoded.
    (b"8BPS", "Photoshop"),
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\x01\0", "icon (ICO)"),
    (b"DDS ", "DDS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"qoif", "QOI"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
)
_PNM: Final = re.compile(rb"P[1-6f][\s#]")
_BMP_HEADER_SIZES: Final = (12, 16, 40, 52, 56, 64, 108, 124)
_HEIC_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")
_SVG: Final = re.compile(rb"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg|<svg)", re.DOTALL)
_TAIL_BYTES: Final = 64  # writers may pad after the end mark


def detect_format(data: bytes) -> str | None:
    """Name of the image format that ``data`` begins like, for people; None when it begins like no image.

    A name that is a key of :data:`DECODED_FORMATS` can be decoded; any other is known but not decoded.
    """
    for prefix, name in _PREFIXES:
        if data.startswith(prefix):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if _PNM.match(data):
        return "PNM"
    if data[4:8] == b"ftyp":
        return _detect_iso_media(data)
    if _SVG.match(data[:1024]):
        return "SVG"
    return None


def why_not_decoded(extension: str, data: bytes) -> str | None:
    """A sentence about a file whose name says that it is of a format we do not decode; None for any other file.

    Content goes before the name (a JPEG that is called .heic is one), but for camera raw: most of these files are TIFFs
    whose first picture is a small preview.

    Args:
        extension: Lower case, without the dot.
        data: The file's content.
    """
    if extension not in UNDECODED_EXTENSIONS:
        return None
    format_name = detect_format(data)
    if format_name in DECODED_FORMATS and extension not in _CAMERA_RAW_EXTENSIONS:
        return None
    is_named = format_name is not None and format_name not in DECODED_FORMATS
    what = (
        format_name
        if is_named
        else f"camera raw (.{extension})"
        if extension in _CAMERA_RAW_EXTENSIONS
        else f"a .{extension} file"
    )
    return f"The file is {what}; decoded are {', '.join(DECODED_FORMATS)}."


def _detect_iso_media(data: bytes) -> str | None:
    box_end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, box_end, 4))]
    if any(brand in (b"avif", b"avis") for brand in brands):
        return "AVIF"
    if any(brand in _HEIC_BRANDS for brand in brands):
        return "HEIC"
    return None


def seems_cut_off(data: bytes, format_name: str) -> bool:
    """Whether a file that could not be decoded ends before its format says it should.

    Only asked after a failure, to tell "ends too early" from "damaged": many readers tolerate a missing end mark.
    """
    if format_name == "WebP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if format_name == "AVIF" or data[4:8] == b"jP  ":
        return _ends_inside_box(data)
    if format_name == "JPEG":
        return b"\xff\xd9" not in data[-_TAIL_BYTES:]
    if format_name == "PNG":
        return b"IEND" not in data[-_TAIL_BYTES:]
    if format_name == "GIF":
        return b"\x3b" not in data[-1:]
    if format_name == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    if format_name == "TIFF":
        return _tiff_directory_is_missing(data)
    return len(data) < 32  # no header of the remaining formats is shorter


def _ends_inside_box(data: bytes) -> bool:
    offset = 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        if size == 1:
            size = int.from_bytes(data[offset + 8 : offset + 16], "big")
        elif size == 0:  # to the end of the file, wherever that was meant to be
            return False
        if size < 8 or offset + size > len(data):
            return True
        offset += size
    return False


def _tiff_directory_is_missing(data: bytes) -> bool:
    byte_order = "little" if data[:2] == b"II" else "big"
    is_big_tiff = data[2:4] in (b"+\0", b"\0+")
    directory = data[8:16] if is_big_tiff else data[4:8]
    return len(data) < 10 or int.from_bytes(directory, byte_order) + 2 > len(data)  # type: ignore[arg-type]
