// Registers the extension that fills SenCache Stats Viewer.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Board, of, shown } from "./lib/board.js";
import { VIEWER, allNodes, jobOf, nodeAt, passMuted, rootOf } from "./lib/graph.js";
import { learn, locale } from "./lib/language.js";
import { addBox } from "./lib/page.js";
import { render } from "./lib/view.js";

const PROGRESS = "sencache.progress";
const MIN_SIZE = [480, 430];
const HISTORY = 16;
const SETTLE = 250; // ms: a graph is loaded before the frontend says which tab it is in

const board = new Board();
const rootGraph = () => rootOf(app);
const tab = () => app.extensionManager?.workflow?.activeWorkflow ?? undefined;

function addView(node) {
  const root = document.createElement("div");
  addBox(app, node, "sencache_view", root, { getMinHeight: () => 300 });
  node.sencacheShow = (payload) => render(root, payload);
  node.sencacheShow(null);
  node.setSize(node.size.map((side, i) => Math.max(side, MIN_SIZE[i])));
}

/** Show states where the workflow that they belong to is open. */
function display(states) {
  for (const state of states) {
    if (!of(state, rootGraph()?.id, tab())) continue;
    nodeAt(rootGraph(), state.viewer)?.sencacheShow?.(shown(state));
  }
}

const ask = (route) =>
  api
    .fetchApi(route)
    .then((response) => response.json())
    .catch(() => ({}));

const asked = new Map();
/** Calls `then` with the job of a prompt, once it is known; never for prompts without a workflow. */
async function withJob(id, then) {
  if (!id) return;
  let job = board.jobs.get(id);
  if (!job) {
    // Queued before this page was loaded.
    if (!asked.has(id)) asked.set(id, findJob(id));
    job = await asked.get(id);
    asked.delete(id);
  }
  if (job?.workflow) display(then(job));
}

async function findJob(id) {
  const { queue_running = [], queue_pending = [] } = await ask("/queue");
  const queued = [...queue_running, ...queue_pending].find((entry) => entry[1] === id);
  const job = jobOf(queued ?? (await ask(`/history/${id}`))[id]?.prompt);
  return job && board.add({ ...job, tab: job.workflow === rootGraph()?.id ? tab() : undefined });
}

/** An error's own words, the first line of them. */
const words = (error) => (error?.exception_message ?? "").trim().split("\n")[0];

/** After a break of the connection: which of the prompts that were running have ended, and how? */
async function catchUp() {
  for (const job of board.pending()) {
    const { queue_running = [] } = await ask("/queue");
    if (queue_running.some((entry) => entry[1] === job.id)) continue;
    const entry = (await ask(`/history/${job.id}`))[job.id];
    for (const [viewer, output] of Object.entries(entry?.outputs ?? {})) display(board.finish(job, viewer, output));
    const messages = Object.fromEntries(entry?.status?.messages ?? []);
    const failed = messages.execution_interrupted ? "interrupted" : "failed";
    const how = !entry ? "lost" : entry.status?.status_str === "success" ? "" : failed;
    display(board.end(job, how, words(messages.execution_error)));
  }
}

/** Fill the viewers of the graph that has just been loaded. */
async function restore() {
  const graph = rootGraph();
  const where = [graph.id, tab()];
  const is = (node) => (id) => nodeAt(graph, id) === node;
  const empty = allNodes(graph).filter((node) => {
    const own = board.shownBy(...where, is(node));
    display(own);
    return node.sencacheShow && !own.length;
  });
  if (!empty.length) return;
  const history = await ask(`/history?max_items=${HISTORY}`);
  for (const node of empty) display(board.restore(history, ...where, is(node)));
}

function watchQueue() {
  const build = app.graphToPrompt;
  app.graphToPrompt = function (...args) {
    return passMuted(args[0] ?? rootGraph(), () => build.apply(this, args));
  };
  const send = api.queuePrompt;
  api.queuePrompt = async function (number, data, ...rest) {
    const from = { workflow: data?.workflow?.id, tab: tab() };
    display(board.queue(from.workflow, from.tab));
    const refused = (errors) => Object.values(errors ?? {}).flatMap((error) => error.dependent_outputs ?? []);
    try {
      const answer = await send.call(this, number, data, ...rest);
      if (answer?.prompt_id) board.add({ id: answer.prompt_id, prompt: data.output, ...from });
      display(board.refuse(from.workflow, from.tab, refused(answer?.node_errors)));
      return answer;
    } catch (error) {
      display(board.refuse(from.workflow, from.tab));
      throw error;
    }
  };
}

function listen() {
  const on = (name, then) => api.addEventListener(name, ({ detail }) => withJob(detail?.prompt_id ?? detail?.prompt, (job) => then(job, detail)));
  on("execution_start", (job) => board.start(job));
  on(PROGRESS, (job, detail) => board.progress(job, detail));
  on("executed", (job, { node, output }) => board.finish(job, String(node), output));
  on("execution_success", (job) => board.end(job));
  on("execution_interrupted", (job) => board.end(job, "interrupted"));
  on("execution_error", (job, detail) => board.end(job, "failed", words(detail)));
  api.addEventListener("reconnected", catchUp);
}

listen(); // before the connection opens: after a reload a run may be under way

app.registerExtension({
  name: "SenCache.StatsViewer",
  init: () => learn(locale(app)),
  setup: watchQueue,
  nodeCreated(node) {
    if (node.comfyClass === VIEWER) addView(node);
  },
  afterConfigureGraph() {
    setTimeout(restore, SETTLE);
  },
});
