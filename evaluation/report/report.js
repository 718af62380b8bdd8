"use strict";
// folds, sorting, definitions and CSV of the report; without this script everything can still be read
const all = (selector, from = document) => [...from.querySelectorAll(selector)];

// sorting: by the number where a cell has one, by its text otherwise; what does not exist comes last
function value(cell) {
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim(), number = cell.cellIndex ? text.match(/^<?([+-]?[\d,]*\.?\d+)/) : null;
  return number ? Number(number[1].replaceAll(",", "")) : text;
}
function order(a, b, sign) {
  const [left, right] = [value(a), value(b)];
  if (left === "–" || right === "–") return left === right ? 0 : left === "–" ? 1 : -1;
  if (typeof left === "number" && typeof right === "number") return sign * (left - right);
  return sign * String(left).localeCompare(String(right), "en", { numeric: true });
}
for (const button of all("button.sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = button.closest("table").tBodies[0], place = head.cellIndex;
    const up = head.getAttribute("aria-sort") === "descending" || (place === 0 && !head.hasAttribute("aria-sort"));
    for (const other of all("th", head.parentElement)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => order(a.cells[place], b.cells[place], up ? 1 : -1));
    body.append(...rows);
  });
}

// what a column means, beside the heading that the mouse or the keyboard is on; Escape puts it away
const tip = document.getElementById("tip");
let about = null;
function show(on) {
  if (about && about !== on) hide();
  about = on;
  tip.textContent = on.dataset.tip;
  tip.hidden = false;
  on.setAttribute("aria-describedby", "tip");
  const box = on.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = Math.max(12, Math.min(box.left, innerWidth - own.width - 12)) + "px";
  tip.style.top = (box.top > own.height + 12 ? box.top - own.height - 6 : box.bottom + 6) + "px";
}
function hide() {
  tip.hidden = true;
  about?.removeAttribute("aria-describedby");
  about = null;
}
for (const one of all("[data-tip]")) {
  one.addEventListener("mouseenter", () => show(one));
  one.addEventListener("focus", () => show(one));
  one.addEventListener("mouseleave", hide);
  one.addEventListener("blur", hide);
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("scroll", () => { if (about) show(about); }, { passive: true, capture: true });

// CSV: the digits as they were measured, not as they are rounded here; a text is never taken for a formula
function quoted(cell) {
  let text = cell.dataset.v ?? cell.innerText.trim().replace(/\s+/g, " ");
  if (text === "–") text = "";
  if (/^[=@\t\r]/.test(text) || /^[+-](?![\d.])/.test(text)) text = "'" + text;
  return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}
for (const button of all("button.csv")) {
  button.addEventListener("click", () => {
    const details = button.closest("details");
    const lines = [...details.querySelector("table").rows].map((row) => [...row.cells].map(quoted).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = details.dataset.name.replace(/[^\p{L}\p{N}@]+/gu, "-").replace(/^-|-$/g, "") + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

// all at once, and on paper
const open = document.getElementById("all"), folds = all("details");
open.addEventListener("click", () => {
  const to = folds.some((one) => !one.open);
  for (const one of folds) one.open = to;
  open.textContent = to ? "Fold all" : "Open all";
});
let before = [];
addEventListener("beforeprint", () => { before = folds.map((one) => one.open); for (const one of folds) one.open = true; });
addEventListener("afterprint", () => folds.forEach((one, at) => { one.open = before[at]; }));
