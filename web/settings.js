// SenCache in ComfyUI's settings dialog. New Apply nodes take their first values from here; what the
// server has to know (the folder, replacements) it reads from ComfyUI's own settings file.

import { app } from "../../scripts/app.js";
import { learn, locale } from "./lib/language.js";
import { VERSION } from "./lib/version.js";
import { t } from "./lib/words.js";

const PAPER = "https://arxiv.org/abs/2602.24208";
/** Widgets of SenCache Apply that a setting gives their first value. */
const FIRST = { Budget: "budget", Aim: "aim", Learn: "learn", Verbose: "verbose" };

await learn(locale(app));

const entry = (name, type, defaultValue, more = {}) => ({
  id: `SenCache.${name}`,
  category: ["SenCache", t(`settings.group.${name in FIRST ? "new" : "pack"}`), name],
  name: t(`settings.${name}`),
  tooltip: t(`settings.${name}.tooltip`),
  type,
  defaultValue,
  ...more,
});
const chosen = (name) => app.extensionManager?.setting?.get(`SenCache.${name}`);

app.registerExtension({
  name: "SenCache.Settings",
  // The dialog lists the last first.
  settings: [
    entry("Replace", "boolean", false),
    entry("Profiles", "text", "profiles"),
    entry("Hints", "boolean", true),
    entry("Verbose", "boolean", false),
    entry("Learn", "combo", "on", { options: ["on", "first run in full", "off"] }),
    entry("Aim", "combo", "automatic", { options: ["automatic", "same clip", "true clip"] }),
    entry("Budget", "slider", 0.5, { attrs: { min: 0.2, max: 1, step: 0.01 } }),
  ],
  aboutPageBadges: [{ label: `SenCache ${VERSION}`, url: PAPER, icon: "pi pi-bolt" }],
  nodeCreated(node) {
    if (node.comfyClass !== "SenCacheApply") return;
    for (const [name, widgetName] of Object.entries(FIRST)) {
      const widget = node.widgets?.find((one) => one.name === widgetName);
      const value = chosen(name);
      if (widget && value !== undefined) widget.value = value;
    }
  },
});
