// Line charts of the last two minutes, drawn by uPlot. Each shows its newest values as text, and all values as a table.

import { number, PARTS } from "./texts.js";
import { rows, setText } from "./tables.js";

const SHOWN_S = 120;
const TICKS_S = [120, 90, 60, 30, 0];
const HEIGHT = 190;
const TICKS_PX = 20; // tick and gap beside a label
const TABLE_STEP_S = 10;

// `name` is a column of the history, `colour` a variable of page.css.
const CHARTS = [
  {
    title: "Requests per second",
    series: [
      { label: "answered", colour: "--good", name: "answered" },
      { label: "rejected", colour: "--warn", name: "rejected" },
      { label: "failed", colour: "--bad", name: "failed" },
      { label: "client errors", colour: "--neutral", name: "client_errors" },
    ],
  },
  {
    title: "Latency, ms",
    series: [
      { label: "p50", colour: "--line-1", name: "p50" },
      { label: "p95", colour: "--line-2", name: "p95" },
      { label: "p99", colour: "--line-3", name: "p99" },
    ],
  },
  {
    title: "Requests in the queue",
    series: [
      { label: "waiting", colour: "--warn", name: "waiting" },
      { label: "running", colour: "--line-1", name: "running" },
    ],
  },
  {
    title: "Mean time per part of a request, ms",
    stacked: true,
    series: PARTS.map(([part, label]) => ({
      label: label.toLowerCase(),
      colour: `--${part.replace("_", "-")}`,
      name: part,
    })),
  },
];

export class Charts {
  constructor(parent, charts = CHARTS) {
    this._charts = charts.map((what) => new Chart(parent, what));
    const redraw = () => this._charts.forEach((chart) => chart.build());
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", redraw);
    }
  }

  // Draw other lines from the next `show` on: `of` returns those of a chart.
  setSeries(of) {
    this._charts.forEach((chart) => chart.setSeries(of(chart.what)));
  }

  // Show a model's history, from now on this one.
  show(columns) {
    this._charts.forEach((chart) => chart.show(columns));
  }

  // Show what was added to the history.
  update() {
    this._charts.forEach((chart) => chart.update());
  }
}

class Chart {
  constructor(parent, what) {
    this.what = what;
    const figure = parent.appendChild(document.createElement("figure"));
    const caption = figure.appendChild(document.createElement("figcaption"));
    caption.textContent = what.title;
    this._legend = figure.appendChild(document.createElement("ul"));
    this._legend.className = "legend";
    this._plot = figure.appendChild(document.createElement("div"));
    this._plot.className = "plot";
    this._plot.setAttribute("role", "img");
    this._makeTable(figure);
    this.setSeries(what.series);
    this.show({});
    new ResizeObserver(() => this._uplot?.setSize({ width: this._plot.clientWidth, height: HEIGHT })).observe(this._plot);
  }

  setSeries(series) {
    this._series = series;
    this._legend.replaceChildren();
    this._values = series.map(({ label, colour }) => {
      const entry = this._legend.appendChild(document.createElement("li"));
      const swatch = entry.appendChild(document.createElement("i"));
      swatch.style.background = `var(${colour})`;
      entry.append(`${label} `);
      return entry.appendChild(document.createElement("b"));
    });
    const head = this._table.tHead.rows[0];
    head.replaceChildren();
    for (const text of ["Seconds ago", ...series.map(({ label }) => label)]) {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      cell.className = "number";
      cell.textContent = text;
    }
    this._table.tBodies[0].replaceChildren();
  }

  show(columns) {
    this._columns = columns;
    this.build();
    this._showValues(this._data[0].length - 1);
    if (this._details.open) this._fillTable();
  }

  update() {
    this._uplot.setData(this._drawn());
    if (this._uplot.cursor.idx == null) this._showValues(this._data[0].length - 1);
    if (this._details.open && this._newest - this._tableAt >= TABLE_STEP_S) this._fillTable();
  }

  get _data() {
    return ["at_s", ...this._series.map(({ name }) => name)].map((name) => this._columns[name] ?? []);
  }

  get _newest() {
    return this._columns.at_s?.at(-1) ?? 0;
  }

  // The data as drawn: in a stacked chart each line is on top of the one before.
  _drawn() {
    const [times, ...series] = this._data;
    if (!this.what.stacked) return [times, ...series];
    const below = times.map(() => 0);
    return [times, ...series.map((values) => values.map((v, n) => (v === null ? null : (below[n] += v))))];
  }

  build() {
    this._uplot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--muted"),
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { stroke: colour("--grid"), width: 1 },
      font: "12px system-ui, sans-serif",
    };
    const { stacked } = this.what;
    const series = this._series;
    const options = {
      width: this._plot.clientWidth || 300,
      height: HEIGHT,
      padding: [8, 20, 0, 4], // half of a label of the time axis is beside the plot
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { range: () => [this._newest - SHOWN_S, this._newest] },
        y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] },
      },
      axes: [
        {
          ...axis,
          splits: () => TICKS_S.map((ago) => this._newest - ago),
          values: () => TICKS_S.map((ago) => (ago ? `-${ago} s` : "now")),
        },
        { ...axis, size: widest, values: (_, splits) => splits.map(number) },
      ],
      series: [
        {},
        ...series.map(({ label, colour: name }, n) => ({
          label,
          stroke: colour(name),
          width: stacked ? 1 : 2,
          fill: stacked && n === 0 ? colour(name) : undefined,
          points: { show: false },
        })),
      ],
      bands: stacked ? series.slice(1).map((s, n) => ({ series: [n + 2, n + 1], fill: colour(s.colour) })) : [],
      hooks: { setCursor: [(plot) => this._showValues(plot.cursor.idx ?? this._data[0].length - 1)] },
    };
    this._uplot = new uPlot(options, this._drawn(), this._plot);
  }

  _showValues(index) {
    const texts = this._series.map((_, n) => number(this._data[n + 1][index]));
    texts.forEach((text, n) => setText(this._values[n], text));
    const label = this._series.map((series, n) => `${series.label} ${texts[n]}`).join(", ");
    this._plot.setAttribute("aria-label", `Chart: ${this.what.title}. Now: ${label}`);
  }

  _makeTable(figure) {
    this._details = figure.appendChild(document.createElement("details"));
    this._details.appendChild(document.createElement("summary")).textContent = "As a table";
    this._table = this._details.appendChild(document.createElement("table"));
    this._table.className = "numbers";
    this._table.createCaption().textContent = `${this.what.title}: every ${TABLE_STEP_S} seconds, newest first`;
    this._table.createTHead().insertRow();
    this._table.createTBody();
    this._details.addEventListener("toggle", () => this._details.open && this._fillTable());
  }

  _fillTable() {
    this._tableAt = this._newest;
    const [times, ...series] = this._data;
    const texts = [];
    for (let n = times.length - 1, next = this._newest; n >= 0 && this._newest - times[n] <= SHOWN_S; n--) {
      if (times[n] > next) continue;
      next = times[n] - TABLE_STEP_S;
      texts.push([`${Math.round(this._newest - times[n])}`, ...series.map((values) => number(values[n]))]);
    }
    rows(this._table, texts);
  }
}

// The width of an axis, so that no label is clipped.
function widest(plot, labels, axis) {
  plot.ctx.font = plot.axes[axis].font[0];
  const widths = (labels ?? [""]).map((label) => plot.ctx.measureText(label).width / devicePixelRatio);
  return Math.max(...widths) + TICKS_PX;
}
