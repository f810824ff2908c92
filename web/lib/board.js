// What each viewer shows, as prompts are queued, run, end and fail. No DOM, no ComfyUI.
//
// A state belongs to a viewer of one workflow in one tab of the browser:
//   job      {id, prompt, workflow, tab} that its figures are of; tab is undefined where unknown
//   payload  what the viewer's node sent, once it was executed
//   runs     before that: what its samplers tell as they run
//   done     nothing more will come from this job
//   earlier  why the figures are not those of the graph as it was queued last, "" if they are
//   before   runs that it showed before those, all of them complete, to compare with

import { jobOf, labelled, titleOf, viewersIn, viewersOf } from "./graph.js";
import { fromOutput, moment, running } from "./report.js";
import { t } from "./words.js";

const MOST = 64;

export class Board {
  constructor(clock = () => Date.now() / 1000) {
    this.clock = clock;
    this.jobs = new Map();
    this.states = [];
    this.refusals = [];
  }

  /** Remember where a prompt came from. */
  add(job) {
    this.jobs.set(job.id, job);
    if (this.jobs.size > MOST) this.jobs.delete(this.jobs.keys().next().value);
    return job;
  }

  /** A graph is being queued: what its viewers show is of before, but for runs still under way. */
  queue(workflow, tab, why = "queued") {
    return this.#date((state) => of(state, workflow, tab), why);
  }

  /** ComfyUI refused the parts of a graph that end in `viewers`, or all of it: also told of runs that end later. */
  refuse(workflow, tab, viewers) {
    const others = this.refusals.filter((one) => one.workflow !== workflow || one.tab !== tab);
    this.refusals = [...others, { workflow, tab, viewers }].slice(-MOST);
    return this.#date((state) => of(state, workflow, tab) && this.#refused(state.job, state.viewer), "refused");
  }

  /** A prompt that was queued before begins. */
  start(job) {
    return this.#dateOthers(job, () => true, "queued");
  }

  /** A sampler tells how far it is. */
  progress(job, { node, sampler, report }) {
    const key = `${node} ${sampler}`;
    const viewers = viewersOf(job.prompt, node, sampler);
    return viewers.flatMap((viewer) => {
      const old = this.#find(job, viewer);
      if (old?.job.id === job.id && old.done) return []; // its own sampler has ended; this is another
      const state = old?.job.id === job.id ? old : this.#put(job, viewer, { runs: [], done: false });
      const run = { ...report, key, node: sampler, ...(report.ended && { when: this.clock() }) };
      const present = state.runs.findIndex((other) => other.key === key && running(other));
      if (present < 0) state.runs.push(run);
      else state.runs[present] = run;
      return [state];
    });
  }

  /** A viewer was executed, or its kept output was sent again. */
  finish(job, viewer, output) {
    const payload = fromOutput(output);
    if (!payload) return [];
    return [this.#put(job, viewer, { payload, done: true, earlier: this.#refused(job, viewer) ? "refused" : "" })];
  }

  /** A prompt has ended, as it should ("") or not ("interrupted", "failed", "lost"), by the error `words`. */
  end(job, how = "", words = "") {
    const viewers = viewersIn(job.prompt);
    const own = this.states.filter((state) => state.job.id === job.id && !state.done);
    for (const state of own) {
      state.done = true;
      if (this.#refused(job, state.viewer)) state.earlier = "refused";
      for (const run of state.runs) {
        if (run.completed) continue;
        Object.assign(run, { when: run.when ?? this.clock(), stopped: how || "lost", failure: words });
      }
    }
    if (!how) return own;
    return [...own, ...this.#dateOthers(job, (viewer) => viewers.includes(viewer), how)];
  }

  /** Fill the viewer that `is` recognises by its id with the newest that ComfyUI's history holds. */
  restore(history, workflow, tab, is) {
    if (this.shownBy(workflow, tab, is).length) return [];
    const found = [];
    for (const entry of Object.values(history).sort((a, b) => b.prompt[0] - a.prompt[0])) {
      const job = jobOf(entry.prompt);
      if (!workflow || job?.workflow !== workflow) continue;
      for (const [viewer, output] of Object.entries(entry.outputs ?? {})) {
        const payload = is(viewer) ? fromOutput(output) : null;
        if (payload) found.push([{ ...job, tab }, viewer, payload]);
      }
    }
    // The oldest first, so that the newest knows what it is to be compared with.
    for (const [job, viewer, payload] of found.reverse()) this.#put(job, viewer, { payload, done: true, earlier: "queued" });
    return this.shownBy(workflow, tab, is);
  }

  /** States of the viewer that `is` recognises by its id. */
  shownBy(workflow, tab, is) {
    return this.states.filter((state) => of(state, workflow, tab) && is(state.viewer));
  }

  /** Jobs of which more may come. */
  pending() {
    return [...new Set(this.states.filter((state) => !state.done).map((state) => state.job))];
  }

  #find({ workflow, tab }, viewer) {
    return this.states.find((state) => of(state, workflow, tab) && state.viewer === viewer);
  }

  #put(job, viewer, rest) {
    const old = this.#find(job, viewer);
    const state = { viewer, job, earlier: "", before: before(old, rest.payload), ...rest };
    this.states = [...this.states.filter((other) => other !== old), state].slice(-MOST);
    return state;
  }

  /** Whether ComfyUI refused the graph of `job` up to `viewer` when it was queued last. */
  #refused(job, viewer) {
    return this.refusals.some((one) => of({ job }, one.workflow, one.tab) && (one.viewers?.includes(viewer) ?? true));
  }

  #dateOthers(job, which, why) {
    const own = (state) => of(state, job.workflow, job.tab) && which(state.viewer);
    return this.#date((state) => own(state) && state.job.id !== job.id && !this.#refused(job, state.viewer), why);
  }

  #date(which, why) {
    const found = this.states.filter((state) => state.done && which(state));
    for (const state of found) state.earlier = why;
    return found;
  }
}

/** Whether a state is of this workflow in this tab, as far as that is known. */
export function of(state, workflow, tab) {
  const { job } = state;
  return Boolean(workflow) && job.workflow === workflow && (!job.tab || !tab || job.tab === tab);
}

/** Runs that a viewer is to compare those of `payload` with, which it shows from now on in place of `old`. */
function before(old, payload) {
  const [then, now] = [old?.payload?.runs ?? old?.runs ?? [], payload?.runs ?? []];
  const kept = then.length === now.length && then.every((run, i) => run.when === now[i].when);
  const whole = then.length && then.every((run) => run.completed);
  // Live runs of the very job that has now ended are no earlier ones.
  return kept || !whole || (old.runs && payload) ? (old?.before ?? []) : then;
}

/**
 * The payload that shows a state: see nodes/viewer.py; with `earlier`, a sentence or "", `live`, whether
 * more may come, and `before`, earlier runs to compare with.
 */
export function shown(state, now) {
  const runs = state.runs ?? [];
  const payload = state.payload ?? {
    version: 1,
    runs: labelled(runs.map((run) => ({ ...run, label: titleOf(state.job.prompt, run.node) }))),
    notes: state.done && runs.every((run) => run.completed) ? [t("viewer.not_reached")] : [],
    latest: runs.length - 1,
  };
  const kept = state.payload?.prompt && state.payload.prompt !== state.job.id && !state.earlier;
  const notes = kept ? [...payload.notes, t("viewer.kept")] : payload.notes;
  const when = payload.when ?? runs.at(-1)?.when;
  const date = when ? moment(when, now) : "";
  const why = ["refused", "interrupted", "failed", "lost"].includes(state.earlier) ? t(`viewer.since_${state.earlier}`) : "";
  const earlier = state.earlier ? [t(date ? "viewer.earlier_at" : "viewer.earlier", { when: date }), why].filter(Boolean).join(" ") : "";
  return { ...payload, notes, earlier, live: !state.done, before: state.before ?? [] };
}
