"""Print the shell commands in a section of the README: `as_typed.py "Predict, "`."""

import re
import sys
from pathlib import Path

readme = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")
(section,) = re.findall(rf"^## {re.escape(sys.argv[1])}.*?(?=^## )", readme, re.M | re.S)
print("".join(re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)), end="")
