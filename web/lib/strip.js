// The strip: one cell for each step of a run. Pure geometry, and the SVG that is drawn from it.

import { shape } from "./page.js";

const GAP = 0.3; // between two cells, in percent of the strip's width
let serial = 0;

/** Height of the strip in px; its width is that of what holds it. */
export const STRIP_HEIGHT = 24;

/** Height of a cell as a share of the strip: what was run in part, or skipped, is lower. */
const HEIGHT = { reused: 0.5, partial: 0.75, idle: 0.2, due: 0.2 };

// Mixed with the ink of the theme, each colour stands out from a dark ground and from a light one.
export const STRIP_STYLE = `
.sencache-strip, .sencache-key, .sencache-chart { --sc-ground: var(--sc-paper, var(--comfy-input-bg, #222));
  --sc-computed: color-mix(in srgb, #3f8fd6 80%, var(--sc-ink, var(--input-text, #ddd)));
  --sc-forced: color-mix(in srgb, #8b98a9 70%, var(--sc-ink, var(--input-text, #ddd)));
  --sc-partial: color-mix(in srgb, #12a37f 80%, var(--sc-ink, var(--input-text, #ddd)));
  --sc-reused: color-mix(in srgb, #e8931a 70%, var(--sc-ink, var(--input-text, #ddd)));
  --sc-idle: color-mix(in srgb, var(--sc-ground) 65%, var(--sc-ink, var(--input-text, #ddd))); }
.sencache-strip { display: block; width: 100%; height: ${STRIP_HEIGHT}px; overflow: visible; }
.sencache-key { display: inline-block; width: 13px; height: 13px; vertical-align: -2px; overflow: visible; }
.sencache-planned { opacity: 0.38; }
`;

/** Where each cell stands: `x` and `width` in percent of the strip, `y` and `height` in px. */
export function places(cells, height = STRIP_HEIGHT) {
  const pitch = 100 / Math.max(cells.length, 1);
  const gap = cells.length > 1 ? Math.min(GAP, 0.2 * pitch) : 0;
  return cells.map(({ decision }, i) => {
    const own = height * (HEIGHT[kind(decision)] ?? 1);
    return { x: i * pitch, width: pitch - gap, middle: (i + 0.5) * pitch, y: height - own, height: own };
  });
}

/** What a cell stands for, planned or done. */
export const kind = (decision) => decision.replace(/^planned-/, "");

function hatching(id) {
  const size = { width: 6, height: 6, patternUnits: "userSpaceOnUse" };
  const stripe = shape("path", { d: "M-1 4L4 -1M-1 10L10 -1M2 10L10 2", stroke: "var(--sc-ground)", "stroke-width": 1.2 });
  return shape("pattern", { id, ...size }, shape("rect", { width: 6, height: 6, fill: "var(--sc-reused)" }), stripe);
}

/** Height, hatching and dot tell the decisions apart without colour; what is to come is pale. */
function cell(decision, at, hatch, width = "%") {
  const is = kind(decision);
  const [x, wide, middle] = [at.x, at.width, at.x + at.width / 2].map((value) => `${value.toFixed(3)}${width}`);
  const group = shape("g", decision === is && is !== "due" ? {} : { class: "sencache-planned" });
  const fill = is === "reused" ? `url(#${hatch})` : `var(--sc-${is === "due" ? "idle" : is})`;
  group.append(shape("rect", { x, width: wide, y: at.y, height: at.height, rx: 1, fill }));
  if (is === "forced") group.append(shape("circle", { cx: middle, cy: at.y + at.height / 2, r: 2, fill: "var(--sc-ground)" }));
  return group;
}

/**
 * An SVG of one cell for each of `cells`, {decision, title}, where decision is "computed", "forced",
 * "partial", "reused" or "idle", with "planned-" before it for what is to come, or "due" for what
 * is to come and not planned. `label` says it all to who cannot see it; STRIP_STYLE belongs into the page.
 */
export function strip(cells, { label = "", height = STRIP_HEIGHT } = {}) {
  const hatch = `sencache-hatch-${++serial}`;
  const svg = shape("svg", { class: "sencache-strip", role: "img", "aria-label": label });
  svg.style.height = `${height}px`;
  svg.append(shape("defs", {}, hatching(hatch)));
  places(cells, height).forEach((at, i) => {
    const { decision, title } = cells[i];
    svg.append(cell(decision, at, hatch));
    if (!title) return;
    // The whole column is there to hover on: low cells are hard to hit.
    const column = { x: `${at.x}%`, width: `${100 / cells.length}%`, y: 0, height, fill: "transparent" };
    svg.append(shape("rect", column, shape("title", {}, title)));
  });
  return svg;
}

/** A small picture of one kind of cell, for a legend. */
export function key(decision) {
  const hatch = `sencache-hatch-${++serial}`;
  const svg = shape("svg", { class: "sencache-key", "aria-hidden": "true" });
  const [at] = places([{ decision }], 13);
  svg.append(shape("defs", {}, hatching(hatch)), cell(decision, { ...at, width: 100 }, hatch));
  return svg;
}
