import assert from "node:assert/strict";
import test from "node:test";

import { CHART, curves, scale, ticks } from "../../web/lib/chart.js";
import { golden } from "./english.mjs";

const run = golden();

test("grid values hold all others, and are few", () => {
  for (const values of [[0.02, 0.5, null], [0.1], [0.015, 0.1], [1, 1e-20], [0.2, 0.2], [3e-7, 9e-7], [7, 8, 9]]) {
    const [grid, known] = [scale(values), values.filter((value) => value > 0)];
    const top = Math.max(...known);
    assert.ok(grid.length >= 2 && grid.length <= 7, `${values}: ${grid}`);
    assert.ok(grid[0] <= Math.max(Math.min(...known), top * 1e-5) * (1 + 1e-9) && grid.at(-1) >= top * (1 - 1e-9), `${values}: ${grid}`);
    assert.deepEqual(grid, [...grid].sort((a, b) => a - b));
  }
  assert.deepEqual(scale([0.015, 0.1]), [0.01, 0.02, 0.05, 0.1]);
  assert.equal(scale([null, 0, undefined]), null);
});

test("curves stay inside the chart, higher values higher up, each in its step's column", () => {
  const steps = [...run.steps, null, null]; // two that are to come
  const drawn = curves(steps);
  for (const point of [...drawn.score, ...drawn.limit, ...drawn.error]) {
    assert.ok(point.y >= CHART.top - 1e-9 && point.y <= CHART.height - CHART.bottom + 1e-9);
    assert.equal(Math.floor((point.x / 100) * steps.length) < run.steps.length, true);
  }
  const sorted = [...drawn.score].sort((a, b) => a.value - b.value);
  assert.ok(sorted[0].y > sorted.at(-1).y);
  assert.equal(drawn.score.length, run.steps.filter((s) => s.score !== null).length);
});

test("a vanishing limit does not stretch the scale", () => {
  const steps = [
    { decision: "computed", score: 0.5, limit: 1e-30, error: null },
    { decision: "reused", score: 0.1, limit: 0.3, error: null },
  ];
  const drawn = curves(steps);
  assert.deepEqual(drawn.grid.map((line) => line.label), ["0.1", "0.2", "0.5"]);
  assert.equal(drawn.limit[0].y, CHART.height - CHART.bottom);
});

test("nothing to draw", () => {
  assert.equal(curves([{ decision: "forced", score: null, limit: null, error: null }, null]), null);
  assert.deepEqual(ticks(0), []);
});

test("numbers below the chart are few, and never beside each other", () => {
  assert.deepEqual(ticks(1).map((one) => one.label), ["1"]);
  assert.deepEqual(ticks(30).map((one) => one.label), ["1", "5", "10", "15", "20", "25", "30"]);
  for (const count of [2, 13, 24, 50, 199, 1000]) {
    const found = ticks(count);
    assert.ok(found.length <= 14, `${count}: ${found.length}`);
    found.slice(1).forEach((one, i) => assert.ok(count < 13 || one.x - found[i].x > 2.5, `${count}`));
  }
});
