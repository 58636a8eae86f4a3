"use strict";
(() => {
  const articles = Array.from(document.querySelectorAll("article"));
  const save = document.getElementById("save");
  const key = `skhgad review ${location.pathname}`;
  let url = null;

  const decisionOf = (article) => {
    const pressed = article.querySelector('button[aria-pressed="true"]');
    return pressed ? pressed.dataset.decision : "";
  };
  const decide = (article, decision) => {
    for (const button of article.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
    }
  };

  // As csv_cell in skhgad.text: no spreadsheet takes a cell for a formula.
  const cell = (text) => {
    const isNumber = /^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$/.test(text);
    const safe = isNumber
      ? text : text.replace(
        /^(?=[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])|(?<=[;\t\r\n])(?=[=+\-@\uff1d\uff0b\uff0d\uff20])/g, "'");
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  const remember = (rows) => {
    try {
      localStorage.setItem(key, JSON.stringify(rows));
    } catch {} // a browser that keeps nothing for files
  };
  const recall = () => {
    let rows = [];
    try {
      rows = JSON.parse(localStorage.getItem(key)) || [];
    } catch {}
    for (const [path, decision, product] of rows) {
      const article = articles.find((one) => one.dataset.path === path);
      if (article) {
        decide(article, decision);
        article.querySelector("select").value = product;
      }
    }
  };

  const show = () => {
    const rows = articles.filter(decisionOf).map((article) => [
      article.dataset.path, decisionOf(article), article.querySelector("select").value,
      article.dataset.score, article.dataset.verdict,
    ]);
    const lines = [["path", "decision", "product", "score", "verdict"], ...rows];
    const text = lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
    document.getElementById("csv").textContent = text;
    document.getElementById("count").textContent = `${rows.length} of ${articles.length} decided`;
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    save.href = url;
    remember(rows);
  };

  for (const article of articles) {
    for (const button of article.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        const decision = button.dataset.decision;
        decide(article, decisionOf(article) === decision ? "" : decision);
        show();
      });
    }
    article.querySelector("select").addEventListener("input", show);
  }
  recall();
  show();
})();
