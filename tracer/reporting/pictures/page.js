"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

function decoded(text, Type) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return new Type(bytes.buffer);
}

const events = {
  step: decoded(data.events.step, Uint16Array),
  cell: decoded(data.events.cell, Uint32Array),
  kind: decoded(data.events.kind, Uint8Array),
  fresh: decoded(data.events.new, Uint32Array),
  gone: decoded(data.events.gone, Uint32Array),
};

// --- what each cell is at a moment -------------------------------------------

const cells = data.islands.reduce((sum, island) => sum + island.cells, 0);
const had = new Int32Array(cells); // pages that have had a frame
const gone = new Int32Array(cells); // pages that lost it for good
const kind = new Uint8Array(cells);
const gainedAt = new Int32Array(cells); // the step of the last gain
let applied = 0;
let shownStep = -1;

function seek(step) {
  if (step < shownStep) {
    had.fill(0);
    gone.fill(0);
    applied = 0;
  }
  for (; applied < events.step.length && events.step[applied] <= step; applied++) {
    const cell = events.cell[applied];
    had[cell] += events.fresh[applied];
    gone[cell] += events.gone[applied];
    if (events.kind[applied] !== 255) {
      kind[cell] = events.kind[applied];
      gainedAt[cell] = events.step[applied];
    }
  }
  shownStep = step;
}

// --- where each cell is --------------------------------------------------------

const canvas = document.getElementById("map");
const LABEL = 15;
const GAP = 12;
let side = 9;
let blocks = [];

function layout(width) {
  side = cells > 9000 ? 6 : cells > 1500 ? 8 : 11;
  blocks = [];
  let x = 0;
  let y = 0;
  let tallest = 0;
  for (const island of data.islands) {
    const most = Math.floor(width / side);
    const across = Math.min(island.cells, Math.max(most > 64 ? 64 : most, Math.ceil(Math.sqrt(island.cells * 4))), most);
    const rows = Math.ceil(island.cells / across);
    const room = Math.max(across * side, 92);
    if (x > 0 && x + room > width) {
      x = 0;
      y += tallest + GAP;
      tallest = 0;
    }
    blocks.push({ island, x, y, across, rows, room });
    x += room + GAP;
    tallest = Math.max(tallest, LABEL + rows * side);
  }
  return y + tallest;
}

// --- drawing -------------------------------------------------------------------

function pagesIn(island, place) {
  return Math.min(data.per_cell, island.pages - place * data.per_cell);
}

function drawCell(context, x, y, cell, pages) {
  const size = side - 1;
  if (had[cell] === 0) {
    context.globalAlpha = 1;
    context.fillStyle = "#eceff2";
    context.fillRect(x, y, size, size);
    return;
  }
  const colour = data.kinds[kind[cell]].colour;
  const left = Math.max(0, Math.min(had[cell], pages) - gone[cell]);
  if (left === 0) {
    context.globalAlpha = 0.75;
    context.strokeStyle = colour;
    context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
    return;
  }
  context.globalAlpha = 0.4 + (0.6 * left) / pages;
  context.fillStyle = colour;
  context.fillRect(x, y, size, size);
  const age = shownStep - gainedAt[cell];
  const glow = Math.max(2, data.steps * 0.015);
  if (age < glow && shownStep < data.steps) {
    context.globalAlpha = 0.85 * (1 - age / glow);
    context.fillStyle = "#ffef9f";
    context.fillRect(x + size / 4, y + size / 4, size / 2, size / 2);
  }
}

function clipped(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 1 && context.measureText(text.slice(0, end) + "…").width > room) end--;
  return text.slice(0, end) + "…";
}

function shortName(island) {
  const base = island.name.startsWith("/") ? island.name.split("/").pop() : island.name;
  return (island.owner ? island.owner + ": " : "") + (base || island.name);
}

function draw() {
  const width = canvas.clientWidth || 1000;
  const height = Math.max(layout(width), 20);
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  context.textBaseline = "top";
  context.lineWidth = 1;
  for (const block of blocks) {
    const { island, x, y, across, room } = block;
    context.globalAlpha = 1;
    context.fillStyle = "#667080";
    context.fillText(clipped(context, shortName(island), room), x, y);
    for (let place = 0; place < island.cells; place++) {
      const left = x + (place % across) * side;
      const top = y + LABEL + Math.floor(place / across) * side;
      drawCell(context, left, top, island.cell + place, pagesIn(island, place));
    }
  }
}

// --- words -----------------------------------------------------------------------

const slider = document.getElementById("time");
const play = document.getElementById("play");
const now = document.getElementById("now");

function bytes(pages) {
  let value = pages * 4;
  for (const unit of ["KiB", "MiB", "GiB"]) {
    if (value < 1000 || unit === "GiB") return value.toPrecision(3).replace(/\.?0+$/, "") + " " + unit;
    value /= 1024;
  }
  return "";
}

function show(step) {
  seek(step);
  draw();
  const seconds = ((data.seconds * step) / data.steps).toFixed(3);
  const faults = data.faults[step].toLocaleString("en");
  const pages = data.mapped[step];
  now.textContent = `${seconds} s · ${faults} faults · ${bytes(pages) || "0"} mapped`;
}

function legend() {
  const used = new Set(events.kind);
  const box = document.getElementById("legend");
  data.kinds.forEach((each, number) => {
    if (!used.has(number)) return;
    const mark = document.createElement("i");
    mark.style.background = each.colour;
    box.append(mark, each.name || "not known");
  });
  const rest = data.per_cell === 1 ? "a cell is one page" : `a cell is ${data.per_cell} pages`;
  box.append(document.createElement("br"));
  box.append(`${rest}; grey: no frame yet; outlined: released; bright: just gained`);
}

canvas.addEventListener("mousemove", (event) => {
  const box = canvas.getBoundingClientRect();
  const x = event.clientX - box.left;
  const y = event.clientY - box.top;
  const line = document.getElementById("cell");
  for (const block of blocks) {
    const column = Math.floor((x - block.x) / side);
    const row = Math.floor((y - block.y - LABEL) / side);
    if (column < 0 || column >= block.across || row < 0 || row >= block.rows) continue;
    const place = row * block.across + column;
    const island = block.island;
    if (place >= island.cells) continue;
    const pages = pagesIn(island, place);
    const first = (BigInt("0x" + island.page) + BigInt(place * data.per_cell)) << 12n;
    const last = first + (BigInt(pages) << 12n);
    const cell = island.cell + place;
    const left = Math.max(0, Math.min(had[cell], pages) - gone[cell]);
    const what = had[cell] ? data.kinds[kind[cell]].name || "not known" : "no frame yet";
    line.textContent =
      `${island.owner ? island.owner + ": " : ""}${island.name} ` +
      `0x${first.toString(16)}–0x${last.toString(16)}: ` +
      `${left} of ${pages} page${pages === 1 ? "" : "s"} with a frame, ${what}`;
    return;
  }
});

// --- time --------------------------------------------------------------------------

let playing = false;
let begun = 0;
const LENGTH = 12_000; // milliseconds for the whole run

function tick(time) {
  if (!playing) return;
  const step = Math.min(data.steps, Math.floor(((time - begun) * data.steps) / LENGTH));
  slider.value = String(step);
  show(step);
  if (step >= data.steps) stop();
  else requestAnimationFrame(tick);
}

function start() {
  const from = Number(slider.value) >= data.steps ? 0 : Number(slider.value);
  playing = true;
  begun = performance.now() - (from * LENGTH) / data.steps;
  play.textContent = "Pause";
  play.setAttribute("aria-pressed", "true");
  requestAnimationFrame(tick);
}

function stop() {
  playing = false;
  play.textContent = "Play";
  play.setAttribute("aria-pressed", "false");
}

play.addEventListener("click", () => (playing ? stop() : start()));
slider.addEventListener("input", () => {
  stop();
  show(Number(slider.value));
});
window.addEventListener("resize", draw);

// --- tables ------------------------------------------------------------------------

function sort(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const up = header.getAttribute("aria-sort") === "descending";
  const numeric = header.classList.contains("number");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value;
  const order = numeric
    ? (a, b) => Number(value(a)) - Number(value(b))
    : (a, b) => value(a).localeCompare(value(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
  table.tBodies[0].append(...rows);
}

for (const header of document.querySelectorAll("th")) {
  header.firstElementChild.addEventListener("click", () => sort(header));
}

slider.max = String(data.steps);
slider.value = String(data.steps);
legend();
show(data.steps);
