// What the viewer shows, as files: a picture of one clip, and what goes to the clipboard or the disk.

import { CHART, chart, ticks } from "./chart.js";
import * as report from "./report.js";
import { STRIP_HEIGHT, key, strip } from "./strip.js";
import { t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, MARGIN, SCALE] = [960, 28, 2];
const COLOURS = ["ink", "paper", "dim", "line", "ground", "computed", "forced", "partial", "reused", "idle"];

/** A colour as every program reads it: #rrggbb. */
function hex(colour) {
  const canvas = document.createElement("canvas");
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  return `#${[...brush.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

/** The colours of the strip below `root`, as its theme has them. */
function colours(root) {
  const probe = document.createElement("span");
  root.querySelector(".sencache-page").append(probe);
  probe.className = "sencache-strip";
  const found = COLOURS.map((name) => {
    probe.style.color = `var(--sc-${name})`;
    return [name, hex(getComputedStyle(probe).color)];
  });
  probe.remove();
  return Object.fromEntries(found);
}

/** Answer, strip and chart of a clip as the text of an SVG that needs no stylesheet. */
export function picture(root, clip, cells) {
  const inner = WIDTH - 2 * MARGIN;
  const svg = document.createElementNS(SVG, "svg");
  let y = MARGIN;
  const text = (x, size, words, fill, anchor = "start", weight = 400) => {
    const node = document.createElementNS(SVG, "text");
    const look = { x, y, fill, "font-size": size, "text-anchor": anchor, "font-weight": weight };
    for (const [name, value] of Object.entries(look)) node.setAttribute(name, value);
    node.textContent = words;
    svg.append(node);
  };
  const put = (drawn, height) => {
    for (const [name, value] of Object.entries({ x: MARGIN, y, width: inner, height, overflow: "visible" })) drawn.setAttribute(name, value);
    for (const pale of drawn.querySelectorAll(".sencache-planned")) pale.setAttribute("opacity", 0.38);
    for (const label of drawn.querySelectorAll("text")) {
      label.setAttribute("fill", "var(--sc-dim)");
      label.setAttribute("font-size", 11);
    }
    svg.append(drawn);
    y += height;
  };
  text(MARGIN, 13, report.title(clip), "var(--sc-dim)");
  y += 34;
  const large = report.answer(clip, cells);
  large.forEach((one, i) => text(MARGIN + (i * inner) / 3, 26, one.large, "var(--sc-ink)", "start", 600));
  y += 20;
  large.forEach((one, i) => text(MARGIN + (i * inner) / 3, 13, one.small, "var(--sc-dim)"));
  y += 24;
  text(MARGIN, 14, [report.sums(clip, cells), report.settings(clip[0])].join("   |   "), "var(--sc-dim)");
  y += 14;
  put(strip(cells, { label: report.sums(clip, cells) }), STRIP_HEIGHT);
  y += 14;
  for (const { x, label } of ticks(cells.length)) text(MARGIN + (inner * x) / 100, 11, label, "var(--sc-dim)", "middle");
  y += 26;
  let x = MARGIN;
  for (const { decision, count } of report.counts(cells.filter((cell) => cell.step))) {
    const icon = key(decision);
    for (const [name, value] of Object.entries({ x, y: y - 11, width: 13, height: 13 })) icon.setAttribute(name, value);
    const words = `${report.named(decision)} ${count}`;
    svg.append(icon);
    text(x + 19, 12, words, "var(--sc-ink)");
    x += 45 + 7 * words.length;
  }
  y += 6;
  const plan = clip.every(report.planned);
  const steps = cells.map(({ run, step }) => step && { ...step, run });
  put(chart(steps, { empty: t("viewer.nothing_measured"), unit: report.grid(plan) }), CHART.height);
  y += 18;
  text(MARGIN, 12, [t(plan ? "viewer.expected_error" : "viewer.score"), t("viewer.measured_error")].map((name, i) => `${"\u25cb\u25a0"[i]} ${name}`).join("     "), "var(--sc-dim)");
  const height = y + MARGIN - 10;
  const ground = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ width: WIDTH, height, fill: "var(--sc-paper)" })) ground.setAttribute(name, value);
  svg.prepend(ground);
  const own = { xmlns: SVG, width: WIDTH, height, viewBox: `0 0 ${WIDTH} ${height}`, "font-family": "system-ui, sans-serif" };
  for (const [name, value] of Object.entries(own)) svg.setAttribute(name, value);
  const known = colours(root);
  return svg.outerHTML.replace(/var\(--sc-(\w+)\)/g, (whole, name) => known[name] ?? whole);
}

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export const save = {
  svg: (drawn) => download(new Blob([drawn], { type: "image/svg+xml" }), "sencache.svg"),
  csv: (text) => download(new Blob([text], { type: "text/csv" }), "sencache.csv"),

  /** Resolves once the picture is a file. */
  async png(drawn) {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([drawn], { type: "image/svg+xml" }));
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: SCALE * image.width, height: SCALE * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(image.src);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    download(blob, "sencache.png");
  },

  /** Rejects where the browser does not let pages write to the clipboard. */
  async copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    // A page that is not served over https has no such thing, but a selection can be copied.
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    if (!copied) throw new Error("not copied");
  },
};
