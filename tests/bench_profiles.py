"""Measure what colour profiles change: `python tests/bench_profiles.py --data cub20`.

Photos of a set, which are in sRGB, are converted to the profiles of phones and cameras. The table
compares the features of the converted photos with those of the originals, with the profile applied
and with the profile ignored. Times are those of one thread.
"""

import argparse
import io
import time

import numpy as np
from PIL import Image, ImageCms
from support.picture_files import ADOBE_RGB, DISPLAY_P3, matrix_profile

from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.pixels.images import read_any
from bilinear_cli.transformers import PhotoFeatures

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
PROFILES = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB}
POOLINGS = ("max", "avg", "bilinear")


def converted(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the same colours, encoded in a profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    result = ImageCms.profileToProfile(image, SRGB, target)
    result.info["icc_profile"] = profile
    return result


def without_profile(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image))


def cosines(a: np.ndarray, b: np.ndarray) -> str:
    values = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return f"{values.mean():.4f} | {values.min():.4f}"


def milliseconds(images: list[Image.Image]) -> float:
    start = time.perf_counter()
    for image in images:
        read_any(image, [224])
    return 1000 * (time.perf_counter() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--limit", type=int, default=40)
    options = parser.parse_args()
    photo_set = load_photo_set(options.data).limit(options.limit)
    images = [Image.open(photo_set.root / path).convert("RGB") for path in photo_set.paths]
    variants = {
        name: [converted(image, matrix_profile(colorants)) for image in images]
        for name, colorants in PROFILES.items()
    }
    print("| profile | pooling | applied | minimum | ignored | minimum |")
    print("|---|---|---:|---:|---:|---:|")
    for pooling in POOLINGS:
        features = PhotoFeatures(pooling=pooling).fit(images)
        originals = features.transform(images)
        for name, photos in variants.items():
            applied = cosines(originals, features.transform(photos))
            ignored = cosines(originals, features.transform([*map(without_profile, photos)]))
            print(f"| {name} | {pooling} | {applied} | {ignored} |")
    for name, photos in variants.items():
        bare = milliseconds([*map(without_profile, photos)])
        print(
            f"{name}: {bare:.1f} ms a photo without a profile, {milliseconds(photos):.1f} with it"
        )


if __name__ == "__main__":
    main()
