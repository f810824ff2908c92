import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { LIMITS, quality } from "../../web/lib/quality.js";

const theory = readFileSync(new URL("../../docs/theory.md", import.meta.url), "utf8");
const words = JSON.parse(readFileSync(new URL("../../web/words/en.json", import.meta.url)));

test("a larger error is never called nearer, and no error has no word", () => {
  const order = ["quality.very_close", "quality.close", "quality.visible", "quality.draft"];
  const found = Array.from({ length: 200 }, (_, i) => order.indexOf(quality(i / 500)));
  assert.deepEqual(found, [...found].sort());
  assert.deepEqual(new Set(found), new Set([0, 1, 2, 3]));
  for (const none of [null, undefined, NaN]) assert.equal(quality(none), null);
  for (const key of order) assert.ok(words[key], key);
});

test("docs/theory.md states the same limits", () => {
  for (const [key, most] of LIMITS) assert.match(theory, new RegExp(`\\| ${words[key]} \\|[^|]*${most} \\|`));
});
