import assert from "node:assert/strict";
import test from "node:test";

import * as report from "../../web/lib/report.js";
import { golden, words } from "./english.mjs";

const run = { ...golden(), label: "KSampler", node: "3" };

/** A run of `letters`, of which `done` are done: a second for each that is computed, a tenth for others. */
function made(letters, done = letters.length, more = {}) {
  const kinds = { C: "computed", ".": "reused", h: "partial" };
  const steps = [...letters].slice(0, done).map((letter, i) => {
    const cost = { C: 1, h: 0.5, ".": 0 }[letter];
    return { ...run.steps[0], ordinal: i, step: i, decision: kinds[letter], part: "", cost, calls: 1, seconds: 0.1 + 0.9 * cost, branches: {} };
  });
  const count = (letter) => steps.filter((step) => step.decision === kinds[letter]).length;
  const figures = { evaluations: count("C") + count("h"), partial: count("h"), reused: count("."), idle: 0 };
  const seconds = steps.reduce((all, step) => all + step.seconds, 0);
  const over = done === letters.length;
  const plan = { planned: letters, rounds: letters.length, num_steps: letters.length, whole: letters.length, before: 0 };
  return { ...run, ...plan, ...figures, steps, seconds, saved_seconds: steps.length - seconds, expected: 0.02, completed: over, ended: over, ...more };
}

const large = (clip) => report.answer(clip, report.track(clip)).map((one) => one.large);
const small = (clip) => report.answer(clip, report.track(clip)).map((one) => one.small);

test("the track has a cell for each step from the first moment on, with what is planned", () => {
  const cells = report.track([made("CC.h.C", 0)]);
  assert.deepEqual(cells.map((cell) => cell.decision), ["planned-computed", "planned-computed", "planned-reused", "planned-partial", "planned-reused", "planned-computed"]);
  const half = report.track([made("CC.h.C", 3)]);
  assert.deepEqual(half.map((cell) => cell.decision).slice(0, 4), ["computed", "computed", "reused", "planned-partial"]);
  assert.deepEqual(half.map((cell) => cell.number), [1, 2, 3, 4, 5, 6]);
  assert.equal(report.track([made("CC.h.C", 3, { planned: "" })])[4].decision, "due");
  assert.equal(report.track([made("CCCC", 2, { rounds: 0, planned: "" })]).length, 4); // an adaptive sampler
  assert.equal(report.track([made("CC..", 2, { stopped: "interrupted", ended: true })]).length, 4);
});

test("runs that go on from each other are one clip, others are not", () => {
  const high = made("CC.C", 4, { label: "High", when: 1, whole: 7 });
  const low = made("C.C", 3, { label: "Low", when: 2, before: 4, whole: 7 });
  const other = made("CC.C", 4, { label: "Other", when: 3 });
  assert.deepEqual(report.clips([low, other, high]).map(report.title), ["High + Low", "Other"]);
  assert.deepEqual(report.clips([{ ...high, completed: false }, low]).length, 2);
  const [clip] = report.clips([high, low]);
  const cells = report.track(clip);
  assert.equal(report.sums(clip, cells), "5 of 7 steps computed, 2 skipped");
  assert.deepEqual(report.stages(cells), [{ label: "High", count: 4 }, { label: "Low", count: 3 }]);
  assert.equal(report.figures(clip).expected.toFixed(4), Math.hypot(0.02, 0.02).toFixed(4));
  assert.deepEqual(report.stages(report.track([made("C.C")])), []);
});

test("a stage that is still to come is on the track while the graph runs", () => {
  const high = [made("CC.C", 4, { label: "High", whole: 7 })];
  const cells = report.track(high, true);
  assert.deepEqual(report.stages(cells).map((stage) => [stage.label, stage.count]), [["High", 4], [words["viewer.to_come"], 3]]);
  assert.equal(report.status(high, cells).level, "live");
  assert.equal(report.track(high).length, 4); // the graph has ended
});

test("the answer is measured when a run is over, planned while it runs", () => {
  const over = [made("CC.C..CC.C", 10)];
  assert.deepEqual(large(over), ["1.6x", "3.6 s", "very close"]);
  assert.match(small(over)[2], /expected error 2 %/);
  const live = [made("CC.C..CC.C", 2)];
  assert.deepEqual([large(live)[0], small(live)[0]], ["about 1.7x", "faster, as planned"]);
  const unplanned = [made("CC.C..CC.C", 4, { planned: "", expected: null })];
  assert.deepEqual([large(unplanned)[0], small(unplanned)[0]], ["1.3x", "faster so far"]);
  assert.deepEqual([large(unplanned)[2], small(unplanned)[2]], ["-", "no expected error"]);
  const full = [made("CCCC", 4, { expected: null })];
  assert.deepEqual(small(full), ["nothing skipped", "saved", "every step computed"]);
});

test("computed and skipped steps are counted as the report does, by the sampler's own count", () => {
  assert.equal(report.sums([run], report.track([run])), "7 of 10 steps computed, 1 of them in part, 3 skipped");
  const twice = [made("CC.C", 4, { num_steps: 2 })];
  assert.equal(report.sums(twice, report.track(twice)), "3 of 4 evaluations computed, 1 skipped");
  const idle = { ...made("CC.C"), idle: 1 };
  idle.steps[3] = { ...idle.steps[3], decision: "idle" };
  assert.match(report.sums([idle], report.track([idle])), /of 3 steps/);
});

test("the status says where a clip stands", () => {
  const status = (...clip) => report.status(clip, report.track(clip)).text;
  assert.equal(status(made("CC.C", 0)), "Starting: 4 steps");
  assert.equal(status(made("CC.C", 2)), "Step 2 of 4, about 1.0 s left");
  const stopped = { ended: true, completed: false };
  assert.equal(status(made("CC.C", 2, { ...stopped, stopped: "interrupted" })), "Stopped at 2 of 4.");
  assert.equal(status(made("CC.C", 2, { ...stopped, stopped: "failed", failure: "out of memory" })), "Failed at 2 of 4.");
  assert.match(status(made("CC.C", 2, { ...stopped, stopped: "lost" })), /^Cut off at 2 of 4/);
  assert.match(status(made("CC.C", 2, stopped)), /interrupted or failed/);
  assert.equal(status(made("CC.C", 4)), "Done in 3.1 s.");
  const when = new Date(2024, 4, 6, 14, 5).getTime() / 1000;
  assert.match(status(made("CC.C", 4, { when })), /05/);
  const [sameDay, nextDay] = [report.moment(when, when + 60), report.moment(when, when + 86400)];
  assert.ok(nextDay.endsWith(sameDay) && nextDay.length > sameDay.length);
});

test("the time left is that of the steps to come, each of its kind", () => {
  const left = (...clip) => report.timeLeft(report.track(clip));
  assert.equal(left(made("CC.C", 0)), null);
  assert.equal(left(made("CC.C.C", 3)).toFixed(2), "2.10");
  assert.equal(left(made("CC.C.h", 3)).toFixed(2), "1.60"); // half a step where none has shown
  assert.equal(left(made("CC.C", 4)), 0);
});

test("messages are ranked, none is said twice", () => {
  const said = [{ text: "on a prior", level: "detail" }, { text: "a note", level: "note" }, { text: "look here", level: "problem" }, "plain"];
  const one = made("CC.C", 4, { messages: said, why: { text: "a note", level: "problem" } });
  assert.deepEqual(report.messages([one, one], ["plain"]), [
    { text: "a note", level: "problem" },
    { text: "look here", level: "problem" },
    { text: "plain", level: "note" },
    { text: "on a prior", level: "detail" },
  ]);
  const failed = made("CC.C", 2, { messages: [], failure: "out of memory", why: "nothing was skipped" });
  assert.deepEqual(report.messages([failed]), [{ text: "out of memory", level: "problem" }]); // unfinished: no ground for advice
});

test("a clip is compared with the last one of the same samplers", () => {
  const [now, then] = [[made("C.C.C.C.", 8)], [made("CCC.CCC.", 8, { expected: 0.01 })]];
  assert.equal(report.counterpart(now, then)[0], then[0]);
  assert.equal(report.counterpart(now, [{ ...then[0], node: "9" }]), undefined);
  assert.equal(report.counterpart(now, [{ ...then[0], completed: false }]), undefined);
  assert.deepEqual(report.differences(now, then), { factor: "+0.5x", saved: "+1.8 s", quality: "+1 %" });
  assert.deepEqual(report.differences(then, now).factor, "\u22120.5x");
  assert.deepEqual(report.differences(now, now), {});
  assert.deepEqual(report.differences([made("C.C.", 2)], then), {});
});

test("branches have rows where they differ, or are planned to", () => {
  assert.deepEqual(report.branches(report.track([made("CC.C")])), []);
  const [cond, uncond] = report.branches(report.track([run]));
  assert.deepEqual([cond.label, uncond.label], ["prompt", "negative"]);
  const part = run.steps.findIndex((step) => step.decision === "partial");
  assert.deepEqual([cond.cells[part].decision, uncond.cells[part].decision], ["computed", "reused"]);
  assert.equal(cond.cells[0].decision, run.steps[0].decision);
  assert.equal(report.branches(report.track([made("CCh.", 0)])).length, 2);
  const windows = made("CC.C");
  windows.steps[2].branches = { cond: 0, "cond 2": 0.5 };
  const rows = report.branches(report.track([windows]));
  assert.deepEqual(rows.map((row) => [row.label, row.cells[2].decision]), [["prompt", "reused"], ["prompt 2", "partial"]]);
});

test("counts agree with the report's own", () => {
  const [computed, partial, forced, reused] = report.counts(run.steps).map((entry) => entry.count);
  assert.deepEqual([forced, reused, partial], [run.forced, run.reused, run.partial]);
  assert.equal(computed + partial + forced, run.evaluations);
  const whole = run.steps.filter((step) => step.decision !== "partial");
  assert.deepEqual(report.counts(whole).map((entry) => entry.decision), ["computed", "forced", "reused"]);
});

test("every step has a full row and a line of its own, those to come too", () => {
  const cells = report.track([run]);
  const rows = report.rows(cells);
  assert.equal(rows.length, run.steps.length);
  for (const row of rows) {
    assert.equal(row.length, report.columns(run).length);
    assert.ok(row.every((cell) => typeof cell === "string" && cell && cell !== "NaN" && !cell.includes("viewer.")));
  }
  for (const cell of cells) assert.ok(report.detail(cell).includes(report.named(cell.decision)));
  const [, , skipped] = report.track([made("CC.C", 0)]);
  assert.equal(report.detail(skipped), "Step 3: to come, planned to be skipped.");
  assert.equal(report.detail({ ...skipped, decision: "due" }), "Step 3: to come.");
});

test("the mask has one letter per step", () => {
  const letters = report.mask(run);
  assert.equal(letters.length, run.steps.length);
  assert.equal([...letters].filter((letter) => letter === "C").length, run.evaluations - run.partial);
  assert.equal([...letters].filter((letter) => letter === "h").length, run.partial);
  assert.equal(report.mask(made("C.h")), "C.h");
});

test("scores of a plan are expected errors", () => {
  const step = { ...run.steps[0], score: 0.012, limit: null, error: null };
  for (const [policy, head, text] of [["planned", "expected", "1.2 %"], ["sencache", "score", "0.012"]]) {
    const one = { ...run, policy, steps: [step] };
    const [cell] = report.track([one]);
    assert.equal(report.rows([cell])[0][report.columns(one).indexOf(head)], text);
    assert.match(report.detail(cell), policy === "planned" ? /expected to be 1.2 % off/ : /Score 0.012/);
  }
});

test("what ran in part is named by the report, an unknown reason by itself", () => {
  const part = { ...run.steps[0], decision: "partial", part: "last blocks" };
  assert.equal(report.named("partial", [part]), "in part (last blocks)");
  assert.equal(report.named("partial", [{ ...part, part: "" }]), "in part");
  assert.equal(report.named("planned-reused"), "skipped");
  assert.equal(report.reason({ reason: "first evaluation" }), "first step");
  assert.equal(report.reason({ reason: "of a later version" }), "of a later version");
});

test("comma-separated values hold every step of every run", () => {
  const lines = report.csv([{ ...run, label: 'High, "noise"' }, run]).split("\r\n");
  assert.equal(lines.length, 2 * run.steps.length + 2);
  assert.ok(lines[1].startsWith('"High, ""noise""",0,'));
  const width = lines[0].split(",").length;
  for (const line of lines.slice(run.steps.length + 1, -1)) assert.equal(line.split(",").length, width);
});

test("figures are short", () => {
  const cases = [[null, "-"], [undefined, "-"], [0, "0"], [0.123456, "0.123"], [12.3456, "12.3"], [1e-7, "1.0e-7"], [123456, "1.2e+5"]];
  for (const [value, text] of cases) assert.equal(report.figure(value), text);
  const times = [[0.4, "0.40 s"], [12.34, "12.3 s"], [125, "2 min 5 s"], [3725, "1 h 2 min"]];
  for (const [value, text] of times) assert.equal(report.clock(value), text);
  assert.deepEqual([0.012, 0.4567, 0, 2e-8, null].map(report.percent), ["1.2 %", "46 %", "0 %", "< 0.01 %", "-"]);
});

test("payloads are recognised by version", () => {
  const payload = { version: 1, runs: [], notes: [] };
  assert.equal(report.fromOutput({ sencache: [payload] }), payload);
  assert.equal(report.fromOutput({ sencache: [{ version: 2 }] }), null);
  assert.equal(report.fromOutput({ text: ["x"] }), null);
  assert.equal(report.fromOutput(undefined), null);
});
