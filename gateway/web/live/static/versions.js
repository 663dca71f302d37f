// The versions of a model side by side: a table of their newest numbers, and charts with a line for each.

import { Charts } from "./charts.js";
import { rows } from "./tables.js";
import { number, percent, readyOf, versionOf } from "./texts.js";

const CHARTS = [
  { title: "Answered requests per second, by version", column: "answered", series: [] },
  { title: "p99 by version, ms", column: "p99", series: [] },
];
const COLOURS = ["--line-1", "--line-2", "--line-3", "--reply", "--queue", "--neutral"]; // then from the first again

export class Versions {
  // `link(id)` returns the address that selects a version.
  constructor(table, charts, link) {
    this._table = table;
    this._charts = new Charts(charts, CHARTS);
    this._link = link;
    this._columns = {};
    this._ids = "";
  }

  // Show the versions with these IDs, of which one is selected.
  show(ids, selected, models, history) {
    const requests = (id) => Object.values(models[id].stats.outcomes).reduce((sum, n) => sum + n, 0);
    const total = ids.reduce((sum, id) => sum + requests(id), 0);
    const cells = (id) => {
      const { stats, point } = models[id];
      return [
        { text: `${versionOf(id)}`, href: this._link(id), current: id === selected },
        total ? percent(requests(id) / total) : "–",
        number(point.answered),
        number(point.rejected),
        number(point.failed),
        number(point.p50),
        number(point.p99),
        number(point.waiting),
        readyOf(stats.workers),
      ];
    };
    rows(this._table, ids.map(cells));
    Object.assign(this._columns, columnsOf(ids, history));
    if (this._ids === ids.join()) return this._charts.update();
    this._ids = ids.join();
    this._charts.setSeries(({ column }) => ids.map((id, n) => ({
      label: `version ${versionOf(id)}`,
      colour: COLOURS[n % COLOURS.length],
      name: columnName(column, id),
    })));
    this._charts.show(this._columns);
  }
}

// One history of all versions, in which each has columns of its own.
function columnsOf(ids, history) {
  const named = CHARTS.map(({ column }) => column);
  const tables = ids.map((id) => ["at_s", ...named].map((name) => history.of(id)[name] ?? []));
  const [at_s, ...values] = uPlot.join(tables);
  const names = ids.flatMap((id) => named.map((column) => columnName(column, id)));
  return { at_s, ...Object.fromEntries(names.map((name, n) => [name, values[n]])) };
}

function columnName(column, id) {
  return `${column} ${id}`;
}
