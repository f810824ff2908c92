import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import * as report from "../../web/lib/report.js";

// The same file that the Python tests hold against RunReport.to_dict().
const run = JSON.parse(readFileSync(new URL("../fixtures/run_report.json", import.meta.url)));

test("headline gives evaluations and time apart", () => {
  const { evaluations, time, share } = report.headline(run);
  const partly = ` (${run.partial} of them in part)`;
  assert.equal(evaluations, `${run.evaluations} of ${run.steps.length} evaluations run${partly}, ${run.reused} reused`);
  assert.ok(!report.headline({ ...run, partial: 0 }).evaluations.includes("in part"));
  assert.match(time, /in the sampler, about .* saved time/);
  assert.equal(share, run.cost);
});

test("counts agree with the report's own", () => {
  const [computed, partial, forced, reused] = report.counts(run).map((entry) => entry.count);
  assert.equal(forced, run.forced);
  assert.equal(reused, run.reused);
  assert.equal(partial, run.partial);
  assert.equal(computed + partial + forced, run.evaluations);
  const whole = { ...run, steps: run.steps.filter((step) => step.decision !== "partial") };
  assert.deepEqual(report.counts(whole).map((entry) => entry.decision), ["computed", "forced", "reused"]);
});

test("every evaluation has a full row and a hover text", () => {
  const rows = report.rows(run);
  assert.equal(rows.length, run.steps.length);
  for (const row of rows) {
    assert.equal(row.length, report.columns(run).length);
    assert.ok(row.every((cell) => typeof cell === "string" && cell && cell !== "NaN"));
  }
  for (const step of run.steps) assert.match(report.hover(step, run), new RegExp(step.decision));
});

test("the mask has one letter per evaluation", () => {
  const letters = report.mask(run);
  assert.equal(letters.length, run.steps.length);
  assert.equal([...letters].filter((letter) => letter === "C").length, run.evaluations - run.partial);
  assert.equal([...letters].filter((letter) => letter === "h").length, run.partial);
});

test("scores of a plan are expected errors", () => {
  const step = { ...run.steps[0], score: 0.012, limit: null, error: null };
  for (const [policy, head, text] of [["planned", "expected", "1.2 %"], ["sencache", "score", "0.012"]]) {
    const one = { ...run, policy, steps: [step] };
    const column = report.columns(one).indexOf(head);
    assert.equal(report.rows(one)[0][column], text);
    assert.match(report.hover(step, one), policy === "planned" ? /expected to be 1.2 % off/ : /score 0.012/);
  }
});

test("lines hold messages, the reason for no reuse and an interrupt", () => {
  const texts = run.messages.map((message) => message.text);
  assert.deepEqual(report.lines(run), texts);
  const why = { key: "nothing.off", values: {}, text: "Nothing was skipped.", level: "problem" };
  assert.deepEqual(report.lines({ ...run, why }), [why.text, ...texts]);
  assert.deepEqual(report.lines({ ...run, why, messages: [why] }), [why.text]); // said once
  // A run that did not come to its end gives no ground for advice.
  const stopped = { ...run, completed: false, why };
  assert.deepEqual(report.lines(stopped).slice(1), texts);
  assert.match(report.lines(stopped)[0], /interrupted or failed/);
  assert.equal(report.lines({ ...stopped, stopped: "failed" })[0], "This run failed.");
  assert.deepEqual(report.lines({ ...stopped, ended: false }), texts);
});

test("a run says whether it is running, stopped or complete, and when it ended", () => {
  const when = new Date(2024, 4, 6, 14, 5).getTime() / 1000;
  const live = { ...run, completed: false, ended: false };
  assert.match(report.headline(live).evaluations, /\(running, 10 steps\)$/);
  for (const over of [{ ...live, stopped: "lost" }, { ...live, ended: true }]) {
    assert.match(report.headline(over).evaluations, /\(stopped, 10 steps were due\)$/);
  }
  assert.match(report.headline(run).evaluations, /reused$/);
  assert.match(report.headline({ ...run, when }).time, /, ended .*05/);
  assert.ok(!report.headline({ ...live, when }).time.includes("ended"));
  const [sameDay, nextDay] = [report.moment(when, when + 60), report.moment(when, when + 86400)];
  assert.ok(nextDay.endsWith(sameDay) && nextDay.length > sameDay.length);
});

test("what ran in part is named by the report, rounds without the model are told apart", () => {
  const part = { ...run.steps[0], decision: "partial", part: "last blocks", score: null };
  const idle = { ...run.steps[0], decision: "idle", reason: "not asked", calls: 0, cost: 0, score: null };
  const mixed = { ...run, partial: 1, idle: 1, steps: [part, idle, run.steps[0]] };
  assert.equal(report.named("partial", mixed.steps), "partial (last blocks)");
  assert.equal(report.named("partial", [{ ...part, part: "" }]), "partial");
  assert.equal(report.named("idle", mixed.steps), "idle");
  assert.match(report.hover(part, mixed), /partial \(last blocks\)/);
  assert.match(report.hover(idle, mixed), /the model was not asked/);
  assert.equal(report.mask(mixed), "h-C");
  assert.match(report.headline(mixed).evaluations, /of 2 evaluations/);
  const decision = report.columns(mixed).indexOf("decision");
  assert.deepEqual(report.rows(mixed).map((row) => row[decision]), ["partial (last blocks)", "idle", "forced"]);
});

test("figures are short", () => {
  const cases = [[null, "-"], [undefined, "-"], [0, "0"], [0.123456, "0.123"], [12.3456, "12.3"], [1e-7, "1.0e-7"], [123456, "1.2e+5"]];
  for (const [value, text] of cases) assert.equal(report.figure(value), text);
  assert.equal(report.clock(0.4), "0.40 s");
  assert.equal(report.clock(12.34), "12.3 s");
  assert.equal(report.clock(125), "2:05 min");
  assert.equal(report.percent(0.012), "1.2 %");
});

test("payloads are recognised by version", () => {
  const payload = { version: 1, runs: [], notes: [] };
  assert.equal(report.fromOutput({ sencache: [payload] }), payload);
  assert.equal(report.fromOutput({ sencache: [{ version: 2 }] }), null);
  assert.equal(report.fromOutput({ text: ["x"] }), null);
  assert.equal(report.fromOutput(undefined), null);
});
