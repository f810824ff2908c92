// Registers the extension that puts progress, curves and files into SenCache Calibrate.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { calibration } from "./lib/curves.js";
import { renderCalibration } from "./lib/curves_view.js";
import { follow } from "./lib/kept.js";
import { learn, locale } from "./lib/language.js";
import { addPage } from "./lib/page.js";

const { show, restore } = follow({ app, api, read: calibration, name: "sencacheCalibrate" });

function resume(node, { file, node: id }) {
  const widget = node.widgets.find((one) => one.name === "resume");
  widget.value = file;
  widget.callback?.(file);
  app.queuePrompt(0, 1, [String(id ?? node.id)]);
}

function addProgress(node) {
  const page = addPage(app, node, "sencache_progress", { width: 400, height: 760, inner: 330 });
  const act = {
    cancel: ({ prompt }) => api.interrupt(prompt || null),
    resume: (payload) => resume(node, payload),
    library: () => app.extensionManager?.command?.execute("SenCache.Library"),
  };
  node.sencacheCalibrate = (payload) => renderCalibration(page, payload, act);
  node.sencacheCalibrate(null);
}

api.addEventListener("sencache.calibrate", ({ detail }) => show(detail.prompt, detail.node, detail));

app.registerExtension({
  name: "SenCache.Calibrate",
  setup: () => learn(locale(app)),
  nodeCreated(node) {
    if (node.comfyClass === "SenCacheCalibrate") addProgress(node);
  },
  afterConfigureGraph: restore,
});
