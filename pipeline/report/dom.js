// Small helpers. All text reaches the page as text nodes: nothing here or elsewhere in this page parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** A DOM element; children are nodes or texts, attributes that are null are left out. */
function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 1234567 -> 1,234,567 */
function count(number) {
  return whole.format(number);
}

/** 0.1234 -> 12.3 %; never 0 or 100 of what is not nothing or all */
function percent(part, of) {
  if (!of) return "–";
  const share = (100 * part) / of;
  if (part > 0 && share < 0.05) return "< 0.1 %";
  if (part < of && share > 99.95) return "> 99.9 %";
  return `${share.toFixed(1)} %`;
}

function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** 3725 -> 1 h 02 min */
function duration(seconds) {
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return minutes ? `${minutes} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s` : `${seconds.toFixed(1)} s`;
}

/** A number with at most so many digits behind the point, and none that says nothing. */
function decimal(number, digits) {
  return String(Number(number.toFixed(digits)));
}

/** A table. Columns: {title, numeric}; cells are nodes or texts, the first of each row is its header. */
function table(caption, columns, rows) {
  const kind = (index) => (columns[index].numeric ? "number" : "text");
  const head = columns.map((column, index) => element("th", { scope: "col", class: kind(index) }, column.title));
  const body = rows.map((cells) =>
    element("tr", {}, ...cells.map((cell, index) =>
      index ? element("td", { class: kind(index) }, cell) : element("th", { scope: "row", class: kind(index) }, cell))));
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

/** The same numbers for those who do not see the chart. Filled when it is opened first. */
function asTable(title, make) {
  const details = element("details", {}, element("summary", {}, title));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    details.append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, make()));
  });
  return details;
}

/** A list of names and values; entries without a value are left out. */
function factList(entries) {
  const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("dl", { class: "facts" }, ...known.flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", { dir: "auto" }, value)]));
}
