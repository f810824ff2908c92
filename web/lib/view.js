// Builds the viewer's DOM from a payload. Knows the browser, not ComfyUI.

import { LIMIT, SCORE, chart, ticks } from "./chart.js";
import { element, shape } from "./page.js";
import * as report from "./report.js";
import { picture, save } from "./save.js";
import { STRIP_STYLE, key, strip } from "./strip.js";
import { t } from "./words.js";

// Every class has our prefix: the frontend's own stylesheet gives names such as "table" a meaning.
// The page is laid over the box that the frontend sizes, so that what is in it never sizes the node.
export const STYLE = `${STRIP_STYLE}
.sencache-view { --sc-ink: var(--input-text, #ddd); --sc-paper: color-mix(in srgb, var(--comfy-input-bg, #222) 25%, var(--comfy-menu-bg, #222));
  --sc-dim: color-mix(in srgb, var(--sc-ink) 72%, var(--sc-paper));
  --sc-line: color-mix(in srgb, var(--sc-ink) 25%, var(--sc-paper));
  --sc-alarm: color-mix(in srgb, #e5484d 75%, var(--sc-ink));
  position: relative; box-sizing: border-box; width: 100%; height: 100%; min-height: 300px; overflow: hidden;
  border-radius: 6px; background: var(--sc-paper); color: var(--sc-ink); font: 12px/1.45 system-ui, sans-serif; }
.sencache-page { position: absolute; inset: 0; box-sizing: border-box; overflow: auto; padding: 8px 12px;
  container-type: inline-size; scrollbar-width: thin; }
.sencache-page :is(p, h4, ul) { margin: 0; padding: 0; }
.sencache-page button { border: 1px solid var(--sc-line); border-radius: 4px; padding: 1px 8px; background: transparent;
  color: var(--sc-ink); font: inherit; cursor: pointer; }
.sencache-page button:hover { border-color: var(--sc-ink); }
.sencache-page :focus-visible { outline: 2px solid var(--sc-ink); outline-offset: 2px; }
.sencache-dim { color: var(--sc-dim); }
.sencache-top { display: flex; align-items: center; gap: 8px; min-height: 20px; }
.sencache-status { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--sc-dim); }
.sencache-status[data-level="problem"] { color: var(--sc-alarm); font-weight: 600; }
.sencache-status[data-level="earlier"] { color: var(--sc-ink); }
.sencache-tabs { display: flex; flex-wrap: wrap; gap: 4px; margin: 2px 0 4px; }
.sencache-page .sencache-tabs button { max-width: 100%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--sc-dim); }
.sencache-page .sencache-tabs button[aria-selected="true"] { color: var(--sc-ink); border-color: var(--sc-ink); }
.sencache-answer { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) minmax(0, 1.5fr); gap: 4px 12px; margin: 4px 0 2px; min-height: 44px; }
.sencache-answer div { min-width: 0; }
.sencache-large { font-size: 19px; line-height: 1.25; font-weight: 650; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.sencache-small { color: var(--sc-dim); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.sencache-delta { margin-left: 5px; color: var(--sc-ink); }
.sencache-past :is(.sencache-track, .sencache-chart) { opacity: 0.55; }
.sencache-rows { display: grid; grid-template-columns: fit-content(90px) minmax(0, 1fr); gap: 3px 8px; align-items: end; margin-top: 6px; }
.sencache-rows > .sencache-name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: 11px; line-height: 13px; color: var(--sc-dim); }
.sencache-rows > .sencache-wide { grid-column: 1 / -1; }
.sencache-column { grid-column: 2; position: relative; }
.sencache-track { position: relative; cursor: crosshair; border-radius: 2px; }
.sencache-mark { position: absolute; top: -3px; bottom: -3px; box-sizing: border-box; border: 1.5px solid var(--sc-ink); border-radius: 3px; pointer-events: none; }
.sencache-now { position: absolute; bottom: -4px; height: 2px; background: var(--sc-ink); pointer-events: none; }
.sencache-stages { display: flex; font-size: 11px; line-height: 14px; color: var(--sc-dim); }
.sencache-stages span { box-sizing: border-box; overflow: hidden; padding-left: 4px; border-left: 1px solid var(--sc-line); text-overflow: ellipsis; white-space: nowrap; }
.sencache-ticks { position: relative; height: 13px; font-size: 10px; line-height: 13px; color: var(--sc-dim); }
.sencache-ticks span { position: absolute; transform: translateX(-50%); }
.sencache-before { opacity: 0.5; }
.sencache-page .sencache-detail { height: 2.9em; margin-top: 4px; overflow: hidden; }
.sencache-legend { display: flex; flex-wrap: wrap; gap: 2px 12px; margin: 2px 0; font-variant-numeric: tabular-nums; }
.sencache-legend span { display: inline-flex; align-items: center; gap: 5px; }
.sencache-page .sencache-chart { display: block; width: 100%; height: 118px; overflow: visible; }
.sencache-page svg text { fill: var(--sc-dim); font: 10px system-ui, sans-serif; }
.sencache-page .sencache-messages { list-style: none; }
.sencache-page .sencache-messages li { margin: 4px 0; padding-left: 8px; border-left: 3px solid var(--sc-line); overflow-wrap: anywhere; }
.sencache-page .sencache-messages li[data-level="problem"] { border-color: var(--sc-alarm); }
.sencache-mask { color: var(--sc-dim); overflow-wrap: anywhere; }
.sencache-mask code { font-family: ui-monospace, monospace; user-select: all; cursor: text; }
.sencache-page summary { cursor: pointer; margin-top: 4px; color: var(--sc-dim); }
.sencache-table { max-height: 220px; overflow: auto; }
.sencache-table table { border-collapse: collapse; width: 100%; font-size: 11px; font-variant-numeric: tabular-nums; }
.sencache-table :is(th, td) { padding: 1px 6px 1px 0; text-align: right; white-space: nowrap; }
.sencache-table th { position: sticky; top: 0; background: var(--sc-paper); color: var(--sc-dim); font-weight: 500; }
.sencache-table :is(th, td):is(:nth-child(3), :nth-child(4)) { text-align: left; }
.sencache-tools { display: flex; flex-wrap: wrap; justify-content: flex-end; gap: 4px; margin-top: 6px; }
@container (max-width: 360px) {
  .sencache-large { font-size: 15px; }
  .sencache-answer { gap: 4px 8px; }
  .sencache-small { white-space: normal; }
  .sencache-delta { display: block; margin: 0; }
}
`;

const states = new WeakMap(); // of a root: what the user has chosen, and what it shows

/** Replace the content of `root` by `payload`; null shows how to fill the viewer. */
export function render(root, payload) {
  root.classList.add("sencache-view");
  if (!root.querySelector(".sencache-page")) {
    root.replaceChildren(element("style", { textContent: STYLE }), element("div", { className: "sencache-page" }));
  }
  const old = states.get(root);
  const same = old?.payload?.runs.length && payload?.runs.length && !payload.earlier === !old.payload.earlier;
  const state = { open: new Set(), cursor: null, ...(same ? old : { open: old?.open ?? new Set() }), payload };
  state.chosen ??= null;
  states.set(root, state);
  draw(root, state);
}

/** Draw anew, and leave focus, scroll and what is open as they are. */
function draw(root, state) {
  const page = root.querySelector(".sencache-page");
  const focused = page.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const { scrollTop } = page;
  const scrolled = page.querySelector(".sencache-table")?.scrollTop ?? 0;
  page.replaceChildren(...content(root, state));
  page.scrollTop = scrollTop;
  const table = page.querySelector(".sencache-table");
  if (table) table.scrollTop = scrolled;
  if (focused) page.querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
}

function content(root, state) {
  const { payload } = state;
  const clips = report.clips(payload?.runs ?? []);
  if (!clips.length) return nothing(payload);
  const latest = clips.findIndex((clip) => clip.includes(payload.runs[payload.latest ?? 0]));
  const index = Math.min(state.chosen ?? Math.max(latest, 0), clips.length - 1);
  const clip = clips[index];
  const more = Boolean(payload.live) && index === clips.length - 1;
  const cells = report.track(clip, more);
  const before = report.counterpart(clip, payload.before);
  const all = report.messages(clip, payload.notes);
  const [details, shown] = [true, false].map((folded) => all.filter(({ level }) => (level === "detail") === folded));
  const past = payload.earlier ? "sencache-past" : "";
  const body = element("div", { className: past });
  body.append(
    answer(clip, cells, before),
    element("p", { className: "sencache-dim", textContent: report.sums(clip, cells) }),
    list(shown.filter(({ level }) => level === "problem")),
    rows(state, clip, cells, before),
    list(shown.filter(({ level }) => level !== "problem")),
    fold(root, state, "steps", t("viewer.every_step"), () => [table(clip, cells)]),
    fold(root, state, "about", t("viewer.about_run"), () => [
      list(details),
      ...clip.flatMap((run) => [
        element("p", { className: "sencache-dim", textContent: [clip.length > 1 && run.label, report.settings(run)].filter(Boolean).join(": ") }),
        maskLine(run),
      ]),
    ]),
    tools(root, payload, clip, cells),
  );
  return [top(payload, clip, cells), ...tabs(root, state, clips, index), body].filter(Boolean);
}

/** What is read where there is no run: why, and what to do. */
function nothing(payload) {
  const notes = report.messages([], payload?.notes ?? [t("viewer.queue")]);
  const parts = [list(notes)];
  if (payload?.earlier) parts.unshift(element("p", { className: "sencache-status", textContent: payload.earlier }));
  return parts;
}

function top(payload, clip, cells) {
  const { level, text } = payload.earlier ? { level: "earlier", text: payload.earlier } : report.status(clip, cells);
  const line = { className: "sencache-status", textContent: text, title: text, data: { level }, aria: { role: "status" } };
  return element("div", { className: "sencache-top" }, element("p", line));
}

function tabs(root, state, clips, index) {
  if (clips.length < 2) return [];
  const choose = (i, focus) => {
    state.chosen = (i + clips.length) % clips.length;
    state.cursor = null;
    draw(root, state);
    if (focus) root.querySelector(`[data-key="tab-${state.chosen}"]`).focus();
  };
  const buttons = clips.map((clip, i) =>
    element("button", {
      type: "button",
      textContent: report.title(clip),
      title: report.title(clip),
      tabIndex: i === index ? 0 : -1,
      data: { key: `tab-${i}` },
      aria: { role: "tab", selected: String(i === index) },
      onclick: () => choose(i),
      onkeydown: (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (by) choose(i + by, own(event));
      },
    }),
  );
  return [element("div", { className: "sencache-tabs", aria: { role: "tablist", label: t("viewer.clips") } }, ...buttons)];
}

/** A key that is ours: it neither moves the graph nor runs a shortcut. */
function own(event) {
  event.preventDefault();
  event.stopPropagation();
  return true;
}

function answer(clip, cells, before) {
  const deltas = report.differences(clip, before);
  const blocks = report.answer(clip, cells).map(({ key: name, large, small }) => {
    const head = element("p", { className: "sencache-large", textContent: large, title: large });
    const line = element("p", { className: "sencache-small", textContent: small, title: small });
    if (deltas[name]) {
      const title = t("viewer.before_that", { value: deltas[name] });
      line.append(element("span", { className: "sencache-delta", textContent: `(${deltas[name]})`, title }));
    }
    return element("div", {}, head, line);
  });
  return element("div", { className: "sencache-answer" }, ...blocks);
}

function list(said) {
  const items = said.map(({ level, text }) => {
    const parts = level === "problem" ? [element("b", { textContent: `${t("viewer.problem")} ` }), text] : [text];
    return element("li", { data: { level } }, ...parts);
  });
  return items.length ? element("ul", { className: "sencache-messages" }, ...items) : "";
}

/** The track with its stages, branches and the run before, the line about one step, and the chart: all in the same columns. */
function rows(state, clip, cells, before) {
  const branches = report.branches(cells);
  const grid = element("div", { className: "sencache-rows" });
  const row = (name, content, more = "") =>
    grid.append(element("span", { className: "sencache-name", textContent: name, title: name }), element("div", { className: `sencache-column ${more}` }, content));
  const wide = (node) => {
    node.classList.add("sencache-wide");
    grid.append(node);
  };
  const stages = report.stages(cells);
  if (stages.length) {
    const spans = stages.map(({ label, count }) => {
      const span = element("span", { textContent: label, title: `${label}: ${t("steps", { count })}` });
      span.style.width = `${(100 * count) / cells.length}%`;
      return span;
    });
    row("", element("div", { className: "sencache-stages" }, ...spans));
  }
  const line = element("p", { className: "sencache-detail sencache-dim" });
  row(branches.length || before ? t("viewer.this_run") : "", track(state, clip, cells, line));
  for (const { label, cells: own } of branches) row(label, strip(own, { label, height: 12 }));
  if (before) {
    const earlier = report.track(before);
    row(t("viewer.previous"), strip(earlier, { label: `${t("viewer.previous")}: ${report.sums(before, earlier)}`, height: 12 }), "sencache-before");
  }
  const numbers = ticks(cells.length).map(({ x, label }) => {
    const span = element("span", { textContent: label });
    span.style.left = `${x}%`;
    return span;
  });
  row("", element("div", { className: "sencache-ticks", ariaHidden: "true" }, ...numbers));
  wide(line);
  wide(legend(clip, cells));
  wide(errorLegend(clip));
  row("", errors(clip, cells));
  return grid;
}

/** The strip of a clip, over which a cursor moves by pointer and by keys. */
function track(state, clip, cells, line) {
  const box = element("div", {
    className: "sencache-track",
    tabIndex: 0,
    data: { key: "track" },
    aria: { role: "slider", label: t("viewer.steps_label", { title: report.title(clip) }), valuemin: 1, valuemax: cells.length, orientation: "horizontal" },
  });
  const mark = element("div", { className: "sencache-mark", hidden: true });
  const now = cells.findIndex((cell) => !cell.step);
  const place = (node, index, count = 1) => {
    node.style.left = `${(100 * index) / cells.length}%`;
    node.style.width = `${(100 * count) / cells.length}%`;
  };
  const show = (cursor) => {
    state.cursor = cursor === null ? null : Math.max(0, Math.min(cursor, cells.length - 1));
    mark.hidden = state.cursor === null;
    if (!mark.hidden) place(mark, state.cursor);
    const cell = cells[state.cursor ?? Math.max((now < 0 ? cells.length : now) - 1, 0)];
    const text = report.detail(cell);
    line.textContent = state.cursor === null ? t("viewer.hint") : text;
    line.title = line.textContent;
    box.setAttribute("aria-valuenow", cell.number);
    box.setAttribute("aria-valuetext", text);
  };
  box.append(strip(cells, { label: report.sums(clip, cells) }), mark);
  if (now > 0 && clip.some(report.running)) {
    const bar = element("div", { className: "sencache-now" });
    place(bar, now - 1);
    box.append(bar);
  }
  box.onpointermove = (event) => {
    const { left, width } = box.getBoundingClientRect();
    show(Math.floor((cells.length * (event.clientX - left)) / width));
  };
  box.onpointerleave = () => document.activeElement !== box && show(null);
  box.onblur = () => show(null);
  box.onkeydown = (event) => {
    const at = state.cursor ?? (now < 0 ? cells.length : now) - 1;
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, PageUp: at + 10, PageDown: at - 10, Home: 0, End: cells.length - 1, Escape: null }[event.key];
    if (to !== undefined && own(event)) show(state.cursor === null && event.key.startsWith("Arrow") ? at : to);
  };
  show(state.cursor);
  return box;
}

function legend(clip, cells) {
  const done = cells.filter((cell) => cell.step);
  const items = report.counts(done).map(({ decision, count }) => {
    const parts = report.named(decision, done.map((cell) => cell.step));
    return element("span", {}, key(decision), `${parts} ${count}`);
  });
  return element("div", { className: "sencache-legend" }, ...items);
}

const LABEL = { score: "viewer.score", expected: "viewer.expected_error" };

function errorLegend(clip) {
  const plan = clip.every(report.planned);
  const icon = (...shapes) => shape("svg", { class: "sencache-chart", width: 18, height: 8, style: "width:18px;height:8px", "aria-hidden": "true" }, ...shapes);
  const strokes = plan ? [[LABEL.expected, SCORE]] : [[LABEL.score, SCORE], ["viewer.limit", LIMIT]];
  const items = strokes.map(([name, stroke]) => element("span", { className: "sencache-dim" }, icon(shape("path", { d: "M0 4H18", ...stroke })), t(name)));
  const square = icon(shape("rect", { x: 6.5, y: 1.5, width: 5, height: 5, fill: "var(--sc-computed)" }));
  items.push(element("span", { className: "sencache-dim", title: t("viewer.measured_help") }, square, t("viewer.measured_error")));
  return element("div", { className: "sencache-legend" }, ...items);
}

/** The chart of errors. */
function errors(clip, cells) {
  const plan = clip.every(report.planned);
  const steps = cells.map(({ run, step }) => step && { ...step, run });
  return chart(steps, {
    label: t(plan ? "viewer.chart_label" : "viewer.chart_score_label"),
    empty: t("viewer.nothing_measured"),
    unit: report.grid(plan),
  });
}

/** A part that is opened by the user, and stays so. */
function fold(root, state, name, title, make) {
  const box = element("details", { open: state.open.has(name) }, element("summary", { textContent: title, data: { key: `fold-${name}` } }));
  if (box.open) box.append(...make());
  box.ontoggle = () => {
    if (box.open === state.open.has(name)) return;
    state.open[box.open ? "add" : "delete"](name);
    draw(root, state);
    // Opened by the user: bring it into sight, within the page only.
    const page = root.querySelector(".sencache-page");
    if (box.open) page.scrollTop = page.scrollHeight;
  };
  return box;
}

function table(clip, cells) {
  const head = element("tr", {}, ...report.columns(clip[0]).map((name) => element("th", { textContent: name })));
  const body = report.rows(cells).map((texts) => element("tr", {}, ...texts.map((text) => element("td", { textContent: text }))));
  const all = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { className: "sencache-table", tabIndex: 0, data: { key: "table" }, aria: { role: "group", label: t("viewer.every_step") } }, all);
}

/** The mask, marked as a whole by one click so that it can be copied. */
function maskLine(run) {
  return element("p", { className: "sencache-mask", title: t("viewer.mask_help") }, element("code", { textContent: report.mask(run) }));
}

function tools(root, payload, clip, cells) {
  const button = (name, text, title, act) =>
    element("button", { type: "button", textContent: text, title, data: { key: name }, onclick: (event) => act(event.currentTarget) });
  const said = async (node, work) => {
    const text = await work.then(() => "viewer.copied", () => "viewer.copy_failed");
    node.textContent = t(text);
    setTimeout(() => (node.textContent = t("viewer.copy")), 1500);
  };
  const copy = button("copy", t("viewer.copy"), t("viewer.copy"), (node) => said(node, save.copy(JSON.stringify({ version: payload.version, runs: clip }, null, 2))));
  const drawn = () => picture(root, clip, cells);
  const as = (kind, act) => button(kind, t(`viewer.save_${kind}`), t("viewer.save_as", { kind: kind.toUpperCase() }), act);
  return element("div", { className: "sencache-tools" }, copy, as("png", () => save.png(drawn())), as("svg", () => save.svg(drawn())), as("csv", () => save.csv(report.csv(clip))));
}
