// Pure parts of the list of profiles and learnt models: from a row (see measure/library.py) to what is shown. No DOM.

/** Bytes for people. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** How long ago, in the user's language. */
export function age(when, now = Date.now() / 1000, language = undefined) {
  const seconds = Math.max(now - when, 0);
  const format = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const units = [["year", 31557600], ["month", 2629800], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];
  const [unit, length] = units.find(([, long]) => seconds >= long) ?? ["second", 1];
  return format.format(unit === "second" ? 0 : -Math.floor(seconds / length), unit);
}

/** What a row rests on, as keys and values of sentences, the weightiest first. */
export function facts(row) {
  if (row.problem) return [];
  const learnt = row.kind === "learnt";
  const found = [
    { key: learnt ? "library.runs" : "library.samples", values: { count: row.samples } },
    row.steps && { key: "steps", values: { count: row.steps } },
    row.sampler && { key: "library.sampler", values: { name: [row.sampler, row.scheduler].filter(Boolean).join(", ") } },
    row.guidance && { key: "library.cfg", values: { cfg: Number(row.guidance.toPrecision(3)) } },
    row.shape?.length && { key: "library.latent", values: { shape: row.shape.join(" x ") } },
    row.tap && row.tap !== "output" && { key: "library.tap", values: { tap: row.tap } },
    typeof row.error === "number" && { key: "library.error", values: { error: Number((100 * row.error).toPrecision(2)) } },
    row.fingerprint && { key: "library.checkpoint", values: { id: row.fingerprint.slice(0, 8) } },
  ];
  return found.filter(Boolean);
}

/** What a row is called: a learnt model by the label it was given, else by its family. */
export function title(row) {
  return row.kind === "learnt" ? row.label || row.family || row.name : row.name;
}

/** Rows of a kind, the newest first. */
export function ordered(rows, kind) {
  return rows.filter((row) => row.kind === kind).sort((a, b) => b.when - a.when);
}

/** Query that names a row. */
export function named({ kind, name }) {
  return new URLSearchParams({ kind, name }).toString();
}
