// The dialog that lists profiles and learnt models, renames, deletes, exports and imports them.

import { age, facts, named, ordered, size, title } from "./library.js";
import { element } from "./page.js";
import { t, told } from "./words.js";

const ROUTE = "/sencache/library";

const STYLE = `
.sencache-library { --sc-ink: var(--input-text, #ddd); --sc-dim: var(--descrip-text, #999); --sc-line: var(--border-color, #4e4e4e);
  --sc-paper: var(--comfy-menu-bg, #202020); --sc-field: var(--comfy-input-bg, #222); --sc-warn: #f0a63a; --sc-blue: #5b9bd5;
  width: min(880px, 94vw); max-height: 86vh; box-sizing: border-box; padding: 0; border: 1px solid var(--sc-line); border-radius: 10px;
  margin: auto; background: var(--sc-paper); color: var(--sc-ink); font: 13px/1.5 system-ui, sans-serif; overflow: hidden; }
.sencache-library[open] { display: flex; flex-direction: column; }
.sencache-library::backdrop { background: #0008; }
.sencache-library :is(h2, h3, p, ul) { margin: 0; padding: 0; }
.sencache-library header { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; padding: 14px 18px; border-bottom: 1px solid var(--sc-line); }
.sencache-library h2 { flex: 1; font-size: 16px; font-weight: 600; }
.sencache-library h3 { margin: 16px 0 2px; font-size: 14px; font-weight: 600; }
.sencache-library main { overflow: auto; padding: 0 18px 18px; }
.sencache-library .sencache-dim { color: var(--sc-dim); }
.sencache-library .sencache-note { margin: 12px 18px 0; padding: 4px 10px; border-left: 3px solid var(--sc-warn); background: var(--sc-field); overflow-wrap: anywhere; }
.sencache-library :is(button, label.sencache-import) { border: 1px solid var(--sc-line); border-radius: 5px; padding: 3px 11px; background: var(--sc-field);
  color: var(--sc-ink); font: inherit; cursor: pointer; white-space: nowrap; }
.sencache-library :is(button, label.sencache-import):hover { border-color: var(--sc-ink); }
.sencache-library :is(button, input, label):focus-visible, .sencache-library label:focus-within { outline: 2px solid var(--sc-blue); outline-offset: 1px; }
.sencache-library label input { position: absolute; width: 1px; height: 1px; opacity: 0; }
.sencache-library button[data-harm] { border-color: #d9534f; box-shadow: inset 0 0 0 1px #d9534f; }
.sencache-library ul { list-style: none; }
.sencache-library li { display: grid; grid-template-columns: 1fr auto; gap: 2px 14px; align-items: center; padding: 9px 0; border-bottom: 1px solid var(--sc-line); }
.sencache-library li:last-child { border-bottom: 0; }
.sencache-library b { font-weight: 600; overflow-wrap: anywhere; }
.sencache-library .sencache-acts { display: flex; flex-wrap: wrap; gap: 5px; justify-content: flex-end; grid-row: 1 / span 2; grid-column: 2; }
.sencache-library .sencache-ask { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 8px; align-items: center; padding-top: 4px; }
.sencache-library input[type="text"] { flex: 1; min-width: 160px; padding: 3px 8px; border: 1px solid var(--sc-line); border-radius: 5px; background: var(--sc-field); color: var(--sc-ink); font: inherit; }
@media (max-width: 640px) { .sencache-library li { grid-template-columns: 1fr; } .sencache-library .sencache-acts { grid-row: auto; grid-column: 1; justify-content: flex-start; } }
`;

export class Library {
  /**
   * @param fetch asks ComfyUI: (route, options) to an answer.
   * @param address of a route, for downloads.
   * @param changed called when files have changed.
   */
  constructor({ fetch, address, changed }) {
    Object.assign(this, { fetch, address, changed });
    this.rows = [];
  }

  /** Opens the dialog and fills it. */
  async open() {
    this.dialog?.remove();
    this.body = element("main");
    this.said = element("p", { className: "sencache-note", hidden: true });
    this.said.setAttribute("role", "status");
    const file = element("input", { type: "file", accept: ".safetensors", multiple: true, onchange: () => this.#import([...file.files]).then(() => (file.value = "")) });
    const load = element("label", { className: "sencache-import", title: t("library.import.tip") }, t("library.import"), file);
    const close = element("button", { type: "button", textContent: t("library.close"), onclick: () => this.dialog.close() });
    const head = element("header", {}, element("h2", { textContent: t("library.title"), id: "sencache-library-title" }), load, close);
    this.dialog = element("dialog", { className: "sencache-library" }, element("style", { textContent: STYLE }), head, this.said, this.body);
    this.dialog.setAttribute("aria-labelledby", "sencache-library-title");
    this.dialog.addEventListener("close", () => this.dialog.remove());
    // The graph has shortcuts of its own: what is typed here is none of them.
    this.dialog.addEventListener("keydown", (event) => event.stopPropagation());
    document.body.append(this.dialog);
    this.dialog.showModal();
    await this.#refresh();
  }

  async #refresh() {
    const answer = await this.#ask("");
    if (answer) this.rows = answer.rows;
    this.folder = answer?.folder ?? this.folder;
    this.#draw();
  }

  async #ask(route, options) {
    try {
      const answer = await this.fetch(ROUTE + route, options);
      const data = await answer.json();
      this.#say(answer.ok ? "" : told(data.message));
      return answer.ok ? data : null;
    } catch {
      this.#say(t("library.unreachable"));
      return null;
    }
  }

  #say(text) {
    this.said.textContent = text;
    this.said.hidden = !text;
  }

  #draw() {
    const section = (kind) => {
      const rows = ordered(this.rows, kind);
      const list = rows.length ? element("ul", {}, ...rows.map((row) => this.#row(row))) : element("p", { className: "sencache-dim", textContent: t(`library.${kind}.none`) });
      return [element("h3", { textContent: t(`library.${kind}`) }), element("p", { className: "sencache-dim", textContent: t(`library.${kind}.about`) }), list];
    };
    this.body.replaceChildren(...section("profile"), ...section("learnt"));
    if (this.folder) this.body.append(element("p", { className: "sencache-dim", textContent: t("library.folder", { folder: this.folder }) }));
  }

  #row(row) {
    const when = new Date(1000 * row.when);
    const told_ = [row.family && !(row.kind === "learnt" && !row.label) ? row.family : "", ...facts(row).map(({ key, values }) => t(key, values))].filter(Boolean);
    const about = row.problem ? element("span", { textContent: row.problem, style: "color: var(--sc-warn); overflow-wrap: anywhere" }) : element("span", { className: "sencache-dim", textContent: told_.join(" · ") });
    const stamp = element("span", { className: "sencache-dim", textContent: `${age(row.when)}, ${size(row.size)}`, title: when.toLocaleString() });
    const name = element("b", { textContent: title(row), title: row.name });
    const acts = element("div", { className: "sencache-acts" });
    const item = element("li", {}, element("span", {}, name, " · ", stamp), acts, about);
    const act = (key, then) => acts.append(element("button", { type: "button", textContent: t(`library.${key}`), ariaLabel: `${t(`library.${key}`)}: ${title(row)}`, onclick: then }));
    if (row.own && !row.problem) act("rename", () => this.#askName(item, row));
    if (!row.problem) act("export", () => this.#export(row));
    if (row.own) act("delete", () => this.#askDelete(item, row));
    else acts.append(element("span", { className: "sencache-dim", textContent: t("library.foreign") }));
    return item;
  }

  /** A question below a row, in place of an earlier one. */
  #question(item, ...parts) {
    for (const old of this.body.querySelectorAll(".sencache-ask")) old.remove();
    const cancel = element("button", { type: "button", textContent: t("library.cancel"), onclick: () => box.remove() });
    const box = element("form", { className: "sencache-ask" }, ...parts, cancel);
    item.append(box);
    return box;
  }

  #askName(item, row) {
    const field = element("input", { type: "text", value: row.kind === "learnt" ? (row.label ?? "") : row.name, maxLength: 120, ariaLabel: t("library.name") });
    const save = element("button", { textContent: t("library.save") });
    const box = this.#question(item, field, save);
    box.onsubmit = (event) => {
      event.preventDefault();
      this.#change("/rename", { ...row, to: field.value });
    };
    field.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // closes the question, not the dialog
      box.remove();
    };
    field.focus();
    field.select();
  }

  #askDelete(item, row) {
    const sure = element("button", { textContent: t("library.delete") });
    sure.dataset.harm = "";
    const box = this.#question(item, element("span", { textContent: t("library.sure", { name: title(row) }) }), sure);
    box.onsubmit = (event) => {
      event.preventDefault();
      this.#change("/delete", row);
    };
    sure.focus();
  }

  async #change(route, { kind, name, to }) {
    const body = JSON.stringify({ kind, name, to });
    const done = await this.#ask(route, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const said = this.said.textContent;
    if (!done && said) return; // what was asked stays open
    await this.#refresh();
    this.changed();
  }

  #export(row) {
    const link = element("a", { href: this.address(`${ROUTE}/file?${named(row)}`), download: `${row.name.split(/[\\/]/).pop()}.safetensors` });
    link.click();
  }

  async #import(files) {
    const loaded = [];
    let refused = "";
    for (const file of files) {
      const query = new URLSearchParams({ name: file.name }).toString();
      const done = await this.#ask(`/import?${query}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
      if (done) loaded.push(done);
      else refused ||= `${file.name}: ${this.said.textContent}`;
    }
    await this.#refresh();
    this.#say(refused || t("library.imported", { count: loaded.length }));
    if (loaded.length) this.changed();
  }
}
