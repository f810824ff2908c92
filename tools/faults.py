"""The faults that ``mutate.py`` makes: each a slip that somebody could make, in one place.

Tests are the fewest that are to notice it, by their pytest names.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One text in place of another, which must be there exactly once.

    Attributes:
        what: the fault, in a sentence.
        file: path from the root.
        old, new: texts.
        tests: names of the tests to run.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def needs_comfyui(self) -> bool:
        """Whether all of its tests are skipped without ComfyUI."""
        return all(test.startswith("tests/comfy/") for test in self.tests)


_PLANNER = "sencache_core/policies/planner.py"
_EXPECTED = ("tests/test_plan_cost.py::test_what_is_expected_of_a_mask",)

FAULTS = (
    # What a plan expects
    Fault(
        "Plans are chosen by gain itself, not by its power 0.75.",
        _PLANNER,
        "GAIN_POWER = 0.75",
        "GAIN_POWER = 1.0",
        _EXPECTED,
    ),
    Fault(
        "The share of an error that hindsight leaves is not squared.",
        _PLANNER,
        "AFTER_HINDSIGHT**2",
        "AFTER_HINDSIGHT",
        _EXPECTED,
    ),
    Fault(
        "A run of reuse that no evaluation ends is taken back all the same.",
        _PLANNER,
        "np.where((last + ahead <= end)[:, None], kept, square)",
        "kept",
        _EXPECTED,
    ),
    Fault(
        "What is taken back is priced without the output that ends the run of reuse.",
        _PLANNER,
        "_square(taken, _changes(grams, around, last), across, around, own)",
        "square",
        _EXPECTED,
    ),
    Fault(
        "Moments of the leading branch are ignored.",
        "sencache_core/forecast/moments.py",
        "self.mean if self.lead is None else self.lead",
        "self.mean",
        ("tests/test_moments.py::test_leading_moments_stand_for_errors_that_a_session_measures",),
    ),
    Fault(
        "Interpolation between measured times takes the shares of its neighbours the wrong way.",
        "sencache_core/forecast/moments.py",
        "= 1 - share, share",
        "= share, 1 - share",
        ("tests/test_moments.py::test_interpolation_is_that_of_outputs",),
    ),
    Fault(
        "Rounds that share a step count its whole weight each.",
        "sencache_core/sampler/solver.py",
        " / shared[start[step]]",
        "",
        ("tests/test_schedule.py::test_noise_levels_listed_twice_weigh_what_both_evaluations_do",),
    ),
    Fault(
        "The last step, to 0, is expected to have a second evaluation.",
        "sencache_core/sampler/schedule.py",
        "if b <= 0:",
        "if b < 0:",
        ("tests/test_schedule.py::test_two_evaluations_a_step_but_the_last",),
    ),
    Fault(
        "Places that a sampler asks at are learnt from the end of a step.",
        "sencache_core/sampler/pattern.py",
        "(start - sigma) / (start - end)",
        "(sigma - end) / (start - end)",
        ("tests/test_pattern.py::test_the_budget_is_met_on_the_first_run",),
    ),
    Fault(
        "Rounds are compared with those expected one later.",
        "sencache_core/run/watch.py",
        "len(self._seen) - 1, sigma",
        "len(self._seen), sigma",
        ("tests/test_pattern.py::test_samplers_of_the_tables_surprise_nobody",),
    ),
    # What a run does with its plan
    Fault(
        "The correction by what a clip shows is a factor on errors, not on their squares.",
        "sencache_core/policies/correction.py",
        "np.exp(2 * self.log_ratio",
        "np.exp(self.log_ratio",
        ("tests/test_budget.py::test_a_clip_that_errs_twice_as_much_costs_four_times_as_much",),
    ),
    Fault(
        "Calls that ran in rounds of reuse are charged for at every evaluation anew.",
        "sencache_core/policies/planned.py",
        "int(step.extra) - state.charged",
        "int(step.extra)",
        ("tests/test_session.py::test_what_ran_in_rounds_of_reuse_is_paid_for_once",),
    ),
    Fault(
        "An evaluation that a guard asked for in a run of reuse is not paid for elsewhere.",
        "sencache_core/policies/planned.py",
        "self._replan(state)  # a guard asked for this one: it is paid for elsewhere",
        "pass",
        ("tests/test_budget.py::test_what_a_guard_asks_for_in_mid_run_is_paid_for_elsewhere",),
    ),
    Fault(
        "A score that is equal to its limit is reused.",
        "sencache_core/policies/threshold.py",
        "        if score < limit:\n            return",
        "        if score <= limit:\n            return",
        ("tests/test_policies.py::test_comparison_is_strict",),
    ),
    Fault(
        "What a run measures of its scores corrects those to come the wrong way.",
        "sencache_core/policies/threshold.py",
        "state.expected[key] * state.ratio >= limit",
        "state.expected[key] / state.ratio >= limit",
        ("tests/test_policies.py::test_limits_under_a_budget_grow_with_the_scores",),
    ),
    Fault(
        "A rise of the noise level in mid-run is not noticed.",
        "sencache_core/policies/guarded.py",
        "step.t > last.t + SAME_TIME",
        "step.t > last.t + 1",
        ("tests/test_session.py::test_rising_time_drops_the_history",),
    ),
    Fault(
        "The middle of a model is off by half a block.",
        "sencache_core/policies/middle_blocks.py",
        "edge <= (k + 0.5) / count < 1 - edge",
        "edge <= k / count < 1 - edge",
        ("tests/test_taps.py::test_outer_blocks_lie_alike_at_both_ends",),
    ),
    Fault(
        "The budget of partial rounds counts forced rounds as partial ones, too.",
        "sencache_core/policies/partial.py",
        "forced + (len(steps) - forced) * self.share_in(run)",
        "forced + len(steps) * self.share_in(run)",
        ("tests/test_pairs.py::test_cfg_cache_says_what_it_cannot_save",),
    ),
    Fault(
        "Rounds of reuse are taken to cost nothing where some blocks always run.",
        "sencache_core/policies/probing.py",
        "min((self.first + self.last) / run.blocks, 1.0)",
        "0.0",
        ("tests/test_policies.py::test_reuse_in_a_row_is_limited_where_some_blocks_always_run",),
    ),
    Fault(
        "FBCache compares with the round before, not with the last evaluation.",
        "sencache_core/policies/fbcache.py",
        "state.added(change, abs(step.t - last.t))",
        "state.seen = now",
        ("tests/test_fbcache.py::test_the_change_counts_from_the_last_evaluation",),
    ),
    Fault(
        "DiCache's forecasts go on without an end.",
        "sencache_core/policies/dicache.py",
        "min(max(gain[0], LEAST), MOST)",
        "max(gain[0], LEAST)",
        ("tests/test_dicache.py::test_gains_lie_within_1_and_2",),
    ),
    Fault(
        "A run that begins among the first blocks is asked for before they have run.",
        "sencache_core/model/taps/blocks.py",
        "max(run[0], always)",
        "run[0]",
        ("tests/test_taps.py::test_the_first_blocks_run_and_are_shown_before_a_run_is_asked_for",),
    ),
    Fault(
        "Delta-DiT keeps the front blocks early and the rear ones late.",
        "sencache_core/policies/delta_dit.py",
        "if cycle.early:",
        "if not cycle.early:",
        ("tests/test_delta_dit.py::test_rear_blocks_are_kept_early_and_front_blocks_late",),
    ),
    # What a session keeps and hands out
    Fault(
        "A branch that missed the last evaluation is forecast from before.",
        "sencache_core/run/history.py",
        "bool(kept) and kept[-1].t <= since + SAME_TIME",
        "bool(kept)",
        ("tests/test_session.py::test_a_branch_that_missed_the_last_evaluation_is_computed",),
    ),
    Fault(
        "What is kept is the caller's own tensor.",
        "sencache_core/run/history.py",
        "y.to(dtype, copy=True)",
        "y.to(dtype)",
        ("tests/test_session.py::test_the_callers_tensors_are_neither_kept_nor_written",),
    ),
    Fault(
        "One output more is kept than the rule reads.",
        "sencache_core/run/history.py",
        "len(kept) + 1 - max(1,",
        "len(kept) - max(1,",
        ("tests/test_session.py::test_memory_is_bounded",),
    ),
    Fault(
        "The last latent outlives the run.",
        "sencache_core/run/course.py",
        "self._state = self._replan = self.last = None",
        "self._state = self._replan = None",
        ("tests/test_session.py::test_finish_drops_every_tensor",),
    ),
    Fault(
        "The rounding of the latent's dtype counts as fresh noise.",
        "sencache_core/run/explain.py",
        " + rounding * np.linalg.norm(span[0])",
        "",
        ("tests/test_explain.py::test_what_outputs_do_not_explain_is_said_and_not_taken_back",),
    ),
    Fault(
        "The debt of a forecast that was held is booked by the configured rule.",
        "sencache_core/run/hindsight.py",
        "        self.book(key, rule.weights(used, step.t), len(history))\n",
        "        used = [anchor.t for anchor in history]\n"
        "        self.book(key, self.rule.weights(used, step.t), len(history))\n",
        ("tests/test_hindsight.py::test_an_output_that_was_held_is_taken_back_as_held",),
    ),
    # Heading for the exact solution
    Fault(
        "The step of an evaluation itself is left out of what has moved the latent.",
        "sencache_core/run/integral.py",
        "        self.begun[key] = Debt(moved, rounds=1)\n",
        "        self.begun[key] = Debt([0.0] * len(moved), rounds=1)\n",
        ("tests/test_integral.py::test_second_order",),
    ),
    Fault(
        "Outputs are taken as they are at the latent before its correction.",
        "sencache_core/run/integral.py",
        "            there = y.float().add(off, alpha=self.response(step.t))\n",
        "            there = y.float()\n",
        ("tests/test_integral.py::test_a_correction_moves_the_latent_and_the_output",),
    ),
    Fault(
        "What is handed on lacks the correction.",
        "sencache_core/run/integral.py",
        "            given = given.add(off, alpha=path.q)\n",
        "            given = given.add(off, alpha=0.0)\n",
        ("tests/test_integral.py::test_a_correction_moves_the_latent_and_the_output",),
    ),
    Fault(
        "Clean latents that were kept are taken for outputs.",
        "sencache_core/run/outputs.py",
        "        pairs = zip(keys, map(self.keeping.said, kept), strict=True)\n",
        "        pairs = zip(keys, kept, strict=True)\n",
        ("tests/test_keeping.py::test_a_clean_latent_that_stays_is_repeated",),
    ),
    Fault(
        "What a multistep sampler carries on is left in.",
        "sencache_core/run/integral.py",
        "            given.sub_(one, alpha=weight)\n",
        "            given.sub_(one, alpha=0.0)\n",
        ("tests/test_multistep.py::test_it_lands_where_a_sampler_without_memory_does",),
    ),
    Fault(
        "A sampler that does otherwise than measured is led.",
        "sencache_core/sampler/response.py",
        "(way for way in ways if _holds(run, levels, way))",
        "(way for way in ways)",
        ("tests/test_multistep.py::test_what_cannot_be_led_is_refused",),
    ),
    Fault(
        "A latent that is not scaled by the noise level is taken for one that is.",
        "sencache_core/sampler/path.py",
        "    clean = clean or clean_of(family)\n",
        "    clean = clean_of(family)\n",
        ("tests/test_path.py::test_scale_and_way_of_v_prediction",),
    ),
    Fault(
        "The last output is held as soon as a forecast errs by more than 0.7 of holding's error.",
        "sencache_core/run/trial.py",
        "HOLD_MARGIN = 1.4",
        "HOLD_MARGIN = 0.7",
        ("tests/test_session.py::test_a_forecast_may_err_a_little_more_than_holding",),
    ),
    Fault(
        "One forecast that said nothing ends the caching.",
        "sencache_core/run/trial.py",
        "self._useless > 1",
        "self._useless > 0",
        ("tests/test_session.py::test_one_forecast_that_says_nothing_does_not_end_the_caching",),
    ),
    Fault(
        "Errors are measured on a branch that is gone.",
        "sencache_core/run/trial.py",
        " or not history.fresh(lead, since)",
        "",
        (
            "tests/test_session.py::test_errors_are_measured_on_another_branch_once_the_first_is_gone",
        ),
    ),
    Fault(
        "The feedback of the response into what is taken back is dropped.",
        "sencache_core/run/hindsight.py",
        "off.div_(1 - feedback)",
        "off.div_(1)",
        ("tests/test_hindsight.py::test_what_is_taken_back_is_solved_for_with_the_response",),
    ),
    Fault(
        "What forecasts did to the latent is not carried through the steps after them.",
        "sencache_core/run/hindsight.py",
        "[a * weight for weight in debt.moved]",
        "[weight for weight in debt.moved]",
        ("tests/test_hindsight.py::test_outputs_quadratic_in_time_leave_no_error",),
    ),
    Fault(
        "A call over several branches counts as one over one branch in the cost of a round.",
        "sencache_core/run/rounds.py",
        "self._ran += share * len(branches)",
        "self._ran += share",
        ("tests/test_rounds.py::test_cost_is_the_share_of_block_work",),
    ),
    Fault(
        "The difference of a guidance pair is kept with its sign turned.",
        "sencache_core/forecast/pairs.py",
        "here[partner] - y",
        "y - here[partner]",
        ("tests/test_pairs.py::test_a_difference_that_the_rule_foresees_costs_nothing",),
    ),
    # What is measured, what hosts and taps translate
    Fault(
        "At the end of a run a displacement of the latent counts twice.",
        "sencache_core/measure/profile.py",
        "[1.0, *gain]",
        "[2.0, *gain]",
        (
            "tests/test_moments.py::test_a_displacement_at_the_end_of_the_run_is_the_final_latents_own",
        ),
    ),
    Fault(
        "The slope along the latent is measured to the new output, at the new noise level.",
        "sencache_core/measure/recorder.py",
        "rms(between - before) / moved",
        "rms(now - before) / moved",
        ("tests/test_recorder.py::test_slopes_of_a_linear_model_are_exact",),
    ),
    Fault(
        "What a probe's error is expected to be leaves out that it is taken back.",
        "sencache_core/measure/probe.py",
        "Planner(rounds, plain, 1, self.run.transitions is not None)",
        "Planner(rounds, plain, 1, False)",
        ("tests/test_probe.py::test_a_probe_is_a_cached_run",),
    ),
    Fault(
        "Rounds in which the model was not asked count in the cost of a run.",
        "sencache_core/run/stats.py",
        "        asked = len(self.steps) - self.idle",
        "        asked = len(self.steps)",
        ("tests/test_stats.py::test_rounds_in_which_nobody_asked_are_no_part_of_the_cost",),
    ),
    Fault(
        "Forecasts are taken back although the sampler turned out to ask several times a step.",
        "sencache_core/config/cache_config.py",
        "replace(run, schedule=schedule, transitions=None, to_truth=False)",
        "replace(run, schedule=schedule)",
        (
            "tests/test_pattern.py::test_nothing_is_taken_back_where_a_sampler_asks_more_often_than_its_name_tells",
        ),
    ),
    Fault(
        "What enters the block stack is noted without a copy, although blocks may write to it.",
        "sencache_core/model/taps/stack.py",
        "tuple(s.clone() for s in streams)",
        "streams",
        ("tests/test_taps.py::test_what_is_kept_is_what_blocks_add",),
    ),
    Fault(
        "LoRA hooks in force are no part of a branch's key.",
        "sencache_core/hosts/comfy_keys.py",
        "*(self._pass_marks(options), _hooks(base_model)),",
        "*(self._pass_marks(options),),",
        ("tests/comfy/test_guiders.py::test_lora_hooks_in_force_are_part_of_the_key",),
    ),
    Fault(
        "Every block that is spared counts as the whole stack.",
        "sencache_core/model/taps/blocks.py",
        "(run[-1] + 1 - self.asked) / count",
        "1.0",
        ("tests/test_taps.py::test_a_block_alone_is_spared_for_its_share",),
    ),
    Fault(
        "Of frames that are clean in a call at another noise level the timestep is moved, too.",
        "sencache_core/hosts/_diffusers.py",
        "value == value.max()",
        "value == value",
        ("tests/diffusers/test_calls.py::test_timestep_of_each_token",),
    ),
    # What is stored of runs
    Fault(
        "A stored call is found by its prompt, whatever the noisy latent.",
        "sencache_core/measure/stored.py",
        "(self.model, self.machine, self.latent, self.level, self.inputs)",
        "(self.model, self.machine, self.level, self.inputs)",
        ("tests/test_stored.py::test_any_other_part_is_another_call",),
    ),
    Fault(
        "The most recently used calls make room.",
        "sencache_core/measure/stored.py",
        "in sorted(known):",
        "in sorted(known, reverse=True):",
        ("tests/test_stored.py::test_the_least_recently_used_make_room",),
    ),
    Fault(
        "What a similar prompt gave is stored as this prompt's.",
        "sencache_core/hosts/comfy_stored.py",
        "if known is not None:\n            return",
        "if known is not None:\n"
        "            self._keep(key, known, step, text, x.shape)\n"
        "            return",
        (
            "tests/comfy/test_stored.py::test_what_a_similar_prompt_gave_is_not_stored_as_this_one_s",
        ),
    ),
    Fault(
        "Patches of weights do not tell models apart.",
        "sencache_core/hosts/comfy_call.py",
        "            of_patches(self._patcher.patches),\n",
        "",
        ("tests/comfy/test_stored.py::test_a_lora_of_the_same_strength_is_recognised",),
    ),
    Fault(
        "Taylor: derivatives are not per step.",
        "sencache_core/forecast/reuse/taylorseer.py",
        "(f[i] - newest[i]) / safe",
        "(f[i] - newest[i])",
        ("tests/test_forecasters.py::test_taylorseer_counts_steps",),
    ),
    Fault(
        "Hermite polynomials of order 2 are off by their constant.",
        "sencache_core/forecast/reuse/hicache.py",
        "2 * (i - 1) * before",
        "2 * i * before",
        ("tests/test_forecasters.py::test_hicache_of_order_two",),
    ),
    Fault(
        "What a ridge fit's weights lack in 1 is dropped.",
        "sencache_core/forecast/reuse/spectrum.py",
        "fit[..., -1] += 1 - fit.sum(axis=-1)",
        "fit[..., -1] += 0",
        ("tests/test_forecasters.py::test_spectrum_is_the_published_fit_but_for_what_it_draws_to",),
    ),
    Fault(
        "A mean output goes back to the first one that is kept.",
        "sencache_core/forecast/reuse/meancache.py",
        "np.maximum(k - self.span, start)",
        "start",
        (
            "tests/test_forecasters.py::test_meancache_reads_off_the_outputs_what_its_authors_read_off_the_latent",
        ),
    ),
    Fault(
        "Step numbers count from the time itself, rounds known or not.",
        "sencache_core/forecast/reuse/stepwise.py",
        "if len(grid) < 2:",
        "if True:",
        ("tests/test_forecasters.py::test_taylorseer_counts_steps",),
    ),
)
