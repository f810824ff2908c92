import assert from "node:assert/strict";
import { test } from "node:test";

import { hideAdvanced } from "../../web/lib/page.js";

test("expert inputs come and go with the node's switch, however often that was asked for", () => {
  const widget = { name: "blocks", options: { advanced: true } };
  const node = { widgets: [widget, { name: "steps", options: {} }], showAdvanced: false };
  const app = {}; // as in a frontend without settings
  hideAdvanced(app, node);
  hideAdvanced(app, node);
  assert.equal(widget.hidden, true);
  node.showAdvanced = true;
  assert.ok(!widget.hidden);
  assert.equal(node.widgets[1].hidden, undefined);
});
