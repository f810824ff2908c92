import assert from "node:assert/strict";
import test from "node:test";

import { about, bounds, calibration, done, panels, path, place } from "../../web/lib/curves.js";

const curve = (values, name = "alpha_x") => ({ t: [1, 0.6, 0.2].slice(0, values.length), [name]: values });
const box = { width: 100, height: 50, pad: 0 };

test("only payloads of the known version are read", () => {
  const payload = { version: 1 };
  assert.equal(calibration({ sencache_calibrate: [payload] }), payload);
  assert.equal(calibration({ sencache_calibrate: [{ version: 9 }] }), null);
  assert.equal(calibration(undefined), null);
});

test("what is done", () => {
  assert.equal(done({ spent: 5, total: 20, state: "running" }), 0.25);
  assert.equal(done({ spent: 0, total: 0, state: "done" }), 1);
  assert.equal(done({ spent: 0, total: 0, state: "running" }), 0);
});

test("time left is an estimate, not a stopwatch", () => {
  assert.deepEqual(about(0.2), { key: "calibrate.seconds", value: 1 });
  assert.deepEqual(about(59.4), { key: "calibrate.seconds", value: 59 });
  assert.deepEqual(about(100), { key: "calibrate.minutes", value: 2 });
  assert.deepEqual(about(3599), { key: "calibrate.hours", value: 1, rest: 0 });
  assert.deepEqual(about(4800), { key: "calibrate.hours", value: 1, rest: 20 });
});

test("one line a sample, and a mean of those that are whole", () => {
  const [alpha, gain] = panels({ curves: [curve([4, 2, 1]), curve([2, 4, 3]), curve([9])], gains: [[0.5, 2], [0.4, null]] });
  assert.deepEqual(alpha.lines.map((line) => line.length), [3, 3, 1]);
  assert.deepEqual(alpha.mean.map(({ value }) => value), [3, 3, 2]);
  assert.deepEqual(gain.marks, [{ t: 0.5, value: 2 }]);
  assert.deepEqual(panels({ curves: [], gains: [] }), []);
  assert.deepEqual(panels({ curves: [curve([1])], gains: [] })[0].mean, []);
});

test("what is no number is left out", () => {
  const [{ lines }] = panels({ curves: [curve([1, null, 3])], gains: [] });
  assert.deepEqual(lines[0].map(({ t }) => t), [1, 0.2]);
});

test("noise is on the left, zero at the bottom", () => {
  const [panel] = panels({ curves: [curve([4, 2, 1])], gains: [] });
  const limits = bounds(panel);
  assert.deepEqual(limits, { left: 1, right: 0.2, low: 0, high: 4 });
  assert.deepEqual(place({ t: 1, value: 4 }, limits, box), { x: 0, y: 0 });
  assert.deepEqual(place({ t: 0.2, value: 0 }, limits, box), { x: 100, y: 50 });
  assert.equal(path(panel.lines[0], limits, box), "M0.0 0.0L50.0 25.0L100.0 37.5");
});

test("panels share their times", () => {
  const all = panels({ curves: [curve([4, 2, 1])], gains: [[0.5, 8]] });
  assert.deepEqual(bounds(all[1], all), { left: 1, right: 0.2, low: 0, high: 8 });
});

test("a single point and zeros can be drawn", () => {
  const [panel] = panels({ curves: [curve([0])], gains: [] });
  const { x, y } = place(panel.lines[0][0], bounds(panel), box);
  assert.ok(Number.isFinite(x) && Number.isFinite(y));
});
