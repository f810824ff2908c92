// What is wrong with a graph, as far as it can be told before it runs. No DOM, no ComfyUI.
//
// A graph is a list of nodes: {id, type, active, title, inputs, outputs}. `inputs` has, by name,
// what is connected: {node, type} or EDGE, from outside of a subgraph; `outputs`, by name, a list of
// the same. Bypassed and muted nodes are not active. A hint is {node, key, values}.

export const APPLY = "SenCacheApply";
export const VIEWER = "SenCacheStatsViewer";
/** A connection to outside of the subgraph that the node is in: nothing is known of what is there. */
export const EDGE = "edge";

/** Nodes of other packs that cache, by what is left of their type in small letters. */
const CACHES = /(easy|lazy|tea|mag|taylor|fb|db|fora|toca|block|dit)cache|cachedit|taylorseer|hicache|spectrum(?!.*(image|plot|audio))/;
const OWN = /^SenCache/;
/** Nodes that only look at a model. */
const LOOKERS = ["SenCachePlan", "SenCacheCalibrate"];

const isCache = (node) => node.active && !OWN.test(node.type) && CACHES.test(node.type.toLowerCase().replace(/[^a-z0-9]/g, ""));

/** All hints on a graph. */
export function hints(nodes) {
  const byId = new Map(nodes.map((node) => [String(node.id), node]));
  const found = [];
  const tell = (node, key, values = {}) => found.push({ node: node.id, key: `hint.${key}`, values });
  for (const node of nodes) {
    if (node.type === APPLY && node.active) ofApply(node, byId, tell);
    if (node.type === VIEWER && node.active) ofViewer(node, byId, tell);
  }
  return found;
}

function ofApply(node, byId, tell) {
  const after = along(node, byId, "outputs");
  const before = along(node, byId, "inputs");
  const cache = [...before.nodes, ...after.nodes].find(isCache);
  const users = after.nodes.filter((one) => one.active && !LOOKERS.includes(one.type));
  if (cache) tell(node, "other_cache", { node: cache.title ?? cache.type });
  else if (after.nodes.some((one) => one.type === APPLY && one.active)) tell(node, "replaced");
  else if (!users.length && !after.edge) tell(node, "unused");
}

function ofViewer(node, byId, tell) {
  const from = ["stats", "stats_2"].map((name) => node.inputs[name]).filter(Boolean);
  if (!from.length) return tell(node, "no_stats");
  if (from.includes(EDGE)) return;
  const applies = from.map((one) => byId.get(String(one.node))).filter((one) => one?.type === APPLY);
  if (applies.length && applies.every((one) => !one.active)) return tell(node, "bypassed");
  const above = everything(node.inputs.latent, byId);
  if (!node.inputs.latent) return tell(node, "no_latent");
  if (above.edge) return;
  const used = applies.some((apply) => {
    const reached = along(apply, byId, "outputs");
    return reached.edge || reached.nodes.some((one) => above.ids.has(String(one.id)));
  });
  if (applies.length && !used) tell(node, "before_sampler");
}

/** Nodes that a node's model comes from ("inputs") or goes to ("outputs"), by MODEL wires only. */
function along(start, byId, side) {
  const seen = new Set([String(start.id)]);
  const queue = [start];
  const result = { nodes: [], edge: false };
  while (queue.length) {
    for (const one of Object.values(queue.pop()[side]).flat()) {
      if (one === EDGE) result.edge ||= true;
      else if (one?.type === "MODEL" && !seen.has(String(one.node))) {
        seen.add(String(one.node));
        const node = byId.get(String(one.node));
        if (!node) continue;
        result.nodes.push(node);
        queue.push(node);
      }
    }
  }
  return result;
}

/** Ids of all nodes that a connection depends on. */
function everything(start, byId) {
  const ids = new Set();
  const queue = [start];
  let edge = false;
  while (queue.length) {
    const one = queue.pop();
    if (one === EDGE) edge = true;
    else if (one && !ids.has(String(one.node))) {
      ids.add(String(one.node));
      queue.push(...Object.values(byId.get(String(one.node))?.inputs ?? {}));
    }
  }
  return { ids, edge };
}

/** The nodes that an error of a run is to be shown on: `error` as ComfyUI sends it, `prompt` as queued. */
export function blamed(error, prompt) {
  const id = String(error.node_id);
  if (OWN.test(error.node_type ?? "")) return [id];
  const ours = [error.exception_type, ...(error.traceback ?? [])].some((line) => /sencache_core/.test(line ?? ""));
  if (!ours) return [];
  const seen = new Set();
  const queue = [id];
  while (queue.length) {
    const current = queue.pop();
    if (seen.has(current)) continue;
    seen.add(current);
    for (const value of Object.values(prompt?.[current]?.inputs ?? {})) if (Array.isArray(value)) queue.push(String(value[0]));
  }
  return [...seen].filter((one) => prompt?.[one]?.class_type === APPLY);
}
