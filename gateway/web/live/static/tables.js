// Tables and description lists. Unchanged cells are not touched, so that screen readers keep their place.

import { number, percent } from "./texts.js";

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Show a list of [term, value] as dt and dd.
export function fields(list, pairs) {
  while (list.children.length > pairs.length) list.lastElementChild.remove();
  pairs.forEach(([term, value], n) => {
    let row = list.children[n];
    if (!row) {
      row = list.appendChild(document.createElement("div"));
      row.append(document.createElement("dt"), document.createElement("dd"));
    }
    setText(row.children[0], term);
    setText(row.children[1], value);
  });
}

// Show rows of text; the first cell of a row is its header.
export function rows(table, texts) {
  const body = table.tBodies[0];
  while (body.rows.length > texts.length) body.deleteRow(-1);
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  texts.forEach((cells, n) => {
    const row = body.rows[n] ?? newRow(body, cells.length, table.getAttribute("role") === "table");
    cells.forEach((text, column) => {
      row.cells[column].dataset.label = labels[column];
      setText(row.cells[column], text);
    });
  });
}

// Show rows of {label, note, value, last}: the value as a number and as a bar, and `last` in the last cell.
export function bars(table, entries) {
  const body = table.tBodies[0];
  while (body.rows.length > entries.length) body.deleteRow(-1);
  const total = entries.reduce((sum, entry) => sum + entry.value, 0);
  entries.forEach(({ label, note, value, last }, n) => {
    let row = body.rows[n];
    if (!row) {
      row = newRow(body, 4);
      row.cells[0].append(document.createElement("span"), document.createElement("small"));
      row.cells[2].append(document.createElement("span"), document.createElement("i"));
    }
    const share = total ? value / total : 0;
    setText(row.cells[0].firstChild, label);
    setText(row.cells[0].lastChild, note ?? "");
    setText(row.cells[1], number(value));
    setText(row.cells[2].firstChild, total ? percent(share) : "–");
    row.cells[2].lastChild.style.width = `${share * 100}%`;
    setText(row.cells[3], typeof last === "number" ? number(last) : last);
  });
}

function newRow(body, cells, withRoles = false) {
  const row = body.insertRow();
  for (let column = 0; column < cells; column++) {
    const cell = row.appendChild(document.createElement(column ? "td" : "th"));
    if (!column) cell.scope = "row";
    if (withRoles) cell.setAttribute("role", column ? "cell" : "rowheader"); // needed when CSS turns rows into cards
  }
  if (withRoles) row.setAttribute("role", "row");
  return row;
}
