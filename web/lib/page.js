// A node's own page: a DOM widget that neither the workflow nor the prompt holds.

/** Wheel turns scroll what can scroll, else they zoom the graph as everywhere. */
function passWheel(app, event) {
  for (let box = event.target; box && box !== event.currentTarget.parentElement; box = box.parentElement) {
    const room = box.scrollHeight - box.clientHeight;
    const scrolls = room > 1 && /auto|scroll/.test(getComputedStyle(box).overflowY);
    if (scrolls && !event.ctrlKey) return event.stopPropagation();
  }
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}

/** Put `root` into `node` as a widget called `name`; `heights` are the frontend's getMinHeight, getMaxHeight. */
export function addBox(app, node, name, root, heights) {
  const widget = node.addDOMWidget(name, name, root, {
    serialize: false,
    hideInPanel: true, // a side panel that shows the widget takes it out of the node
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    ...heights,
  });
  widget.serialize = false; // on the widget itself: keeps it out of widgets_values too
  root.addEventListener("wheel", (event) => passWheel(app, event), { passive: false });
  return widget;
}

/**
 * An empty element in `node`, over the whole width below its other widgets.
 * The page is laid over the box that the frontend sizes, so that what is in it never sizes the node.
 */
export function addPage(app, node, name, { width, height, inner }) {
  const root = document.createElement("div");
  const page = document.createElement("div");
  root.className = "sencache-box";
  root.style.cssText = `position: relative; box-sizing: border-box; width: 100%; height: 100%; min-height: ${inner}px; overflow: hidden`;
  page.style.cssText = "position: absolute; inset: 0";
  root.append(page);
  addBox(app, node, name, root, { getMinHeight: () => inner });
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  return page;
}

const hiding = new WeakSet(); // widgets that are seen to

/**
 * Hides the node's expert inputs in the classic renderer too: it reads `advanced` of the widget itself, not of its
 * options, and leaves their room empty unless they are `hidden`.
 */
export function hideAdvanced(app, node) {
  const always = () => app.extensionManager?.setting?.get?.("Comfy.Node.AlwaysShowAdvancedWidgets");
  for (const widget of node.widgets ?? []) {
    if (!widget.options?.advanced || hiding.has(widget)) continue;
    hiding.add(widget);
    let own = widget.hidden;
    const hides = () => !globalThis.LiteGraph?.vueNodesMode && !node.showAdvanced && !always();
    Object.defineProperty(widget, "advanced", { configurable: true, get: () => !always() });
    Object.defineProperty(widget, "hidden", { configurable: true, get: () => own || hides(), set: (value) => (own = value) });
  }
}

/** An element with properties, `data` for its dataset, `aria` for its role and ARIA attributes, and children. */
export function element(tag, properties = {}, ...children) {
  const { data, aria, ...plain } = properties;
  const node = Object.assign(document.createElement(tag), plain);
  for (const [name, value] of Object.entries(data ?? {})) node.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) node.setAttribute(name === "role" ? name : `aria-${name}`, value);
  node.append(...children);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes and children. */
export function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
