import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { VIEW, curves, decades, path, stripCells, ticks } from "../../web/lib/chart.js";

const run = JSON.parse(readFileSync(new URL("../fixtures/run_report.json", import.meta.url)));

test("one cell per evaluation, side by side inside the view", () => {
  const cells = stripCells(run.steps);
  assert.equal(cells.length, run.steps.length);
  cells.forEach((cell, i) => {
    assert.ok(cell.x >= VIEW.left && cell.x + cell.width <= VIEW.width - VIEW.right + 1e-9);
    if (i) assert.ok(cell.x >= cells[i - 1].x + cells[i - 1].width);
  });
});

test("reused cells are lower, all stand on one line", () => {
  const cells = stripCells(run.steps);
  const floor = cells.map((cell) => cell.y + cell.height);
  assert.ok(floor.every((y) => Math.abs(y - floor[0]) < 1e-9));
  const heights = (decision) => cells.filter((c) => c.decision === decision).map((c) => c.height);
  assert.ok(Math.max(...heights("reused")) < Math.min(...heights("forced")));
});

test("decades hold the values", () => {
  assert.deepEqual(decades([0.02, 0.5, null]), { low: -2, high: 0 });
  assert.deepEqual(decades([0.1]), { low: -1, high: 0 });
  assert.deepEqual(decades([1, 1e-20]), { low: -5, high: 0 });
  assert.equal(decades([null, 0, undefined]), null);
});

test("curves stay inside the chart, higher values higher up", () => {
  const drawn = curves(run.steps);
  for (const point of [...drawn.score, ...drawn.limit, ...drawn.error]) {
    assert.ok(point.y >= drawn.top - 1e-9 && point.y <= drawn.bottom + 1e-9);
  }
  const sorted = [...drawn.score].sort((a, b) => a.value - b.value);
  assert.ok(sorted[0].y >= sorted.at(-1).y);
  assert.equal(drawn.score.length, run.steps.filter((s) => s.score !== null).length);
});

test("a vanishing limit does not stretch the scale", () => {
  const steps = [
    { decision: "computed", score: 0.5, limit: 1e-30, error: null },
    { decision: "reused", score: 0.1, limit: 0.3, error: null },
  ];
  const drawn = curves(steps);
  assert.equal(drawn.grid.length, 2);
  assert.equal(drawn.limit[0].y, drawn.bottom);
});

test("nothing to draw", () => {
  assert.equal(curves([{ decision: "forced", score: null, limit: null, error: null }]), null);
  assert.equal(path([]), "");
  assert.deepEqual(stripCells([]), []);
  assert.ok(ticks(Array(200).fill({ decision: "computed" })).length <= 13);
});
