// A table's rows by a column: a button in its head sorts up, then down.
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = [...head.parentElement.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    const words = "words" in head.dataset;
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      return words ? text : parseFloat(text.replaceAll(",", ""));
    };
    const compare = (a, b) => {
      if (words) return a.localeCompare(b, undefined, { numeric: true });
      return a - b;
    };
    const empty = (x) => Number.isNaN(x) || x === "";
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b); // those last, either way
      return up ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const other of head.parentElement.children) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
}
