// How near a clip is expected to come, in words. Where the limits are from: docs/theory.md, section 7.

/** Largest expected error of each word; beyond the last it is a draft. */
export const LIMITS = [
  ["quality.very_close", 0.03],
  ["quality.close", 0.06],
  ["quality.visible", 0.12],
];

/** Key of the word for an expected RMS error of the final latent, whose own RMS is about 1; null without one. */
export function quality(error) {
  if (error === null || error === undefined || !Number.isFinite(error)) return null;
  return LIMITS.find(([, most]) => error <= most)?.[0] ?? "quality.draft";
}
