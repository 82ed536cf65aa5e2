"""Functions that write pictures which Pillow cannot write: as bytes of TIFF, PNG, DNG and ICC."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

FORMATS = {1: "B", 3: "H", 4: "I"}  # type of a TIFF tag -> that of `struct`
Tags = Mapping[int, tuple[int, Sequence[int]]]  # tag -> type and values

# Colorants of ICC profiles: X, Y, Z of red, green and blue, adapted to D50
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def encoded(kind: str, image: Image.Image, **options: Any) -> bytes:
    """Return what Pillow writes."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def tiff(pixels: np.ndarray, tags: Tags | None = None, byte_order: str = "<") -> bytes:
    """Return an uncompressed TIFF of one strip; `tags` replace those that describe the pixels."""
    height, width, channels = (*pixels.shape, 1)[:3]
    data = pixels.astype(pixels.dtype.newbyteorder(byte_order)).tobytes()
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * pixels.itemsize] * channels),
        262: (3, [1 if channels == 1 else 2]),
        273: (4, [0]),  # where the strip starts, see below
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(data)]),
        **(tags or {}),
    }
    packed = {
        tag: struct.pack(f"{byte_order}{len(values)}{FORMATS[kind]}", *values)
        for tag, (kind, values) in entries.items()
    }
    start = 14 + 12 * len(entries)
    values = b"".join(value for _, value in sorted(packed.items()) if len(value) > 4)
    packed[273] = struct.pack(f"{byte_order}I", start + len(values))
    directory = struct.pack(f"{byte_order}H", len(entries))
    for tag, value in sorted(packed.items()):
        kind, numbers = entries[tag]
        directory += struct.pack(f"{byte_order}HHI", tag, kind, len(numbers))
        if len(value) > 4:
            value, start = struct.pack(f"{byte_order}I", start), start + len(value)
        directory += value.ljust(4, b"\0")
    head = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(f"{byte_order}I", 8)
    return head + directory + bytes(4) + values + data


def thumbnail_first(full: Image.Image) -> bytes:
    """Return a TIFF whose first page is a grey thumbnail, as in files of cameras."""
    directories = [TiffImagePlugin.ImageFileDirectory_v2() for _ in range(2)]
    directories[0][254], directories[1][254] = 1, 0
    thumbnail = Image.new("RGB", (16, 12), "grey")
    full = full.copy()
    full.encoderinfo = {"tiffinfo": directories[1]}  # Pillow has no other way for a later page
    pages = {"save_all": True, "append_images": [full]}
    return encoded("TIFF", thumbnail, tiffinfo=directories[0], **pages)


def deep_png(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 16 bits, grey (height, width) or of 2 to 4 channels, with more chunks."""
    height, width, channels = (*pixels.shape, 1)[:3]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    all_chunks = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in all_chunks
    )


def dng(width: int = 128, height: int = 96, orientation: int = 1) -> bytes:
    """Return a camera raw file of 12 bits: the left half is reddish, the right half bluish."""
    sensor = np.full((height, width), 512, np.uint16)
    sensor[::2, : width // 2 : 2] = 3072  # a sensor of RGGB
    sensor[1::2, width // 2 + 1 :: 2] = 3072
    tags = {
        262: (3, [32803]),
        271: (1, b"Maker\0"),
        272: (1, b"Model\0"),
        274: (3, [orientation]),
        33421: (3, [2, 2]),
        33422: (1, [0, 1, 1, 2]),
        50706: (1, [1, 4, 0, 0]),
        50717: (4, [4095]),
    }
    return tiff(sensor, tags)


def matrix_profile(colorants: Sequence[Sequence[float]]) -> bytes:
    """Return an ICC profile of RGB with these colorants and the tone curve of sRGB."""
    curve = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {}
    for channel, values in zip(b"rgb", colorants, strict=True):
        tags |= {bytes([channel]) + b"XYZ": _xyz(values), bytes([channel]) + b"TRC": _curve(*curve)}
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    """Return an ICC profile of grey with this exponent."""
    return _profile(b"GRAY", {b"kTRC": _curve(0, gamma)})


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _curve(kind: int, *parameters: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">Hxx", kind) + _fixed(parameters)


def _fixed(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    white = (0.9642, 1, 0.8249)
    tags = {b"wtpt": _xyz(white), **tags}
    table, content = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(value))
        content += value
    size = 132 + 12 * len(tags) + len(content)
    head = struct.pack(">I4xI4s4s4s12x4s28x", size, 0x04000000, b"mntr", space, b"XYZ ", b"acsp")
    return head + _fixed(white) + bytes(48) + table + content
