"""Renew the tables of docs/ that take minutes: `make tables`.

    python docs/tables.py runs/sample-sample/comparison.txt

The first table of the file replaces the one between the marks in docs/choosing.md.
"""

import platform
import re
import sys
from pathlib import Path

from archspec.cpu.detect import brand_string, detected_info

from bilinear_cli.machine import n_cpus

PAGE = Path(__file__).with_name("choosing.md")
START, END = "<!-- table of the sample, by `make tables` -->", "<!-- end -->"


def cpu_name() -> str:
    """Return the name of the processor, and which of its instructions matter here."""
    features = {"avx2", "avx512_bf16", "amx_bf16"} & detected_info().features
    return f"{brand_string() or platform.machine()} ({', '.join(sorted(features))})"


def renewed(page: str, comparison: str) -> str:
    """Return the page with the first table of the comparison, and the CPU that it is from."""
    (table, *_) = re.findall(r"^\|.*?(?=^[^|])", comparison + "\n", re.M | re.S)
    source = f"*Measured by `make reproduce` on {n_cpus()} cores of {cpu_name()}.*"
    before, rest = page.split(START)
    return f"{before}{START}\n{table}\n{source}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    comparison = Path(sys.argv[1]).read_text("utf-8")
    PAGE.write_text(renewed(PAGE.read_text("utf-8"), comparison), encoding="utf-8")
