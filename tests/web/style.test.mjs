import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { STYLE } from "../../web/lib/view.js";

test("every class has the pack's prefix: the frontend's stylesheet knows the plain names", () => {
  const source = readFileSync(new URL("../../web/lib/view.js", import.meta.url), "utf8");
  const styled = [...STYLE.matchAll(/\.([a-z][\w-]*)[^{}]*\{/g)].map((found) => found[1]);
  const used = [...source.matchAll(/(?:className|class): "([^"]+)"/g)].flatMap((found) => found[1].split(" "));
  assert.ok(styled.length > 10 && used.length > 10);
  for (const name of [...styled, ...used]) assert.match(name, /^sencache-/);
});

test("what is in the page never sizes the node", () => {
  const page = STYLE.match(/\.sencache-page \{([^}]*)\}/)[1];
  assert.match(page, /position: absolute/);
  assert.match(page, /overflow: auto/);
});
