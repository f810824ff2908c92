// Pure parts of Calibrate's page: from its payload (see nodes/calibrating.py) to what is drawn. No DOM, no ComfyUI.

export const PANEL = { width: 400, height: 56, pad: 4 };
const NAMES = ["alpha_x", "alpha_t", "output_rms"];

/** The payload from what ComfyUI stores for the node, or null. */
export function calibration(output) {
  const payload = output?.sencache_calibrate?.[0];
  return payload?.version === 1 ? payload : null;
}

/** Share of the calibration that is done, 0 to 1. */
export function done({ spent, total, state }) {
  return state === "done" ? 1 : total ? Math.min(spent / total, 1) : 0;
}

/** Seconds for people, rounded as an estimate is: 8 s, 3 min, 1 h 20 min. */
export function about(seconds) {
  if (seconds < 60) return { key: "calibrate.seconds", value: Math.max(1, Math.round(seconds)) };
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return { key: "calibrate.minutes", value: minutes };
  return { key: "calibrate.hours", value: Math.floor(minutes / 60), rest: minutes % 60 };
}

/** Panels with something in them: a name, one line a sample, and the mean of those that have come to the end. */
export function panels({ curves, gains }) {
  const found = NAMES.map((name) => {
    const lines = curves.map((curve) => line(curve.t, curve[name] ?? [])).filter((points) => points.length);
    return { name, lines, mean: lines.length > 1 ? mean(lines) : [] };
  });
  const marks = gains.filter(([t, gain]) => finite(t) && finite(gain)).map(([t, value]) => ({ t, value }));
  if (marks.length) found.push({ name: "gain", lines: [], marks, mean: [] });
  return found.filter(({ lines, marks: some }) => lines.length || some);
}

const finite = (value) => typeof value === "number" && Number.isFinite(value);

const line = (t, values) => values.flatMap((value, i) => (finite(value) ? [{ t: t[i], value }] : []));

/** Mean over samples at the times that all of the longest have. */
function mean(lines) {
  const longest = Math.max(...lines.map((points) => points.length));
  const whole = lines.filter((points) => points.length === longest);
  return whole[0].map(({ t }, i) => ({ t, value: whole.reduce((sum, points) => sum + points[i].value, 0) / whole.length }));
}

const points = ({ lines, marks = [] }) => [...lines.flat(), ...marks];

/** Bounds of one of `panels`, which share their times: noise falls from left to right, as the run goes. */
export function bounds(panel, all = [panel]) {
  const times = all.flatMap(points).map(({ t }) => t);
  const [left, right] = [Math.max(...times), Math.min(...times)];
  const high = Math.max(...points(panel).map(({ value }) => value));
  return { left, right: right < left ? right : left - 1, low: 0, high: high > 0 ? high : 1 };
}

/** Where a point lies in a panel. */
export function place({ t, value }, { left, right, low, high }, { width, height, pad } = PANEL) {
  return {
    x: pad + ((left - t) / (left - right)) * (width - 2 * pad),
    y: pad + (1 - (value - low) / (high - low)) * (height - 2 * pad),
  };
}

/** Path of a line of points. */
export function path(points, box, panel = PANEL) {
  return points
    .map((point, i) => {
      const { x, y } = place(point, box, panel);
      return `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}
