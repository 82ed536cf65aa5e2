"""Check accuracies on 20 bird species at 224 pixels against minimum values."""

import json
import sys
from pathlib import Path

FLOOR = {
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

read = [json.loads(Path(name).read_text(encoding="utf-8"))["results"] for name in sys.argv[1:]]
results = [result for part in read for result in part]
top1 = {}
for result in results:
    key = (result["pooling"], result["classifier"])
    top1[key] = min(result["top1"], top1.get(key, 1))
print(top1)
low = [key for key, floor in FLOOR.items() if top1[key] < floor]
plain = max(top1["max", "softmax"], top1["avg", "softmax"])
if low or min(value for (pooling, _), value in top1.items() if pooling[0] in "bc") <= plain:
    sys.exit(f"below what is expected: {low or 'second order against max and avg'}")
