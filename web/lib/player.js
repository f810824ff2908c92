// Pure parts of the player of two clips: numbers and strings in, numbers and strings out. No DOM, no ComfyUI.

export const MODES = ["wipe", "sides", "difference"];
/** Heights and widths of a curve's panel, in its own units. */
export const PANEL = { width: 400, height: 40, pad: 3 };

/** The payload from what ComfyUI stores for the node, or null. */
export function comparison(output) {
  const payload = output?.sencache_compare?.[0];
  return payload?.version === 1 ? payload : null;
}

/** Query of ComfyUI's /view for frame `i`: letter "a" of the reference, "b" of the clip, "d" of their difference. */
export function frameQuery(payload, letter, i) {
  return query(payload, `${letter}_${String(i).padStart(5, "0")}.${letter === "d" ? "png" : "jpg"}`);
}

/** The same for the video of both. */
export const videoQuery = (payload) => query(payload, payload.video);

const query = ({ folder }, filename) => new URLSearchParams({ filename, subfolder: folder, type: "temp" }).toString();

/** Which clips are drawn in a mode, from left to right. */
export function letters(mode) {
  return mode === "difference" ? ["d"] : ["a", "b"];
}

/** The largest rectangle of a ratio (width by height) in the middle of a box. */
export function fit(box, ratio) {
  const width = Math.min(box.width, box.height * ratio);
  const height = width / ratio;
  return { x: (box.width - width) / 2, y: (box.height - height) / 2, width, height };
}

/** Where each clip is drawn in a box; in mode "wipe" both in the same place. */
export function places(mode, box, { width, height }, gap = 4) {
  if (mode !== "sides") {
    const place = fit(box, width / height);
    return letters(mode).map(() => place);
  }
  const all = fit({ width: Math.max(box.width - gap, 1), height: box.height }, (2 * width) / height);
  const half = { ...all, width: all.width / 2 };
  return [half, { ...half, x: half.x + half.width + gap }];
}

/** How far along `place` (0 to 1) the pointer is. */
export function share(x, place) {
  return Math.min(Math.max((x - place.x) / place.width, 0), 1);
}

/** The frame that is due `seconds` after frame `from` was, round and round. */
export function due(from, seconds, fps, frames) {
  return (from + Math.floor(seconds * fps + 1e-6)) % frames;
}

/** Frames per second to choose from: common ones, and the clip's own. */
export function rates(own) {
  return [...new Set([4, 8, 12, 16, 24, 25, 30, own])].sort((a, b) => a - b);
}

/** Lowest and highest of some values, a little apart where they are all the same. */
export function span(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const least = Math.max(Math.abs(high) * 1e-3, 1e-6);
  return high - low < least ? { low: low - least, high: high + least } : { low, high };
}

/** Points of a curve of one value a frame within a panel. */
export function points(values, { width, height, pad } = PANEL) {
  const { low, high } = span(values);
  return values.map((value, i) => ({
    x: pad + ((width - 2 * pad) * (values.length > 1 ? i : 0.5)) / Math.max(values.length - 1, 1),
    y: pad + (1 - (value - low) / (high - low)) * (height - 2 * pad),
  }));
}

/** The frame of a curve that lies nearest to a place along its panel (0 to 1). */
export function frameAt(along, frames, { width, pad } = PANEL) {
  const inner = (along * width - pad) / (width - 2 * pad);
  return Math.min(Math.max(Math.round(inner * (frames - 1)), 0), frames - 1);
}

/** Mean of the values, the lowest of them and at which frame that is, from 0. */
export function summary(values) {
  const worst = Math.min(...values);
  return { mean: values.reduce((sum, value) => sum + value, 0) / values.length, worst, frame: values.indexOf(worst) };
}

/** A difference on the scale of 8-bit colours, with a sign. */
export function levels(scale) {
  const size = 255 * scale;
  return size >= 9.95 ? String(Math.round(size)) : String(Number(size.toPrecision(2)));
}
