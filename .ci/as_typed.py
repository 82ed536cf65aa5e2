"""Print the shell commands of a page: `as_typed.py docs/predict.md`."""

import re
import sys
from pathlib import Path

page = Path(__file__).parents[1].joinpath(sys.argv[1]).read_text("utf-8")
print("".join(re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)), end="")
