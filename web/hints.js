// Hints and errors on the nodes that they concern, in one sentence with the way out.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, nodeAt, rootOf, whereabouts } from "./lib/graph.js";
import { EDGE, blamed, hints } from "./lib/hints.js";
import { learn, locale } from "./lib/language.js";
import { t } from "./lib/words.js";

const WIDGET = "sencache_hint";
const ALWAYS = 0; // LiteGraph's mode of nodes that run
const SETTLE = 150; // ms: wires are moved one by one
const STYLE = `
.sencache-hint { box-sizing: border-box; margin: 4px 10px; padding: 6px 8px; border-left: 3px solid #e0a83a; border-radius: 4px;
  background: color-mix(in srgb, #e0a83a 16%, var(--comfy-menu-bg, #222)); color: var(--input-text, #ddd); font: 12px/1.4 system-ui, sans-serif;
  overflow: auto; user-select: text; }
[data-kind="error"] > .sencache-hint { border-color: #e05252; background: color-mix(in srgb, #e05252 18%, var(--comfy-menu-bg, #222)); }`;

const rootGraph = () => rootOf(app);
const here = () => whereabouts(app);
const prompts = new Map(); // what was queued, by id: {output, from which graph}
const failed = new Map(); // by node: what its last run failed of

await learn(locale(app));

function linkOf(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id];
}

/** A graph as lib/hints.js takes it. */
function described(graph) {
  const nodes = graph._nodes ?? graph.nodes ?? [];
  const end = (id, type) => (nodes.some((node) => String(node.id) === String(id)) ? { node: id, type } : EDGE);
  return nodes.map((node) => ({
    id: node.id,
    type: node.comfyClass ?? node.type,
    title: node.title,
    active: node.mode === ALWAYS || node.mode === undefined,
    inputs: Object.fromEntries(
      (node.inputs ?? []).map((slot) => {
        const link = slot.link == null ? null : linkOf(graph, slot.link);
        return [slot.name, link && end(link.origin_id, link.type)];
      }),
    ),
    outputs: Object.fromEntries(
      (node.outputs ?? []).map((slot, i) => {
        const links = (slot.links ?? []).map((id) => linkOf(graph, id)).filter(Boolean);
        return [slot.name ?? i, links.map((link) => end(link.target_id, link.type))];
      }),
    ),
  }));
}

/** A place for sentences, there from the start and without height: Nodes 2.0 shows no widget that comes later. */
function addPlace(node) {
  const box = document.createElement("div");
  box.setAttribute("role", "status");
  box.hidden = true;
  const high = () => (box.hidden ? 0 : widget.sencacheHeight);
  const options = { serialize: false, hideInPanel: true, hideOnZoom: false, margin: 0, getMinHeight: high, getMaxHeight: high };
  const widget = node.addDOMWidget(WIDGET, WIDGET, box, { ...options, getValue: () => "", setValue: () => {} });
  widget.serialize = false;
  widget.sencacheHeight = 0;
}

/** Shows `text` in the node, or takes away what it shows. */
function show(node, text, kind = "hint") {
  const widget = node.widgets?.find((one) => one.name === WIDGET);
  const box = widget?.element;
  if (!box || ((box.firstChild?.textContent ?? "") === (text ?? "") && box.dataset.kind === kind)) return;
  const before = widget.sencacheHeight;
  const lines = Math.ceil(((text?.length ?? 0) * 6.4) / Math.max(node.size[0] - 60, 160));
  widget.sencacheHeight = text ? 26 + 17 * Math.min(lines, 9) : 0;
  box.replaceChildren();
  box.hidden = !text;
  box.dataset.kind = kind;
  if (text) {
    const line = box.appendChild(document.createElement("div"));
    line.className = "sencache-hint";
    line.textContent = text;
  }
  node.setSize([node.size[0], node.size[1] + widget.sencacheHeight - before]);
  node.setDirtyCanvas?.(true, true);
}

const wanted = () => app.extensionManager?.setting?.get("SenCache.Hints") !== false;
const graphs = () => [...new Set([rootGraph(), ...allNodes(rootGraph()).map((node) => node.subgraph)])].filter(Boolean);

function refresh() {
  for (const graph of graphs()) {
    const found = wanted() ? hints(described(graph)) : [];
    for (const node of graph._nodes ?? []) {
      if (!/^SenCache/.test(node.comfyClass ?? "")) continue;
      const hint = found.find((one) => String(one.node) === String(node.id));
      const error = failed.get(node);
      if (error) show(node, error, "error");
      else show(node, hint && t(hint.key, hint.values));
    }
  }
}

let waiting = 0;
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, SETTLE);
}

let sending = null; // the newest queueing: a graph may fail before ComfyUI has said under which id it is queued
const send = api.queuePrompt;
api.queuePrompt = async function (number, data, ...rest) {
  const from = here();
  const sent = send.call(this, number, data, ...rest);
  sending = sent.catch(() => {});
  const answer = await sent;
  if (answer?.prompt_id) {
    prompts.set(answer.prompt_id, { output: data?.output, from });
    if (prompts.size > 32) prompts.delete(prompts.keys().next().value);
  }
  return answer;
};

api.addEventListener("execution_start", () => {
  failed.clear();
  soon();
});
api.addEventListener("execution_error", async ({ detail }) => {
  await sending;
  const job = prompts.get(detail.prompt_id);
  if (job && job.from !== here()) return; // in another graph the ids are those of other nodes
  for (const id of blamed(detail, job?.output)) {
    const node = nodeAt(rootGraph(), id);
    if (node) failed.set(node, t("hint.failed", { error: (detail.exception_message ?? "").trim() }));
  }
  soon();
});
api.addEventListener("graphChanged", soon);

const style = document.createElement("style");
style.textContent = STYLE;
document.head.append(style);

app.registerExtension({
  name: "SenCache.Hints",
  nodeCreated(node) {
    if (/^SenCache/.test(node.comfyClass ?? "")) addPlace(node);
    const saved = node.onSerialize;
    node.onSerialize = function (data) {
      saved?.call(this, data);
      const widget = this.widgets?.find((one) => one.name === WIDGET);
      if (widget && data.size) data.size = [data.size[0], data.size[1] - widget.sencacheHeight]; // it comes and goes
    };
    const changed = node.onConnectionsChange;
    node.onConnectionsChange = function (...args) {
      soon();
      return changed?.apply(this, args);
    };
    soon();
  },
  afterConfigureGraph: soon,
});
