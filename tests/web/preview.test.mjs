import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { PRESETS, cells, duration, factor, percent, presetOf, progress, result, words } from "../../web/lib/preview.js";
import { speak } from "../../web/lib/words.js";

const WORDS = JSON.parse(readFileSync(new URL("../../web/words/en.json", import.meta.url), "utf8"));
speak("en", WORDS);

const RUN = { node: "5", title: "KSampler", steps: 6, rounds: 6, mask: "CC.C.C", cost: 4, error: 0.045, errors: [null, 0.3, 0.02, 0.1, 0.03, 0.1], reuses: true, basis: "prior", learnt_from: 0, messages: [] };
const plain = (text) => text.replaceAll("\u00a0", " ");
const plan = (...runs) => ({ state: "plan", unknown: null, runs });

test("the line counts steps, and the factor follows from the work", () => {
  const said = words(plan(RUN));
  assert.equal(said.line, "4 of 6 steps, about 1.5x");
  assert.deepEqual([said.quality, said.rests, said.note], ["Close", "by typical figures", ""]);
  assert.match(said.more, /off by about 4.5 %/);
});

test("two samplers are counted together; the worse one gives the quality", () => {
  const rough = { ...RUN, mask: "C..C..", cost: 2, error: 0.2, basis: "learnt", learnt_from: 3 };
  const said = words(plan(RUN, rough));
  assert.equal(said.line, "6 of 12 steps, about 2x");
  assert.equal(said.quality, "Draft quality");
  assert.equal(words(plan({ ...rough, messages: [] })).rests, "learnt from 3 runs");
});

test("samplers that ask twice a step are counted in calls, parts in shares", () => {
  assert.match(words(plan({ ...RUN, steps: 3 })).line, /^4 of 6 model calls/);
  assert.equal(words(plan({ ...RUN, mask: "CChh.C", cost: 4 })).line, "5 of 6 steps, 2 of them in part, about 1.5x");
});

test("where nothing is skipped it says so, and why", () => {
  const off = { ...RUN, mask: "CCCCCC", cost: 6, error: 0, reuses: false, messages: ["Caching is off: too short."] };
  const said = words(plan(off));
  assert.deepEqual([said.line, said.quality, said.note], ["All 6 steps are computed", "", "Caching is off: too short."]);
  assert.equal(words({ state: "off", runs: [] }).line, WORDS["apply.off"]);
  assert.equal(words({ state: "full", runs: [] }).line, WORDS["apply.full"]);
});

test("problems are said at once, notes on hovering", () => {
  const messages = [{ key: "a", text: "A problem.", level: "problem" }, { key: "b", text: "A note.", level: "note" }];
  const said = words(plan({ ...RUN, messages }));
  assert.equal(said.note, "A problem.");
  assert.match(said.more, /A note\./);
});

test("what is not known is named in a sentence for every reason there is", () => {
  const python = ["graph", "preview", "sampling"].map((name) => readFileSync(new URL(`../../nodes/${name}.py`, import.meta.url), "utf8")).join();
  const page = readFileSync(new URL("../../web/apply.js", import.meta.url), "utf8");
  const keys = [...python.matchAll(/Unknown\("(\w+)"/g), ...page.matchAll(/unknown\("(\w+)"/g)].map(([, key]) => key);
  assert.ok(keys.length > 10);
  for (const key of keys) assert.ok(`apply.unknown.${key}` in WORDS, key);
  const why = { key: "connect", values: { node: "KSampler", input: "model" } };
  assert.equal(words({ state: "unknown", unknown: why, runs: [] }).note, "Connect model of KSampler to see which steps will be computed.");
});

test("a policy that decides on the way has no strip, and says why", () => {
  const said = words(plan({ ...RUN, mask: "", cost: null, error: null, why: "it decides as the run goes" }));
  assert.equal(said.note, "it decides as the run goes");
  assert.equal(said.line, WORDS["apply.unplanned"]);
  const why = { key: "unknown to the page", values: {}, text: "it decides later", level: "note" };
  assert.equal(words(plan({ ...RUN, mask: "", cost: null, error: null, why })).note, "it decides later");
});

test("cells are pale until they have run", () => {
  const made = cells(RUN, [{ decision: "forced", error: null }, { decision: "computed", error: 0.1 }, { decision: "reused", error: null }]);
  assert.deepEqual(made.map((cell) => cell.decision), ["forced", "computed", "reused", "planned-computed", "planned-reused", "planned-computed"]);
  assert.match(made[4].title, /^Step 5: skipped\n.*3 %/);
  assert.equal(made[5].title, "Step 6: computed");
});

test("a run that has ended says what it brought", () => {
  const ran = (count, rounds = 1) => Array.from({ length: count }, (_, i) => ({ step: Math.floor(i / rounds) }));
  const report = { steps: ran(30), idle: 0, evaluations: 15, partial: 0, num_steps: 30, completed: true, seconds: 80, saved_seconds: 80 };
  assert.equal(plain(result([report]).line), "2x faster, 15 of 30 steps, 1 min 20 s saved");
  assert.equal(result([{ ...report, completed: false, steps: ran(13) }]).line, "Stopped at 13 of 30 steps");
  assert.equal(plain(result([{ ...report, evaluations: 30 }]).line), "All 30 steps computed, 1 min 20 s");
  assert.equal(progress({ steps: ran(12), num_steps: 30, reused: 5 }), "Step 12 of 30, 5 skipped");
  // heun asks twice a step, but for the last.
  const twice = { ...report, steps: ran(59, 2) };
  assert.equal(plain(result([twice]).line), "2x faster, 15 of 59 model calls, 1 min 20 s saved");
  assert.equal(plain(result([{ ...twice, evaluations: 59 }]).line), "All 30 steps computed, 1 min 20 s");
  assert.equal(result([{ ...twice, completed: false, steps: ran(13, 2) }]).line, "Stopped at 7 of 30 steps");
  assert.equal(progress({ steps: ran(12, 2), num_steps: 30, reused: 5 }), "Step 6 of 30, 5 skipped");
});

test("figures for people", () => {
  assert.deepEqual([0.42, 12.3, 80, 3725].map(duration).map(plain), ["0.4 s", "12 s", "1 min 20 s", "1 h 2 min"]);
  assert.deepEqual([2, 1.96, 1.333].map(factor), ["2", "2", "1.3"]);
  assert.deepEqual([0.012, 0.004, 0.25].map(percent), ["1.2 %", "0.4 %", "25 %"]);
});

test("the matching preset is pressed", () => {
  assert.deepEqual(PRESETS.map(([name, budget]) => presetOf(budget) === name), [true, true, true, true]);
  assert.equal(presetOf(0.55), undefined);
});
