"""ReportData -> one HTML page that needs no other file and no network."""

import io
import logging
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from sklearn.preprocessing import normalize

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.messages import command_line
from bilinear_cli.photos.boxes.crops import Crop, make_crop
from bilinear_cli.photos.lists.manifest import manifest_csv
from bilinear_cli.photos.pixels.batches import read_batches
from bilinear_cli.photos.pixels.images import decode_photo, read_bytes
from bilinear_cli.recipe import parse_crop
from bilinear_cli.report import plots
from bilinear_cli.report.data import Predictions, ReportData, class_order
from bilinear_cli.report.text import (
    as_text,
    classifier_label,
    commands,
    features_label,
    format_accuracy,
    format_command,
    format_rarity,
    novelty_sentences,
    run_facts,
    table_rows,
)
from bilinear_cli.training.metrics import confused_pairs

log = logging.getLogger(__name__)

MAX_PAIRS, MAX_ERRORS = 20, 40
PHOTOS_PER_SIDE = 3
MAX_TABLE = 30  # classes; the matrix of more classes is a picture
MAX_CSV_BYTES = 400_000  # of the labels of the set
SIDE = 160  # pixels of a thumbnail
MAX_JPEG_BYTES = 9000  # of a thumbnail: 160 of them take less than 2 MB of a page
QUALITIES = (80, 65, 50, 35, 20, 5)
BATCH_SIZE = 16


def render_html(data: ReportData) -> str:
    """Return the page, below 3 MB."""
    environment = Environment(
        loader=PackageLoader("bilinear_cli", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "as_text": as_text}
    environment.globals |= {
        "commands": commands,
        "run_facts": run_facts,
        "features_label": features_label,
        "classifier_label": classifier_label,
        "format_rarity": format_rarity,
        "novelty_sentences": novelty_sentences,
    }
    script = Path(__file__).with_name("sort.js").read_text("utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        script=script, script_sha256=digest, data=data, **_photos(data), **_figures(data)
    )


def breakable(text: str) -> Markup:
    """Return text as HTML that a browser may break after `_`, `/` and `-`."""
    return Markup("<wbr>").join(re.findall(r".+?[_/-]+|.+", text, re.S))


def _photos(data: ReportData) -> dict[str, Any]:
    """Return the variables of the template that are about single photos."""
    root = Path(data.metrics["extraction"].get("data_root") or ".")
    pairs = _pairs(data)
    is_error = data.predictions.predicted != data.predictions.labels
    errors = data.predictions.most_confident(is_error, MAX_ERRORS)
    paths = {path for pair in pairs for path in (*pair["left"], *pair["right"])}
    paths.update(errors.paths.tolist(), data.unusual.paths.tolist() if data.unusual else [])
    digests = zip(data.predictions.paths.tolist(), data.predictions.sha256.tolist(), strict=True)
    pictures = thumbnails(root, paths, _crops(data), dict(digests))
    csv = command_line([str(root / "corrected.csv")])
    if n_missing := len(paths) - len(pictures):
        log.warning(
            "photos in %s that have changed since the features were extracted, are missing, or "
            "cannot be read: %d. The report shows their names instead.",
            root,
            n_missing,
        )
    return {
        "pairs": pairs,
        "errors": errors,
        "pictures": pictures,
        "root": str(root),
        "n_missing": n_missing,
        "labels_csv": _labels_csv(data.photo_rows, errors),
        "train_command": f"{format_command(data.metrics['command'])} --data {csv}",
    }


def _crops(data: ReportData) -> dict[str, Crop]:
    """Return path -> crop of each photo that is cropped to a box."""
    options = parse_crop(data.metrics["extraction"].get("crop", ""))
    pairs = zip(data.predictions.paths.tolist(), data.predictions.box, strict=True)
    crops = {path: make_crop(box, options) for path, box in pairs}
    return {path: crop for path, crop in crops.items() if crop}


def _figures(data: ReportData) -> dict[str, Any]:
    """Return the variables of the template that are about all photos."""
    order, metrics = class_order(data.matrix), data.metrics
    matrix = data.matrix[np.ix_(order, order)]
    is_large = len(matrix) > MAX_TABLE
    calibration, curve = metrics.get("calibration"), metrics.get("curve") or []
    curve_plot = None
    if len({point.get("C") for point in curve}) > 1:
        curve_plot = plots.curve_plot(curve, (metrics["C"], metrics["label_smoothing"]))
    return {
        "table": _table(data),
        "order": order,
        "matrix": None if is_large else matrix,
        "shares": (100 * np.sqrt(normalize(matrix, "l1"))).round(),
        "matrix_plot": plots.matrix_plot(matrix) if is_large else None,
        "calibration": calibration,
        "calibration_plot": plots.calibration_plot(calibration) if calibration else None,
        "curve": curve,
        "curve_plot": curve_plot,
    }


def _table(data: ReportData) -> list[list[str]]:
    """Return the rows of the table of runs; a narrow screen shows the first columns only."""
    heads, *rows = table_rows([metrics for _, metrics in data.runs])
    table = [["run", "out of fold", *heads[4:], *heads[:4]]]
    for (name, metrics), row in zip(data.runs, rows, strict=True):
        table.append([name, format_accuracy(metrics.get("oof_top1")), *row[4:], *row[:4]])
    return table


def _pairs(data: ReportData) -> list[dict[str, Any]]:
    """Return the most confused pairs, with paths of errors and of correct photos to compare."""
    photos = data.evaluated

    def most_confident(label: int, predicted: int) -> list[str]:
        mask = (photos.labels == label) & (photos.predicted == predicted)
        return photos.most_confident(mask, PHOTOS_PER_SIDE).paths.tolist()

    return [
        {
            "count": count,
            "n_photos": int(data.matrix[true].sum()),
            "true": str(data.class_names[true]),
            "predicted": str(data.class_names[predicted]),
            "left": most_confident(true, predicted),
            "right": most_confident(predicted, predicted),
        }
        for count, true, predicted in confused_pairs(data.matrix, MAX_PAIRS)
    ]


def _labels_csv(labels: list[list[str]], errors: Predictions) -> str | None:
    """Return a data URI of a manifest of all photos, errors first; None if it is too long."""
    rank = {path: i for i, path in enumerate(errors.paths)}
    rows = sorted(labels, key=lambda row: rank.get(row[0], len(rank)))
    content = manifest_csv(rows, Path("corrected.csv")).encode()
    return data_uri(content, "text/csv") if len(content) <= MAX_CSV_BYTES else None


def thumbnails(
    root: Path,
    paths: Iterable[str],
    crops: Mapping[str, Crop] | None = None,
    digests: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return path -> data URI of each readable photo below `root`, on a black square.

    Photos are whole, but for those of `crops`. `digests` are the SHA-256 of files. A file with
    another digest is left out: the run has no score of it.
    """
    distinct, crops, digests = list(dict.fromkeys(paths)), crops or {}, digests or {}

    def read(path: str) -> str:
        return _thumbnail(root / path, crops.get(path), digests.get(path, ""))

    batches = read_batches(distinct, BATCH_SIZE, read)
    uris = (uri for batch in batches for uri in batch)
    pairs = zip(distinct, uris, strict=True)
    return {path: uri for path, uri in pairs if not isinstance(uri, BadPhotoError)}


def _thumbnail(path: Path, crop: Crop | None, digest: str) -> str:
    """Return a photo as a data URI of a small JPEG, or raise a BadPhotoError."""
    with suppress(OSError, ValueError):
        data = read_bytes(path) if path.is_file() else b""  # reading a pipe would never end
        if data and digest in ("", sha256(data).hexdigest()):
            image = Image.fromarray(decode_photo(data, path, [SIDE], "pad", crop=crop).pixels[0])
            for quality in QUALITIES:
                jpeg = io.BytesIO()
                image.save(jpeg, "JPEG", quality=quality, optimize=True)
                if jpeg.tell() <= MAX_JPEG_BYTES:
                    break
            return data_uri(jpeg.getvalue(), "image/jpeg")
    raise BadPhotoError(f"there is no photo {path}")


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a URI that contains them."""
    return f"data:{media_type};base64,{b64encode(content).decode()}"
