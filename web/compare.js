// Registers the extension that puts a player into SenCache Compare.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { follow } from "./lib/kept.js";
import { learn, locale } from "./lib/language.js";
import { addPage } from "./lib/page.js";
import { comparison } from "./lib/player.js";
import { Player } from "./lib/player_view.js";

const { restore } = follow({ app, api, read: comparison, name: "sencacheCompare" });

function addPlayer(node) {
  const page = addPage(app, node, "sencache_player", { width: 440, height: 620, inner: 400 });
  const player = new Player(page, (query) => api.apiURL(`/view?${query}`));
  node.sencacheCompare = (payload) => player.show(payload);
  const removed = node.onRemoved;
  node.onRemoved = function () {
    player.close();
    removed?.apply(this, arguments);
  };
}

app.registerExtension({
  name: "SenCache.Compare",
  setup: () => learn(locale(app)),
  nodeCreated(node) {
    if (node.comfyClass === "SenCacheCompare") addPlayer(node);
  },
  afterConfigureGraph: restore,
});
