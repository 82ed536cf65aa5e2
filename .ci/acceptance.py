"""Check what was measured on 20 species of bird at 224 pixels against what it has been before."""

import json
import sys
from pathlib import Path

FLOOR = {"max": 0.70, "avg": 0.70, "bilinear": 0.80}

results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["results"]
top1 = {result["pooling"]: result["top1"] for result in results}
print(top1)
low = [pooling for pooling, floor in FLOOR.items() if top1[pooling] < floor]
if low or top1["bilinear"] <= max(top1["max"], top1["avg"]):
    sys.exit(f"below what is expected: {low or 'bilinear against max and avg'}")
