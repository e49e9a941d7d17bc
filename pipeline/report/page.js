// Draws the page from the contents beside it.

const contents = JSON.parse(byId("contents").textContent);

function lead({ scored }) {
  const success = contents.statuses.reduce((sum, [status, , rows]) => sum + (status === contents.success ? rows : 0), 0);
  const figures = [
    [count(contents.rows), contents.rows === 1 ? "row" : "rows"],
    [percent(success, contents.rows), "of the rows succeeded"],
    [count(scored), contents.lists ? "captions scored" : "pairs scored"],
    [count(contents.rows - success), "rows failed"],
  ];
  byId("figures").append(...figures.map(([value, name]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  byId("lead").textContent = `How well the captions of ${contents.sources.join(", ")} describe their images, in ${plural(contents.files, "file")}.`;
  const missing = contents.thumbnails ? "" : " Their images were left out of this page.";
  byId("pairs-note").textContent = `Each with its itm_score and its itc_similarity, and with what the thresholds above make of it.${missing}`;
}

const mark = galleries(contents);
lead(thresholds(contents, mark));
statuses(contents);
hosts(contents);
lengths(contents);
runs(contents);
origins(contents);
