// What a node of ours put out last, as it runs and from what ComfyUI keeps. The host is handed in.

import { allNodes, jobOf, nodeAt, rootOf } from "./graph.js";

const HISTORY = 16;
const MOST = 64;
const SETTLE = 250; // ms: a graph is loaded before its nodes have their sizes

/** The newest output that `read` takes, of the node that `is` recognises, in a history; or null. */
export function newest(history, workflow, read, is) {
  for (const entry of Object.values(history).sort((a, b) => b.prompt[0] - a.prompt[0])) {
    if (!workflow || jobOf(entry.prompt)?.workflow !== workflow) continue;
    for (const [id, output] of Object.entries(entry.outputs ?? {})) {
      const found = is(id) ? read(output) : null;
      if (found) return found;
    }
  }
  return null;
}

/** Outputs by workflow and node, those that came last. */
export class Kept {
  constructor() {
    this.states = new Map();
  }

  put(workflow, id, payload) {
    const key = `${workflow} ${id}`;
    this.states.delete(key);
    this.states.set(key, { workflow, id, payload });
    if (this.states.size > MOST) this.states.delete(this.states.keys().next().value);
  }

  get(workflow, is) {
    return [...this.states.values()].find((state) => state.workflow === workflow && is(state.id))?.payload ?? null;
  }
}

/**
 * Hands nodes that have a `sencacheShow` of `name` what they put out; returns what fills those of a graph just loaded.
 *
 * A graph that another tab of the browser holds, or a prompt without a workflow, is none of this page's.
 */
export function follow({ app, api, read, name }) {
  const kept = new Kept();
  const workflows = new Map();
  const root = () => rootOf(app);
  const ask = (route) =>
    api
      .fetchApi(route)
      .then((answer) => answer.json())
      .catch(() => ({}));

  async function find(prompt) {
    const { queue_running = [], queue_pending = [] } = await ask("/queue");
    const queued = [...queue_running, ...queue_pending].find((entry) => entry[1] === prompt);
    return jobOf(queued ?? (await ask(`/history/${prompt}`))[prompt]?.prompt)?.workflow;
  }

  /** Asked once a prompt, so that what comes in order is shown in order. */
  function workflowOf(prompt) {
    if (!workflows.has(prompt)) workflows.set(prompt, find(prompt).then((found) => found ?? void workflows.delete(prompt)));
    if (workflows.size > MOST) workflows.delete(workflows.keys().next().value);
    return workflows.get(prompt);
  }

  async function show(prompt, id, payload) {
    const workflow = await workflowOf(prompt);
    if (!workflow) return;
    kept.put(workflow, String(id), payload);
    if (workflow === root()?.id) nodeAt(root(), id)?.[name]?.(payload);
  }

  api.addEventListener("executed", ({ detail }) => {
    const payload = read(detail?.output);
    if (payload) show(detail.prompt_id, detail.node, payload);
  });

  async function restore() {
    const graph = root();
    const is = (node) => (id) => nodeAt(graph, id) === node;
    const empty = allNodes(graph).filter((node) => {
      const payload = node[name] && kept.get(graph.id, is(node));
      if (payload) node[name](payload);
      return node[name] && !payload;
    });
    if (!empty.length) return;
    const history = await ask(`/history?max_items=${HISTORY}`);
    for (const node of empty) {
      const payload = newest(history, graph.id, read, is(node));
      if (payload && !kept.get(graph.id, is(node))) node[name](payload);
    }
  }

  return { show, restore: () => setTimeout(restore, SETTLE) };
}
