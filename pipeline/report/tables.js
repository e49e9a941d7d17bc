// Everything beside scores and pairs: statuses, hosts, caption lengths, the run, what made the scores.

function meter(part, of, good) {
  const bar = element("span", { class: good ? "meter good" : "meter" });
  bar.style.width = `${(100 * part) / of}%`;
  return bar;
}

function statuses(contents) {
  const rows = contents.statuses.map(([status, reason, rows]) => {
    const share = element("span", {}, percent(rows, contents.rows), meter(rows, contents.rows, status === contents.success));
    return [status, reason || "", count(rows), share];
  });
  byId("statuses").append(table("Rows by status and reason",
    [{ title: "status" }, { title: "reason" }, { title: "rows", numeric: true }, { title: "share", numeric: true }], rows));
}

function hosts(contents) {
  const { worst, missed } = contents.hosts;
  if (!worst.length) {
    byId("hosts").append(element("p", { class: "note" }, "No host failed."));
    return;
  }
  byId("hosts").append(table("Hosts that most rows failed at",
    [{ title: "host" }, { title: "failed rows", numeric: true }, { title: "mostly" }],
    worst.map((host) => [host.host, count(host.rows), `${host.reason} (${count(host.reason_rows)})`])));
  if (missed) {
    const note = `There were more hosts than counters: each number may fall short by up to ${count(missed)}.`;
    byId("hosts").append(element("p", { class: "note" }, note));
  }
}

function lengths(contents) {
  const tokens = contents.tokens;
  const captions = tokens.reduce((sum, number) => sum + number, 0);
  if (!captions) {
    byId("lengths").append(element("p", { class: "note" }, "The rows do not say how long their captions are."));
    return;
  }
  const longest = tokens.findLastIndex((number) => number > 0);
  const step = Math.max(1, Math.ceil((longest + 1) / 60));
  const list = [];
  for (let from = 0; from <= longest; from += step) {
    list.push({ from, to: from + step, all: tokens.slice(from, from + step).reduce((sum, number) => sum + number, 0) });
  }
  let seen = 0;
  const median = tokens.findIndex((number) => (seen += number) * 2 >= captions);
  const figure = element("figure", { class: "chart" });
  const draw = histogram(figure, "Tokens of a caption", "with those that begin and end it", list, (tick) => decimal(tick, 0));
  draw(list.map((bar) => bar.all), null, false);
  const cut = `${count(contents.truncated)} of ${plural(captions, "caption")} (${percent(contents.truncated, captions)})`;
  const note = `Half of the captions have at most ${plural(median, "token")}. The model saw only the beginning of ${cut}.`;
  byId("lengths").append(
    element("p", { class: "note" }, note),
    figure,
    asTable("Caption lengths as a table", () => table("Captions by number of tokens",
      [{ title: "tokens", numeric: true }, { title: "captions", numeric: true }, { title: "share", numeric: true }],
      list.filter((bar) => bar.all).map((bar) => [name(bar), count(bar.all), percent(bar.all, captions)]))));

  function name(bar) {
    const open = bar.to >= tokens.length ? " and more" : step > 1 ? ` to ${bar.to - 1}` : "";
    return `${bar.from}${open}`;
  }
}

function runs(contents) {
  if (!contents.runs.length) {
    const note = "No _SUCCESS lies beside these files, so nothing is known of the run.";
    byId("runs").append(element("p", { class: "note" }, note));
    return;
  }
  for (const run of contents.runs) {
    const scored = run.rows_scored || 0;
    const stages = Object.entries(run.stage_s).map(([stage, seconds]) =>
      `${stage} ${((1000 * seconds) / Math.max(1, scored)).toFixed(1)} ms`);
    const megabytes = run.bytes_read / 1e6;
    byId("runs").append(factList([
      ["output", run.output],
      ["throughput", run.rows_per_s ? `${decimal(run.rows_per_s, 1)} rows a second once started` : null],
      ["replicas busy", run.busy_share === undefined || !scored ? null : percent(run.busy_share, 1)],
      ["what held it back", scored ? run.sentence : null],
      ["time", run.elapsed_s === undefined ? null : `${duration(run.elapsed_s)} for ${plural(scored, "row")}`],
      ["a row took", scored ? stages.join(", ") : null],
      ["read", run.bytes_read === undefined ? null : `${count(Math.round(megabytes))} MB of images`],
    ]));
  }
}

function origins(contents) {
  if (!contents.origins.length) {
    byId("origins").append(element("p", { class: "note" }, "The files say nothing of what made them."));
    return;
  }
  if (contents.origins.length > 1) {
    const note = "These files were not all made by the same model and settings: compare their scores with care.";
    byId("origins").append(element("p", { class: "note" }, note));
  }
  for (const { identity, provenance, files, rows } of contents.origins) {
    const versions = Object.entries(provenance.versions || {}).map(([name, version]) => `${name} ${version}`);
    byId("origins").append(
      factList([
        ["model", text(identity.model)], ["weights (SHA-256)", text(identity.model_sha256)],
        ["image size", identity.image_size ? `${identity.image_size} px` : null], ["precision", text(identity.precision)],
        ["made", `${plural(rows, "row")} in ${plural(files, "file")}`], ["versions", versions.join(", ")],
      ]),
      asTable("All settings", () => element("pre", { dir: "ltr" }, JSON.stringify({ identity, ...provenance }, null, 2))));
  }
}

function text(value) {
  return value === null || value === undefined ? null : typeof value === "string" ? value : JSON.stringify(value);
}
