// The sliders: exact counts at every stop, because every stop is an edge of the grid that was counted.

/** counts[i][j] of pairs in cell (i, j), from distances and counts of the cells that are not empty. */
function readGrid(contents) {
  const [height, width] = [contents.itm.ticks.length, contents.itc.ticks.length];
  const grid = Array.from({ length: height }, () => new Float64Array(width));
  for (let index = 0, cell = -1; index < contents.grid.length; index += 2) {
    cell += contents.grid[index];
    grid[Math.floor(cell / width)][cell % width] = contents.grid[index + 1];
  }
  return grid;
}

/** above[i][j]: pairs at or above both edges. */
function sumsFromAbove(grid) {
  const above = Array.from({ length: grid.length + 1 }, () => new Float64Array(grid[0].length + 1));
  for (let i = grid.length - 1; i >= 0; i--) {
    for (let j = grid[0].length - 1; j >= 0; j--) above[i][j] = grid[i][j] + above[i + 1][j] + above[i][j + 1] - above[i + 1][j + 1];
  }
  return above;
}

/** Bars of about `step`, as ranges of edges: [{first, last, from, to}], the last without an upper edge. */
function bars(axis, first, last, step) {
  const edges = axis.ticks.map((tick) => tick / axis.parts);
  const found = [];
  for (let index = first; index <= last; ) {
    const from = edges[index];
    const number = Math.floor(from / step + 1e-9) + 1;
    let next = index + 1;
    while (next <= last && edges[next] < number * step - 1e-9) next++;
    found.push({ first: index, last: next, from, to: number * step });
    index = next;
  }
  return found;
}

/** The page's thresholds. `changed(itm, itc)` is called with both after every move, and once at the start. */
function thresholds(contents, changed) {
  const grid = readGrid(contents);
  const above = sumsFromAbove(grid);
  const scored = above[0][0];
  const value = (axis, index) => axis.ticks[index] / axis.parts;
  const used = grid[0].reduce((found, _, j) => (above[0][j] > above[0][j + 1] ? [found[0] ?? j, j] : found), []);
  const [lowest, highest] = used.length ? used : [contents.itc.ticks.indexOf(0), contents.itc.ticks.indexOf(0) + 20];
  const itmBars = bars(contents.itm, 0, contents.itm.ticks.length - 2, 0.02);
  itmBars[itmBars.length - 1].last = contents.itm.ticks.length; // a score of exactly 1 is no bar of its own
  const range = value(contents.itc, highest) - value(contents.itc, lowest);
  const itcBars = bars(contents.itc, lowest, highest, range < 0.25 ? 0.005 : range < 0.6 ? 0.01 : range < 1.2 ? 0.02 : 0.04);
  itcBars[itcBars.length - 1].last = contents.itc.ticks.length;
  itmBars.forEach((bar) => (bar.all = above[bar.first][0] - above[bar.last][0]));
  itcBars.forEach((bar) => (bar.all = above[0][bar.first] - above[0][bar.last]));
  const cell = (row, column) => above[row.first][column.first] - above[row.last][column.first] - above[row.first][column.last] + above[row.last][column.last];

  const unit = contents.lists ? "captions" : "pairs";
  const drawItm = histogram(byId("itm-chart"), "itm_score", `probability that image and caption match, ${unit}`, itmBars, (tick) => decimal(tick, 2));
  const drawItc = histogram(byId("itc-chart"), "itc_similarity", `cosine of image and caption, ${unit}`, itcBars, (tick) => decimal(tick, 3));
  const drawDensity = density(byId("density"), itmBars, itcBars, itmBars.map((row) => itcBars.map((column) => cell(row, column))));

  const [itm, itc] = [byId("itm"), byId("itc")];
  fill(itm, { min: 0, max: contents.itm.ticks.length - 1, value: contents.threshold }, []);
  fill(itc, { min: lowest, max: Math.min(highest + 1, contents.itc.ticks.length - 1), value: lowest }, []);
  const start = () => { itm.value = contents.threshold; itc.value = lowest; };

  function update() {
    const [i, j] = [Number(itm.value), Number(itc.value)];
    const [itmFrom, itcFrom] = [value(contents.itm, i), value(contents.itc, j)];
    const [anyItm, anyItc] = [i === 0, j === lowest];
    const kept = above[i][j];
    byId("kept-share").textContent = percent(kept, scored);
    byId("kept-count").textContent = `${count(kept)} of ${count(scored)} scored ${unit}`;
    byId("itm-value").textContent = anyItm ? "any" : decimal(itmFrom, 6);
    byId("itc-value").textContent = anyItc ? "any" : decimal(itcFrom, 3);
    const spoken = `keeps ${count(kept)} of ${count(scored)} ${unit}, ${percent(kept, scored)}`;
    itm.setAttribute("aria-valuetext", `${byId("itm-value").textContent}: ${spoken}`);
    itc.setAttribute("aria-valuetext", `${byId("itc-value").textContent}: ${spoken}`);
    const flags = [anyItm ? "" : `--filter.min_itm ${decimal(itmFrom, 6)}`, anyItc ? "" : `--filter.min_itc ${decimal(itcFrom, 3)}`, contents.lists ? "--filter.captions explode" : ""];
    byId("command").textContent = flags.filter(Boolean).join(" ");
    byId("command-line").hidden = anyItm && anyItc;
    const logarithmic = byId("logarithmic").checked;
    const between = (first, last, low, high) => [Math.max(first, low), Math.max(last, low), high];
    drawItm(itmBars.map((bar) => { const [a, b] = between(bar.first, bar.last, i); return above[a][j] - above[b][j]; }), anyItm ? null : itmFrom, logarithmic);
    drawItc(itcBars.map((bar) => { const [a, b] = between(bar.first, bar.last, j); return above[i][a] - above[i][b]; }), anyItc ? null : itcFrom, logarithmic);
    drawDensity(itmFrom, anyItc ? -1 : itcFrom);
    changed(anyItm ? -Infinity : itmFrom, anyItc ? -Infinity : itcFrom);
  }
  for (const input of [itm, itc, byId("logarithmic")]) input.addEventListener("input", update);
  byId("reset").addEventListener("click", () => { start(); update(); });
  start();
  update();

  const columns = [{ title: "from", numeric: true }, { title: "below", numeric: true }, { title: unit, numeric: true }, { title: "at or above", numeric: true }, { title: "share", numeric: true }];
  const lines = (list, left, digits) => list.map((bar, index) => {
    const rest = left(bar);
    return [decimal(bar.from, digits), index === list.length - 1 ? "" : decimal(bar.to, digits), count(bar.all), count(rest), percent(rest, scored)];
  });
  const wide = bars(contents.itm, 0, contents.itm.ticks.length - 2, 0.1);
  wide[wide.length - 1].last = contents.itm.ticks.length;
  const few = bars(contents.itc, lowest, highest, range < 0.6 ? 0.1 : 0.25);
  few[few.length - 1].last = contents.itc.ticks.length;
  byId("score-tables").append(
    asTable("itm_score as a table", () => table("itm_score", columns, lines(itmBars, (bar) => above[bar.first][0], 4))),
    asTable("itc_similarity as a table", () => table("itc_similarity", columns, lines(itcBars, (bar) => above[0][bar.first], 4))),
    asTable("Both scores as a table", () => table(`Number of ${unit} by itm_score (rows, from) and itc_similarity (columns, from)`,
      [{ title: "itm_score", numeric: true }, ...few.map((column) => ({ title: decimal(column.from, 3), numeric: true }))],
      wide.map((row) => [decimal(row.from, 2), ...few.map((column) => count(cell(row, column)))]))));
  return { scored, kept: () => above[Number(itm.value)][Number(itc.value)] };
}
