// Builds the viewer's DOM from a payload. Knows the browser, not ComfyUI.

import { columns, counts, headline, hover, lines, mask, named, planned, rows, settings } from "./report.js";
import { VIEW, cellHeight, curves, path, stripCells, ticks } from "./chart.js";
import { told } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
let serial = 0;

// Every class has our prefix: the frontend's own stylesheet gives names such as "table" a meaning.
// The page is laid over the box that the frontend sizes, so that what is in it never sizes the node.
export const STYLE = `
.sencache-view { --sc-ink: var(--input-text, #ddd); --sc-dim: var(--descrip-text, #999);
  --sc-line: var(--border-color, #4e4e4e); --sc-computed: #5b9bd5; --sc-forced: #8b98a9;
  --sc-partial: #35a08a; --sc-idle: #8886; --sc-reused: #f0a63a; --sc-paper: var(--comfy-input-bg, #222);
  position: relative; box-sizing: border-box; width: 100%; height: 100%; min-height: 300px; overflow: hidden;
  border-radius: 6px; background: var(--sc-paper); color: var(--sc-ink); font: 12px/1.45 system-ui, sans-serif; }
.sencache-page { position: absolute; inset: 0; box-sizing: border-box; overflow: auto; padding: 8px 10px; }
.sencache-page h4 { margin: 0; font-size: 13px; font-weight: 600; }
.sencache-page p { margin: 0; }
.sencache-dim { color: var(--sc-dim); }
.sencache-page .sencache-earlier { margin-bottom: 6px; padding: 2px 8px; border: 1px solid var(--sc-reused); border-radius: 4px; }
.sencache-earlier ~ * { opacity: 0.6; }
.sencache-tabs { display: flex; gap: 4px; margin-bottom: 6px; }
.sencache-tabs button { border: 1px solid var(--sc-line); border-radius: 4px; padding: 1px 8px;
  background: transparent; color: var(--sc-dim); font: inherit; cursor: pointer; }
.sencache-tabs button[aria-selected="true"] { color: var(--sc-ink); border-color: var(--sc-ink); }
.sencache-legend { display: flex; flex-wrap: wrap; gap: 2px 12px; margin: 6px 0 2px; }
.sencache-legend span { display: inline-flex; align-items: center; gap: 5px; }
.sencache-chart { display: block; width: 100%; height: auto; margin-top: 4px; }
.sencache-page svg text { fill: var(--sc-dim); font: 10px system-ui, sans-serif; }
.sencache-page .sencache-note { margin: 4px 0; padding-left: 8px; border-left: 3px solid var(--sc-reused); }
.sencache-mask { color: var(--sc-dim); overflow-wrap: anywhere; }
.sencache-mask code { font-family: ui-monospace, monospace; user-select: all; cursor: text; }
.sencache-page summary { cursor: pointer; margin-top: 4px; color: var(--sc-dim); }
.sencache-rows { max-height: 220px; overflow: auto; }
.sencache-rows table { border-collapse: collapse; width: 100%; font-size: 11px;
  font-variant-numeric: tabular-nums; }
.sencache-rows :is(th, td) { padding: 1px 6px 1px 0; text-align: right; white-space: nowrap; }
.sencache-rows th { position: sticky; top: 0; background: var(--sc-paper); color: var(--sc-dim); font-weight: 500; }
.sencache-rows :is(th, td):is(:nth-child(4), :nth-child(5)) { text-align: left; }
`;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** One cell of the strip. Height, stripes and dot tell the decisions apart without colour. */
function cell(box, decision, hatch) {
  const group = shape("g", {});
  const fill = decision === "reused" ? `url(#${hatch})` : `var(--sc-${decision})`;
  group.append(shape("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 1, fill }));
  if (decision === "forced") {
    const r = Math.min(2.6, box.width / 4);
    const cx = box.x + box.width / 2;
    group.append(shape("circle", { cx, cy: box.y + box.height / 2, r, fill: "var(--sc-paper)" }));
  }
  return group;
}

function hatching(id) {
  const stripe = shape("path", { d: "M-1 5L5 -1M-1 9L9 -1M3 9L9 3", stroke: "var(--sc-paper)", "stroke-width": 1.1 });
  const ground = shape("rect", { width: 8, height: 8, fill: "var(--sc-reused)" });
  const size = { width: 8, height: 8, patternUnits: "userSpaceOnUse" };
  return shape("defs", {}, shape("pattern", { id, ...size }, ground, stripe));
}

function chart(run) {
  const hatch = `sencache-hatch-${++serial}`;
  const svg = shape("svg", {
    class: "sencache-chart",
    viewBox: `0 0 ${VIEW.width} ${VIEW.height}`,
    role: "img",
    "aria-label": headline(run).evaluations,
  });
  svg.append(hatching(hatch));
  const drawn = curves(run.steps);
  if (drawn) {
    for (const line of drawn.grid) {
      const ends = { x1: VIEW.left, x2: VIEW.width - VIEW.right, y1: line.y, y2: line.y };
      svg.append(shape("line", { ...ends, stroke: "var(--sc-line)", "stroke-width": 0.6 }));
      svg.append(shape("text", { x: VIEW.left - 5, y: line.y + 3, "text-anchor": "end" }, line.label));
    }
    const limit = { d: path(drawn.limit), fill: "none", stroke: "var(--sc-ink)", "stroke-width": 1.4, "stroke-dasharray": "5 3" };
    svg.append(shape("path", limit));
    svg.append(shape("path", { d: path(drawn.score), fill: "none", stroke: "var(--sc-reused)", "stroke-width": 1.6 }));
    for (const p of drawn.score) {
      const open = p.decision !== "reused";
      const paint = { fill: open ? "var(--sc-paper)" : "var(--sc-reused)", stroke: "var(--sc-reused)" };
      svg.append(shape("circle", { cx: p.x, cy: p.y, r: 2.6, ...paint }));
    }
    for (const p of drawn.error) {
      svg.append(shape("rect", { x: p.x - 2.5, y: p.y - 2.5, width: 5, height: 5, fill: "var(--sc-computed)" }));
    }
  }
  for (const tick of ticks(run.steps)) {
    svg.append(shape("text", { x: tick.x, y: VIEW.height - 5, "text-anchor": "middle" }, tick.label));
  }
  stripCells(run.steps).forEach((box, i) => {
    svg.append(cell(box, box.decision, hatch));
    // A column over the whole height to hover on: thin marks are hard to hit.
    const column = { x: box.x, y: 0, width: box.width, height: VIEW.height, fill: "transparent" };
    svg.append(shape("rect", column, shape("title", {}, hover(run.steps[i], run))));
  });
  return svg;
}

function legend(run) {
  const hatch = `sencache-hatch-${++serial}`;
  const items = counts(run).map(({ decision, count }) => {
    const icon = shape("svg", { width: 14, height: 14, viewBox: "0 0 14 14" }, hatching(hatch));
    const height = 12 * cellHeight(decision);
    icon.append(cell({ x: 1, y: 13 - height, width: 12, height }, decision, hatch));
    return element("span", {}, icon, `${named(decision, run.steps)} ${count}`);
  });
  if (!curves(run.steps)) return element("div", { className: "sencache-legend" }, ...items);
  const score = { stroke: "var(--sc-reused)", "stroke-width": 1.6 };
  const limit = { stroke: "var(--sc-ink)", "stroke-width": 1.4, "stroke-dasharray": "5 3" };
  const strokes = planned(run) ? [["expected error", score]] : [["score", score], ["limit", limit]];
  for (const [name, stroke] of strokes) {
    const icon = shape("svg", { width: 18, height: 8 }, shape("path", { d: "M0 4H18", ...stroke }));
    items.push(element("span", { className: "sencache-dim" }, icon, name));
  }
  const square = shape("svg", { width: 8, height: 8 }, shape("rect", { x: 1, y: 1, width: 6, height: 6, fill: "var(--sc-computed)" }));
  items.push(element("span", { className: "sencache-dim", title: "How far a forecast would have been off where the truth was computed too" }, square, "measured error"));
  return element("div", { className: "sencache-legend" }, ...items);
}

function table(run) {
  const head = element("tr", {}, ...columns(run).map((name) => element("th", { textContent: name })));
  const body = rows(run).map((cells) =>
    element("tr", {}, ...cells.map((text) => element("td", { textContent: text }))),
  );
  const all = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  return element("details", {}, element("summary", { textContent: "Every evaluation" }), element("div", { className: "sencache-rows" }, all));
}

/** The mask, marked as a whole by one click so that it can be copied. */
function maskLine(run) {
  const title = "C computed, h computed in part, a dot reused, - not asked. Paste it into the mask of SenCache Policy Select to repeat this schedule.";
  return element("p", { className: "sencache-mask", title }, element("code", { textContent: mask(run) }));
}

function runView(run) {
  const { evaluations, time } = headline(run);
  const parts = [
    element("h4", { textContent: evaluations }),
    element("p", { textContent: time }),
    element("p", { className: "sencache-dim", textContent: settings(run) }),
    ...lines(run).map((text) => element("p", { className: "sencache-note", textContent: text })),
  ];
  if (run.steps.length) parts.push(legend(run), chart(run), maskLine(run), table(run));
  return parts;
}

/** Replace the content of `root` by `payload`; null shows how to fill the viewer. */
export function render(root, payload, chosen = payload?.latest ?? 0) {
  root.classList.add("sencache-view");
  const page = root.querySelector(".sencache-page") ?? element("div", { className: "sencache-page" });
  if (!page.parentElement) root.replaceChildren(element("style", { textContent: STYLE }), page);
  const open = page.querySelector("details")?.open ?? false;
  const runs = payload?.runs ?? [];
  const notes = payload?.notes ?? ["Queue the graph to see what SenCache does."];
  const tone = runs.length ? "sencache-dim" : "sencache-note"; // a note is all there is to read
  const parts = notes.map((note) => element("p", { className: tone, textContent: told(note) }));
  const index = Math.min(chosen, runs.length - 1);
  if (runs.length > 1) {
    const tabs = runs.map((run, i) =>
      element("button", {
        type: "button",
        textContent: run.label,
        ariaSelected: String(i === index),
        onclick: () => render(root, payload, i),
      }),
    );
    parts.unshift(element("div", { className: "sencache-tabs", role: "tablist" }, ...tabs));
  }
  if (payload?.earlier) parts.unshift(element("p", { className: "sencache-earlier", textContent: payload.earlier }));
  if (runs.length) parts.push(...runView(runs[index]));
  page.replaceChildren(...parts);
  const details = page.querySelector("details");
  if (!details) return;
  details.open = open;
  // Opened by the user, not by the line above: bring the table into sight, within the page only.
  details.querySelector("summary").onclick = () => requestAnimationFrame(() => (page.scrollTop = details.open ? page.scrollHeight : page.scrollTop));
}
