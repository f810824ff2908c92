import assert from "node:assert/strict";
import test from "node:test";

import { Kept, follow, newest } from "../../web/lib/kept.js";
import { comparison, due, fit, frameAt, frameQuery, letters, levels, places, points, rates, share, span, summary, videoQuery } from "../../web/lib/player.js";

const payload = { version: 1, folder: "sencache_compare/ab", video: "v.mp4", frames: 12, width: 160, height: 90 };

test("only payloads of the known version are read", () => {
  assert.equal(comparison({ sencache_compare: [payload] }), payload);
  assert.equal(comparison({ sencache_compare: [{ version: 2 }] }), null);
  assert.equal(comparison({ text: ["x"] }), null);
});

test("files are named as nodes/compare.py writes them", () => {
  const names = ["a", "b", "d"].map((letter) => new URLSearchParams(frameQuery(payload, letter, 7)).get("filename"));
  assert.deepEqual(names, ["a_00007.jpg", "b_00007.jpg", "d_00007.png"]);
  const found = Object.fromEntries(new URLSearchParams(videoQuery(payload)));
  assert.deepEqual(found, { filename: "v.mp4", subfolder: "sencache_compare/ab", type: "temp" });
});

test("a frame fits its box, wide or high", () => {
  assert.deepEqual(fit({ width: 200, height: 50 }, 2), { x: 50, y: 0, width: 100, height: 50 });
  assert.deepEqual(fit({ width: 100, height: 200 }, 2), { x: 0, y: 75, width: 100, height: 50 });
});

test("wiped clips lie on each other, the others beside each other without overlap", () => {
  const box = { width: 324, height: 400 };
  const [a, b] = places("wipe", box, payload);
  assert.deepEqual(a, b);
  const [left, right] = places("sides", box, payload);
  assert.ok(Math.abs(left.x + left.width + 4 - right.x) < 1e-9);
  assert.equal(left.width, 160);
  assert.ok(right.x + right.width <= box.width);
  assert.equal(places("difference", box, payload).length, 1);
  assert.deepEqual(letters("difference"), ["d"]);
});

test("the divider stays within the picture", () => {
  const place = { x: 50, width: 100 };
  assert.deepEqual([0, 50, 100, 300].map((x) => share(x, place)), [0, 0, 0.5, 1]);
});

test("frames come at their rate and begin anew", () => {
  assert.deepEqual([0, 0.09, 0.1, 1.1, 1.2].map((seconds) => due(0, seconds, 10, 12)), [0, 0, 1, 11, 0]);
  assert.equal(due(11, 0.1, 10, 12), 0);
  assert.deepEqual(rates(16), [4, 8, 12, 16, 24, 25, 30]);
  assert.ok(rates(13.5).includes(13.5));
});

test("curves stay in their panel, and the frame below the pointer is the one drawn there", () => {
  const panel = { width: 100, height: 40, pad: 5 };
  const placed = points([1, 3, 2], panel);
  assert.deepEqual(placed, [{ x: 5, y: 35 }, { x: 50, y: 5 }, { x: 95, y: 20 }]);
  placed.forEach(({ x }, i) => assert.equal(frameAt(x / panel.width, 3, panel), i));
  assert.deepEqual([-1, 0, 1, 2].map((along) => frameAt(along, 3, panel)), [0, 0, 2, 2]);
  const [only] = points([100], panel);
  assert.ok(only.y === 20 && only.x === 50);
  assert.equal(frameAt(0.9, 1, panel), 0);
  const { low, high } = span([0, 0]);
  assert.ok(low < 0 && high > 0);
});

test("the worst frame is named", () => {
  assert.deepEqual(summary([30, 20, 40]), { mean: 30, worst: 20, frame: 1 });
});

test("differences are told in levels of 255", () => {
  assert.deepEqual([0.5, 10 / 255, 0.012, 0.0012].map(levels), ["128", "10", "3.1", "0.31"]);
});

const entry = (number, workflow, outputs) => ({ prompt: [number, `p${number}`, {}, { extra_pnginfo: { workflow: { id: workflow } } }], outputs });
const output = (frames) => ({ sencache_compare: [{ version: 1, frames }] });

test("a history gives the newest of its own workflow and node", () => {
  const history = { a: entry(1, "w", { 5: output(1) }), b: entry(3, "w", { 5: output(3), 6: output(9) }), c: entry(4, "x", { 5: output(4) }), d: entry(5, "w", {}) };
  const is = (id) => id === "5";
  assert.equal(newest(history, "w", comparison, is).frames, 3);
  assert.equal(newest(history, "w", comparison, (id) => id === "7"), null);
  assert.equal(newest(history, undefined, comparison, () => true), null);
});

test("outputs do not pile up, and the last one counts", () => {
  const kept = new Kept();
  for (let i = 0; i < 200; i++) kept.put("w", String(i), i);
  kept.put("w", "199", "new");
  assert.ok(kept.states.size <= 64);
  assert.equal(kept.get("w", (id) => id === "199"), "new");
  assert.equal(kept.get("x", () => true), null);
});

/** A host with one open graph "w" of one node 5, and a history. */
function host(history) {
  const api = Object.assign(new EventTarget(), {
    fetchApi: async (route) => ({ json: async () => (route === "/queue" ? {} : history) }),
  });
  const node = { id: 5, shown: [], sencacheCompare: (payload) => node.shown.push(payload.frames) };
  const graph = { id: "w", nodes: [node], getNodeById: (id) => (Number(id) === 5 ? node : null) };
  return { app: { graph }, api, node, graph };
}

const wait = (ms) => new Promise((then) => setTimeout(then, ms));

test("a node is shown what it puts out, and none of another workflow", async () => {
  const history = { p1: entry(1, "w", {}), p2: entry(2, "other", {}) };
  const { app, api, node, graph } = host(history);
  const { restore } = follow({ app, api, read: comparison, name: "sencacheCompare" });
  const executed = (prompt_id, frames) => api.dispatchEvent(Object.assign(new Event("executed"), { detail: { node: "5", prompt_id, output: output(frames) } }));
  executed("p1", 8);
  executed("p2", 9);
  await wait(5);
  assert.deepEqual(node.shown, [8]);
  graph.id = "other"; // the graph that is opened now
  restore();
  await wait(300);
  assert.deepEqual(node.shown, [8, 9]);
});

test("after a reload a node is filled from the history", async () => {
  const { app, api, node } = host({ p1: entry(1, "w", { 5: output(7) }) });
  follow({ app, api, read: comparison, name: "sencacheCompare" }).restore();
  await wait(300);
  assert.deepEqual(node.shown, [7]);
});
