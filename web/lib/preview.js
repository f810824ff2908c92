// What SenCache Apply shows: words and cells from what the server foresees, and from what a run told.
// Pure functions; see nodes/preview.py for the fields of a preview.

import { quality } from "./quality.js";
import { t, told } from "./words.js";

/** Budgets that have a name. */
export const PRESETS = [
  ["faithful", 0.75],
  ["balanced", 0.5],
  ["fast", 0.36],
  ["draft", 0.25],
];

const near = (a, b) => Math.abs(a - b) < 0.005;

/** Name of the preset that `budget` is, or undefined. */
export const presetOf = (budget) => PRESETS.find(([, value]) => near(value, budget))?.[0];

const LETTERS = { C: "computed", h: "partial", ".": "reused" };
const sum = (values) => values.reduce((a, b) => a + b, 0);
const count = (mask, letters) => [...mask].filter((letter) => letters.includes(letter)).length;

/** A factor for people: one digit after the point, none if it is 0. */
export const factor = (value) => String(Number(value.toFixed(1)));

/** A share as a percentage of two digits. */
export const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

/** Seconds for people: 0.4 s, 12 s, 1 min 20 s, 2 h 5 min, on one line. */
export const duration = (seconds) => timed(seconds).replaceAll(" ", "\u00a0");

function timed(seconds) {
  if (seconds < 9.95) return t("apply.seconds", { s: Number(seconds.toFixed(1)) });
  const whole = Math.round(seconds);
  if (whole < 60) return t("apply.seconds", { s: whole });
  const minutes = Math.round(whole / 60);
  if (whole < 3600) return t("apply.minutes", { m: Math.floor(whole / 60), s: whole % 60 });
  return t("apply.hours", { h: Math.floor(minutes / 60), m: minutes % 60 });
}

/** The cells of one run, for strip.js; `done` are the steps that a run under way has told of. */
export function cells(run, done = []) {
  const planned = [...run.mask].map((letter, i) => ({
    decision: `planned-${LETTERS[letter]}`,
    title: cellTitle(LETTERS[letter], i, run.errors?.[i]),
  }));
  const told = done.map(({ decision, error }, i) => ({ decision, title: cellTitle(decision, i, error) }));
  return [...told, ...planned.slice(told.length)];
}

function cellTitle(decision, index, error) {
  const what = t(`apply.cell.${decision}`, { step: index + 1 });
  return error === null || error === undefined || decision !== "reused" ? what : `${what}\n${t("apply.cell.error", { percent: percent(error) })}`;
}

/** What to say of a preview: {line, quality, rests, note, more}; empty strings where there is nothing. */
export function words(preview) {
  const none = { line: "", quality: "", rests: "", note: "", more: "" };
  if (preview.state === "off" || preview.state === "full") return { ...none, line: t(`apply.${preview.state}`) };
  if (preview.state === "unknown") return { ...none, note: t(`apply.unknown.${preview.unknown.key}`, preview.unknown.values) };
  const { runs } = preview;
  const messages = runs.flatMap((run) => run.messages ?? []);
  const urgent = messages.filter((message, i) => message.level === "problem" || (!reuses(runs) && i === 0));
  const note = [...new Set(urgent.map(told))].join(" ");
  if (runs.some((run) => !run.mask)) {
    return { ...none, line: t("apply.unplanned"), note: note || told(runs.find((run) => !run.mask).why), more: said(messages) };
  }
  const expected = worst(runs);
  const mark = expected ? t(`apply.${quality(expected.error)}`) : "";
  return { line: line(runs), quality: mark, rests: rests(runs), note, more: more(runs, expected, messages) };
}

const reuses = (runs) => runs.some((run) => run.reuses);
const said = (messages) => [...new Set(messages.map(told))].join("\n");

/** The run whose clip is expected to be off most, of those that skip and of which that is known. */
function worst(runs) {
  const known = runs.filter((run) => run.reuses && run.error !== null);
  return known.sort((a, b) => b.error - a.error)[0];
}

function line(runs) {
  const total = sum(runs.map((run) => run.rounds));
  const cost = sum(runs.map((run) => run.cost));
  const computed = sum(runs.map((run) => count(run.mask, "Ch")));
  const values = { computed, total, factor: factor(total / cost), partial: sum(runs.map((run) => count(run.mask, "h"))) };
  const steps = sum(runs.map((run) => run.steps));
  if (cost >= total) return t("apply.all", { count: steps });
  if (total !== steps) return t("apply.plan_calls", values); // the sampler asks more than once a step
  return t(values.partial ? "apply.plan_part" : "apply.plan", values);
}

function rests(runs) {
  const run = runs.find((one) => one.basis && one.reuses);
  return run ? t(`apply.rests.${run.basis}`, { count: run.learnt_from }) : "";
}

function more(runs, expected, messages) {
  const parts = [t("apply.more.factor"), t("apply.more.adjusted")];
  if (expected) parts.unshift(t("apply.more.error", { percent: percent(expected.error) }));
  return [...(reuses(runs) ? parts : []), ...messages.map(told)].join("\n");
}

/** Steps that a run has reached; a sampler may ask the model more than once in each. */
const reached = ({ steps }) => (steps.length ? steps.at(-1).step + 1 : 0);

/** What to say of a run that has ended, of all samplers that one SenCache Apply has served. */
export function result(reports) {
  const total = sum(reports.map((report) => report.steps.length - report.idle));
  const computed = sum(reports.map((report) => report.evaluations));
  const due = sum(reports.map((report) => report.num_steps));
  const stopped = reports.some((report) => !report.completed);
  if (stopped) return { line: t("apply.stopped", { done: sum(reports.map(reached)), total: due }), good: false };
  const seconds = sum(reports.map((report) => report.seconds));
  const saved = sum(reports.map((report) => report.saved_seconds));
  if (computed >= total && !reports.some((report) => report.partial)) return { line: t("apply.done_all", { count: due, time: duration(seconds) }), good: true };
  const values = { computed, total, factor: factor((seconds + saved) / Math.max(seconds, 1e-9)), time: duration(saved) };
  return { line: t(total > due ? "apply.result_calls" : "apply.result", values), good: true };
}

/** What to say of a run under way. */
export function progress(report) {
  const done = reached(report);
  return t("apply.running", { done, total: Math.max(done, report.num_steps), skipped: report.reused });
}
