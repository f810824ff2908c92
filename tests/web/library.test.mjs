import assert from "node:assert/strict";
import test from "node:test";

import { age, facts, named, ordered, size, title } from "../../web/lib/library.js";

const row = { kind: "profile", name: "mine", when: 10, size: 1, samples: 2, steps: 30, sampler: "euler", scheduler: "simple", guidance: 5, shape: [1, 16, 5, 8, 8], tap: "output", family: "wan", fingerprint: "0123456789abcdef", error: null, problem: "", label: "" };
const keys = (one) => facts(one).map(({ key }) => key);

test("sizes", () => {
  assert.deepEqual([12, 4567, 1234567].map(size), ["12 B", "5 kB", "1.2 MB"]);
});

test("ages", () => {
  const now = 1e9;
  assert.equal(age(now - 3 * 86400, now, "en"), "3 days ago");
  assert.equal(age(now - 86400 - 5, now, "en"), "yesterday");
  assert.equal(age(now - 90, now, "en"), "1 minute ago");
  assert.equal(age(now + 50, now, "en"), "now"); // clocks differ
});

test("what a profile and a learnt model rest on", () => {
  assert.deepEqual(keys(row), ["library.samples", "steps", "library.sampler", "library.cfg", "library.latent", "library.checkpoint"]);
  const learnt = { ...row, kind: "learnt", error: 0.0512, tap: "stack", shape: [], guidance: 0, steps: 0 };
  assert.deepEqual(keys(learnt), ["library.runs", "library.sampler", "library.tap", "library.error", "library.checkpoint"]);
  assert.equal(facts(learnt)[3].values.error, 5.1);
  assert.deepEqual(facts({ ...row, problem: "torn" }), []);
});

test("names and order", () => {
  assert.equal(title(row), "mine");
  assert.equal(title({ kind: "learnt", name: "wan-01-02", family: "wan", label: "" }), "wan");
  assert.equal(title({ kind: "learnt", name: "wan-01-02", family: "wan", label: "My Wan" }), "My Wan");
  assert.deepEqual(ordered([row, { ...row, name: "new", when: 20 }, { ...row, kind: "learnt" }], "profile").map(({ name }) => name), ["new", "mine"]);
  assert.equal(named({ kind: "profile", name: "a&b c" }), "kind=profile&name=a%26b+c");
});
