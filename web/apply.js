// Fills SenCache Apply and SenCache Plan: what a run will do, as the slider moves; what it did.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, nodeAt, rootOf, whereabouts } from "./lib/graph.js";
import { learn, locale } from "./lib/language.js";
import { addBox, hideAdvanced } from "./lib/page.js";
import { progress, result } from "./lib/preview.js";
import { Panel } from "./lib/preview_view.js";
import { t } from "./lib/words.js";

const [APPLY, PLAN] = ["SenCacheApply", "SenCachePlan"];
const ROUTE = "/sencache/preview";
const SETTLE = 250; // ms that the graph is left alone before it is read anew
const MUTED = [2, 4]; // LiteGraph's modes of muted and bypassed nodes
const MOST_JOBS = 64;
const SEEDS = ["seed", "noise_seed"]; // they rule no plan
const WIDTH = 300;

const views = new Map(); // by node
const jobs = new Map(); // by prompt id: the graph that it was made from, and what was shown then
const rootGraph = () => rootOf(app);
const here = () => whereabouts(app);
const widget = (node, name) => node.widgets?.find((one) => one.name === name);

let prompt = null; // of the open graph as it was read last

/** The open graph in the form that ComfyUI queues. */
function read() {
  prompt ??= app.graphToPrompt().then(({ output }) => output);
  return prompt;
}

/** Id of `node` in the queued form of the graph, such as "12:7" in subgraph node 12. */
function idOf(output, node) {
  return Object.keys(output).find((id) => output[id].class_type === node.comfyClass && nodeAt(rootGraph(), id) === node);
}

class View {
  constructor(node) {
    this.node = node;
    this.root = document.createElement("div");
    this.panel = new Panel(this.root, node.comfyClass === APPLY ? (budget) => this.choose(budget) : null);
    this.preview = { state: "unknown", unknown: { key: "wait", values: {} }, runs: [] };
    this.run = null; // {prompt, stamp, reports by sampler, the one that told last at the end}
    this.asking = this.again = false;
    this.panel.press(this.budget);
    this.panel.show(this.preview);
  }

  get budget() {
    return widget(this.node, "budget")?.value;
  }

  choose(budget) {
    const slider = widget(this.node, "budget");
    slider.value = budget;
    slider.callback?.(budget, app.canvas, this.node);
    this.node.setDirtyCanvas?.(true, true);
    this.moved();
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
  }

  /** The slider has moved: ask anew, one question at a time, the last one always. */
  moved() {
    this.panel.press(this.budget);
    this.ask();
  }

  async ask() {
    if (this.asking) return void (this.again = true);
    this.asking = true;
    try {
      do {
        this.again = false;
        this.take(await this.answer());
      } while (this.again);
    } finally {
      this.asking = false;
    }
  }

  /** Ask, unless that is what was asked last. */
  async askAnew() {
    if (!this.asking && this.asked !== undefined && this.asked === (await this.question().catch(() => null))) return;
    this.ask();
  }

  /** What the server is asked, or null: the node takes no part in the graph. */
  async question() {
    if (MUTED.includes(this.node.mode)) return null;
    const output = await read();
    const id = idOf(output, this.node);
    if (!id) return null;
    const now = { ...output, [id]: { ...output[id], inputs: this.inputs(output[id].inputs) } };
    return JSON.stringify({ prompt: now, node: id }, (key, value) => (SEEDS.includes(key) && !Array.isArray(value) ? 0 : value));
  }

  async answer() {
    try {
      const body = (this.asked = await this.question());
      if (!body) return unknown("bypassed");
      const answer = await api.fetchApi(ROUTE, { method: "POST", headers: { "Content-Type": "application/json" }, body });
      return answer.ok ? await answer.json() : unknown("no_answer");
    } catch {
      this.asked = undefined;
      return unknown("no_answer");
    }
  }

  /** What the node is given, its own values as they are at this moment. */
  inputs(given) {
    const now = Object.entries(given).map(([name, value]) => [name, Array.isArray(value) ? value : (widget(this.node, name)?.value ?? value)]);
    return Object.fromEntries(now);
  }

  take(preview) {
    this.preview = preview;
    if (this.run?.stamp !== undefined && this.run.stamp !== preview.stamp) this.run = null;
    this.show();
  }

  show() {
    const reports = [...(this.run?.reports.values() ?? [])];
    const done = Object.fromEntries([...(this.run?.reports ?? [])].map(([id, report]) => [id, report.steps]));
    const latest = reports.at(-1);
    const line = !latest ? undefined : latest.ended ? result(reports).line : progress(latest);
    const before = this.panel.height;
    this.panel.show(this.preview, { line, done, hint: this.hint() });
    if (this.panel.height > before) fit(this.node);
  }

  /** Plan: whether its own settings are those of the sampler that the model goes to. */
  hint() {
    const { differs } = this.preview;
    return differs ? t("plan.differs", differs) : "";
  }

  /** A sampler tells how far it is, or that it has ended. */
  told(job, { sampler, report }) {
    if (this.run?.prompt !== job.id) this.run = { prompt: job.id, stamp: job.stamps.get(this.node), reports: new Map() };
    this.run.reports.delete(sampler);
    this.run.reports.set(sampler, report);
    this.show();
  }
}

const unknown = (key, values = {}) => ({ state: "unknown", unknown: { key, values }, runs: [], stamp: "" });

/** Make a node as high as it needs to be, never lower. */
function fit(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
}

function addView(node) {
  const view = new View(node);
  const height = () => view.panel.height;
  const own = addBox(app, node, "sencache_preview", view.root, { getMinHeight: height, getMaxHeight: height });
  views.set(node, view);
  const removed = node.onRemoved;
  node.onRemoved = function () {
    views.delete(node);
    removed?.apply(this, arguments);
  };
  for (const one of node.widgets) if (one !== own) follow(one, () => view.moved());
  node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
  const configured = node.onConfigure;
  node.onConfigure = function () {
    configured?.apply(this, arguments);
    // Saved when all inputs were shown: their room would stay empty.
    if (node.comfyClass === APPLY && !node.showAdvanced) node.size[1] = node.computeSize()[1];
  };
  changed();
  return view;
}

function follow(one, then) {
  const before = one.callback;
  one.callback = function () {
    const answer = before?.apply(this, arguments);
    then();
    return answer;
  };
}

let timer = 0;
/** Something in the graph may have changed: read it once it is left alone. */
function changed() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    prompt = null;
    const present = new Set(allNodes(rootGraph()));
    // ComfyUI does not tell the nodes within a subgraph that their graph was closed.
    for (const node of views.keys()) if (!present.has(node)) views.delete(node);
    for (const view of views.values()) view.askAnew();
  }, SETTLE);
}

function watchQueue() {
  const send = api.queuePrompt;
  api.queuePrompt = async function (...args) {
    const [from, stamps] = [here(), new WeakMap([...views].map(([node, view]) => [node, view.preview.stamp]))];
    const answer = await send.apply(this, args);
    if (answer?.prompt_id) {
      jobs.set(answer.prompt_id, { id: answer.prompt_id, from, stamps });
      if (jobs.size > MOST_JOBS) jobs.delete(jobs.keys().next().value);
    }
    return answer;
  };
}

api.addEventListener("sencache.progress", ({ detail }) => {
  const job = jobs.get(detail?.prompt);
  if (!job || job.from !== here()) return;
  views.get(nodeAt(rootGraph(), detail.node))?.told(job, detail);
});
api.addEventListener("graphChanged", changed);
api.addEventListener("execution_success", () => {
  for (const view of views.values()) view.asked = undefined; // what was learnt, and which models are known
  changed();
});

app.registerExtension({
  name: "SenCache.Apply",
  init: () => learn(locale(app)), // before nodes are made
  setup: watchQueue,
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SenCache")) return;
    hideAdvanced(app, node);
    if (node.comfyClass === APPLY) addView(node);
    if (node.comfyClass === PLAN) {
      const button = node.addWidget("button", "sencache_now", null, () => views.get(node)?.ask(), { serialize: false });
      button.label = t("plan.now");
      button.serialize = false;
      addView(node);
    }
  },
  afterConfigureGraph: changed,
});
