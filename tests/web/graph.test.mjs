import assert from "node:assert/strict";
import test from "node:test";

import * as graph from "../../web/lib/graph.js";

const node = (class_type, inputs = {}) => ({ class_type, inputs });

/** Two samplers on one Apply, a viewer after each; the second viewer in a subgraph. */
const PROMPT = {
  1: node("UNETLoader"),
  7: node("SenCacheApply", { model: ["1", 0] }),
  8: node("KSampler", { model: ["7", 0], seed: 3 }),
  9: node("KSampler", { model: ["7", 0], seed: 4 }),
  10: node(graph.VIEWER, { latent: ["8", 0], stats: ["7", 1] }),
  "12:10": node(graph.VIEWER, { latent: ["9", 0], stats_2: ["7", 1] }),
  13: node(graph.VIEWER, { latent: ["9", 0] }),
};

test("a viewer depends on what comes before its latent", () => {
  assert.deepEqual(graph.upstream(PROMPT, "10", "latent"), new Set(["8", "7", "1"]));
  assert.deepEqual(graph.upstream(PROMPT, "10", "nothing"), new Set());
});

test("a sampler is shown by the viewer that it leads to", () => {
  assert.deepEqual(graph.viewersOf(PROMPT, "7", "8"), ["10"]);
  assert.deepEqual(graph.viewersOf(PROMPT, "7", "9"), ["12:10"]);
  assert.deepEqual(graph.viewersOf(PROMPT, "7", "8.0.1"), ["10", "12:10"]); // in a loop
  assert.deepEqual(graph.viewersOf(PROMPT, "6", "8"), []);
  assert.deepEqual(graph.viewersIn(PROMPT), ["10", "13", "12:10"]);
});

/** A graph as LiteGraph keeps it. */
function lite(id, nodes) {
  const made = { id, _nodes: nodes, getNodeById: (key) => nodes.find((one) => one.id === key) ?? null };
  for (const one of nodes) one.graph = made;
  return made;
}

function nested() {
  const inner = lite("inner", [{ id: 7, type: "SenCacheApply", mode: 2 }, { id: 10, type: graph.VIEWER, mode: 4 }]);
  const root = lite("root", [
    { id: 7, type: "SenCacheApply", mode: 4 },
    { id: 8, type: "KSampler", mode: 2 },
    { id: 10, type: graph.VIEWER, mode: 2 },
    { id: 12, type: "sub", mode: 0, subgraph: inner },
    { id: 13, type: "sub", mode: 0, subgraph: inner },
  ]);
  return { root, inner };
}

test("nodes are found by the server's ids, in subgraphs too", () => {
  const { root, inner } = nested();
  assert.equal(graph.nodeAt(root, "10"), root._nodes[2]);
  assert.equal(graph.nodeAt(root, "13:10"), inner._nodes[1]);
  assert.equal(graph.nodeAt(root, "8:10"), null);
  assert.equal(graph.nodeAt(root, "99"), null);
  assert.equal(graph.allNodes(root).length, 7);
});

const modes = (one) => one._nodes.map((each) => each.mode);
const saved = (one) => one._nodes.map(({ id, type, mode }) => ({ id: Number(id), type, mode }));

test("muted Apply and viewer are bypassed in the prompt, and stay muted in graph and workflow", async () => {
  const { root, inner } = nested();
  const seen = [];
  const made = await graph.passMuted(root, async () => {
    seen.push(modes(root), modes(inner));
    return { workflow: { id: "root", nodes: saved(root), definitions: { subgraphs: [{ id: "inner", nodes: saved(inner) }] } } };
  });
  assert.deepEqual(seen, [[4, 2, 4, 0, 0], [4, 4]]); // the sampler is ComfyUI's: it stays muted
  assert.deepEqual([modes(root), modes(inner)], [[4, 2, 2, 0, 0], [2, 4]]);
  assert.deepEqual(made.workflow.nodes.map((one) => one.mode), [4, 2, 2, 0, 0]);
  assert.deepEqual(made.workflow.definitions.subgraphs[0].nodes.map((one) => one.mode), [2, 4]);
});

test("a graph that cannot be built stays as it was", async () => {
  const { root, inner } = nested();
  await assert.rejects(graph.passMuted(root, async () => Promise.reject(new Error("no"))), /no/);
  assert.deepEqual([modes(root), modes(inner)], [[4, 2, 2, 0, 0], [2, 4]]);
});

test("a job is read from an entry of the queue", () => {
  const extra = { extra_pnginfo: { workflow: { id: "w" } } };
  assert.deepEqual(graph.jobOf([1, "p", PROMPT, extra, []]), { id: "p", prompt: PROMPT, workflow: "w" });
  assert.equal(graph.jobOf([1, "p", PROMPT, {}]).workflow, undefined);
  assert.equal(graph.jobOf(undefined), null);
});
