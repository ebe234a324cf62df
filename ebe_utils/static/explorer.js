// The explorer: pick an input, a layer and k, and see which training examples vote. An ES module to the contract of
// anywidget, without dependencies. Votes are counted here by the rule of ebe_utils/votes.py.

// --- what the payload holds ---

const ARRAYS = { uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  return Object.assign(new ARRAYS[packed.dtype](bytes.buffer), { shape: packed.shape });
}

function opened(payload) {
  const p = { ...payload };
  for (const name of ["positions", "neighbors", "distances", "slots", "labels", "truths", "network", "proba"]) {
    if (p[name]) p[name] = unpack(p[name]);
  }
  [p.n, p.depth, p.most] = p.neighbors.shape;
  if (p.pictures.curves) p.pictures.curves = unpack(p.pictures.curves);
  if (p.map) {
    p.map = { ...p.map, layers: p.map.layers.map((one) => (
      { ...one, slots: unpack(one.slots), places: unpack(one.places) })) };
  }
  return p;
}

// --- votes ---

/** Weights of the k nearest, a row of `vote_weights`. */
function voteWeights(distances, how) {
  const k = distances.length;
  if (how === "uniform") return Array(k).fill(1 / k);
  let raw = Array.from(distances, (d) => (d === 0 ? 1 : 0));
  if (!raw.includes(1)) {
    const nearest = Math.min(...distances);
    raw = Array.from(distances, (d) => nearest / d);
  }
  const sum = raw.reduce((a, b) => a + b, 0);
  return raw.map((w) => w / sum);
}

/** The vote on input i at a layer: neighbours (slots), distances, weights, shares of all classes, and the winner, of
 * equal shares the class with the smallest index. Shares are rounded to twelve digits, so that equal ones are equal. */
function voteOf(p, i, layer, k, how) {
  const from = (i * p.depth + layer) * p.most;
  const near = p.neighbors.subarray(from, from + k);
  const distances = p.distances.subarray(from, from + k);
  const weights = voteWeights(distances, how);
  const shares = Array(p.classes.length).fill(0);
  near.forEach((slot, rank) => { shares[p.labels[slot]] += weights[rank]; });
  shares.forEach((share, c) => { shares[c] = Math.round(share * 1e12) / 1e12; });
  return { near, distances, weights, shares, winner: shares.indexOf(Math.max(...shares)) };
}

// --- small things ---

function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "line", "polyline", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const percent = (share) => {
  const value = 100 * share;
  return `${Math.abs(value - Math.round(value)) < 1e-6 ? Math.round(value) : value.toFixed(1)} %`;
};
const near = (d) => (d === 0 ? "0" : d < 0.001 || d >= 10000 ? d.toExponential(2) : d.toPrecision(3));
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// A class has a colour and a shape, 10 × 7 that differ. The colours are safe for the colour-blind: Okabe and Ito's, with
// a grey, and indigo and wine of Paul Tol's.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#8c8c8c", "#332288", "#882255"];
const colour = (c) => COLOURS[c % 10];

function shapePath(c, x, y, r) {
  const polygon = (...points) => `M${points.map(([a, b]) => `${(x + a * r).toFixed(1)} ${(y + b * r).toFixed(1)}`).join("L")}Z`;
  switch (c % 7) {
    case 0: return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
    case 1: return polygon([-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]);
    case 2: return polygon([0, -1.1], [1.05, 0.8], [-1.05, 0.8]);
    case 3: return polygon([0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]);
    case 4: return polygon([0, 1.1], [1.05, -0.8], [-1.05, -0.8]);
    case 5: return polygon([-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1],
      [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]);
    default: return polygon([0, -0.55], [0.65, -1.15], [1.15, -0.65], [0.55, 0], [1.15, 0.65], [0.65, 1.15], [0, 0.55],
      [-0.65, 1.15], [-1.15, 0.65], [-0.55, 0], [-1.15, -0.65], [-0.65, -1.15]);
  }
}

const glyph = (c) => h("svg", { viewBox: "-14 -14 28 28", class: "ebe-glyph", "aria-hidden": "true" },
  h("path", { d: shapePath(c, 0, 0, 10), fill: colour(c) }));

// --- pictures: a tile of the sprite, a text, or a curve ---

const CURVES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

function painter(p, sprite) {
  const { kind } = p.pictures;
  /** The picture of test input `at`, or of the training input in slot `at`; null where the page has none. */
  return (side, at, size, long = false) => {
    const number = side === "test" ? at : p.n + at;
    if (side === "train" && at >= p.pictures.count) {
      return h("span", { class: "ebe-none", style: `width:${size}px;height:${size}px` }, "no picture");
    }
    if (kind === "text") {
      const text = p.pictures[side][at];
      return h("span", { class: long ? "ebe-text ebe-long" : "ebe-text", title: text }, text);
    }
    if (kind === "series") {
      const [, channels, length] = p.pictures.curves.shape;
      const lines = [];
      for (let c = 0; c < Math.min(channels, 6); c += 1) {
        const values = p.pictures.curves.subarray((number * channels + c) * length, (number * channels + c + 1) * length);
        const points = Array.from(values, (v, t) => `${((t / Math.max(1, length - 1)) * 100).toFixed(1)},${(58 - (v / 65535) * 56).toFixed(1)}`);
        lines.push(h("polyline", { points: points.join(" "), fill: "none", stroke: CURVES[c],
          "stroke-dasharray": c ? `${c + 2} 2` : null, "vector-effect": "non-scaling-stroke" }));
      }
      return h("svg", { class: "ebe-curve", viewBox: "0 0 100 60", preserveAspectRatio: "none", "aria-hidden": "true",
        style: `width:${Math.round(size * 1.6)}px;height:${size}px` }, lines);
    }
    const { width, height, across, down, columns } = p.pictures;
    const canvas = h("canvas", { width, height, "aria-hidden": "true", class: "ebe-tile",
      style: `width:${Math.round((size * width) / Math.max(width, height))}px;height:${Math.round((size * height) / Math.max(width, height))}px` });
    canvas.getContext("2d").drawImage(sprite, (number % columns) * across, Math.floor(number / columns) * down, width,
      height, 0, 0, width, height);
    return canvas;
  };
}

// --- the page ---

const FILTERS = [
  ["all", "All", "every test input on this page"],
  ["wrong", "Network wrong", "the network's answer is not the true class"],
  ["divided", "Divided vote", "the winner has less than 60 % of the vote, at this layer and k"],
  ["differ", "Vote ≠ network", "the vote is not the network's answer, at this layer and k"],
];

async function render({ model, el }) {
  const p = opened(model.get("payload"));
  let sprite = null;
  if (p.pictures.kind === "image") {
    sprite = new Image();
    sprite.src = p.pictures.sprite;
    await sprite.decode();
  }
  const paint = painter(p, sprite);
  const input = { image: "image", text: "text", series: "series" }[p.pictures.kind];
  const inputs = p.pictures.kind === "series" ? "series" : `${input}s`;
  const keys = p.layers.map((layer) => layer.key);
  const titleOf = (l) => (p.layers[l].name === "pixels" && keys[l] === 0 ? "raw pixels"
    : typeof keys[l] === "number" ? `layer ${keys[l]}` : keys[l]);
  const shortOf = (l) => (p.layers[l].name === "pixels" && keys[l] === 0 ? "px" : typeof keys[l] === "number" ? keys[l] : l + 1);
  const clip = (value, low, high) => Math.min(high, Math.max(low, Number.isFinite(value) ? Math.round(value) : low));
  const state = { filter: "all", truth: -1, example: -1 };
  const read = () => {
    state.image = clip(model.get("image"), 0, p.n - 1);
    const found = keys.findIndex((key) => String(key) === String(model.get("layer")));
    state.layer = found < 0 ? 0 : found;
    state.k = clip(model.get("k"), 1, p.most);
    state.weights = model.get("weights") === "distance" ? "distance" : "uniform";
  };
  read();
  const vote = (i, l = state.layer) => voteOf(p, i, l, state.k, state.weights);

  // What the reader changes goes to the model, which Python may read; what Python changes comes back.
  let changing = false;
  function change(values) {
    changing = true;
    for (const [name, value] of Object.entries(values)) {
      if (name in { image: 1, layer: 1, k: 1, weights: 1 }) model.set(name, name === "layer" ? keys[value] : value);
      else state[name] = value;
    }
    changing = false;
    model.save_changes();
    read();
    update();
  }
  const names = ["image", "layer", "k", "weights"];
  const listen = () => { if (!changing) { read(); update(); } };

  // The parts that stay; `update` fills them.
  const id = `ebe${Math.random().toString(36).slice(2, 8)}`;
  const grid = h("div", { class: `ebe-grid ebe-of-${p.pictures.kind}`, role: "listbox", tabindex: "0", "aria-label": `Test ${inputs}`,
    onkeydown: gridKeys });
  const cells = Array.from({ length: p.n }, (_, i) => h("div", { role: "option", id: `${id}-${i}`, class: "ebe-cell",
    onclick: () => change({ image: i }) }, paint("test", i, 40), h("span", { class: "ebe-marks", "aria-hidden": "true" })));
  grid.append(...cells);
  const none = h("p", { class: "ebe-empty", hidden: true });
  const chips = FILTERS.filter(([name]) => p.network || name === "all" || name === "divided").map(([name, text, hint]) => h(
    "button", { type: "button", class: "ebe-chip", "data-filter": name, title: hint, onclick: () => change({ filter: name }) },
    text, " ", h("span", { class: "ebe-count" })));
  const truth = h("select", { "aria-label": "true class", onchange: (event) => change({ truth: Number(event.target.value) }) },
    h("option", { value: -1 }, "any class"), p.classes.map((name, c) => h("option", { value: c }, name)));
  const slider = h("input", { type: "range", min: 0, max: p.depth - 1, step: 1, class: "ebe-layer", "aria-label": "layer",
    oninput: (event) => change({ layer: Number(event.target.value) }) });
  const kSlider = h("input", { type: "range", min: 1, max: p.most, step: 1, id: `${id}-k`, class: "ebe-k",
    oninput: (event) => change({ k: Number(event.target.value) }) });
  const kShown = h("output", { class: "ebe-number", for: `${id}-k` });
  const weighing = ["uniform", "distance"].map((how) => h("label", {}, h("input", { type: "radio", name: `${id}-weights`,
    value: how, onchange: () => change({ weights: how }) }), ` ${how}`));
  const play = h("button", { type: "button", class: "ebe-play", onclick: toggle });
  const said = h("p", { class: "ebe-said", "aria-live": "polite" });
  const shown = h("div", { class: "ebe-shown" });
  const bars = h("div", { class: "ebe-bars" });
  const strip = h("div", { class: "ebe-strip", role: "group", "aria-label": "the vote at every layer" });
  const stripSaid = h("p", { class: "ebe-note" });
  const columns = p.layers.map((layer, l) => h("button", { type: "button", class: "ebe-column", tabindex: "-1",
    onclick: () => change({ layer: l }) }));
  strip.append(...columns);
  const list = h("ol", { class: `ebe-examples ebe-of-${p.pictures.kind}` });
  const listHead = h("h3");
  const listSaid = h("p", { class: "ebe-note" });
  const mapBox = h("div", { class: "ebe-map" });
  const shared = h("div", { class: "ebe-shared" });
  const key = h("ul", { class: "ebe-key", "aria-label": "classes" }, p.classes.slice(0, 70).map(
    (name, c) => h("li", {}, glyph(c), name)));

  const chosen = { all: "all of them", mixed: "up to half of them drawn from those that the network gets wrong or where the "
    + "vote is not its answer, so shares here are not those of the test set", random: "drawn at random", given: "chosen by hand" }[p.chosen];
  const about = `${count(p.n, `test ${input}`, `test ${inputs}`)} of ${p.n_test.toLocaleString("en")} (${chosen}), `
    + `${p.n_train.toLocaleString("en")} training ${inputs}, ${p.metric} distance.`
    + (p.pictures.lossless === false ? " Pictures are JPEG copies." : "");
  const root = h("div", { class: "ebe-x", style: `--depth:${p.depth}` }, h("div", { class: `ebe-layout ebe-with-${p.pictures.kind}` },
    h("section", { class: "ebe-pick", "aria-label": `choose a test ${input}` }, h("h3", {}, `Test ${inputs}`),
      h("div", { class: "ebe-chips", role: "group", "aria-label": "filter" }, chips, truth), grid, none,
      h("p", { class: "ebe-note" }, about)),
    h("section", { class: "ebe-answer", "aria-label": "the answer" },
      h("div", { class: "ebe-now" }, shown, said, bars),
      h("div", { class: "ebe-controls" },
        h("div", { class: "ebe-head" }, h("h3", { class: "ebe-where" }), play),
        strip, slider),
      h("div", { class: "ebe-row" }, h("label", { for: `${id}-k` }, "k, the number of examples "), kSlider, kShown,
        h("span", { role: "radiogroup", "aria-label": "votes", class: "ebe-weights" }, "votes:", weighing)),
      stripSaid, listHead, list, listSaid),
    h("section", { class: "ebe-side", "aria-label": "map and shared examples" }, mapBox, shared),
    h("section", { class: "ebe-classes", "aria-label": "key" }, key)));
  el.replaceChildren(root);

  let visible = cells.map((_, i) => i);
  function gridKeys(event) {
    const at = visible.indexOf(state.image);
    const tops = visible.map((i) => cells[i].offsetTop);
    const across = Math.max(1, tops.filter((top) => top === tops[0]).length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -at, End: visible.length - 1 - at }[event.key];
    if (step === undefined || !visible.length) return;
    event.preventDefault();
    const to = at < 0 ? 0 : at + step;
    if (to >= 0 && to < visible.length) change({ image: visible[to] });
  }

  let timer = null;
  function toggle() {
    if (timer) { clearInterval(timer); timer = null; } else {
      const step = () => {
        if (state.layer < p.depth - 1) change({ layer: state.layer + 1 });
        if (state.layer === p.depth - 1) { clearInterval(timer); timer = null; update(); }
      };
      timer = setInterval(step, 1100);
      change({ layer: state.layer === p.depth - 1 ? 0 : state.layer });
    }
    update();
  }

  function update() {
    const { image: i, layer: l, k } = state;
    const now = vote(i);
    if (state.shownFor !== i || !now.near.includes(state.example)) [state.example] = now.near;
    state.shownFor = i;
    updateGrid();
    slider.value = l;
    slider.setAttribute("aria-valuetext", `${titleOf(l)}: ${p.classes[now.winner]}, ${percent(now.shares[now.winner])}`);
    kSlider.value = k;
    kShown.textContent = k;
    for (const label of weighing) label.firstChild.checked = label.firstChild.value === state.weights;
    play.textContent = timer ? "❚❚ stop" : "▶ play";
    play.setAttribute("aria-label", timer ? "stop" : "play through the layers");
    updateAnswer(now);
    updateStrip();
    updateExamples(now);
    updateMap(now);
    updateShared();
  }

  function updateGrid() {
    const votes = cells.map((_, i) => vote(i));
    const is = { all: () => true, wrong: (i) => p.network && p.network[i] !== p.truths[i],
      divided: (i) => votes[i].shares[votes[i].winner] < 0.6, differ: (i) => p.network && p.network[i] !== votes[i].winner };
    const ofClass = (i) => state.truth < 0 || p.truths[i] === state.truth;
    for (const chip of chips) {
      const name = chip.dataset.filter;
      chip.setAttribute("aria-pressed", name === state.filter);
      chip.querySelector(".ebe-count").textContent = cells.filter((_, i) => is[name](i) && ofClass(i)).length;
    }
    visible = cells.map((_, i) => i).filter((i) => is[state.filter](i) && ofClass(i));
    const inside = new Set(visible);
    cells.forEach((cell, i) => {
      cell.hidden = !inside.has(i);
      const marks = [is.wrong(i) && ["✗", "the network is wrong"], is.differ(i) && ["≠", "the vote is not the network's answer"]].filter(Boolean);
      cell.querySelector(".ebe-marks").textContent = marks.map(([mark]) => mark).join("");
      cell.setAttribute("aria-selected", i === state.image);
      cell.setAttribute("aria-label", [`test ${input} ${p.positions[i]}`, `class ${p.classes[p.truths[i]]}`,
        ...marks.map(([, text]) => text)].join(", "));
    });
    grid.setAttribute("aria-activedescendant", inside.has(state.image) ? `${id}-${state.image}` : "");
    none.hidden = visible.length > 0;
    none.textContent = visible.length ? "" : `No test ${input} here at ${titleOf(state.layer)} with k = ${state.k}.`;
    const cell = cells[state.image];
    if (!cell.hidden && state.scrolledTo !== state.image) {
      state.scrolledTo = state.image;  // only the grid is scrolled, never the page
      if (cell.offsetTop < grid.scrollTop || cell.offsetTop + cell.offsetHeight > grid.scrollTop + grid.clientHeight) {
        grid.scrollTop = cell.offsetTop - grid.clientHeight / 2;
      }
      if (cell.offsetLeft < grid.scrollLeft || cell.offsetLeft + cell.offsetWidth > grid.scrollLeft + grid.clientWidth) {
        grid.scrollLeft = cell.offsetLeft - grid.clientWidth / 2;
      }
    }
  }

  const named = (c) => h("span", { class: "ebe-class" }, glyph(c), h("span", {}, p.classes[c] ?? String(c)));

  function updateAnswer(now) {
    const { image: i, layer: l, k } = state;
    const w = now.winner;
    const same = p.network && p.network[i] === w;
    shown.replaceChildren(paint("test", i, 112, true), h("p", {}, `Test ${input} ${p.positions[i]}`, h("br"), "true class ",
      named(p.truths[i])));
    const agree = now.near.reduce((sum, slot) => sum + (p.labels[slot] === w), 0);
    const tied = now.shares.map((_, c) => c).filter((c) => c !== w && now.shares[c] === now.shares[w]);
    const parts = [k === 1 ? `At ${titleOf(l)}, the nearest example is of class `
      : `At ${titleOf(l)}, ${agree} of the ${k} nearest examples ${agree === 1 ? "is" : "are"} of class `, named(w),
    k === 1 ? ", and is the whole vote. " : `, and the vote is ${percent(now.shares[w])} for it. `];
    if (tied.length) parts.push("As much is for ", tied.flatMap((c) => [named(c), ", "]), "and of equal shares the first class wins. ");
    if (p.network) {
      parts.push("The network says ", named(p.network[i]), p.proba ? ` (${percent(p.proba[i * p.proba.shape[1] + p.network[i]])})` : "",
        h("strong", {}, same ? ": the same answer." : ": another answer. This vote explains an answer that the network did not give."));
      if (p.network[i] !== p.truths[i]) parts.push(h("strong", {}, " The network is wrong."));
    } else parts.push("What the network says cannot be compared: it is not known, or its classes are others.");
    said.replaceChildren(...parts.flat());
    Object.assign(said.dataset, { vote: w, share: now.shares[w] });
    const proba = (c) => (p.proba ? p.proba[i * p.proba.shape[1] + c] : 0);
    const rows = p.classes.map((_, c) => c).filter((c) => now.shares[c] > 0 || proba(c) >= 0.0005)
      .sort((a, b) => Math.max(now.shares[b], proba(b)) - Math.max(now.shares[a], proba(a)) || a - b).slice(0, 6);
    const bar = (kind, share, c) => h("span", { class: `ebe-bar ebe-${kind}`, style: `--class:${colour(c)}` }, h("span", { style: `width:${100 * share}%` }),
      h("em", {}, percent(share)));
    bars.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "class"), h("th", { scope: "col" }, "vote"),
      p.proba ? h("th", { scope: "col" }, "network's softmax") : "")), h("tbody", {}, rows.map((c) => h("tr", { "data-class": c,
      "data-share": now.shares[c], "data-proba": p.proba ? proba(c) : null }, h("th", { scope: "row" }, named(c)),
    h("td", {}, bar("vote", now.shares[c], c)), p.proba ? h("td", {}, bar("network", proba(c), c)) : "")))));
    if (p.proba) {
      const distance = p.classes.reduce((sum, _, c) => sum + Math.abs(now.shares[c] - proba(c)), 0) / 2;
      bars.append(h("p", { class: "ebe-note" }, `Total variation between the two: ${distance.toFixed(2)} (0: the same, 1: nothing in common).`));
    }
  }

  function updateStrip() {
    const { image: i, layer: l } = state;
    const votes = p.layers.map((_, at) => vote(i, at));
    columns.forEach((column, at) => {
      const { shares, winner } = votes[at];
      const order = shares.map((_, c) => c).filter((c) => shares[c] > 0).sort((a, b) => (b === winner) - (a === winner) || shares[b] - shares[a] || a - b);
      const differs = p.network && p.network[i] !== winner;
      column.replaceChildren(
        h("span", { class: "ebe-stack" }, order.map((c) => h("span", { class: c === winner ? "ebe-winner" : "ebe-other",
          style: `height:${100 * shares[c]}%;background:${colour(c)}` }))),
        glyph(winner), h("span", { class: "ebe-differs" }, differs ? "≠" : ""), h("span", { class: "ebe-at" }, String(shortOf(at))));
      column.setAttribute("aria-pressed", at === l);
      column.setAttribute("aria-label", `${titleOf(at)}: ${p.classes[winner]}, ${percent(shares[winner])}${differs ? ", not the network's answer" : ""}`);
      column.title = column.getAttribute("aria-label");
      Object.assign(column.dataset, { vote: winner, share: shares[winner] });
    });
    root.querySelector(".ebe-where").replaceChildren(titleOf(l).replace(/^(layer|raw) /, (word) => word[0].toUpperCase() + word.slice(1)),
      h("small", {}, p.layers[l].name === titleOf(l) || keys[l] === 0 ? ` ${p.layers[l].dimension.toLocaleString("en")} numbers`
        : ` ${p.layers[l].name}, ${p.layers[l].dimension.toLocaleString("en")} numbers`));
    const agreeing = votes.filter((v) => p.network && v.winner === p.network[i]).length;
    const changes = votes.filter((v, at) => at && v.winner !== votes[at - 1].winner).length;
    stripSaid.textContent = `Each bar is a layer: the winner's share stands at the bottom, its mark below`
      + `${p.network ? "; ≠ where that is not the network's answer" : ""}. The answer ${changes ? `changes ${count(changes, "time")}` : "does not change"} from left to right`
      + `${p.network ? `, and is the network's at ${agreeing} of ${p.depth}` : ""}.`;
  }

  function updateExamples(now) {
    const { image: i, layer: l, k } = state;
    listHead.textContent = k === 1 ? `The nearest training ${input}` : `The ${k} nearest training ${inputs}`;
    list.replaceChildren(...Array.from(now.near, (slot, rank) => {
      const label = p.labels[slot];
      const other = label !== now.winner;
      return h("li", {}, h("button", { type: "button", class: other ? "ebe-card ebe-off" : "ebe-card", style: `--class:${colour(label)}`,
        "aria-pressed": slot === state.example, "data-index": p.slots[slot], "data-class": label, "data-distance": now.distances[rank],
        "data-weight": now.weights[rank], onclick: () => change({ example: slot }),
        "aria-label": `rank ${rank + 1}: training ${input} ${p.slots[slot]}, class ${p.classes[label]}${other ? ", not the vote's class" : ""}, `
          + `distance ${near(now.distances[rank])}, weight ${percent(now.weights[rank])}` },
      paint("train", slot, 56), h("span", { class: "ebe-class" }, glyph(label), h("span", {}, p.classes[label])),
      h("span", { class: "ebe-number" }, near(now.distances[rank]))));
    }));
    const parts = [`Nearest first, with class and ${p.metric} distance; a broken frame: not the vote's class.`];
    if (l) {
      const before = new Set(vote(i, l - 1).near);
      parts.push(` ${Array.from(now.near).filter((slot) => before.has(slot)).length} of the ${k} are also among the ${k} nearest at ${titleOf(l - 1)}.`);
    }
    if (p.pictures.rank < k) parts.push(` The page has room for pictures of the first ${count(p.pictures.rank, "example")} of every ${input}, and of some more.`);
    listSaid.textContent = parts.join("");
  }

  function updateShared() {
    const slot = state.example;
    const users = [];
    for (let i = 0; i < p.n; i += 1) {
      const rank = vote(i).near.indexOf(slot);
      if (rank >= 0) users.push([i, rank]);
    }
    users.sort((a, b) => a[1] - b[1] || a[0] - b[0]);
    shared.replaceChildren(h("h3", {}, "Who shares this example?"),
      h("div", { class: "ebe-which" }, paint("train", slot, 48), h("p", {}, `Training ${input} ${p.slots[slot]} (`, named(p.labels[slot]),
        `) is among the ${state.k} nearest of ${count(users.length, `test ${input}`, `test ${inputs}`)} on this page at ${titleOf(state.layer)}.`)),
      h("div", { class: `ebe-users ebe-of-${p.pictures.kind}` }, users.slice(0, 24).map(([i, rank]) => h("button", { type: "button", class: "ebe-user",
        "data-image": i, "aria-pressed": i === state.image, onclick: () => change({ image: i }),
        "aria-label": `test ${input} ${p.positions[i]}, class ${p.classes[p.truths[i]]}, where it is number ${rank + 1}` },
      paint("test", i, 36), h("span", { class: "ebe-number" }, `no. ${rank + 1}`)))),
      users.length > 24 ? h("p", { class: "ebe-note" }, `and ${users.length - 24} more`) : "");
  }

  // --- the map ---

  const place = (layer, at) => [20 + (layer.places[2 * at] / 65535) * 560, 580 - (layer.places[2 * at + 1] / 65535) * 560];
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  let drawn = null;  // {layer, places: Map(number → [x, y])}, where the map stands now
  let frame = 0;

  function targets(l) {
    const layer = p.map.layers[l];
    const places = new Map();
    for (let i = 0; i < p.n; i += 1) places.set(-1 - i, place(layer, i));
    layer.slots.forEach((slot, at) => places.set(slot, place(layer, p.n + at)));
    return places;
  }

  function updateMap(now) {
    if (!p.map) {
      if (!mapBox.firstChild) {
        mapBox.replaceChildren(h("h3", {}, "Map"), h("p", { class: "ebe-note" },
          "There is no map: neither the network nor its embeddings were at hand when this page was made, or none was asked for."));
      }
      return;
    }
    const { layer: l, image: i } = state;
    const to = targets(l);
    const from = drawn && drawn.layer !== l && !calm ? drawn.places : null;
    const draw = (share) => {
      const places = new Map();
      for (const [number, [x, y]] of to) {
        const old = from && from.get(number);
        places.set(number, old && share < 1 ? [old[0] + (x - old[0]) * share, old[1] + (y - old[1]) * share] : [x, y]);
      }
      drawMap(now, places);
      drawn = { layer: l, places };
    };
    cancelAnimationFrame(frame);
    const start = performance.now();
    const tick = (time) => {
      const t = from ? Math.min(1, Math.max(0, time - start) / 450) : 1;
      draw(t * t * (3 - 2 * t));
      if (t < 1) frame = requestAnimationFrame(tick);
    };
    if (from) { draw(0); frame = requestAnimationFrame(tick); } else draw(1);
    drawn.layer = l;
    const layer = p.map.layers[l];
    const how = p.map.projection === "pca"
      ? `the first two principal components of ${p.map.sample} training embeddings, with ${percent(layer.explained)} of their variance`
      : `t-SNE of the first 50 principal components; distances between groups mean nothing in it`;
    mapHead.textContent = `Map of ${titleOf(l)}`;
    mapSaid.textContent = `Each mark is a training ${input}; the star is test ${input} ${p.positions[i]}, tied to its `
      + `${Math.min(state.k, p.map.examples)} nearest. Drawn by ${how}${p.metric === "cosine" ? " (vectors scaled to length 1)" : ""}. `
      + "Two dimensions are a shadow: what is near in the layer may lie apart here.";
    svg.setAttribute("aria-label", `Map of the embedding at ${titleOf(l)}: test ${input} ${p.positions[i]} and its nearest examples among training ${inputs}`);
  }

  const mapHead = h("h3");
  const mapSaid = h("p", { class: "ebe-note" });
  const svg = h("svg", { viewBox: "0 0 600 600", role: "img" });
  const tip = h("div", { class: "ebe-tip", hidden: true });
  if (p.map) {
    mapBox.append(mapHead, h("div", { class: "ebe-canvas" }, svg, tip), mapSaid);
    svg.addEventListener("pointermove", (event) => {
      const slot = under(event);
      tip.hidden = slot === null;
      if (slot === null) return;
      const box = svg.getBoundingClientRect();
      const [x, y] = drawn.places.get(slot);
      tip.replaceChildren(paint("train", slot, 48), h("span", { class: "ebe-class" }, glyph(p.labels[slot]), h("span", {}, p.classes[p.labels[slot]])));
      tip.style.left = `${Math.min(box.width - 90, (x / 600) * box.width + 12)}px`;
      tip.style.top = `${Math.min(box.height - 90, (y / 600) * box.height + 12)}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
    svg.addEventListener("click", (event) => {
      const slot = under(event);
      if (slot !== null && vote(state.image).near.includes(slot)) change({ example: slot });
    });
  }

  function under(event) {
    const box = svg.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) / box.width) * 600, ((event.clientY - box.top) / box.height) * 600];
    let best = null;
    let least = 14 ** 2;
    for (const [number, [a, b]] of drawn.places) {
      const d = (a - x) ** 2 + (b - y) ** 2;
      if (number >= 0 && d < least) [best, least] = [number, d];
    }
    return best;
  }

  function drawMap(now, places) {
    const paths = new Map();
    for (const [number, [x, y]] of places) {
      if (number < 0) continue;
      const c = p.labels[number];
      paths.set(c, (paths.get(c) ?? "") + shapePath(c, Number(x.toFixed(1)), Number(y.toFixed(1)), 5));
    }
    const [x, y] = places.get(-1 - state.image);
    const lit = Array.from(now.near).slice(0, p.map.examples).filter((slot) => places.has(slot));
    svg.replaceChildren(
      h("g", { class: "ebe-cloud" }, [...paths].sort(([a], [b]) => a - b).map(([c, d]) => h("path", { d, fill: colour(c) }))),
      h("g", { class: "ebe-ties" }, lit.map((slot) => h("line", { x1: x, y1: y, x2: places.get(slot)[0], y2: places.get(slot)[1] }))),
      h("g", { class: "ebe-lit" }, lit.map((slot) => h("path", { d: shapePath(p.labels[slot], ...places.get(slot), 12), fill: colour(p.labels[slot]),
        class: slot === state.example ? "ebe-selected" : null }))),
      h("path", { class: "ebe-star", d: star(x, y, 21) }));
  }

  const star = (x, y, r) => `M${Array.from({ length: 10 }, (_, i) => {
    const [a, s] = [(Math.PI * i) / 5 - Math.PI / 2, i % 2 ? 0.45 * r : r];
    return `${(x + s * Math.cos(a)).toFixed(1)} ${(y + s * Math.sin(a)).toFixed(1)}`;
  }).join("L")}Z`;

  update();
  for (const name of names) model.on(`change:${name}`, listen);
  return () => {
    clearInterval(timer);
    cancelAnimationFrame(frame);
    for (const name of names) model.off(`change:${name}`, listen);
  };
}

export default { render };
