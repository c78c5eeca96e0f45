"use strict";
// Sorts a table by the column whose head is pressed: numbers as numbers, first upwards, then downwards.
const units = document.documentElement.dataset.units.split(" ");
function valueOf(text) {
  const unit = units.indexOf(text.split("\u00a0").at(-1));
  const power = text.match(/10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)/);
  const lowered = (found) => [...found].map((c) => (c === "⁻" ? "-" : "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c))).join("");
  const scale = power ? 10 ** Number(lowered(power[1])) : 1;
  const rest = power ? text.slice(0, power.index).replace("×", "") : text;
  const number = rest.replaceAll("−", "-").match(/-?[\d,]*\.?\d+/);
  return (number ? Number(number[0].replaceAll(",", "")) : 1) * scale * (unit < 0 ? 1 : [1e-6, 1e-3, 1, 60, 3600][unit]);
}
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [row, row.cells[column].textContent.trim()]);
      const numeric = head.classList.contains("number");
      const missing = (text) => text === "" || text === "–";
      rows.sort(([, a], [, b]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = numeric ? valueOf(a) - valueOf(b) : a.localeCompare(b, undefined, { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows.map(([row]) => row));
    });
  });
}
