// Pure functions on queued prompts and on graphs of nodes. No DOM, no ComfyUI.

export const VIEWER = "SenCacheStatsViewer";
const [NEVER, BYPASS] = [2, 4]; // LiteGraph's modes of muted and bypassed nodes
/** Nodes that hand something through: muted, they must not cut off what follows them. */
const THROUGH = ["SenCacheApply", VIEWER];

const linked = (value) => (Array.isArray(value) && value.length === 2 ? String(value[0]) : null);

/** Ids of the nodes of `prompt` that input `name` of node `id` depends on. */
export function upstream(prompt, id, name) {
  const seen = new Set();
  const queue = [linked(prompt[id]?.inputs?.[name])];
  while (queue.length) {
    const current = queue.pop();
    if (current === null || seen.has(current)) continue;
    seen.add(current);
    queue.push(...Object.values(prompt[current]?.inputs ?? {}).map(linked));
  }
  return seen;
}

/** Ids of the viewers of `prompt` that show what Apply node `apply` tells of node `sampler`. */
export function viewersOf(prompt, apply, sampler) {
  return viewersIn(prompt).filter((id) => {
    const { inputs } = prompt[id];
    const told = Object.keys(inputs).some((name) => name.startsWith("stats") && linked(inputs[name]) === apply);
    // Samplers in loops have ids of their own, which no prompt holds.
    return told && (!prompt[sampler] || upstream(prompt, id, "latent").has(sampler));
  });
}

/** Ids of all viewers of a prompt. */
export function viewersIn(prompt) {
  return Object.keys(prompt).filter((id) => prompt[id].class_type === VIEWER);
}

/** Title of a node of a queued prompt, "" if it has none. */
export function titleOf(prompt, id) {
  return prompt?.[id]?._meta?.title ?? "";
}

/** `runs` with labels that tell them apart: equal ones, as nodes/viewer.py does it, are numbered. */
export function labelled(runs) {
  const count = new Map();
  for (const { label } of runs) count.set(label, (count.get(label) ?? 0) + 1);
  const seen = new Map();
  return runs.map((run) => {
    const label = run.label || "Run";
    if (count.get(run.label) === 1) return { ...run, label };
    seen.set(label, (seen.get(label) ?? 0) + 1);
    return { ...run, label: `${label} ${seen.get(label)}` };
  });
}

/** The node that the server calls `id`, such as "12:7" for node 7 in subgraph node 12, or null. */
export function nodeAt(graph, id) {
  const parts = String(id).split(":");
  let node = null;
  for (const part of parts) {
    node = graph?.getNodeById?.(part) ?? graph?.getNodeById?.(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The graph that is open, the outermost one. */
export const rootOf = (app) => app.rootGraph ?? app.graph;

/** What tells the open graph from others: its id, and the file of its tab, as two tabs may hold one graph. */
export const whereabouts = (app) => `${rootOf(app)?.id} ${app.extensionManager?.workflow?.activeWorkflow?.path}`;

/** All nodes of a graph and of the subgraphs in it, each once. */
export function allNodes(graph, seen = new Set()) {
  if (!graph || seen.has(graph)) return [];
  seen.add(graph);
  const nodes = graph._nodes ?? graph.nodes ?? [];
  return nodes.flatMap((node) => [node, ...allNodes(node.subgraph, seen)]);
}

/** What `build` makes of a graph in which our muted pass-through nodes are bypassed instead. */
export async function passMuted(graph, build) {
  const muted = allNodes(graph).filter((node) => node.mode === NEVER && THROUGH.includes(node.comfyClass ?? node.type));
  if (!muted.length) return build();
  try {
    for (const node of muted) node.mode = BYPASS;
    const made = await build();
    const parts = [made.workflow, ...(made.workflow?.definitions?.subgraphs ?? [])];
    for (const { graph: { id } = {}, id: nodeId } of muted) {
      const saved = parts.find((part) => part?.id === id)?.nodes?.find((node) => String(node.id) === String(nodeId));
      if (saved) saved.mode = NEVER; // the workflow stays as its author left it
    }
    return made;
  } finally {
    for (const node of muted) if (node.mode === BYPASS) node.mode = NEVER;
  }
}

/** A queued prompt and the workflow it was made from, from an entry of /queue or /history. */
export function jobOf(entry) {
  const [, id, prompt, extra] = entry ?? [];
  return prompt ? { id, prompt, workflow: extra?.extra_pnginfo?.workflow?.id } : null;
}
