// The pairs, in galleries; each says whether the present thresholds keep it.

const GALLERIES = [
  ["best", "Best", "The highest scores; of pairs with the same image the best one."],
  ["borderline", "Borderline", "Nearest to the threshold that the page opened with."],
  ["worst", "Worst", "The lowest scores."],
  ["range", "From the whole range", "One pair drawn from each part of 0 to 1, the highest first."],
];
const FOLDED = 12; // shown at first

/** Fill #galleries; returns mark(itm, itc), which says of every pair whether these thresholds keep it. */
function galleries(contents) {
  const cards = [];
  for (const [name, title, note] of GALLERIES) {
    const pairs = contents.galleries[name].map((number) => contents.shown[number]);
    if (!pairs.length) continue;
    const id = `gallery-${name}`;
    const list = element("ul", { class: "gallery", "aria-labelledby": id });
    pairs.forEach((pair, index) => {
      const card = pairCard(pair, `${title}, ${index + 1}`);
      if (index >= FOLDED) card.node.classList.add("folded");
      cards.push(card);
      list.append(card.node);
    });
    const head = element("div", { class: "gallery-head" }, element("h3", { id }, title), element("p", {}, note));
    byId("galleries").append(head, list);
    if (pairs.length > FOLDED) byId("galleries").append(unfolding(list, pairs.length));
  }
  if (!cards.length) byId("galleries").append(element("p", { class: "note" }, "No pair is shown."));
  return function mark(itm, itc) {
    for (const { pair, node, badge } of cards) {
      // thresholds are compared in the scores' own precision, as the filter does
      const kept = pair.itm_score >= Math.fround(itm) && pair.itc_similarity >= Math.fround(itc);
      node.classList.toggle("is-kept", kept);
      badge.textContent = kept ? "kept" : "dropped";
    }
  };
}

function unfolding(list, total) {
  const button = element("button", { type: "button", class: "more", "aria-expanded": "false" }, `Show all ${total}`);
  button.addEventListener("click", () => {
    for (const card of list.children) card.classList.remove("folded");
    list.children[FOLDED].querySelector("summary")?.focus({ preventScroll: true });
    button.remove();
  });
  return button;
}

function pairCard(pair, label) {
  const badge = element("span", { class: "badge" });
  const caption = pair.caption === null
    ? element("p", { class: "caption none" }, "no caption")
    : element("p", { class: "caption", dir: "auto" }, pair.caption);
  const scores = element("p", { class: "scores" },
    element("b", { title: "itm_score" }, pair.itm_score.toFixed(3)),
    element("span", { class: "cosine", title: "itc_similarity" }, signed(pair.itc_similarity)), badge);
  const why = pair.heat_map ? explanation(pair.heat_map) : null;
  const picture = pair.image ? frame(pair.image, label) : null; // none where thumbnails were left out
  const node = element("li", {}, picture, scores, caption, why, moreOf(pair));
  return { pair, node, badge };
}

function signed(number) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
}

function frame(image, label) {
  if (image.uri) {
    const size = { width: image.width, height: image.height };
    const picture = element("img", { src: image.uri, alt: `Image of the pair: ${label}`, ...size, decoding: "async" });
    return element("div", { class: "frame" }, picture);
  }
  return element("div", { class: "frame" }, element("p", { class: "missing" }, `no image: ${image.error}`));
}

/** Where the model looked; the image is made when it is asked for. */
function explanation(map) {
  const details = element("details", { class: "why" }, element("summary", {}, "Why this score"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const alt = "Heat map: where in the image the caption's words were found";
    details.append(element("img", { src: map.uri, width: map.width, height: map.height, alt }));
  });
  return details;
}

function moreOf(pair) {
  const details = element("details", {}, element("summary", {}, "Details"));
  details.addEventListener("toggle", () => {
    details.parentElement.classList.toggle("open", details.open);
    if (details.childElementCount > 1) return;
    const entry = pair.entry ? `, caption ${pair.entry + 1}` : "";
    const entries = [
      ["itm_score", pair.itm_score], ["itm_logit", pair.itm_logit?.toFixed(3)], ["itc_similarity", pair.itc_similarity],
      ["image", pair.original_width ? `${pair.original_width} × ${pair.original_height}` : null],
      ["tokens", pair.caption_tokens], ["key", pair.key], ["URL", pair.url === null ? null : link(pair.url)],
      ["row", `${pair.row}${entry} of ${pair.file}`],
    ].filter(([, value]) => value !== null && value !== undefined);
    details.append(element("dl", {}, ...entries.flatMap(([name, value]) => {
      const shown = typeof value === "number" ? decimal(value, 6) : value;
      return [element("dt", {}, name), element("dd", { dir: name === "key" ? "auto" : "ltr" }, shown)];
    })));
  });
  return details;
}

/** A URL as text; one that a browser may follow as a link that tells the other side nothing. */
function link(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return text;
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") return text;
  return element("a", { href: url.href, rel: "noopener noreferrer", target: "_blank" }, text);
}
