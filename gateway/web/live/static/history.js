// The last two minutes of each model, as columns: name → values, the oldest first. The server's Point has the names.

const KEPT = 130; // values of a column: two minutes, and gaps
const GAP_S = 3.5; // after this long without a point a line is interrupted

export class History {
  constructor() {
    this._models = {};
  }

  of(model) {
    return (this._models[model] ??= {});
  }

  // Replace everything by what the server keeps.
  replace(models) {
    this._models = {};
    for (const [model, columns] of Object.entries(models)) {
      columns.at_s.forEach((_, n) => append(this.of(model), map(columns, (values) => values[n])));
    }
  }

  add(models) {
    for (const [model, { point }] of Object.entries(models)) append(this.of(model), point);
  }
}

function append(columns, point) {
  const last = columns.at_s?.at(-1);
  if (point.at_s <= last) return; // known
  if (point.at_s - last > GAP_S) push(columns, { ...map(point, () => null), at_s: point.at_s - 1 });
  push(columns, point);
}

function push(columns, point) {
  for (const [name, value] of Object.entries(point)) {
    const values = (columns[name] ??= []);
    values.push(value);
    if (values.length > KEPT) values.shift();
  }
}

function map(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
}
