
"use strict";
(() => {
  const STEP = 200; // rows laid out at a time: thousands take a browser seconds
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const figures = Array.from(document.querySelectorAll("#clearest figure"));
  const more = document.getElementById("more");
  const collator = new Intl.Collator("en", { numeric: true });
  let limit = STEP;

  // The filters of a form; all of them hold for the items it shows.
  const formOf = (name) => {
    const form = document.querySelector(`form[data-of="${name}"]`);
    const filters = Array.from(form ? form.querySelectorAll("[data-filter]") : []);
    const matches = (item) => filters.every((filter) => {
      if (!filter.value) return true;
      if (filter.dataset.filter === "name") {
        const path = item.querySelector("bdi").textContent;
        return path.toLowerCase().includes(filter.value.toLowerCase());
      }
      return item.dataset[filter.dataset.filter] === filter.value;
    });
    const onChange = (show) => {
      for (const filter of filters) filter.addEventListener("input", show);
      if (form) form.addEventListener("submit", (event) => event.preventDefault());
    };
    const say = (text) => { form.querySelector("output").textContent = text; };
    return { matches, onChange, say };
  };
  const ofTable = formOf("table");
  const ofCards = formOf("cards");

  const show = () => {
    const matching = rows.filter(ofTable.matches);
    const shown = matching.slice(0, limit);
    body.replaceChildren(...shown);
    more.hidden = shown.length === matching.length;
    more.textContent = `show ${Math.min(STEP, matching.length - shown.length)} more`;
    ofTable.say(`${matching.length} of ${rows.length} images`
      + (more.hidden ? "" : `, the first ${shown.length} shown`));
  };

  const showCards = () => {
    for (const figure of figures) figure.hidden = !ofCards.matches(figure);
    // A heading without an image below it goes, too.
    for (const section of document.querySelectorAll("#clearest section")) {
      section.hidden = !section.querySelector("figure:not([hidden])");
    }
    const n = figures.filter((figure) => !figure.hidden).length;
    ofCards.say(`${n} of ${figures.length} images`);
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
  ofTable.onChange(() => { limit = STEP; show(); });
  ofCards.onChange(showCards);
  more.addEventListener("click", () => { limit += STEP; show(); });
  show();
  if (figures.length) showCards();
})();
