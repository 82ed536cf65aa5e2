// The button in the head of a column sorts the rows: ascending, then descending.
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = [...head.parentElement.children].indexOf(head);
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const isText = "words" in head.dataset;
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      return isText ? text : parseFloat(text.replaceAll(",", ""));
    };
    const compare = (a, b) => {
      if (isText) return a.localeCompare(b, undefined, { numeric: true });
      return a - b;
    };
    const empty = (x) => Number.isNaN(x) || x === "";
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b); // empty values last
      return ascending ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const cell of head.parentElement.children) {
      if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}
