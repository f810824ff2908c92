// The player of two clips: wipe, side by side or difference, frame by frame, with PSNR and SSIM below.

import { element, shape } from "./page.js";
import { MODES, PANEL, due, frameAt, frameQuery, letters, levels, places, points, rates, share, summary, videoQuery } from "./player.js";
import { moment } from "./report.js";
import { t, told } from "./words.js";

const AT_ONCE = 6; // requests; a browser sends no more to one host

const STYLE = `
.sencache-player { --sc-ink: var(--input-text, #ddd); --sc-dim: var(--descrip-text, #999);
  --sc-line: var(--border-color, #4e4e4e); --sc-paper: var(--comfy-input-bg, #222);
  --sc-psnr: #5b9bd5; --sc-ssim: #f0a63a; position: absolute; inset: 0; box-sizing: border-box; overflow: auto;
  display: flex; flex-direction: column; gap: 6px; padding: 8px 10px; border-radius: 6px;
  background: var(--sc-paper); color: var(--sc-ink); font: 12px/1.45 system-ui, sans-serif; }
.sencache-player p { margin: 0; }
.sencache-player .sencache-dim { color: var(--sc-dim); }
.sencache-player .sencache-note { padding: 2px 8px; border-left: 3px solid var(--sc-ssim); }
.sencache-player :is(button, select, a.sencache-save) { border: 1px solid var(--sc-line); border-radius: 4px; padding: 2px 10px;
  background: transparent; color: var(--sc-ink); font: inherit; cursor: pointer; text-decoration: none; white-space: nowrap; }
.sencache-player select { padding: 2px 4px; }
.sencache-player option { background: var(--sc-paper); }
.sencache-player :is(button, select, a, input, [tabindex]):focus-visible { outline: 2px solid var(--sc-psnr); outline-offset: 1px; }
.sencache-modes, .sencache-controls { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; flex: none; }
.sencache-modes button { color: var(--sc-dim); }
.sencache-modes button[aria-pressed="true"] { color: var(--sc-ink); border-color: var(--sc-ink); }
.sencache-modes .sencache-save { margin-left: auto; }
.sencache-stage { position: relative; flex: 1 1 200px; min-height: 140px; border-radius: 4px; overflow: hidden; touch-action: none; }
.sencache-stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.sencache-stage[role="slider"] { cursor: ew-resize; }
.sencache-chip { position: absolute; padding: 0 7px; border-radius: 9px; background: #000b; color: #fff; font-size: 11px;
  pointer-events: none; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; transform: translateX(-50%); }
.sencache-controls input { flex: 1 1 80px; min-width: 60px; accent-color: var(--sc-psnr); }
.sencache-controls output { min-width: 5.5em; text-align: center; font-variant-numeric: tabular-nums; }
.sencache-play { width: 34px; padding: 2px 0; text-align: center; }
.sencache-scale { display: flex; align-items: center; gap: 6px; font-size: 11px; color: var(--sc-dim); flex: none; }
.sencache-scale i { flex: 1; height: 8px; border-radius: 4px;
  background: linear-gradient(90deg, rgb(5,48,97), rgb(67,147,195), rgb(247,247,247), rgb(214,96,77), rgb(103,0,31)); }
.sencache-panels { display: grid; grid-template-columns: auto 1fr; gap: 4px 8px; align-items: center; flex: none; }
.sencache-panels dt { font-variant-numeric: tabular-nums; white-space: nowrap; }
.sencache-panels dt small { display: block; color: var(--sc-dim); font-size: 11px; }
.sencache-panels dd { margin: 0; }
.sencache-panels svg { display: block; width: 100%; height: 40px; cursor: pointer; border-radius: 3px; background: color-mix(in srgb, var(--sc-ink) 6%, transparent); }
`;

const FIGURES = [
  { key: "psnr", show: (value) => t("compare.psnr", { value: value.toFixed(1) }) },
  { key: "ssim", show: (value) => t("compare.ssim", { value: value.toFixed(3) }) },
];

export class Player {
  /**
   * @param page element to fill.
   * @param view address of a file, from the query of ComfyUI's /view.
   */
  constructor(page, view) {
    this.page = page;
    this.view = view;
    this.mode = "wipe";
    this.divider = 0.5;
    this.observer = new ResizeObserver(() => this.#draw());
    this.show(null);
  }

  /** Shows a payload (see nodes/compare.py); null says how to get one. */
  show(payload) {
    this.#stop();
    this.observer.disconnect();
    this.payload = payload;
    this.images = { a: [], b: [], d: [] };
    this.frame = 0;
    this.lost = false;
    const root = element("div", { className: "sencache-player" });
    this.page.replaceChildren(element("style", { textContent: STYLE }), root);
    if (!payload) return root.append(element("p", { className: "sencache-dim", textContent: t("compare.empty") }));
    if (payload.problem) return root.append(element("p", { className: "sencache-note", textContent: told(named(payload.problem)) }));
    this.fps = payload.fps;
    root.append(...this.#parts());
    this.observer.observe(this.stage);
    this.#choose(this.mode);
  }

  close() {
    this.#stop();
    this.observer.disconnect();
    this.payload = null;
    this.images = { a: [], b: [], d: [] };
  }

  #parts() {
    const { payload } = this;
    this.modes = MODES.map((mode) =>
      element("button", { type: "button", textContent: t(`compare.${mode}`), title: t(`compare.${mode}.tip`), onclick: () => this.#choose(mode) }),
    );
    const save = element("a", { className: "sencache-save", textContent: t("compare.save"), title: t("compare.save.tip") });
    save.href = this.view(videoQuery(payload));
    save.download = payload.video;
    this.canvas = element("canvas");
    this.chips = [element("span", { className: "sencache-chip" }), element("span", { className: "sencache-chip" })];
    this.stage = element("div", { className: "sencache-stage", tabIndex: 0 }, this.canvas, ...this.chips);
    this.#listen();
    this.scale = element("div", { className: "sencache-scale" });
    this.play = element("button", { type: "button", className: "sencache-play", onclick: () => (this.timer ? this.#stop() : this.#start()) });
    this.slider = element("input", { type: "range", min: 0, max: payload.frames - 1, step: 1, value: 0, oninput: () => this.#go(Number(this.slider.value)) });
    this.slider.setAttribute("aria-label", t("compare.frame"));
    this.where = element("output");
    const choose = element("select", { title: t("compare.fps"), onchange: () => this.#rate(Number(choose.value)) });
    choose.setAttribute("aria-label", t("compare.fps"));
    for (const rate of rates(payload.fps)) choose.append(element("option", { value: rate, textContent: t("compare.rate", { fps: rate }), selected: rate === payload.fps }));
    this.status = element("p", { className: "sencache-dim" });
    this.#paintPlay();
    return [
      element("div", { className: "sencache-modes" }, ...this.modes, save),
      this.stage,
      this.scale,
      element("div", { className: "sencache-controls" }, this.play, this.slider, this.where, choose),
      this.#panels(),
      this.status,
      element("p", { className: "sencache-dim", textContent: t("compare.likeness") }),
    ];
  }

  #panels() {
    const list = element("dl", { className: "sencache-panels" });
    list.style.margin = 0;
    this.marks = FIGURES.map(({ key, show }) => {
      const values = this.payload[key];
      const placed = points(values);
      const all = summary(values);
      const d = placed.map(({ x, y }, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
      const line = shape("line", { y1: 0, y2: PANEL.height, stroke: "var(--sc-ink)", "stroke-width": 1, "vector-effect": "non-scaling-stroke" });
      const curve = shape("path", { d, fill: "none", stroke: `var(--sc-${key})`, "stroke-width": 1.8, "vector-effect": "non-scaling-stroke" });
      const label = `${show(all.mean)}, ${t("compare.worst", { value: show(all.worst), frame: all.frame + 1 })}`;
      const svg = shape("svg", { viewBox: `0 0 ${PANEL.width} ${PANEL.height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
      const dot = shape("path", { stroke: `var(--sc-${key})`, "stroke-width": 8, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" });
      svg.append(shape("title", {}, label), line, curve, dot);
      svg.addEventListener("pointerdown", (event) => this.#drag(svg, event, (along) => this.#go(frameAt(along, values.length))));
      const now = document.createTextNode("");
      list.append(element("dt", { title: label }, now, element("small", { textContent: t("compare.mean", { value: show(all.mean) }) })), element("dd", {}, svg));
      return { line, dot, placed, now, show, values };
    });
    return list;
  }

  /** Follows the pointer over `box` from a press on, as a share of its width; the graph stays where it is. */
  #drag(box, event, then) {
    if (event.button) return;
    event.stopPropagation();
    const tell = ({ clientX }) => {
      const { left, width } = box.getBoundingClientRect();
      then(Math.min(Math.max((clientX - left) / width, 0), 1));
    };
    box.setPointerCapture(event.pointerId);
    box.addEventListener("pointermove", tell);
    const end = () => box.removeEventListener("pointermove", tell);
    box.addEventListener("pointerup", end, { once: true });
    box.addEventListener("pointercancel", end, { once: true });
    tell(event);
  }

  #listen() {
    this.stage.addEventListener("pointerdown", (event) => {
      if (this.mode !== "wipe") return;
      this.#drag(this.stage, event, (along) => {
        const [place] = this.#places();
        this.divider = share(along * this.stage.clientWidth, place);
        this.#draw();
      });
    });
    this.stage.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === " ") this.play.click();
      else if (turn && this.mode === "wipe") this.divider = Math.min(Math.max(this.divider + 0.02 * turn, 0), 1);
      else if (turn) this.#go((this.frame + turn + this.payload.frames) % this.payload.frames);
      else return;
      event.preventDefault();
      event.stopPropagation();
      this.#draw();
    });
  }

  #choose(mode) {
    this.mode = mode;
    this.modes.forEach((button, i) => button.setAttribute("aria-pressed", String(MODES[i] === mode)));
    const { scale } = this.payload;
    this.scale.hidden = mode !== "difference";
    this.scale.style.display = this.scale.hidden ? "none" : "";
    if (!scale) this.scale.replaceChildren(t("compare.same"));
    else this.scale.replaceChildren(t("compare.darker", { levels: levels(scale) }), element("i"), t("compare.brighter", { levels: levels(scale) }));
    if (mode === "wipe") this.stage.setAttribute("role", "slider");
    else this.stage.setAttribute("role", "img");
    this.#load();
    this.#go(this.frame);
  }

  /** Fetches the frames of the present mode, the one that is looked at first. */
  async #load() {
    const { payload, mode } = this;
    const wanted = [];
    for (let k = 0; k < payload.frames; k++) {
      for (const letter of letters(mode)) wanted.push([letter, (this.frame + k) % payload.frames]);
    }
    const mine = this.images;
    const current = () => this.payload === payload && this.mode === mode && !this.lost;
    const one = async () => {
      for (let next = wanted.shift(); next && current(); next = wanted.shift()) {
        const [letter, i] = next;
        if (mine[letter][i]) continue;
        const image = new Image();
        image.src = this.view(frameQuery(payload, letter, i));
        try {
          await image.decode();
        } catch {
          if (this.payload === payload) this.lost = true;
        }
        if (!this.lost) mine[letter][i] = image;
        if (current() && i === this.frame) this.#draw();
        if (this.payload === payload) this.#tell(wanted.length);
      }
    };
    this.#tell(wanted.length);
    await Promise.all(Array.from({ length: AT_ONCE }, one));
    if (this.payload === payload) this.#tell(0);
  }

  #tell(left) {
    const { frames, when } = this.payload;
    const ready = frames - Math.ceil(left / letters(this.mode).length);
    if (this.lost) this.status.textContent = t("compare.lost");
    else if (left) this.status.textContent = t("compare.loading", { ready, frames });
    else this.status.textContent = t("compare.when", { when: moment(when) });
  }

  #go(frame) {
    this.frame = frame;
    this.slider.value = frame;
    this.where.textContent = `${frame + 1} / ${this.payload.frames}`;
    for (const { line, dot, placed, now, show, values } of this.marks) {
      dot.setAttribute("d", `M${placed[frame].x} ${placed[frame].y}h0.01`); // a round end, whatever the panel's shape
      line.setAttribute("x1", placed[frame].x);
      line.setAttribute("x2", placed[frame].x);
      now.data = show(values[frame]);
    }
    this.#draw();
  }

  #places() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    return places(this.mode, { width, height }, this.payload);
  }

  #draw() {
    const { stage, canvas, mode } = this;
    if (!this.payload || this.payload.problem || !stage.clientWidth) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2) * 1.5; // sharp where the graph is zoomed in
    canvas.width = Math.round(stage.clientWidth * ratio);
    canvas.height = Math.round(stage.clientHeight * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.imageSmoothingQuality = "high";
    const all = this.#places();
    letters(mode).forEach((letter, k) => {
      const { x, y, width, height } = all[k];
      const image = this.images[letter][this.frame];
      pen.save();
      if (mode === "wipe") {
        pen.beginPath();
        const edge = x + this.divider * width;
        pen.rect(...(k ? [edge, y, x + width - edge, height] : [x, y, edge - x, height]));
        pen.clip();
      }
      if (image) pen.drawImage(image, x, y, width, height);
      pen.restore();
    });
    if (mode === "wipe") this.#drawDivider(pen, all[0]);
    this.#label(all);
  }

  #drawDivider(pen, { x, y, width, height }) {
    const [edge, middle] = [x + this.divider * width, y + height / 2];
    for (const [colour, thick] of [["#000a", 4], ["#fff", 2]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: thick });
      pen.stroke(new Path2D(`M${edge} ${y}V${y + height}`));
    }
    Object.assign(pen, { fillStyle: "#fff", strokeStyle: "#000a", lineWidth: 1 });
    const knob = new Path2D();
    knob.arc(edge, middle, 11, 0, 2 * Math.PI);
    pen.fill(knob);
    pen.stroke(knob);
    pen.fillStyle = "#222";
    pen.fill(new Path2D(`M${edge - 7} ${middle}l5 -4v8zM${edge + 7} ${middle}l-5 -4v8z`));
    this.stage.setAttribute("aria-valuenow", String(Math.round(100 * this.divider)));
    this.stage.setAttribute("aria-valuemin", "0");
    this.stage.setAttribute("aria-valuemax", "100");
  }

  #label(all) {
    const names = this.payload.names.map(word);
    const [left, right] = this.chips;
    const set = (chip, text, middle, top, room) => {
      chip.textContent = text;
      chip.hidden = room < 30;
      Object.assign(chip.style, { left: `${middle}px`, top: `${top + 6}px`, maxWidth: `${Math.max(room - 20, 0)}px` });
    };
    const [{ x, y, width }] = all;
    if (this.mode === "wipe") {
      const edge = this.divider * width;
      set(left, names[0], x + edge / 2, y, edge);
      set(right, names[1], x + (edge + width) / 2, y, width - edge);
    } else if (this.mode === "sides") all.forEach((place, k) => set(this.chips[k], names[k], place.x + place.width / 2, place.y, place.width));
    else {
      set(left, t("compare.minus", { first: names[0], second: names[1] }), x + width / 2, y, width);
      right.hidden = true;
    }
    this.stage.setAttribute("aria-label", this.mode === "wipe" ? t("compare.wipe.label", { first: names[0], second: names[1] }) : t(`compare.${this.mode}`));
  }

  #rate(fps) {
    this.fps = fps;
    if (this.timer) this.#start();
  }

  #start() {
    cancelAnimationFrame(this.timer);
    const [from, began] = [this.frame, performance.now()];
    const turn = () => {
      if (!this.stage.isConnected) return this.#stop();
      const next = due(from, (performance.now() - began) / 1000, this.fps, this.payload.frames);
      if (next !== this.frame) this.#go(next);
      this.timer = requestAnimationFrame(turn);
    };
    this.timer = requestAnimationFrame(turn);
    this.#paintPlay();
  }

  #stop() {
    cancelAnimationFrame(this.timer);
    this.timer = 0;
    this.#paintPlay();
  }

  #paintPlay() {
    if (!this.play) return;
    this.play.textContent = this.timer ? "❚❚" : "▶";
    this.play.setAttribute("aria-label", t(this.timer ? "compare.pause" : "compare.play"));
    this.play.title = t(this.timer ? "compare.pause" : "compare.play");
  }
}

/** A clip's name; those that nobody has chosen, in the user's language. */
const word = (name) => (["uncached", "cached"].includes(name) ? t(`compare.${name}`) : name);

const named = ({ values, ...message }) => ({ ...message, values: { ...values, first: word(values.first), second: word(values.second) } });
