// Pure functions from the viewer's payload to what is shown. No DOM, no ComfyUI.

import { told } from "./words.js";

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

/** Seconds for people: 0.42 s, 12.3 s, 2:05. */
export function clock(seconds) {
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
}

/** Relative error as a percentage. */
export function percent(error) {
  return error === null || error === undefined ? "-" : `${figure(100 * error)} %`;
}

/** Whether the scores are expected forecast errors, in the unit of the measured ones. */
export function planned(run) {
  return run.policy === "planned";
}

/** What a run did, one letter an evaluation: C computed, h in part, a dot reused, - not asked. */
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

/** Evaluations and time apart: the one is not the other. */
export function headline(run) {
  const total = run.steps.length - run.idle;
  const partly = run.partial ? ` (${run.partial} of them in part)` : "";
  const due = `${run.num_steps} steps`;
  const live = running(run) ? ` (running, ${due})` : run.completed ? "" : ` (stopped, ${due} were due)`;
  const ended = run.when && !running(run) ? `, ended ${moment(run.when)}` : "";
  return {
    evaluations: `${run.evaluations} of ${total} evaluations run${partly}, ${run.reused} reused${live}`,
    time: `${clock(run.seconds)} in the sampler, about ${clock(run.saved_seconds)} saved time${ended}`,
    share: run.cost,
  };
}

/** How often each decision was taken, in the order of DECISIONS; those in part and idle ones only where they were. */
export function counts(run) {
  return DECISIONS.map((decision) => ({
    decision,
    count: run.steps.filter((step) => step.decision === decision).length,
  })).filter(({ decision, count }) => count || !["partial", "idle"].includes(decision));
}

/** A decision with what ran, where that was a part: "partial (...)". */
export function named(decision, steps) {
  const parts = [...new Set(steps.filter((step) => step.decision === decision).map((step) => step.part))];
  const known = parts.filter(Boolean).join(", ");
  return known ? `${decision} (${known})` : decision;
}

const STOPPED = {
  interrupted: "This run was interrupted.",
  failed: "This run failed.",
  lost: "This run was cut off: ComfyUI was restarted or cannot be reached.",
};

/** Lines for the user: messages, why nothing was reused, an unfinished run. */
export function lines(run) {
  const out = [];
  if (!run.completed && !running(run)) out.push(STOPPED[run.stopped] ?? "This run was interrupted or failed.");
  if (run.why && run.completed) out.push(told(run.why));
  out.push(...run.messages.map(told));
  return [...new Set(out)];
}

/** Settings of a run in one line. */
export function settings(run) {
  const limit = run.budget === null || run.budget === undefined ? "" : `, budget ${run.budget}`;
  const memory = run.history_bytes ? `, ${(run.history_bytes / 2 ** 20).toFixed(1)} MiB held` : "";
  return `${run.family}, policy ${run.policy}, rule ${run.rule}, tap ${run.tap}${limit}${memory}`;
}

const COLUMNS = ["#", "step", "sigma", "decision", "reason", "score", "limit", "error", "calls", "cost", "time"];

/** Heads of the table. */
export function columns(run) {
  return planned(run) ? COLUMNS.map((name) => (name === "score" ? "expected" : name)) : COLUMNS;
}

/** One row of cells per evaluation round. */
export function rows(run) {
  return run.steps.map((step) => [
    String(step.ordinal),
    String(step.step),
    figure(step.sigma),
    named(step.decision, [step]),
    step.reason,
    planned(run) ? percent(step.score) : figure(step.score),
    figure(step.limit),
    percent(step.error),
    String(step.calls),
    figure(step.cost),
    clock(step.seconds),
  ]);
}

/** Hover text of one evaluation round. */
export function hover(step, run) {
  const parts = [`evaluation ${step.ordinal}, step ${step.step}: ${named(step.decision, [step])}, ${step.reason}`];
  if (step.score !== null && planned(run)) parts.push(`a forecast here was expected to be ${percent(step.score)} off`);
  else if (step.score !== null) parts.push(`score ${figure(step.score)}, limit ${figure(step.limit)}`);
  if (step.error !== null) parts.push(`a forecast here was ${percent(step.error)} off`);
  const asked = step.decision === "idle" ? "the model was not asked" : `${step.calls} model calls`;
  parts.push(`sigma ${figure(step.sigma)}, ${asked}, ${clock(step.seconds)}`);
  return parts.join("\n");
}

/** The payload from what ComfyUI stores for a node, or null. */
export function fromOutput(output) {
  const payload = output?.sencache?.[0];
  return payload?.version === 1 ? payload : null;
}

