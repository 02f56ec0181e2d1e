"use strict";

/* Tables: sorting by any heading, filtering of rows, choosing of columns. */

function cellKey(row, column, kind) {
  const cell = row.cells[column];
  if (kind === "text") return cell.textContent.trim();
  const value = cell.dataset.sort;
  return value === undefined || value === "" ? NaN : Number(value);
}

const byText = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;

/* Rows without a value stay last in both directions; equal rows keep their order. */
function compareKeys(a, b, kind, sign) {
  if (kind === "text") return sign * byText(a, b);
  if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
  return sign * (a - b);
}

function sortBy(button) {
  const table = button.closest("table");
  const heading = button.closest("th");
  const { column, kind, first } = button.dataset;
  const now = heading.getAttribute("aria-sort");
  const start = first || "ascending";
  const other = start === "ascending" ? "descending" : "ascending";
  const order = now === start ? other : start;
  for (const each of table.querySelectorAll("th[aria-sort]")) each.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [cellKey(row, Number(column), kind), row]);
  rows.sort((a, b) => compareKeys(a[0], b[0], kind, sign));
  body.append(...rows.map((pair) => pair[1]));
}

function filterRows(input) {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const id of input.dataset.filters.split(" ")) {
    const table = document.getElementById(id);
    if (!table) continue;
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const place = id === "runs-table" ? row : row.cells[0];
      const text = place.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    const note = table.parentElement.nextElementSibling;
    if (note && note.className === "empty") note.hidden = shown > 0;
  }
}

function showGroup(box) {
  const cells = document.querySelectorAll(`table [data-group="${box.dataset.group}"]`);
  for (const cell of cells) cell.hidden = !box.checked;
}

function setUpTables() {
  for (const button of document.querySelectorAll("table thead button")) {
    button.addEventListener("click", () => sortBy(button));
  }
  for (const input of document.querySelectorAll("input[data-filters]")) {
    input.addEventListener("input", () => filterRows(input));
  }
  const groups = document.getElementById("groups");
  if (!groups) return;
  /* Start with what fits a screen: scores, size and speed, up to twelve columns. */
  let columns = 0;
  for (const box of groups.querySelectorAll("input")) {
    const count = Number(box.dataset.count);
    box.checked = columns === 0 || (box.dataset.on === "yes" && columns + count <= 12);
    if (box.checked) columns += count;
    showGroup(box);
    box.addEventListener("change", () => showGroup(box));
  }
  groups.hidden = false;
}
