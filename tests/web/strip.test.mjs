import assert from "node:assert/strict";
import test from "node:test";

import { STRIP_HEIGHT, places } from "../../web/lib/strip.js";

const cells = (...decisions) => decisions.map((decision) => ({ decision }));

test("cells lie side by side in 0 to 100 percent and stand on one line", () => {
  for (const count of [1, 7, 50, 1000]) {
    const all = places(Array(count).fill({ decision: "computed" }));
    assert.equal(all.length, count);
    all.forEach((at, i) => {
      assert.ok(at.width > 0 && at.x >= 0 && at.x + at.width <= 100 + 1e-9);
      assert.ok(at.middle > at.x && at.middle < at.x + 100 / count);
      if (i) assert.ok(at.x >= all[i - 1].x + all[i - 1].width);
      assert.equal(at.y + at.height, STRIP_HEIGHT);
    });
  }
  assert.deepEqual(places([]), []);
});

test("height tells what ran, as planned and as done", () => {
  const [computed, partial, reused, idle] = places(cells("computed", "partial", "reused", "idle")).map((at) => at.height);
  assert.ok(computed > partial && partial > reused && reused > idle && idle > 0);
  const planned = places(cells("planned-computed", "planned-reused")).map((at) => at.height);
  assert.deepEqual(planned, [computed, reused]);
});
