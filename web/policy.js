// Says in the menu of SenCache Policy Select what each method skips: the group stands before the name.

import { app } from "../../scripts/app.js";
import { learn, locale } from "./lib/language.js";
import { t } from "./lib/words.js";

let groups = {};

await learn(locale(app));
app.registerExtension({
  name: "SenCache.Policies",
  beforeRegisterNodeDef(_, { name, input }) {
    if (name === "SenCachePolicySelect") groups = input?.required?.policy?.[1]?.sencache_groups ?? {};
  },
  nodeCreated(node) {
    if (node.comfyClass !== "SenCachePolicySelect") return;
    const widget = node.widgets?.find((one) => one.name === "policy");
    if (!widget) return;
    widget.options.getOptionLabel = (name) => (groups[name] ? t("policy.label", { group: t(`policy.${groups[name]}`), name }) : (name ?? ""));
  },
});
