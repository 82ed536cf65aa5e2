"""What a file that cannot be read as a photo is, by its first bytes; for messages."""

from collections.abc import Collection

SAVE = "Save it as JPEG or PNG"
VIDEO = "a video. Save single pictures of it"
DAMAGED = "that is damaged, or of a kind that cannot be read. " + SAVE
# Brands of ISO media files (`ftyp`) -> the format
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"), "HEIF"),
}
# Format -> its name, and what to do where it cannot be read
MISSING = {
    "AVIF": ("an AVIF picture", "This Pillow was built without AVIF. Install Pillow from PyPI"),
    "HEIF": (
        "a HEIC picture",
        "Install its reader, pip install 'bilinear-cli[heic]', or save it as JPEG",
    ),
    "JXL": ("a JPEG XL picture", f"This Pillow cannot read it. {SAVE}"),
}
# How a file begins -> its format
PHOTOS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself. Run git lfs pull",
    b"%PDF": "a PDF document. Save its pictures as JPEG or PNG",
    b"%!PS": f"a PostScript document. {SAVE}",
    b"8BPS": f"a file of Photoshop. {SAVE}",
    b"gimp xcf": f"a file of GIMP. {SAVE}",
    b"v/1\x01": f"an OpenEXR picture. {SAVE}",
    b"\0\0\0\x0cjP  ": f"a JPEG 2000 picture. {SAVE}",
    b"\xff\x4f\xff\x51": f"a JPEG 2000 picture. {SAVE}",
    b"\0\0\1\0": f"an icon of Windows. {SAVE}",
    b"\0\5\x16\7": "not a photo, but notes of macOS about one. Remove it",
    b"PK\3\4": "a ZIP archive or an office document. Unpack it",
    b"Rar!": "a RAR archive. Unpack it",
    b"7z\xbc\xaf": "a 7z archive. Unpack it",
    b"\x1f\x8b": "a gzip archive. Unpack it",
    b"\x1aE\xdf\xa3": VIDEO,
}
MAX_TEXT = 40  # characters of a text that a message quotes


def describe(data: bytes, readable: Collection[str]) -> str:
    """Return what this content is, for a message that says why it is no photo.

    Args:
        readable: the formats of `formats.FORMATS` that can be read here.
    """
    if not data.strip(b"\0"):
        return "it is empty" if not data else "it has only zero bytes, as after a failed copy"
    if format_name := _photo_format(data):
        name, advice = MISSING.get(format_name, (f"a {format_name} file", ""))
        return f"it is {name} {DAMAGED}" if format_name in readable else f"it is {name}. {advice}"
    for signature, text in OTHERS.items():
        if data.startswith(signature):
            return f"it is {text}"
    if data[4:8] == b"ftyp" or (data[:4] == b"RIFF" and data[8:11] == b"AVI"):
        return f"it is {VIDEO}"
    return f"it is {_kind_of_text(data)}"


def _photo_format(data: bytes) -> str:
    """Return the format of `formats.FORMATS` that this content begins as, or an empty string."""
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = [data[start : start + 4] for start in (8, *range(16, size, 4))]
        return next((BRANDS[brand] for brand in brands if brand in BRANDS), "")
    if data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        return "JXL"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in PHOTOS.items() if data.startswith(start)), "")


def _kind_of_text(data: bytes) -> str:
    head = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, probably from a failed download. Download the photo again"
    if b"<svg" in head:
        return f"a drawing (SVG). {SAVE}"
    start = head[:MAX_TEXT].decode("utf-8", "replace").splitlines()[:1]
    if start and start[0].isprintable() and "\ufffd" not in start[0][:-1]:
        return f"a text file, which begins with {start[0]!r}"
    return f"of no known format. {SAVE}"
