"""Colours of a photo's ICC profile -> sRGB, which networks were trained on."""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from bilinear_cli.photos.pixels.notes import Note

# Colour space of a profile -> modes of Pillow in this space, and the mode of the result
MODES = {
    "RGB": {"RGB": "RGB", "RGBA": "RGBA"},
    "GRAY": {"L": "RGB"},
    "CMYK": {"CMYK": "RGB"},
    "Lab": {"LAB": "RGB"},
}
SAME = 2  # of 255; a profile that changes no colour by more is sRGB
UNREADABLE = Note("its colour profile is damaged, and was ignored")
UNSUITABLE = Note("its colour profile is for another kind of pixels, and was ignored")


class _Profile(NamedTuple):
    """A profile: mode of Pillow -> transform to sRGB, or None for sRGB itself."""

    transforms: dict[str, ImageCms.ImageCmsTransform | None]
    fault: Note | None = None


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, list[Note]]:
    """Return an image of eight bits in sRGB, and a note if its profile cannot be applied."""
    transforms, fault = _read(profile)
    if fault:
        return image, [fault]
    if "RGB" in transforms and image.mode not in ("CMYK", "LAB", "RGBA"):
        image = image.convert("RGB")
    if image.mode not in transforms:
        return image, [UNSUITABLE]
    transform = transforms[image.mode]
    return (transform.apply(image) if transform else image), []


@lru_cache(maxsize=32)  # of one camera, all photos have the same; a transform is safe in threads
def _read(profile: bytes) -> _Profile:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        modes = MODES.get(source.profile.xcolor_space.strip(), {})
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transforms: dict[str, ImageCms.ImageCmsTransform | None] = {
            mode: ImageCms.ImageCmsTransform(source, target, mode, result)
            for mode, result in modes.items()
        }
    except (OSError, ImageCms.PyCMSError):
        return _Profile({}, UNREADABLE)
    if (transform := transforms.get("RGB")) and _is_identity(transform):
        transforms = dict.fromkeys(transforms)
    return _Profile(transforms)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    changed = np.asarray(transform.apply(Image.fromarray(colours)))
    return bool(np.abs(changed.astype(int) - colours).max() <= SAME)
