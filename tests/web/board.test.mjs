import assert from "node:assert/strict";
import test from "node:test";

import { Board, of, shown } from "../../web/lib/board.js";
import { VIEWER } from "../../web/lib/graph.js";
import { golden } from "./english.mjs";

const report = golden();
const under = { ...report, completed: false, ended: false };
const cut = { ...report, completed: false, ended: true };
const node = (class_type, inputs = {}) => ({ class_type, inputs });
const prompt = {
  7: node("SenCacheApply"),
  8: { ...node("KSampler", { model: ["7", 0] }), _meta: { title: "High noise" } },
  9: node("KSampler", { model: ["7", 0], latent_image: ["8", 0] }),
  10: node(VIEWER, { latent: ["9", 0], stats: ["7", 1] }),
  11: node(VIEWER, { latent: ["8", 0], stats: ["7", 1] }),
};
const job = (id, workflow = "w", tab = "a") => ({ id, prompt, workflow, tab });
const told = (sampler, what) => ({ node: "7", sampler, report: what });
const output = (from, when = 100) => ({
  sencache: [{ version: 1, prompt: from, when, runs: [{ label: "Run", ...report, when }], notes: [] }],
});
const board = () => new Board(() => 50);
/** What viewer `id` of workflow w in tab a shows. */
const view = (all, id = "10") => shown(all.states.find((state) => of(state, "w", "a") && state.viewer === id), 200);

test("runs are shown as they go, one after the other, then as the node was executed", () => {
  const all = board();
  assert.deepEqual(all.progress(job("p"), told("8", under)).map((state) => state.viewer), ["10", "11"]);
  all.progress(job("p"), told("8", report));
  all.progress(job("p"), told("9", under));
  assert.deepEqual(view(all).runs.map((run) => [run.label, run.ended]), [["High noise", true], ["Run", false]]);
  assert.equal(view(all).latest, 1);
  assert.deepEqual(view(all, "11").runs.map((run) => run.ended), [true]); // sampler 9 comes after it
  assert.equal(all.finish(job("p"), "10", output("p")).length, 1);
  assert.deepEqual(view(all).notes, []);
  assert.equal(view(all).earlier, "");
  assert.deepEqual(all.finish(job("p"), "10", { text: ["x"] }), []);
});

test("a viewer that was executed is not taken back by a later sampler", () => {
  const all = board();
  all.finish(job("p"), "11", output("p"));
  assert.deepEqual(all.progress(job("p"), told("8", under)).map((state) => state.viewer), ["10"]);
  assert.equal(view(all, "11").runs[0].completed, true);
});

test("interrupts, errors and lost connections end a run", () => {
  for (const how of ["interrupted", "failed", "lost"]) {
    for (const last of [under, cut]) { // whether or not the sampler could still tell
      const all = board();
      all.progress(job("p"), told("9", last));
      assert.equal(all.pending().length, 1);
      all.end(job("p"), how);
      const [run] = view(all).runs;
      assert.deepEqual([run.stopped, run.when], [how, 50]);
      assert.deepEqual(all.pending(), []);
      assert.deepEqual(all.progress(job("p"), told("9", under)), []); // a late message
    }
  }
});

test("a run that failed has the error's own words, one that was over before has not", () => {
  const all = board();
  all.progress(job("p"), told("8", report));
  all.progress(job("p"), told("9", under));
  all.end(job("p"), "failed", "out of memory");
  assert.deepEqual(view(all).runs.map((run) => run.failure), [undefined, "out of memory"]);
});

test("a run is compared with the complete one that its viewer showed before", () => {
  const all = board();
  const before = () => view(all).before.map((run) => run.when);
  all.finish(job("p"), "10", output("p", 100));
  assert.deepEqual(before(), []);
  assert.equal(view(all).live, false);
  all.progress(job("q"), told("9", under));
  assert.deepEqual(before(), [100]);
  assert.equal(view(all).live, true);
  all.finish(job("q"), "10", output("q", 200));
  assert.deepEqual(before(), [100]);
  all.finish(job("r"), "10", output("q", 200)); // nothing was sampled anew
  assert.deepEqual(before(), [100]);
  all.progress(job("s"), told("9", under));
  all.end(job("s"), "interrupted");
  all.progress(job("t"), told("9", under)); // what was interrupted is nothing to compare with
  assert.deepEqual(before(), [200]);
  all.progress(job("u", "other"), told("9", under));
  assert.deepEqual(all.states.at(-1).before, []);
});

test("a graph that ends between sampler and viewer says so", () => {
  const all = board();
  all.progress(job("p"), told("9", report));
  all.end(job("p"), "failed");
  assert.match(view(all).notes[0], /before this node/);
  assert.equal(view(all).runs[0].stopped, undefined);
});

test("what is queued anew makes the chart an earlier one, until the new run shows", () => {
  const all = board();
  all.finish(job("p"), "10", output("p"));
  assert.equal(all.queue("w", "a").length, 1);
  assert.match(view(all).earlier, /^Earlier run, .*\.$/);
  all.progress(job("q"), told("9", under));
  assert.equal(view(all).earlier, "");
  assert.deepEqual(all.queue("w", "a"), []); // a run under way is of its own graph
});

test("the chart of a run before a refused, failed or interrupted one says which", () => {
  const all = board();
  all.finish(job("p"), "10", output("p"));
  all.refuse("w", "a", ["13"]);
  assert.equal(view(all).earlier, "");
  all.refuse("w", "a", ["10"]);
  assert.match(view(all).earlier, /refused the graph/);
  for (const [how, words] of [["failed", /failed before/], ["interrupted", /interrupted before/], ["", /refused/]]) {
    all.refuse("w", "a");
    all.refuse("w", "a", []); // the next is accepted
    all.end(job("q"), how);
    assert.match(view(all).earlier, words);
  }
});

test("a viewer that ComfyUI refused says so while the rest of its graph runs", () => {
  for (const how of ["", "failed", "interrupted"]) {
    const all = board();
    all.finish(job("p"), "10", output("p"));
    all.finish(job("p"), "11", output("p"));
    all.queue("w", "a");
    all.refuse("w", "a", ["10"]);
    all.start(job("q"));
    all.end(job("q"), how);
    assert.match(view(all).earlier, /refused the graph/);
    assert.match(view(all, "11").earlier, how ? RegExp(how) : /^Earlier run, .*\.$/);
    all.refuse("w", "a", []); // the next was not refused
    all.start(job("r"));
    assert.doesNotMatch(view(all).earlier, /refused/);
  }
});

test("a graph that is refused while an earlier one runs is told when that has ended", () => {
  for (const close of [(all) => all.finish(job("p"), "10", output("p")), (all) => all.end(job("p"), "interrupted")]) {
    for (const viewers of [undefined, ["10"]]) {
      const all = board();
      all.progress(job("p"), told("9", under));
      all.queue("w", "a");
      assert.deepEqual(all.refuse("w", "a", viewers), []);
      assert.equal(view(all).earlier, "");
      close(all);
      assert.match(view(all).earlier, /refused the graph/);
      all.progress(job("q"), told("9", under));
      assert.equal(view(all).earlier, "");
    }
  }
});

test("two prompts in the queue: the first stays until the second begins", () => {
  const all = board();
  all.progress(job("p"), told("9", under));
  all.queue("w", "a");
  all.finish(job("p"), "10", output("p"));
  assert.equal(view(all).earlier, "");
  all.start(job("q"));
  assert.match(view(all).earlier, /Earlier run/);
});

test("results that ComfyUI kept are not called new", () => {
  const all = board();
  all.finish(job("q"), "10", output("p"));
  assert.match(view(all).notes[0], /kept the results/);
});

test("states belong to one workflow in one tab", () => {
  const all = board();
  all.finish(job("p"), "10", output("p", 100));
  all.finish(job("q", "w", "b"), "10", output("q", 101));
  all.finish(job("r", "other"), "10", output("r", 102));
  assert.equal(all.states.length, 3);
  assert.equal(view(all).when, 100);
  all.queue("w", "b");
  assert.equal(view(all).earlier, "");
  assert.ok(of({ job: job("s", "w", undefined) }, "w", "a")); // queued before the page was loaded
  assert.ok(!of({ job: job("s", undefined) }, undefined, "a"));
});

test("a history fills a viewer with the newest figures of its workflow, dated", () => {
  const entry = (number, workflow, when) => ({
    prompt: [number, `p${number}`, prompt, { extra_pnginfo: { workflow: { id: workflow } } }],
    outputs: { "12:10": output(`p${number}`, when), 5: { text: [] } },
  });
  const history = { a: entry(1, "w", 10), b: entry(3, "w", 30), c: entry(4, "other", 40), d: { prompt: [5, "x", prompt, {}] } };
  const all = board();
  const [found] = all.restore(history, "w", "a", (id) => id === "12:10");
  assert.equal(found.payload.when, 30);
  assert.deepEqual(found.before.map((run) => run.when), [10]);
  assert.match(shown(found, 60).earlier, /Earlier run/);
  assert.deepEqual(all.restore(history, "w", "a", (id) => id === "12:10"), []); // filled by now
  all.refuse("w", "a");
  assert.match(view(all, "12:10").earlier, /refused/);
  assert.deepEqual(all.restore(history, "w", "a", (id) => id === "10"), []);
  assert.deepEqual(all.restore(history, undefined, "a", () => true), []);
});

test("neither jobs nor states pile up", () => {
  const all = board();
  for (let i = 0; i < 200; i++) all.finish(all.add(job(`p${i}`, `w${i}`)), "10", output(`p${i}`));
  assert.ok(all.jobs.size <= 64 && all.states.length <= 64);
  assert.ok(all.jobs.has("p199") && all.states.at(-1).job.id === "p199");
});
