// Draws the page from the contents beside it.

const contents = JSON.parse(byId("contents").textContent);

function lead(scored) {
  const own = contents.statuses.filter(([status]) => status === contents.success);
  const success = own.reduce((sum, [, , rows]) => sum + rows, 0);
  const figures = [
    [count(contents.rows), contents.rows === 1 ? "row" : "rows"],
    [percent(success, contents.rows), "of the rows succeeded"],
    [count(scored), contents.lists ? "captions scored" : "pairs scored"],
    [count(contents.rows - success), "rows failed"],
  ];
  byId("figures").append(...figures.map(([value, name]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  const where = `${contents.sources.join(", ")} (${plural(contents.files, "file")})`;
  byId("lead").textContent = `How well captions describe their images: ${where}.`;
  const missing = contents.thumbnails ? "" : " Their images were left out of this page.";
  byId("pairs-note").textContent =
    `Each with its itm_score and its itc_similarity, and with what the thresholds above make of it.${missing}`;
}

const mark = galleries(contents);
lead(thresholds(contents, mark));
statuses(contents);
hosts(contents);
lengths(contents);
runs(contents);
origins(contents);
