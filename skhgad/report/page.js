
"use strict";
(() => {
  const STEP = 200; // rows laid out at a time: thousands take a browser seconds
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const filters = Array.from(document.querySelectorAll("[data-filter]"));
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const collator = new Intl.Collator("en", { numeric: true });
  let limit = STEP;

  const matches = (row) => filters.every((filter) => {
    if (!filter.value) return true;
    if (filter.dataset.filter === "name") {
      return row.cells[1].textContent.toLowerCase().includes(filter.value.toLowerCase());
    }
    return row.dataset[filter.dataset.filter] === filter.value;
  });

  const show = () => {
    const matching = rows.filter(matches);
    const shown = matching.slice(0, limit);
    body.replaceChildren(...shown);
    more.hidden = shown.length === matching.length;
    more.textContent = `show ${Math.min(STEP, matching.length - shown.length)} more`;
    count.textContent = `${matching.length} of ${rows.length} images`
      + (more.hidden ? "" : `, the first ${shown.length} shown`);
  };

  const sortBy = (header) => {
    const column = headers.indexOf(header);
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const numeric = header.dataset.kind === "number";
    const values = new Map(rows.map((row) => {
      const text = row.cells[column].textContent;
      return [row, numeric ? parseFloat(text) : text];
    }));
    const compare = numeric ? (a, b) => a - b : collator.compare;
    rows.sort((a, b) => sign * compare(values.get(a), values.get(b)));
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    limit = STEP;
    show();
  };

  for (const header of headers) {
    const button = header.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(header));
  }
  for (const filter of filters) {
    filter.addEventListener("input", () => { limit = STEP; show(); });
  }
  more.addEventListener("click", () => { limit += STEP; show(); });
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  show();
})();
