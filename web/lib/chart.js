// Pure geometry of the chart: numbers in, numbers and path strings out. No DOM, no ComfyUI.

export const VIEW = { width: 640, height: 250, left: 40, right: 8, strip: 22, top: 2, gap: 14, axis: 18 };

/** Height of a cell as a share of the strip: what was run only in part is lower. */
export function cellHeight(decision) {
  return { reused: 0.45, partial: 0.72, idle: 0.2 }[decision] ?? 1;
}

/** Place and height of each evaluation round's cell. */
export function stripCells(steps, view = VIEW) {
  const pitch = (view.width - view.left - view.right) / Math.max(steps.length, 1);
  const gap = Math.min(2, pitch * 0.2);
  return steps.map((step, i) => {
    const height = view.strip * cellHeight(step.decision);
    return {
      x: view.left + i * pitch,
      y: view.top + view.strip - height,
      width: Math.max(pitch - gap, 0.5),
      height,
      middle: view.left + (i + 0.5) * pitch,
      decision: step.decision,
    };
  });
}

/** Powers of ten that hold all positive values, at most five decades down from the largest. */
export function decades(values) {
  const positive = values.filter((v) => v > 0);
  if (!positive.length) return null;
  const top = Math.max(...positive);
  const bottom = Math.max(Math.min(...positive), top * 1e-5);
  const low = Math.floor(Math.log10(bottom) + 1e-9);
  const high = Math.max(Math.ceil(Math.log10(top) - 1e-9) + 0, low + 1); // + 0: never -0
  return { low, high };
}

/** Curves of score and limit, marks of the measured error, grid lines; null without figures. */
export function curves(steps, view = VIEW) {
  // A limit of next to nothing means "compute the rest": it is drawn along the bottom.
  const range = decades(steps.flatMap((s) => [s.score, s.error])) ?? decades(steps.map((s) => s.limit));
  if (!range) return null;
  const y0 = view.top + view.strip + view.gap;
  const y1 = view.height - view.axis;
  const cells = stripCells(steps, view);
  const y = (value) => {
    const power = Math.log10(Math.max(value, 10 ** range.low));
    const share = Math.min((power - range.low) / (range.high - range.low), 1);
    return y1 - share * (y1 - y0);
  };
  const points = (key) =>
    steps
      .map((step, i) => ({ x: cells[i].middle, value: step[key], decision: step.decision }))
      .filter((p) => p.value !== null && p.value !== undefined)
      .map((p) => ({ ...p, y: y(p.value) }));
  const grid = [];
  for (let power = range.low; power <= range.high; power++) {
    grid.push({ y: y(10 ** power), label: power < -3 || power > 3 ? `1e${power}` : String(Number((10 ** power).toPrecision(1))) });
  }
  return { score: points("score"), limit: points("limit"), error: points("error"), grid, top: y0, bottom: y1 };
}

/** SVG path through points. */
export function path(points) {
  return points.map((p, i) => `${i ? "L" : "M"}${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("");
}

/** Numbers to print below the chart: at most about twelve, evenly spaced. */
export function ticks(steps, view = VIEW) {
  const every = Math.max(1, Math.ceil(steps.length / 12));
  return stripCells(steps, view)
    .map((cell, i) => ({ x: cell.middle, label: String(i) }))
    .filter((_, i) => i % every === 0);
}
