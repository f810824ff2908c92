// A menu entry that puts SenCache Apply in the place of ComfyUI's own caches, where the user asked for it.

import { app } from "../../scripts/app.js";
import { learn, locale } from "./lib/language.js";
import { t } from "./lib/words.js";

const OLD = ["EasyCache", "LazyCache"];

/** Puts SenCache Apply where `old` is, with its wires; its threshold has no counterpart. */
function replace(old) {
  const { graph } = old;
  const apply = window.LiteGraph.createNode("SenCacheApply");
  if (!apply) return;
  graph.beforeChange?.();
  graph.add(apply);
  apply.pos = [...old.pos];
  apply.mode = old.mode;
  const input = graph.getLink?.(old.inputs[0]?.link) ?? graph.links.get?.(old.inputs[0]?.link);
  const source = input && graph.getNodeById(input.origin_id);
  const targets = (old.outputs[0]?.links ?? []).map((id) => graph.getLink?.(id) ?? graph.links.get(id));
  // A wire that comes from outside a subgraph, or leaves it, ends in no node of it.
  if (source) source.connect(input.origin_slot, apply, 0);
  else if (input) graph.inputNode?.slots[input.origin_slot]?.connect(apply.inputs[0], apply);
  for (const { target_id, target_slot } of targets.filter(Boolean)) {
    const target = graph.getNodeById(target_id);
    if (target) apply.connect(0, target, target_slot);
    else graph.outputNode?.slots[target_slot]?.connect(apply.outputs[0], apply);
  }
  const threshold = old.widgets?.find((widget) => widget.name === "reuse_threshold")?.value;
  graph.remove(old);
  graph.afterChange?.();
  const budget = apply.widgets.find((widget) => widget.name === "budget").value;
  const detail = t("replace.done", { node: old.type, threshold, budget });
  app.extensionManager?.toast?.add({ severity: "info", summary: "SenCache", detail, life: 12000 });
}

await learn(locale(app));
app.registerExtension({
  name: "SenCache.Replace",
  getNodeMenuItems(node) {
    if (!OLD.includes(node.comfyClass) || !app.extensionManager?.setting?.get("SenCache.Replace")) return [];
    return [{ content: t("replace.menu"), callback: () => replace(node) }];
  },
});
