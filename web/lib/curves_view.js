// Calibrate's page: progress and time left, curves as they come, where the file went, cancel and resume.

import { PANEL, about, bounds, done, panels, path, place } from "./curves.js";
import { element, shape } from "./page.js";
import { figure, moment } from "./report.js";
import { t } from "./words.js";

const STYLE = `
.sencache-calibration { --sc-ink: var(--input-text, #ddd); --sc-dim: var(--descrip-text, #999);
  --sc-line: var(--border-color, #4e4e4e); --sc-paper: var(--comfy-input-bg, #222);
  --sc-blue: #5b9bd5; --sc-orange: #f0a63a; position: absolute; inset: 0; box-sizing: border-box; overflow: auto;
  display: flex; flex-direction: column; gap: 6px; padding: 8px 10px; border-radius: 6px;
  background: var(--sc-paper); color: var(--sc-ink); font: 12px/1.45 system-ui, sans-serif; }
.sencache-calibration p, .sencache-calibration dl { margin: 0; }
.sencache-calibration .sencache-dim { color: var(--sc-dim); }
.sencache-calibration .sencache-note { padding: 2px 8px; border-left: 3px solid var(--sc-orange); overflow-wrap: anywhere; }
.sencache-calibration h4 { margin: 0; font-size: 13px; font-weight: 600; }
.sencache-calibration button { border: 1px solid var(--sc-line); border-radius: 4px; padding: 2px 10px;
  background: transparent; color: var(--sc-ink); font: inherit; cursor: pointer; white-space: nowrap; }
.sencache-calibration button:focus-visible { outline: 2px solid var(--sc-blue); outline-offset: 1px; }
.sencache-head { display: flex; align-items: center; gap: 8px; flex-wrap: wrap; }
.sencache-head h4 { flex: 1; }
.sencache-bar { height: 8px; flex: none; border-radius: 4px; overflow: hidden; background: color-mix(in srgb, var(--sc-ink) 14%, transparent); }
.sencache-bar i { display: block; height: 100%; background: var(--sc-blue); }
.sencache-bar[data-state="stopped"] i, .sencache-bar[data-state="failed"] i { background: var(--sc-orange); }
.sencache-measured { display: grid; grid-template-columns: minmax(90px, 32%) 1fr; gap: 4px 8px; align-items: center; flex: none; }
.sencache-measured dt small { display: block; color: var(--sc-dim); font-size: 11px; }
.sencache-measured dd { margin: 0; }
.sencache-measured svg { display: block; width: 100%; height: 56px; border-radius: 3px; background: color-mix(in srgb, var(--sc-ink) 6%, transparent); }
.sencache-ends { display: flex; justify-content: space-between; font-size: 11px; color: var(--sc-dim); }
.sencache-blocks { display: flex; align-items: baseline; gap: 8px; }
.sencache-blocks code { font-family: ui-monospace, monospace; user-select: all; overflow-wrap: anywhere; }
`;

/**
 * Fills `page` with a payload, null for none.
 * @param act what the buttons do: cancel(payload), resume(payload), library().
 */
export function renderCalibration(page, payload, act) {
  const old = page.querySelector(".sencache-calibration");
  const scrolled = old?.scrollTop ?? 0;
  const root = element("div", { className: "sencache-calibration" });
  const all = button("calibrate.library", act.library);
  if (!payload) {
    root.append(element("div", { className: "sencache-head" }, element("h4", { textContent: t("calibrate.empty") })), element("p", { className: "sencache-dim", textContent: t("calibrate.empty.more") }), element("div", {}, all));
  } else root.append(...parts(payload, act, all));
  page.replaceChildren(element("style", { textContent: STYLE }), root);
  root.scrollTop = scrolled;
}

const button = (key, onclick) => element("button", { type: "button", textContent: t(key), title: t(`${key}.tip`), onclick });

function parts(payload, act, all) {
  const { state, spent, total } = payload;
  const head = element("div", { className: "sencache-head" }, element("h4", { textContent: headline(payload) }));
  if (state === "running") head.append(button("calibrate.cancel", () => act.cancel(payload)));
  if (["stopped", "failed"].includes(state) && payload.file && payload.kept < payload.samples) head.append(button("calibrate.resume", () => act.resume(payload)));
  const share = done(payload);
  const bar = element("div", { className: "sencache-bar" }, element("i"));
  bar.dataset.state = state;
  bar.firstChild.style.width = `${(100 * share).toFixed(1)}%`;
  for (const [name, value] of [["role", "progressbar"], ["aria-valuenow", Math.round(100 * share)], ["aria-valuemin", 0], ["aria-valuemax", 100], ["aria-label", headline(payload)]]) bar.setAttribute(name, value);
  const made = [head, bar, element("p", { className: "sencache-dim", textContent: t("calibrate.spent", { spent, total }) })];
  if (payload.problem) made.push(note(payload.problem));
  if (payload.lost) made.push(note(t("calibrate.lost", { why: payload.lost })));
  if (payload.file) made.push(element("p", { textContent: t("calibrate.saved", { file: payload.file, count: payload.kept }) }));
  made.push(...curves(payload), ...blocks(payload));
  const foot = element("div", { className: "sencache-head" }, all);
  if (state !== "running") foot.append(element("span", { className: "sencache-dim", textContent: t("calibrate.when", { when: moment(payload.when) }) }));
  return [...made, foot];
}

const note = (text) => element("p", { className: "sencache-note", textContent: text });

function headline({ state, phase, sample, samples, run, runs, left, kept }) {
  if (state === "done") return t("calibrate.done", { count: kept });
  if (state === "stopped") return t("calibrate.stopped", { kept, samples });
  if (state === "failed") return t("calibrate.failed", { kept, samples });
  const where = t(`calibrate.${phase}`, { sample, samples, run, probes: runs - 1 });
  if (left === null) return where;
  const { key, value, rest } = about(left);
  return t("calibrate.left", { where, left: t(key, { value, rest }) });
}

function curves(payload) {
  const found = panels(payload);
  if (!found.length) return [];
  const list = element("dl", { className: "sencache-measured" });
  for (const panel of found) {
    const box = bounds(panel, found);
    const label = t(`calibrate.${panel.name}`);
    const svg = shape("svg", { viewBox: `0 0 ${PANEL.width} ${PANEL.height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    const stroke = (d, colour, width, opacity) => shape("path", { d, fill: "none", stroke: colour, "stroke-width": width, opacity, "vector-effect": "non-scaling-stroke" });
    const several = panel.mean.length > 0;
    for (const line of panel.lines) svg.append(stroke(path(line, box), "var(--sc-blue)", several ? 1 : 1.8, several ? 0.5 : 1));
    if (several) svg.append(stroke(path(panel.mean, box), "var(--sc-blue)", 2, 1));
    for (const mark of panel.marks ?? []) {
      const { x, y } = place(mark, box);
      svg.append(stroke(`M${x} ${y}h0.01`, "var(--sc-orange)", 6, 0.9));
      svg.lastChild.setAttribute("stroke-linecap", "round");
    }
    const about_ = element("dt", { title: t(`calibrate.${panel.name}.tip`) }, label, element("small", { textContent: t("calibrate.upto", { unit: t(`calibrate.${panel.name}.unit`), high: figure(box.high) }) }));
    list.append(about_, element("dd", {}, svg));
  }
  const ends = element("div", { className: "sencache-ends" }, element("span", { textContent: t("calibrate.start") }), element("span", { textContent: t("calibrate.end") }));
  list.append(element("dt"), element("dd", {}, ends));
  return [list];
}

function blocks({ blocks: found }) {
  return (found ?? []).map((row) => {
    const name = t(`calibrate.blocks.${row.by}`);
    if (row.problem) return element("p", { className: "sencache-dim", textContent: `${name}: ${row.problem}` });
    const copy = button("calibrate.copy", () => navigator.clipboard?.writeText(row.list));
    return element("div", { className: "sencache-blocks", title: t("calibrate.blocks.tip", { share: figure(100 * row.expected) }) }, element("span", { textContent: name }), element("code", { textContent: row.list }), copy);
  });
}
