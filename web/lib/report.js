// Pure functions from the viewer's payload to what is shown. No DOM, no ComfyUI.
//
// A run is one call of a sampler; a clip is sampled in one run, or in several that go on from each
// other (the two experts of Wan 2.2). What is shown together is a clip: a list of runs.

import { quality } from "./quality.js";
import { t, told } from "./words.js";

export const DECISIONS = ["computed", "partial", "forced", "reused", "idle"];

/** Short text for a number: three significant digits, "-" for none. */
export function figure(value) {
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e4
    ? String(Number(value.toPrecision(3)))
    : value.toExponential(1);
}

/** Seconds for people: 0.42 s, 12.3 s, 2 min 5 s, 1 h 12 min. */
export function clock(seconds) {
  if (seconds < 1) return t("viewer.seconds", { seconds: seconds.toFixed(2) });
  if (seconds < 60) return t("viewer.seconds", { seconds: seconds.toFixed(1) });
  const whole = Math.round(seconds);
  if (whole < 3600) return t("viewer.minutes", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
  return t("viewer.hours", { hours: Math.floor(whole / 3600), minutes: Math.floor(whole / 60) % 60 });
}

/** Relative error as a percentage. */
export function percent(error) {
  if (error === null || error === undefined) return "-";
  if (error > 0 && error < 1e-4) return "< 0.01 %";
  return `${error === 0 ? 0 : Number((100 * error).toPrecision(2))} %`;
}

/** A value of the chart's grid: errors are shares, scores have units of their own. */
export const grid = (errors) => (value) => (errors ? `${Number((100 * value).toPrecision(1))} %` : figure(value));

/** Whether the scores are expected forecast errors, in the unit of the measured ones. */
export function planned(run) {
  return run.policy === "planned";
}

/** What a run did, one letter a step: C computed, h in part, a dot skipped, - not asked. */
export function mask(run) {
  const letters = { reused: ".", partial: "h", idle: "-" };
  return run.steps.map((step) => letters[step.decision] ?? "C").join("");
}

/** Whether more of a run will come. */
export function running(run) {
  return !run.ended && !run.stopped;
}

/** Time of day of `when`, in seconds since 1970; with the day unless that is the day of `now`. */
export function moment(when, now = Date.now() / 1000) {
  const [then, today] = [when, now].map((seconds) => new Date(1000 * seconds));
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === today.toDateString()) return time;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

/** The runs of a payload by clip, in the order in which they began. */
export function clips(runs) {
  const out = [];
  const ended = (run) => run.when ?? Number.MAX_VALUE;
  for (const run of [...runs].sort((a, b) => ended(a) - ended(b))) {
    const clip = run.before > 0 && out.find((one) => goesOn(run, one.at(-1)));
    if (clip) clip.push(run);
    else out.push([run]);
  }
  return out;
}

const goesOn = (run, last) => last.completed && run.before === (last.before ?? 0) + last.num_steps;

/** Name of a clip: of its samplers. */
export const title = (clip) => clip.map((run) => run.label).join(" + ");

const LETTERS = { C: "planned-computed", h: "planned-partial", ".": "planned-reused" };

/**
 * Every step of a clip from the first moment on, {run, number, step, decision}: `step` is null for
 * those to come, whose decision is the planned one, or "due" where nothing is planned.
 * `more`: whether the graph is still running, so that further runs may follow.
 */
export function track(clip, more = false) {
  const out = [];
  for (const run of clip) {
    const due = run.completed ? 0 : Math.max(run.rounds || run.num_steps, run.steps.length);
    for (const step of run.steps) out.push({ run, step, decision: step.decision });
    for (let i = run.steps.length; i < due; i++) out.push({ run, step: null, decision: LETTERS[run.planned?.[i]] ?? "due" });
  }
  const last = clip.at(-1);
  const rest = (last.whole ?? 0) - (last.before ?? 0) - last.num_steps;
  if (more && !last.stopped) for (let i = 0; i < rest; i++) out.push({ run: null, step: null, decision: "due" });
  return out.map((cell, i) => ({ ...cell, number: i + 1 }));
}

const sum = (clip, key) => clip.reduce((all, run) => all + (run[key] ?? 0), 0);

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : undefined;
}

/** Seconds that the steps to come will take, by those that are done; null where that cannot be told. */
export function timeLeft(cells) {
  const done = cells.filter((cell) => cell.step?.seconds > 0);
  const kind = (decision) => decision.replace("planned-", "").replace("forced", "computed");
  const times = (name) => median(done.filter((cell) => kind(cell.decision) === name).map((cell) => cell.step.seconds));
  const full = times("computed");
  if (full === undefined) return null;
  const share = { reused: times("reused") ?? 0, partial: times("partial") ?? full / 2, due: median(done.map((cell) => cell.step.seconds)) };
  return cells.filter((cell) => !cell.step).reduce((all, cell) => all + (share[kind(cell.decision)] ?? full), 0);
}

/** Figures of a clip; `factor` and `expected` are null where they are not known. */
export function figures(clip, cells = track(clip)) {
  const ended = clip.every((run) => !running(run)) && cells.every((cell) => cell.run);
  const [seconds, saved] = [sum(clip, "seconds"), sum(clip, "saved_seconds")];
  const steps = cells.filter((cell) => cell.decision !== "idle").length;
  const cost = cells.reduce((all, { step, decision }) => all + (step?.cost ?? { "planned-reused": 0, "planned-partial": 0.5 }[decision] ?? 1), 0);
  const open = cells.some((cell) => cell.decision === "due");
  const measured = seconds > 0 ? (seconds + saved) / seconds : null;
  const errors = clip.map((run) => run.expected ?? null);
  return {
    ended,
    seconds,
    saved,
    factor: ended || open ? measured : cost ? steps / cost : null,
    open: !ended && open, // not all is planned: what is known is of the steps so far
    // Errors of different runs are taken as independent, as the planner does.
    expected: errors.includes(null) ? null : Math.hypot(...errors),
    computed: sum(clip, "evaluations"),
    partial: sum(clip, "partial"),
    skipped: sum(clip, "reused"),
    done: clip.reduce((all, run) => all + run.steps.length, 0) - sum(clip, "idle"),
    total: steps,
    // Some samplers ask the model more than once a step.
    once: clip.every((run) => (run.rounds || run.steps.length || run.num_steps) === run.num_steps),
  };
}

/** The answer, as three pairs of a large and a small text. */
export function answer(clip, cells) {
  const all = figures(clip, cells);
  const about = (text) => (all.ended || all.open ? text : t("viewer.about", { value: text }));
  const mark = quality(all.expected);
  const full = all.ended && !all.skipped && !all.partial;
  return [
    {
      key: "factor",
      large: all.factor ? about(t("viewer.times", { factor: all.factor.toFixed(1) })) : "-",
      small: t(full ? "viewer.nothing_skipped" : all.ended ? "viewer.faster" : all.open ? "viewer.faster_so_far" : "viewer.faster_planned"),
    },
    {
      key: "saved",
      large: clock(all.saved),
      small: t(all.ended ? "viewer.saved" : "viewer.saved_so_far"),
    },
    {
      key: "quality",
      large: full || !mark ? "-" : t(mark),
      small: full ? t("viewer.in_full") : mark ? t("viewer.expected_off", { percent: percent(all.expected) }) : t("viewer.no_expectation"),
    },
  ];
}

/** How many steps were computed and skipped. */
export function sums(clip, cells) {
  const { computed, skipped, partial, total, once } = figures(clip, cells);
  const parts = [t(once ? "viewer.computed_of" : "viewer.evaluations_of", { computed, total }), t("viewer.skipped_count", { count: skipped })];
  if (partial) parts.splice(1, 0, t("viewer.partial_count", { count: partial }));
  return parts.join(t("viewer.comma"));
}

/** Where a clip stands, in one line: {text, level}, level "live", "done" or "problem". */
export function status(clip, cells) {
  const { done, total, seconds, ended } = figures(clip, cells);
  const stopped = clip.find((run) => !run.completed && !running(run));
  if (stopped) {
    const how = ["interrupted", "failed", "lost"].includes(stopped.stopped) ? stopped.stopped : "unfinished";
    return { level: "problem", text: t(`viewer.${how}`, { done, total }) };
  }
  const left = timeLeft(cells);
  if (!ended) {
    const key = !done ? "viewer.starting" : left === null ? "viewer.running" : "viewer.running_left";
    return { level: "live", text: t(key, { done, total, left: clock(left ?? 0) }) };
  }
  const when = clip.at(-1).when;
  const time = clock(seconds);
  return { level: "done", text: when ? t("viewer.done_at", { time, when: moment(when) }) : t("viewer.done", { time }) };
}

/** What the figures of a clip differ by from those of `before`: text by key of `answer`, none while it runs. */
export function differences(clip, before) {
  if (!before) return {};
  const [now, then] = [clip, before].map((one) => figures(one));
  if (!now.ended || !now.factor || !then.factor) return {};
  const signed = (value, text) => (value < 0 ? `\u2212${text}` : `+${text}`);
  const factor = Number(now.factor.toFixed(1)) - Number(then.factor.toFixed(1));
  const out = {};
  if (Math.abs(factor) > 0.01) out.factor = signed(factor, t("viewer.times", { factor: Math.abs(factor).toFixed(1) }));
  if (clock(now.saved) !== clock(then.saved)) out.saved = signed(now.saved - then.saved, clock(Math.abs(now.saved - then.saved)));
  if (now.expected !== null && then.expected !== null && percent(now.expected) !== percent(then.expected)) {
    out.quality = signed(now.expected - then.expected, percent(Math.abs(now.expected - then.expected)));
  }
  return out;
}

/** The clip of an earlier payload that `clip` is to be compared with: of the same samplers, or undefined. */
export function counterpart(clip, earlier) {
  const nodes = (one) => one.map((run) => run.node).join();
  const whole = (one) => one.every((run) => run.completed);
  return clips(earlier ?? []).find((one) => whole(one) && nodes(one) === nodes(clip));
}

/** Stages of a clip, {label, count} of steps, where there are several or more are to come. */
export function stages(cells) {
  const out = [];
  for (const { run } of cells) {
    if (!out.length || out.at(-1).run !== run) out.push({ run, label: run?.label ?? t("viewer.to_come"), count: 0 });
    out.at(-1).count += 1;
  }
  return out.length > 1 ? out.map(({ label, count }) => ({ label, count })) : [];
}

/** A row of cells for each branch (context window, area), where they differ: {label, cells}. */
export function branches(cells) {
  const names = new Set(cells.flatMap((cell) => Object.keys(cell.step?.branches ?? {})));
  if (cells.some((cell) => cell.run?.planned?.includes("h"))) names.add("cond").add("uncond"); // there from the first moment
  const decided = (cell, name) => {
    const share = cell.step?.branches?.[name];
    return share === undefined ? cell.decision : share >= 1 ? "computed" : share > 0 ? "partial" : "reused";
  };
  return [...names].map((name) => {
    const [, role, number] = name.match(/^(.*?)(?: (\d+))?$/);
    const known = ["cond", "uncond", "unknown"].includes(role) ? t(`viewer.branch.${role}`) : role;
    return { label: number ? `${known} ${number}` : known, cells: cells.map((cell) => ({ decision: decided(cell, name) })) };
  });
}

/** How often each decision was taken, in the order of DECISIONS; those in part and idle ones only where they were. */
export function counts(cells) {
  return DECISIONS.map((decision) => ({
    decision,
    count: cells.filter((cell) => cell.decision === decision).length,
  })).filter(({ decision, count }) => count || !["partial", "idle"].includes(decision));
}

/** A decision in words, with what ran where that was a part: "in part (...)". */
export function named(decision, steps = []) {
  const parts = [...new Set(steps.filter((step) => step?.decision === decision).map((step) => step.part))];
  const known = parts.filter(Boolean).join(", ");
  const word = t(`viewer.decision.${decision.replace("planned-", "")}`);
  return known ? `${word} (${known})` : word;
}

/** A step's reason in the user's language. */
export function reason(step) {
  const key = `viewer.reason.${step.reason.replace(/[^a-z]+/gi, "_")}`;
  const text = t(key);
  return text === key ? step.reason : text;
}

const RANKS = ["problem", "note", "detail"];

/** What is to be read, {level, text}: the most urgent first, each text once. */
export function messages(clip, notes = []) {
  const failures = clip.filter((run) => run.failure).map((run) => ({ text: run.failure, level: "problem" }));
  const said = [...failures, ...notes, ...clip.flatMap((run) => [run.completed ? run.why : null, ...run.messages])].filter(Boolean);
  const out = new Map();
  for (const one of said) {
    const [text, level] = [told(one), RANKS.includes(one.level) ? one.level : "note"];
    const other = out.get(text);
    if (!other || RANKS.indexOf(level) < RANKS.indexOf(other)) out.set(text, level);
  }
  const ranked = [...out].map(([text, level]) => ({ text, level }));
  return ranked.sort((a, b) => RANKS.indexOf(a.level) - RANKS.indexOf(b.level));
}

/** Settings of a run in one line. */
export function settings(run) {
  const parts = [run.family, t("viewer.policy", run), t("viewer.rule", run), t("viewer.tap", run)];
  if (run.budget !== null && run.budget !== undefined) parts.push(t("viewer.budget", run));
  if (run.history_bytes) parts.push(t("viewer.held", { mib: (run.history_bytes / 2 ** 20).toFixed(1) }));
  return parts.join(t("viewer.comma"));
}

const COLUMNS = ["number", "sigma", "decision", "reason", "score", "limit", "error", "calls", "cost", "time"];

/** Heads of the table. */
export function columns(run) {
  return COLUMNS.map((name) => t(`viewer.column.${name === "score" && planned(run) ? "expected" : name}`));
}

/** One row of cells for each step that is done. */
export function rows(cells) {
  const done = cells.filter((cell) => cell.step);
  return done.map(({ number, run, step }) => [
    String(number),
    figure(step.sigma),
    named(step.decision, [step]),
    reason(step),
    planned(run) ? percent(step.score) : figure(step.score),
    figure(step.limit),
    percent(step.error),
    String(step.calls),
    figure(step.cost),
    clock(step.seconds),
  ]);
}

/** All about one step, in one or two sentences. */
export function detail({ run, number, step, decision }) {
  const what = { number, decision: named(decision, [step]) };
  if (!step) return t(decision === "due" ? "viewer.step_due" : "viewer.step_planned", what);
  const parts = [t("viewer.step", { ...what, reason: reason(step) })];
  if (step.score !== null && planned(run)) parts.push(t("viewer.step_expected", { percent: percent(step.score) }));
  else if (step.score !== null) parts.push(t("viewer.step_score", { score: figure(step.score), limit: figure(step.limit) }));
  if (step.error !== null) parts.push(t("viewer.step_error", { percent: percent(step.error) }));
  const asked = step.decision === "idle" ? t("viewer.step_idle") : t("viewer.calls", { count: step.calls });
  parts.push([t("viewer.sigma", { sigma: figure(step.sigma) }), asked, clock(step.seconds)].join(t("viewer.comma")));
  return parts.join(" ");
}

const CSV = ["ordinal", "step", "sigma", "t", "decision", "reason", "part", "score", "limit", "error", "calls", "cost", "seconds"];

/** The steps of all runs as comma-separated values, with the report's own names. */
export function csv(runs) {
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = runs.flatMap((run) => run.steps.map((step) => [run.label ?? "", ...CSV.map((name) => step[name] ?? "")]));
  return [["run", ...CSV], ...lines].map((line) => line.map((value) => quoted(String(value))).join(",")).join("\r\n") + "\r\n";
}

/** The payload from what ComfyUI stores for a node, or null. */
export function fromOutput(output) {
  const payload = output?.sencache?.[0];
  return payload?.version === 1 ? payload : null;
}
