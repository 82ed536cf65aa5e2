"""Sources of boxes: a table, and MegaDetector's file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BoxesOf = Mapping[str, Sequence[Sequence[float]]]  # path -> boxes: x, y, width, height


def box_table(path: Path, boxes_of: BoxesOf) -> str:
    """Write a table of boxes (or of boxes and confidences); return the path."""
    rows = [[photo, *box, *[1] * (5 - len(box))] for photo in boxes_of for box in boxes_of[photo]]
    lines = [["path", "x", "y", "width", "height", "confidence"], *rows]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return str(path)


def megadetector_file(path: Path, detections_of: Mapping[str, Sequence[tuple]]) -> str:
    """Write MegaDetector's batch output of photos; a detection is (category, confidence, box)."""
    images: list[dict[str, Any]] = [
        {
            "file": name,
            "detections": [{"category": c, "conf": p, "bbox": box} for c, p, box in detections],
        }
        for name, detections in detections_of.items()
    ]
    content = {
        "info": {"format_version": "1.4", "detector": "md_v5a.0.0.pt"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "images": images,
    }
    path.write_text(json.dumps(content))
    return str(path)
