// The chart below the strip: expected or scored errors, limits and measured errors, column by column.

import { shape } from "./page.js";

/** Height of the chart and room in it above the highest and below the lowest grid line, in px. */
export const CHART = { height: 118, top: 12, bottom: 5 };

/**
 * Grid values that hold all positive values, at most five decades down from the largest: 1, 2 and 5
 * times powers of ten, of a wide range the powers alone; null without any.
 */
export function scale(values) {
  const positive = values.filter((v) => v > 0);
  if (!positive.length) return null;
  const top = Math.max(...positive);
  const bottom = Math.max(Math.min(...positive), top * 1e-5);
  const grid = [];
  const wide = Math.log10(top / bottom) > 1.6;
  for (let power = Math.floor(Math.log10(bottom) + 1e-9); power <= Math.ceil(Math.log10(top) + 1e-9); power++) {
    for (const digit of wide ? [1] : [1, 2, 5]) grid.push(Number((digit * 10 ** power).toPrecision(1)));
  }
  const first = grid.findLastIndex((value) => value <= bottom * (1 + 1e-9));
  const last = grid.findIndex((value, i) => i > first && value >= top * (1 - 1e-9));
  return grid.slice(first, last + 1);
}

/**
 * Points of score, limit and measured error: `x` in percent, `y` in px; grid lines; null without figures.
 * `steps` has one entry a column, null where nothing is known; `unit` writes a grid line's value.
 */
export function curves(steps, unit = String, view = CHART) {
  const known = steps.filter(Boolean);
  // A limit of next to nothing means "compute the rest": it is drawn along the bottom.
  const values = scale(known.flatMap((s) => [s.score, s.error])) ?? scale(known.map((s) => s.limit));
  if (!values) return null;
  const [floor, lowest, highest] = [view.height - view.bottom, values[0], values.at(-1)];
  const y = (value) => {
    const share = Math.log(Math.max(value, lowest) / lowest) / Math.log(highest / lowest);
    return floor - Math.min(share, 1) * (floor - view.top);
  };
  const points = (key) =>
    steps.flatMap((step, i) => {
      const value = step?.[key];
      if (value === null || value === undefined) return [];
      return [{ x: (100 * (i + 0.5)) / steps.length, y: y(value), value, decision: step.decision, run: step.run }];
    });
  const grid = values.map((value) => ({ y: y(value), label: unit(value) }));
  return { score: points("score"), limit: points("limit"), error: points("error"), grid };
}

/** Numbers to print below `count` columns: at most about twelve, evenly spaced, at `x` percent. */
export function ticks(count) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => count / n <= 12) ?? Math.ceil(count / 12);
  return Array.from({ length: count }, (_, i) => i)
    .filter((i) => i === 0 || (i + 1) % every === 0)
    .filter((i, k, all) => k || all.length === 1 || all[1] - i > every / 2)
    .map((i) => ({ x: (100 * (i + 0.5)) / count, label: String(i + 1) }));
}

/** Segments rather than a path: a path knows no percentages, with which the chart follows its width. */
function line(points, paint) {
  const pairs = points.slice(1).map((p, i) => [points[i], p]);
  return pairs
    .filter(([a, b]) => a.run === b.run)
    .map(([a, b]) => shape("line", { x1: `${a.x}%`, y1: a.y, x2: `${b.x}%`, y2: b.y, ...paint }));
}

export const SCORE = { stroke: "var(--sc-reused)", "stroke-width": 1.5 };
export const LIMIT = { stroke: "var(--sc-ink)", "stroke-width": 1.2, "stroke-dasharray": "5 3" };

/** The chart as an SVG of fixed height; `empty` is said where there is nothing to draw. */
export function chart(steps, { label = "", empty = "", unit = String } = {}) {
  const svg = shape("svg", { class: "sencache-chart", role: "img", "aria-label": label });
  const drawn = curves(steps, unit);
  if (!drawn) {
    svg.append(shape("text", { x: "50%", y: CHART.height / 2, "text-anchor": "middle" }, empty));
    return svg;
  }
  for (const { y, label: value } of drawn.grid) {
    svg.append(shape("line", { x1: 0, x2: "100%", y1: y, y2: y, stroke: "var(--sc-line)", "stroke-width": 0.6 }));
    svg.append(shape("text", { x: 2, y: y - 2.5 }, value));
  }
  svg.append(...line(drawn.limit, LIMIT), ...line(drawn.score, SCORE));
  for (const p of drawn.score) {
    const fill = p.decision === "reused" ? "var(--sc-reused)" : "var(--sc-ground)";
    svg.append(shape("circle", { cx: `${p.x}%`, cy: p.y, r: 2.3, fill, stroke: "var(--sc-reused)", "stroke-width": 1.2 }));
  }
  for (const p of drawn.error) {
    const square = { x: `${p.x}%`, y: p.y - 2.3, width: 4.6, height: 4.6, transform: "translate(-2.3)" };
    svg.append(shape("rect", { ...square, fill: "var(--sc-computed)" }));
  }
  return svg;
}
