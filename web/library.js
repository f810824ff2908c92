// Registers the command that opens the list of profiles and learnt models.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { learn, locale } from "./lib/language.js";
import { Library } from "./lib/library_view.js";
import { t } from "./lib/words.js";

const ID = "SenCache.Library";

const library = new Library({
  fetch: (route, options) => api.fetchApi(route, options),
  address: (route) => api.apiURL(route),
  changed: () => app.refreshComboInNodes?.(),
});

app.registerExtension({
  name: ID,
  setup: () => learn(locale(app)),
  commands: [{ id: ID, icon: "pi pi-list", label: "SenCache: profiles and learnt models", function: () => library.open() }],
  menuCommands: [{ path: ["Extensions", "SenCache"], commands: [ID] }],
  nodeCreated(node) {
    if (node.comfyClass !== "SenCacheProfileLoad") return;
    const button = node.addWidget("button", "sencache_library", null, () => library.open());
    button.label = t("library.manage");
    button.serialize = false; // on the widget itself: keeps it out of widgets_values
    button.options.serialize = false;
  },
});
