"""Camera raw files: the values of a sensor. Pillow would read the thumbnail of many of them."""

import io

from PIL import Image, TiffImagePlugin

NAME = "RAW"  # in `FORMATS`
SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".rw2", ".sr2", ".srf", ".srw", ".x3f"),
)
# How files begin that are no TIFF: Fujifilm, Olympus, Panasonic, Minolta, Sigma, Canon
SIGNATURES = (
    *(b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb"),
    b"II\x1a\0\0\0HEAPCCDR",
)
TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
# Tags of TIFF
NEW_SUBFILE_TYPE, PHOTOMETRIC, SUB_IFDS, DNG_VERSION = 254, 262, 330, 50706
REDUCED = 1  # NewSubfileType
SENSOR = (32803, 34892)  # photometric interpretations


def is_raw(data: bytes, suffix: str) -> bool:
    """Return whether this is the content of a camera raw file.

    Many of them are TIFF files whose first picture is a thumbnail, and which hold the others in
    sub-directories. The suffix matters only for TIFF files.
    """
    if data.startswith(SIGNATURES) or data[4:12] == b"ftypcrx ":
        return True
    if not data.startswith(TIFF_SIGNATURES):
        return False
    if suffix.lower() in SUFFIXES or data[8:10] == b"CR":
        return True
    tags = _first_tags(data)
    is_reduced = tags.get(NEW_SUBFILE_TYPE, 0) == REDUCED
    has_more = SUB_IFDS in tags or DNG_VERSION in tags
    return (is_reduced and has_more) or tags.get(PHOTOMETRIC) in SENSOR


def _first_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of a TIFF file's first directory, also if Pillow cannot read it."""
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def develop(data: bytes, min_side: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Return the upright picture of a camera raw file in sRGB, and its full size.

    The white balance is that of the camera. If half the size suffices for `min_side` pixels, the
    picture has half the size, which takes a fraction of the time. None asks for the full size.

    Raises:
        ValueError: rawpy is not installed, or cannot read the file.
    """
    try:
        import rawpy
    except ImportError as error:
        raise ValueError(
            "it is a camera raw file. Install the reader, pip install 'bilinear-cli[raw]', or save "
            "the photo as JPEG"
        ) from error
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            size = (raw.sizes.iwidth, raw.sizes.iheight)
            is_large = min_side is not None and min(size) >= 2 * min_side
            pixels = raw.postprocess(use_camera_wb=True, half_size=is_large)
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"it is a camera raw file that LibRaw cannot read: {reason}") from error
    return Image.fromarray(pixels), size
