// The one file with side effects: registers the extension that fills SenCache Stats Viewer.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { fromHistory, fromOutput, livePayload } from "./lib/report.js";
import { render } from "./lib/view.js";

const VIEWER = "SenCacheStatsViewer";
const PROGRESS = "sencache.progress";
const MIN_SIZE = [480, 430];
const HISTORY = 16;

/** Wheel turns scroll the widget where it can scroll, else they zoom the graph as everywhere. */
function passWheel(event) {
  for (let box = event.target; box && box !== event.currentTarget.parentElement; box = box.parentElement) {
    const room = box.scrollHeight - box.clientHeight;
    const scrolls = room > 1 && /auto|scroll/.test(getComputedStyle(box).overflowY);
    if (scrolls && !event.ctrlKey) return event.stopPropagation();
  }
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}

/** Ids of the Apply nodes at this viewer's stats inputs, as the server names them (last part). */
function sources(node) {
  const links = (node.inputs ?? [])
    .filter((input) => input.name.startsWith("stats") && input.link != null)
    .map((input) => node.graph?.getLink?.(input.link) ?? node.graph?.links?.[input.link]);
  return links.filter(Boolean).map((link) => String(link.origin_id));
}

let history = null;
/** Recent prompts, asked for once per page load however many viewers there are. */
function recent() {
  history ??= api
    .fetchApi(`/history?max_items=${HISTORY}`)
    .then((response) => response.json())
    .catch(() => ({}));
  return history;
}

function addView(node) {
  const root = document.createElement("div");
  const widget = node.addDOMWidget("sencache_view", "sencache_view", root, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => 300,
  });
  widget.serialize = false; // on the widget itself: keeps it out of widgets_values too
  let shown = null;
  const show = (payload) => render(root, (shown = payload));

  const onProgress = ({ detail }) => {
    const origin = String(detail.node).split(":").pop();
    if (sources(node).includes(origin)) show(livePayload(detail.report));
  };
  root.addEventListener("wheel", passWheel, { passive: false });
  api.addEventListener(PROGRESS, onProgress);

  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    executed?.apply(this, arguments);
    const payload = fromOutput(output);
    if (payload) show(payload);
  };
  const removed = node.onRemoved;
  node.onRemoved = function () {
    api.removeEventListener(PROGRESS, onProgress);
    root.removeEventListener("wheel", passWheel);
    removed?.apply(this, arguments);
  };
  node.sencacheRestore = async () => {
    const stored = fromOutput(app.nodeOutputs?.[node.id]);
    const found = stored ?? fromHistory(await recent(), String(node.id), app.graph?.id);
    if (found && !shown) show(found);
  };
  show(null);
  node.setSize(node.size.map((side, i) => Math.max(side, MIN_SIZE[i])));
}

app.registerExtension({
  name: "SenCache.StatsViewer",
  nodeCreated(node) {
    if (node.comfyClass === VIEWER) addView(node);
  },
  loadedGraphNode(node) {
    if (node.comfyClass === VIEWER) node.sencacheRestore?.();
  },
});
