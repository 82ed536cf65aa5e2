"""Check accuracies on 20 bird species at 224 pixels against minimum values."""

import json
import sys
from pathlib import Path

MINIMUM = {
    ("max", "softmax"): 0.70,
    ("avg", "softmax"): 0.70,
    ("bilinear", "softmax"): 0.79,
    ("bilinear", "svm"): 0.79,
    ("bilinear", "ridge"): 0.79,
    ("conv5", "conv1x1"): 0.75,
    ("matrix-sqrt", "softmax"): 0.79,
    ("matrix-sqrt", "ridge"): 0.79,
    ("covariance", "softmax"): 0.79,
    ("compact:8192", "softmax"): 0.78,
    ("compact:8192", "ridge"): 0.78,
    ("bilinear:144", "softmax"): 0.78,
    ("bilinear:144", "ridge"): 0.78,
}

top1 = {}
for name in sys.argv[1:]:
    for metrics in json.loads(Path(name).read_text(encoding="utf-8"))["results"]:
        key = (metrics["pooling"], metrics["classifier"])
        top1[key] = min(metrics["top1"], top1.get(key, 1))
print(top1)
if low := [key for key, minimum in MINIMUM.items() if top1[key] < minimum]:
    sys.exit(f"top-1 is below the minimum: {low}")
first_order = max(top1["max", "softmax"], top1["avg", "softmax"])
if min(value for (pooling, _), value in top1.items() if pooling[0] in "bc") <= first_order:
    sys.exit("a second-order pooling is not more accurate than max and avg")
