// The panel in SenCache Apply and SenCache Plan. Knows the browser, not ComfyUI.

import { element } from "./page.js";
import { PRESETS, cells, presetOf, words } from "./preview.js";
import { STRIP_STYLE, strip } from "./strip.js";
import { t } from "./words.js";

const MOST_STRIPS = 3;
const STRIP = 20; // px
/** Heights in px of what the panel holds: the node must not jump when its words change. */
const HEIGHT = { presets: 30, text: 72, strip: STRIP + 8, name: 16, padding: 12, margin: 20 };

const STYLE = `
.sencache-panel { --sc-ink: var(--input-text, #ddd); --sc-dim: var(--descrip-text, #999);
  --sc-line: var(--border-color, #4e4e4e); --sc-paper: var(--comfy-input-bg, #222);
  position: relative; box-sizing: border-box; width: 100%; height: 100%; overflow: hidden; border-radius: 6px;
  background: var(--sc-paper); color: var(--sc-ink); font: 12px/1.35 system-ui, sans-serif; }
.sencache-panel-page { position: absolute; inset: 0; box-sizing: border-box; padding: 6px 8px; overflow: hidden auto; }
.sencache-panel p { margin: 0; }
.sencache-presets { display: flex; gap: 4px; margin-bottom: 6px; }
.sencache-panel button { flex: 1 1 0; min-width: 0; height: 24px; padding: 0 2px; border: 1px solid var(--sc-line); border-radius: 4px;
  background: transparent; color: var(--sc-ink); font: 11px system-ui, sans-serif; cursor: pointer; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.sencache-panel button:hover { border-color: var(--sc-ink); }
.sencache-panel button:focus-visible { outline: 2px solid #3f8fd6; outline-offset: 1px; }
.sencache-panel button[aria-pressed="true"] { background: color-mix(in srgb, #3f8fd6 28%, var(--sc-paper)); border-color: #3f8fd6; }
.sencache-panel .sencache-line { font-size: 15px; font-weight: 600; line-height: 20px; }
.sencache-strips { margin: 4px 0; }
.sencache-strips p { color: var(--sc-dim); font-size: 11px; line-height: 16px; }
.sencache-panel .sencache-small { color: var(--sc-dim); line-height: 16px; }
.sencache-panel .sencache-small b { color: var(--sc-ink); font-weight: 600; }
.sencache-panel .sencache-hint { line-height: 16px; padding-left: 7px; border-left: 3px solid #e8931a; }
${STRIP_STYLE}`;

/** The panel in `root`. `choose` is called with the budget of a preset; without it there are none. */
export class Panel {
  constructor(root, choose = null) {
    this.root = root;
    this.page = element("div", { className: "sencache-panel-page" });
    this.parts = {
      line: element("p", { className: "sencache-line" }),
      strips: element("div", { className: "sencache-strips" }),
      small: element("p", { className: "sencache-small" }),
      hint: element("p", { className: "sencache-hint" }),
    };
    this.parts.line.setAttribute("aria-live", "polite");
    this.presets = choose ? this.#presets(choose) : [];
    this.page.append(...Object.values(this.parts));
    root.classList.add("sencache-panel");
    root.replaceChildren(element("style", { textContent: STYLE }), this.page);
    this.strips = 1;
  }

  /** Height in px that the panel needs. */
  get height() {
    const many = this.strips > 1 ? HEIGHT.name : 0;
    return HEIGHT.margin + HEIGHT.padding + (this.presets.length ? HEIGHT.presets : 0) + HEIGHT.text + this.strips * (HEIGHT.strip + many);
  }

  #presets(choose) {
    const buttons = PRESETS.map(([name, budget]) => {
      const button = element("button", { type: "button", textContent: t(`apply.preset.${name}`), title: t(`apply.preset.${name}_title`, { budget }) });
      button.dataset.preset = name;
      button.onclick = () => choose(budget);
      return button;
    });
    const row = element("div", { className: "sencache-presets" }, ...buttons);
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", t("apply.presets"));
    this.page.prepend(row);
    return buttons;
  }

  /** Press the preset that `budget` is. */
  press(budget) {
    const chosen = presetOf(budget);
    for (const button of this.presets) button.setAttribute("aria-pressed", String(button.dataset.preset === chosen));
  }

  /**
   * Show a preview. `line` takes the place of its own first line, as of a run that has ended; `done`
   * has the steps of runs by the sampler's id.
   */
  show(preview, { line, done = {}, hint = "" } = {}) {
    const said = words(preview);
    const { parts } = this;
    parts.line.textContent = line ?? said.line;
    parts.line.hidden = !parts.line.textContent;
    const runs = (preview.runs ?? []).filter((run) => run.mask || done[run.node]);
    this.strips = Math.min(Math.max(runs.length, 1), MOST_STRIPS);
    parts.strips.replaceChildren(
      ...runs.slice(0, MOST_STRIPS).flatMap((run) => {
        const drawn = strip(cells(run, done[run.node]), { label: parts.line.textContent, height: STRIP });
        return runs.length > 1 ? [element("p", { textContent: run.title }), drawn] : [drawn];
      }),
    );
    parts.strips.hidden = !runs.length;
    parts.small.replaceChildren();
    const rests = line === undefined ? said.rests : ""; // of what is to come
    if (said.quality) parts.small.append(element("b", { textContent: said.quality }), rests && `, ${rests}`);
    else parts.small.append(rests);
    parts.small.hidden = !parts.small.textContent;
    parts.hint.textContent = hint || said.note;
    parts.hint.hidden = !parts.hint.textContent;
    this.page.title = said.more;
    this.root.style.minHeight = `${this.height - HEIGHT.margin}px`; // Nodes 2.0 goes by that
  }
}
