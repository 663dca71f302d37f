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

// Show a list of {level, text}.
export function list(parent, items) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach(({ level, text }, n) => {
    const item = parent.children[n] ?? parent.appendChild(document.createElement("li"));
    item.dataset.level = level;
    setText(item, text);
  });
  parent.hidden = !items.length;
}

// Show rows of text; the first cell of a row is its header. A cell can be a link, {text, href, current}, or {text, level}.
export function rows(table, texts) {
  const body = table.tBodies[0];
  while (body.rows.length > texts.length) body.deleteRow(-1);
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  texts.forEach((cells, n) => {
    const row = body.rows[n] ?? newRow(table, table.getAttribute("role") === "table");
    cells.forEach((content, column) => {
      const cell = row.cells[column];
      cell.dataset.label = labels[column];
      if (content.href) setLink(cell, content);
      else setText(cell, content.text ?? content);
      if (content.level) cell.dataset.level = content.level;
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
      row = newRow(table);
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

function setLink(cell, { text, href, current = false }) {
  const link = cell.firstElementChild ?? cell.appendChild(document.createElement("a"));
  if (link.getAttribute("href") !== href) link.href = href;
  if (current) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  setText(link, text);
}

// Add a row with a cell for each of the head's, aligned like it.
function newRow(table, withRoles = false) {
  const row = table.tBodies[0].insertRow();
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const cell = row.appendChild(document.createElement(column ? "td" : "th"));
    cell.className = head.className;
    if (!column) cell.scope = "row";
    if (withRoles) cell.setAttribute("role", column ? "cell" : "rowheader"); // needed when CSS turns rows into cards
  }
  if (withRoles) row.setAttribute("role", "row");
  return row;
}
