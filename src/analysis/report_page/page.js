"use strict";
// What the page shows lies in it as JSON: one block for the whole, and one for the tokens of each example, which is
// read when the example comes near the window. Texts become text nodes and attributes, never markup.

const $ = (id) => document.getElementById(id);
const page = JSON.parse($("page").textContent);
const LETTERS = page.runs.map((_, run) => "AB"[run]);
const two = page.runs.length > 1;

/** An element with attributes and children; a string among these is text. */
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const letter = (run) => make("span", { class: "letter" }, LETTERS[run]);
const number = (value, digits = 3) => (value === null || value === undefined ? "-" : value.toFixed(digits));
const whole = (value) => value.toLocaleString("en");

/** Where a layer stands between the first (0) and the last (1) of a run; the embedding stands with the first. */
function place(run, layer) {
  const last = page.runs[run].layers;
  return last > 1 ? Math.max(0, (layer - 1) / (last - 1)) : 1;
}
const shade = (run, layer) => `--t:${place(run, layer).toFixed(4)}`;

// ------------------------------------------------------------------------------------------------------------ overview
function drawHead() {
  document.title = page.title;
  $("title").append(page.title);
  const models = [...new Set(page.runs.map((run) => run.model))].join(" and ");
  const count = page.examples.length < page.shared ? `the first ${whole(page.examples.length)} of ` : "";
  $("about").append(`${page.data}; ${models}; ${count}${whole(page.shared)} examples`);
  const depths = page.runs.map((run) => run.layers);
  depths.forEach((layers, run) => {
    if (run && layers === depths[0]) return;
    const list = make("ol", {}, ...Array.from({ length: layers }, (_, i) =>
      make("li", { class: "layer", style: shade(run, i + 1) }, `${i + 1}`)));
    const whose = two && depths[0] !== depths[1] ? letter(run) : null;
    $("scales").append(make("div", { class: "scale" }, whose, "left after layer", list, `of ${layers}`));
  });
  if (two) {
    $("scales").append(make("p", { class: "note" }, "Tokens that only one of the two runs has are ",
      make("span", { class: "token differs" }, "underlined"), "."));
  }
}

function table(id, head, rows) {
  $(id).append(make("thead", {}, make("tr", {}, ...head.map((each) => make("th", { scope: "col" }, each)))),
    make("tbody", {}, ...rows));
}

function drawRuns() {
  page.runs.forEach((run, i) => $("runs").append(
    make("p", {}, two ? letter(i) : null, two ? " " : null, make("b", {}, run.label), make("br"), run.told)));
  const heads = () => page.runs.map((run, i) => (two ? letter(i) : "value"));
  table("summary", ["", ...heads()], page.summary.map((row) =>
    make("tr", {}, make("th", { scope: "row" }, row.name, make("small", {}, row.says)),
      ...row.values.map((value) => make("td", { colspan: two && row.values.length === 1 && "2" }, value)))));
  table("settings", ["", ...heads()], page.settings.map((row) =>
    make("tr", { class: row.differs ? "differs" : undefined }, make("th", { scope: "row" }, row.name),
      ...row.values.map((value) => make("td", {}, value)))));
}

function drawLayers() {
  const deepest = Math.max(...page.runs.map((run) => run.layers));
  const ranked = page.runs.map((run, i) => i).filter((i) => page.runs[i].ranks);
  const totals = page.runs.map((run) => run.left.reduce((sum, each) => sum + each, 0));
  const most = Math.max(...page.runs.flatMap((run, i) => run.left.map((each) => each / totals[i])));
  const head = ["layer", ...page.runs.map((run, i) => (two ? make("span", {}, letter(i), " tokens") : "tokens that left")),
    ...ranked.map((i) => make("span", {}, two ? letter(i) : "", " rank of the token",
      make("small", {}, "median (5 to 95%)")))];
  const rows = [];
  for (let layer = ranked.length ? 0 : 1; layer <= deepest; layer++) {
    const owner = page.runs.findIndex((run) => layer <= run.layers);
    const button = layer ? make("button", { type: "button", class: "layer", style: shade(owner, layer),
      "aria-pressed": "false", "data-pick": layer, "aria-label": `Pick out tokens that left after layer ${layer}` },
      `${layer}`) : "0";
    const bars = page.runs.map((run, i) => {
      const left = run.left[layer - 1];
      if (left === undefined) return make("td");
      const share = left / totals[i];
      return make("td", {}, make("div", { class: "bar" },
        make("i", { class: `layer ${i ? "b" : ""}`, style: `${shade(i, layer)};width:${(6 * share) / most}rem` }),
        left ? `${(100 * share).toFixed(1)}% (${whole(left)})` : "0"));
    });
    const ranks = ranked.map((i) => {
      const at = page.runs[i].ranks[layer];
      return make("td", {}, at ? `${Math.round(at[50])} (${Math.round(at[5])} to ${Math.round(at[95])})` : "");
    });
    rows.push(make("tr", {}, make("th", { scope: "row" }, button), ...bars, ...ranks));
  }
  table("layers", head, rows);
}

function drawPairs() {
  page.runs.forEach((run, i) => {
    if (!run.divergence) return;
    $("pairs-box").hidden = false;
    const size = run.divergence.length;
    const grid = make("div", { class: "pairs", role: "img", style: `grid-template-columns:repeat(${size + 1},1.1rem)`,
      "aria-label": "Divergence of every pair of layers; each square tells its numbers" });
    for (let j = size - 1; j >= 0; j--) {
      grid.append(make("span", {}, `${j}`));
      for (let k = 0; k < size; k++) {
        const value = k > j ? run.divergence[j][k] : null;
        grid.append(value === null ? make("span") : make("span", { class: "layer", style: `--t:${value / Math.LN2}`,
          title: `layers ${j} and ${k}: ${number(value)} nats` }));
      }
    }
    grid.append(make("span"), ...Array.from({ length: size }, (_, k) => make("span", {}, `${k}`)));
    $("pairs").append(make("div", {}, two ? letter(i) : null, grid));
  });
}

// ------------------------------------------------------------------------------------------------------------- answers
const articles = [];
const blocks = new Map(); // number of an example -> the tokens of its answers, run by run

function tokensOf(index) {
  if (!blocks.has(index)) blocks.set(index, JSON.parse($(`tokens-${index}`).textContent));
  return blocks.get(index);
}

/** A token as it is read: line ends are marked, and one that adds no text is a dot. */
const spelled = (text) => (text === "" ? "·" : text.replace(/\n/g, "↵\n"));
const special = (text) => /^\s*<[^<>\s]+>$/.test(text);

function drawTokens(index, run) {
  const held = tokensOf(index)[run];
  const strip = make("div", { class: "tokens", role: "listbox", tabindex: held.texts.length > 0 && "0", dir: "auto",
    "data-run": run, "aria-label": `Tokens of ${page.examples[index].id}${two ? `, run ${LETTERS[run]}` : ""}; arrow keys move` });
  held.texts.forEach((text, at) => {
    const layer = held.exits[at];
    const differs = held.differs && held.differs[at];
    const classes = ["token", "layer", differs && "differs", special(text) && "special"];
    strip.append(make("span", { class: classes.filter(Boolean).join(" "), style: shade(run, layer), role: "option",
      tabindex: "-1", "data-index": index, "data-run": run, "data-at": at, "data-layer": layer, "aria-selected": "false",
      "aria-label": `${text.trim() || "space"}: layer ${layer}${differs ? ", differs" : ""}` }, spelled(text)));
  });
  return strip;
}

function fill(article) {
  if (article.dataset.filled) return;
  article.dataset.filled = "yes";
  const index = Number(article.dataset.example);
  const example = page.examples[index];
  const answers = make("div", { class: "answers" }, ...page.runs.map((run, i) => {
    const told = example.runs[i];
    const parts = [`${told.tokens} tokens`, told.layers === null ? null : `${number(told.layers, 2)} layers each`,
      told.score === null ? null : `${run.score} ${number(told.score, 1)}`];
    if (two) parts.push(told.differs ? `${told.differs} differ` : "same text");
    return make("div", {}, make("p", { class: "meta" }, two ? letter(i) : null, two ? " " : null,
      parts.filter(Boolean).join(" · ")), drawTokens(index, i));
  }));
  article.append(answers);
  example.references.forEach((text) => article.append(
    make("p", { class: "reference soft", dir: "auto" }, make("b", {}, "Reference: "), text)));
}

const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (!entry.isIntersecting) return;
  fill(entry.target);
  seen.unobserve(entry.target);
}), { rootMargin: "800px 0px" });

function drawExamples() {
  page.examples.forEach((example, index) => {
    const article = make("article", { "data-example": index }, make("h3", {}, example.id));
    articles.push(article);
    seen.observe(article);
  });
  $("examples").append(...articles);
}

// ------------------------------------------------------------------------------------------------------------- filters
const texts = page.examples.map((example) =>
  [...example.runs.map((run) => run.prediction), ...example.references].join("\n").toLowerCase());
const lowest = (example) => Math.min(...example.runs.map((run) => run.score ?? Infinity));
const deepest = (example) => Math.max(...example.runs.map((run) => run.layers ?? 0));
const scored = page.examples.some((example) => example.runs.some((run) => run.score !== null));

// What a choice is called -> which examples it shows, or by what number it orders them.
const SHOW = { "all answers": () => true };
const ORDER = { "as in the run": () => 0 };
if (two) SHOW["answers that differ"] = (example) => example.runs.some((run) => run.differs);
if (two) SHOW["answers that are the same"] = (example) => !example.runs.some((run) => run.differs);
if (two) ORDER["most different first"] = (example) => -Math.max(...example.runs.map((run) => run.differs));
if (scored) SHOW["scores below 100"] = (example) => lowest(example) < 100;
if (scored) ORDER["lowest score first"] = lowest;
ORDER["most layers first"] = (example) => -deepest(example);
ORDER["fewest layers first"] = deepest;

function filter() {
  const text = $("text").value.trim().toLowerCase();
  const name = $("example").value.trim().toLowerCase();
  const shows = SHOW[$("show").value];
  let count = 0;
  page.examples.forEach((example, index) => {
    const fits = texts[index].includes(text) && example.id.toLowerCase().includes(name) && shows(example);
    articles[index].hidden = !fits;
    count += fits;
  });
  $("count").value = count === articles.length ? `${whole(count)} examples` : `${whole(count)} of ${whole(articles.length)}`;
}

function order() {
  const by = ORDER[$("order").value];
  const sorted = page.examples.map((example, index) => [by(example), index]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  $("examples").append(...sorted.map(([, index]) => articles[index]));
}

let picked = null;

function pick(layer) {
  picked = picked === layer ? null : layer;
  // One rule, so that nothing is done token by token.
  $("picking").textContent = picked === null ? "" : `#examples .token:not([data-layer="${picked}"]) { opacity: 0.25; }`;
  document.querySelectorAll("[data-pick]").forEach((button) =>
    button.setAttribute("aria-pressed", String(Number(button.dataset.pick) === picked)));
}

// --------------------------------------------------------------------------------------------------------------- panel
/** How a token came to leave where it did, in a sentence. */
function story(held, at, run) {
  const { layers } = page.runs[run];
  const layer = held.exits[at];
  const sure = held.confidence ? held.confidence[at] : [];
  const threshold = held.threshold ? held.threshold[at] : page.runs[run].threshold;
  const bound = threshold === null || threshold === undefined ? "its threshold" : `the threshold ${Number(threshold.toFixed(3))}`;
  if (layer < layers) {
    const own = sure[layer - 1];
    return `Left after layer ${layer} of ${layers}` + (own === null || own === undefined ? "."
      : `: its confidence ${number(own)} is above ${bound}.`);
  }
  const tried = sure.filter((value) => value !== null);
  if (!tried.length) return `Ran all ${layers} layers; no exit was tried.`;
  return Math.max(...tried) <= threshold
    ? `Ran all ${layers} layers: no exit was surer than ${bound}.`
    : `Ran all ${layers} layers in the end: an exit was surer than ${bound}, and the full model had the last word.`;
}

function sureness(value, threshold) {
  if (value === null || value === undefined) return "-";
  const percent = (share) => `${100 * Math.min(1, Math.max(0, share))}%`;
  return make("span", {}, make("span", { class: "sure" }, make("i", { style: `width:${percent(value)}` }),
    threshold === undefined ? null : make("b", { style: `left:${percent(threshold)}` })), number(value));
}

/** The columns that a token has: what each is called, and its cell at a layer. */
function columns(held, at) {
  const has = (name) => held[name] && held[name][at];
  const cell = (name, layer, shown = whole) => {
    const value = has(name)[layer];
    return value === null || value === undefined ? "" : shown(value);
  };
  const found = [];
  if (has("confidence")) {
    const threshold = held.threshold && held.threshold[at];
    found.push(["confidence", (layer) => sureness(has("confidence")[layer - 1], threshold)]);
  }
  if (has("kept")) found.push(["kept", (layer) => cell("kept", layer - 1, (kept) => (kept ? whole(kept) : "-"))]);
  if (has("rows")) found.push(["rows", (layer) => cell("rows", layer - 1)]);
  if (has("says")) found.push(["says", (layer) => cell("says", layer, spelled)]);
  if (has("probability")) found.push(["with", (layer) => cell("probability", layer, (share) => number(share, 2))]);
  if (has("rank")) found.push(["rank", (layer) => cell("rank", layer)]);
  if (has("divergence")) found.push(["JSD", (layer) => cell("divergence", layer, (value) => number(value, 2))]);
  return found;
}

const MEANING = {
  confidence: "how sure the exit was; the line is the threshold",
  kept: "tokens still considered there",
  rows: "rows of the output matrix multiplied",
  says: "the token that the layer finds likeliest",
  with: "the probability it gives to that token",
  rank: "where the token that was written stands there; 1 is first",
  JSD: "divergence from the layer the token left at, in nats",
};

function layerTable(held, at) {
  const found = columns(held, at);
  const layer = held.exits[at];
  const from = held.rank || held.divergence ? 0 : 1;
  const rows = [];
  for (let each = from; each <= layer; each++) {
    rows.push(make("tr", { class: each === layer ? "left" : undefined }, make("th", { scope: "row" }, `${each}`),
      ...found.map(([name, cell]) => make("td", { class: name }, cell(each)))));
  }
  return [
    make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "layer"),
      ...found.map(([name]) => make("th", { scope: "col", title: MEANING[name] }, name)))), make("tbody", {}, ...rows)),
    make("dl", {}, ...found.flatMap(([name]) => [make("dt", {}, name), make("dd", {}, MEANING[name])]),
      make("dt", {}, "last line"), make("dd", {}, `where it left${from ? "" : "; layer 0 is the embedding"}`)),
  ];
}

function contrastTable(held, at) {
  const contrast = held.contrast && held.contrast[at];
  if (!contrast || contrast.amateur === null) return [];
  return [
    make("p", {}, `Contrast with layer ${contrast.amateur}, over ${whole(contrast.size)} plausible tokens:`),
    make("table", {}, make("thead", {}, make("tr", {}, ...["token", "here", `layer ${contrast.amateur}`, "contrasted"].map(
      (name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...contrast.texts.map((text, i) => make("tr", {}, make("td", { class: "says" }, spelled(text)),
      ...["p", "p_amateur", "s"].map((name) => make("td", {}, number(contrast[name][i]))))))),
  ];
}

function show(token) {
  const [index, run, at] = ["index", "run", "at"].map((name) => Number(token.dataset[name]));
  const held = tokensOf(index)[run];
  document.querySelectorAll(".token.shown").forEach((each) => each.classList.remove("shown"));
  token.classList.add("shown");
  const layer = held.exits[at];
  $("panel").replaceChildren(
    make("p", {}, make("span", { class: "chip layer", style: shade(run, layer), dir: "auto" }, spelled(held.texts[at]))),
    make("p", { class: "story" }, story(held, at, run)),
    make("p", { class: "note" }, `Token ${at + 1} of ${held.texts.length} of ${page.examples[index].id}, `,
      two ? letter(run) : null, two ? " " : null, page.runs[run].label,
      held.differs && held.differs[at] ? "; the other run has not this token here" : ""),
    ...layerTable(held, at), ...contrastTable(held, at));
  $("panel").scrollTop = 0;
  token.setAttribute("aria-description", story(held, at, run));
}

function drawPanel() {
  $("panel").append(make("p", { class: "soft" }, "Point at a token, or move to an answer with Tab and through its tokens "
    + "with the arrow keys, and read here what each layer thought of it. A click or the keys hold a token until Escape."));
}

// -------------------------------------------------------------------------------------------------------------- events
const tokenOf = (event) => event.target.closest && event.target.closest("#examples .token");
const focused = () => document.activeElement.closest("#examples .token");

/** The first token of the same run in the next example that is shown, or in the one before. */
function neighbour(strip, next) {
  const run = strip.dataset.run;
  let article = strip.closest("article");
  while ((article = next ? article.nextElementSibling : article.previousElementSibling)) {
    if (article.hidden) continue;
    fill(article);
    const found = article.querySelector(`.tokens[data-run="${run}"] .token`);
    if (found) return found;
  }
  return null;
}

function move(event) {
  const strip = event.target.closest && event.target.closest(".tokens");
  if (!strip) return;
  if (event.key === "Escape") return void document.activeElement.blur();
  const tokens = [...strip.children];
  const at = tokens.indexOf(event.target); // -1 on the strip itself
  const back = getComputedStyle(strip).direction === "rtl" ? "ArrowRight" : "ArrowLeft";
  const forth = back === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
  const next = {
    [forth]: () => tokens[Math.min(at + 1, tokens.length - 1)], [back]: () => tokens[Math.max(at - 1, 0)],
    Home: () => tokens[0], End: () => tokens[tokens.length - 1],
    ArrowDown: () => neighbour(strip, true), ArrowUp: () => neighbour(strip, false),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const found = next();
  if (found) found.focus();
}

function listen() {
  const examples = $("examples");
  examples.addEventListener("pointerover", (event) => {
    const token = tokenOf(event);
    if (token && !focused()) show(token);
  });
  examples.addEventListener("focusin", (event) => {
    const token = tokenOf(event);
    if (!token) return;
    show(token);
    token.scrollIntoView({ block: "nearest" });
  });
  examples.addEventListener("keydown", move);
  $("layers").addEventListener("click", (event) => {
    const button = event.target.closest("[data-pick]");
    if (button) pick(Number(button.dataset.pick));
  });
  ["text", "example"].forEach((id) => $(id).addEventListener("input", filter));
  $("show").addEventListener("change", filter);
  $("order").addEventListener("change", order);
  $("numbers").addEventListener("change", () => document.body.classList.toggle("numbers", $("numbers").checked));
  $("show").append(...Object.keys(SHOW).map((name) => make("option", {}, name)));
  $("order").append(...Object.keys(ORDER).map((name) => make("option", {}, name)));
}

drawHead();
drawRuns();
drawLayers();
drawPairs();
drawExamples();
drawPanel();
listen();
filter();
