// Histograms and the joint density, drawn as SVG; colours and fonts are the style sheet's.

const PLOT = { width: 480, height: 180, left: 36, right: 2, top: 16, bottom: 24 };
const FIELD = { width: 480, height: 440, left: 52, right: 4, top: 8, bottom: 46 };

function scale(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

/** Round numbers between two, some `about` of them. */
function roundTicks(from, to, about) {
  const raw = (to - from) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw) || 10);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

/**
 * A histogram whose kept part can be drawn again and again.
 * bars: [{from, to, all}]; returns draw(kept: number[] | null, cut: number | null, logarithmic: boolean).
 */
function histogram(figure, title, unit, bars, format) {
  const { width, height, left, right, top, bottom } = PLOT;
  const from = bars[0].from;
  const to = bars[bars.length - 1].to;
  const x = scale(from, to, left, width - right);
  const most = Math.max(1, ...bars.map((bar) => bar.all));
  const rules = drawing("g");
  const allBars = bars.map(() => drawing("rect", { class: "all" }));
  const keptBars = bars.map(() => drawing("rect", { class: "kept" }));
  const line = drawing("line", { class: "cut", y1: top - 8, y2: height - bottom, visibility: "hidden" });
  const labels = roundTicks(from, to, 5).map((tick) => {
    const anchor = x(tick) > width - 20 ? "end" : "middle";
    return drawing("text", { x: x(tick), y: height - 6, "text-anchor": anchor }, format(tick));
  });
  const axis = drawing("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
  const label = `${title}: histogram. Its numbers follow as a table.`;
  const picture = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    rules, ...allBars, ...keptBars, axis, line, ...labels);
  figure.replaceChildren(element("figcaption", {}, `${title} `, element("span", {}, unit)), picture);

  return function draw(kept, cut, logarithmic) {
    const size = (number) => (logarithmic ? Math.log10(1 + number) / Math.log10(1 + most) : number / most);
    const y = (number) => height - bottom - size(number) * (height - bottom - top);
    const place = (rect, bar, number) => {
      const gap = Math.min(1, (x(bar.to) - x(bar.from)) / 6);
      const wide = Math.max(0.5, x(bar.to) - x(bar.from) - gap);
      fill(rect, { x: x(bar.from) + gap / 2, width: wide, y: y(number), height: height - bottom - y(number) }, []);
    };
    bars.forEach((bar, index) => {
      place(allBars[index], bar, bar.all);
      place(keptBars[index], bar, kept ? kept[index] : 0);
    });
    const powers = Array.from({ length: Math.floor(Math.log10(most)) + 1 }, (_, power) => 10 ** power);
    const round = roundTicks(0, most, 3).filter((tick) => tick > 0 && Number.isInteger(tick));
    const ticks = logarithmic ? powers : round;
    rules.replaceChildren(...ticks.flatMap((tick) => [
      drawing("line", { class: "rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      drawing("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, compact.format(tick)),
    ]));
    line.setAttribute("visibility", cut === null ? "hidden" : "visible");
    if (cut !== null) fill(line, { x1: x(cut), x2: x(cut) }, []);
  };
}

/**
 * The joint density: itc_similarity to the right, itm_score upwards, the more pairs the darker.
 * rows and columns: [{from, to}]; counts[row][column]. Returns draw(itm, itc), which veils what is dropped.
 */
function density(figure, rows, columns, counts) {
  const { width, height, left, right, top, bottom } = FIELD;
  const x = scale(columns[0].from, columns[columns.length - 1].to, left, width - right);
  const y = scale(rows[0].from, rows[rows.length - 1].to, height - bottom, top);
  const most = Math.max(1, ...counts.map((line) => Math.max(...line)));
  const shade = (number) => 0.1 + (0.9 * Math.log(1 + number)) / Math.log(1 + most);
  const cells = [];
  rows.forEach((row, i) => columns.forEach((column, j) => {
    if (counts[i][j]) {
      const place = { x: x(column.from), y: y(row.to) };
      const size = { width: x(column.to) - x(column.from) + 0.3, height: y(row.from) - y(row.to) + 0.3 };
      cells.push(drawing("rect", { class: "cell", ...place, ...size, "fill-opacity": shade(counts[i][j]).toFixed(3) }));
    }
  }));
  const veil = drawing("path", { class: "veil", "fill-rule": "evenodd" });
  const line = drawing("path", { class: "cut" });
  const below = roundTicks(columns[0].from, columns[columns.length - 1].to, 5).map((tick) =>
    drawing("text", { x: x(tick), y: height - bottom + 18, "text-anchor": "middle" }, decimal(tick, 2)));
  const beside = roundTicks(0, 1, 5).map((tick) =>
    drawing("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, decimal(tick, 2)));
  const frame = drawing("path", { class: "axis", fill: "none", d: `M${left} ${top}V${height - bottom}H${width - right}` });
  const names = [
    drawing("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "itc_similarity"),
    drawing("text", { transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      "itm_score"),
  ];
  const label = "Joint density of itc_similarity and itm_score. Its numbers follow as a table.";
  const picture = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...cells, veil, line, frame, ...below, ...beside, ...names);
  const scaleNote = `colour: pairs, logarithmic, up to ${count(most)} a cell`;
  figure.replaceChildren(element("figcaption", {}, "Both scores together ", element("span", {}, scaleNote)), picture);

  return function draw(itm, itc) {
    const [x0, x1, y0, y1] = [x(Math.max(itc, columns[0].from)), width - right, y(itm), top];
    veil.setAttribute("d", `M${left} ${top}H${x1}V${height - bottom}H${left}ZM${x0} ${y1}H${x1}V${y0}H${x0}Z`);
    line.setAttribute("d", `M${x0} ${y1}V${y0}H${x1}`);
  };
}
