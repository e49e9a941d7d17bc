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
  const width = grid[0].length;
  const above = Array.from({ length: grid.length + 1 }, () => new Float64Array(width + 1));
  for (let i = grid.length - 1; i >= 0; i--) {
    for (let j = width - 1; j >= 0; j--) {
      above[i][j] = grid[i][j] + above[i + 1][j] + above[i][j + 1] - above[i + 1][j + 1];
    }
  }
  return above;
}

/**
 * Bars of about `step` from edge `first` to edge `last` of an axis, each a range of edges: [{first, last, from, to}].
 * The last bar has all that lies above, too.
 */
function bars(axis, first, last, step) {
  const edges = axis.ticks.map((tick) => tick / axis.parts);
  const found = [];
  for (let index = first; index <= last; ) {
    const to = (Math.floor(edges[index] / step + 1e-9) + 1) * step;
    let next = index + 1;
    while (next <= last && edges[next] < to - 1e-9) next++;
    found.push({ first: index, last: next, from: edges[index], to });
    index = next;
  }
  found[found.length - 1].last = edges.length;
  return found;
}

/** First and last edge of itc_similarity between which there are pairs; 0 to 0.1 where there are none. */
function usedEdges(contents, above) {
  const used = contents.itc.ticks.map((_, j) => j).filter((j) => above[0][j] > above[0][j + 1]);
  const zero = contents.itc.ticks.indexOf(0);
  return used.length ? [used[0], used[used.length - 1]] : [zero, zero + 20];
}

/** The page's thresholds. `changed(itm, itc)` is called with both after every move, and once at the start. */
function thresholds(contents, changed) {
  const above = sumsFromAbove(readGrid(contents));
  const scored = above[0][0];
  const unit = contents.lists ? "captions" : "pairs";
  const value = (axis, index) => axis.ticks[index] / axis.parts;
  const [lowest, highest] = usedEdges(contents, above);
  const range = value(contents.itc, highest) - value(contents.itc, lowest);
  const top = contents.itm.ticks.length - 1;
  const itmBars = bars(contents.itm, 0, top - 1, 0.02); // a score of exactly 1 is no bar of its own
  const itcBars = bars(contents.itc, lowest, highest, [0.005, 0.01, 0.02].find((step) => range < 60 * step) || 0.04);
  const within = (bar, j) => above[bar.first][j] - above[bar.last][j]; // at or above edge j of the other axis
  const cell = (row, column) => within(row, column.first) - within(row, column.last);
  itmBars.forEach((bar) => (bar.all = within(bar, 0)));
  itcBars.forEach((bar) => (bar.all = above[0][bar.first] - above[0][bar.last]));

  const [itmNote, itcNote] = [`probability that image and caption match, ${unit}`, `cosine of image and caption, ${unit}`];
  const cells = itmBars.map((row) => itcBars.map((column) => cell(row, column)));
  const drawItm = histogram(byId("itm-chart"), "itm_score", itmNote, itmBars, (tick) => decimal(tick, 2));
  const drawItc = histogram(byId("itc-chart"), "itc_similarity", itcNote, itcBars, (tick) => decimal(tick, 3));
  const drawDensity = density(byId("density"), itmBars, itcBars, cells);

  const [itm, itc] = [byId("itm"), byId("itc")];
  fill(itm, { min: 0, max: top }, []);
  fill(itc, { min: lowest, max: Math.min(highest + 1, contents.itc.ticks.length - 1) }, []);

  function start() {
    itm.value = contents.threshold;
    itc.value = lowest;
    update();
  }

  function update() {
    const [i, j] = [Number(itm.value), Number(itc.value)];
    const itmFrom = i === 0 ? null : value(contents.itm, i); // null: any
    const itcFrom = j === lowest ? null : value(contents.itc, j);
    say(above[i][j], itmFrom, itcFrom);
    const logarithmic = byId("logarithmic").checked;
    drawItm(itmBars.map((bar) => above[Math.max(bar.first, i)][j] - above[Math.max(bar.last, i)][j]), itmFrom, logarithmic);
    drawItc(itcBars.map((bar) => above[i][Math.max(bar.first, j)] - above[i][Math.max(bar.last, j)]), itcFrom, logarithmic);
    drawDensity(itmFrom ?? 0, itcFrom ?? -1);
    changed(itmFrom ?? -Infinity, itcFrom ?? -Infinity);
  }

  function say(kept, itmFrom, itcFrom) {
    const [itmText, itcText] = [itmFrom, itcFrom].map((from) => (from === null ? "any" : decimal(from, 6)));
    const spoken = `keeps ${count(kept)} of ${count(scored)} ${unit}, ${percent(kept, scored)}`;
    byId("kept-share").textContent = percent(kept, scored);
    byId("kept-count").textContent = `${count(kept)} of ${count(scored)} scored ${unit}`;
    byId("itm-value").textContent = itmText;
    byId("itc-value").textContent = itcText;
    itm.setAttribute("aria-valuetext", `${itmText}: ${spoken}`);
    itc.setAttribute("aria-valuetext", `${itcText}: ${spoken}`);
    const flags = [
      itmFrom === null ? null : `--filter.min_itm ${itmText}`,
      itcFrom === null ? null : `--filter.min_itc ${itcText}`,
      contents.lists ? "--filter.captions explode" : null,
    ];
    byId("command").textContent = flags.filter(Boolean).join(" ");
    byId("command-line").hidden = itmFrom === null && itcFrom === null;
  }

  for (const input of [itm, itc, byId("logarithmic")]) input.addEventListener("input", update);
  byId("reset").addEventListener("click", start);
  start();

  const wide = bars(contents.itm, 0, top - 1, 0.1);
  const few = bars(contents.itc, lowest, highest, range < 0.6 ? 0.1 : 0.25);
  byId("score-tables").append(
    asTable("itm_score as a table", () => scoreTable("itm_score", itmBars, (bar) => above[bar.first][0])),
    asTable("itc_similarity as a table", () => scoreTable("itc_similarity", itcBars, (bar) => above[0][bar.first])),
    asTable("Both scores as a table", () => table(
      `Number of ${unit} by itm_score (rows, from) and itc_similarity (columns, from)`,
      [{ title: "itm_score", numeric: true }, ...few.map((column) => ({ title: decimal(column.from, 3), numeric: true }))],
      wide.map((row) => [decimal(row.from, 2), ...few.map((column) => count(cell(row, column)))]))));

  function scoreTable(name, list, atOrAbove) {
    const columns = ["from", "below", unit, "at or above", "share"].map((title) => ({ title, numeric: true }));
    return table(name, columns, list.map((bar, index) => {
      const below = index === list.length - 1 ? "" : decimal(bar.to, 4);
      return [decimal(bar.from, 4), below, count(bar.all), count(atOrAbove(bar)), percent(atOrAbove(bar), scored)];
    }));
  }
  return scored;
}
