"""SenCache Apply: a model in, the same model with caching out."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io

from ..sencache_core import REUSE_RULES, CacheConfig, Message, Profile, RunReport, SenCache
from ..sencache_core.config import TAPS
from ..sencache_core.measure.learnt_store import LearntStore
from . import folders
from .graph import remember
from .host import ALIASES, CATEGORY, Throttle, make, place, send_event
from .reports import Reports
from .sockets import POLICY, PROFILE, STATS, PolicyChoice

_log = logging.getLogger("sencache")
_DEFAULT = CacheConfig()

CONTROLS = ("budget", "tolerance", "policy")
LEARN = ("on", "first run in full", "off")
#: What a run may head for, by what users read.
AIMS = {"automatic": "auto", "same clip": "same", "true clip": "true"}
#: Under this key the patched model carries its configuration, for SenCache Plan.
CONFIG = "sencache_config"
#: What stands in a configuration's place where nothing is to be cached.
SWITCHED_OFF, IN_FULL = "switched off", "in full"


class SenCacheApply(io.ComfyNode):
    """Patches a model so that its samplers reuse outputs that hardly change."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        guards = _DEFAULT.guards
        return make(
            io.Schema,
            node_id="SenCacheApply",
            display_name="SenCache Apply",
            category=CATEGORY,
            search_aliases=ALIASES,
            description=(
                "Makes video sampling faster by skipping steps: the model's output there is "
                "predicted from earlier ones. Place it between the model loader (and LoRAs) and "
                "the sampler, before or after a shift node; move the slider to see what a run will "
                "do. Works with Wan, LTX-Video, LTX-2 and CogVideoX. Runs of fewer than 10 steps "
                "are not cached."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with. It is not changed."),
                io.Float.Input(
                    "budget",
                    default=0.5,
                    min=0.2,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip=(
                        "Share of the steps to compute, met exactly; the others are skipped. Lower "
                        "is faster and differs more from the uncached clip. 0.5 takes about half "
                        "the time; 1.0 computes every step."
                    ),
                ),
                io.Boolean.Input(
                    "enable",
                    default=True,
                    optional=True,
                    tooltip="Off passes the model through untouched, as without this node.",
                ),
                make(
                    POLICY.Input,
                    "policy",
                    optional=True,
                    tooltip=(
                        "Another way to decide which steps are skipped, from SenCache Policy "
                        "Select. Without it, a plan is made for the budget."
                    ),
                ),
                make(
                    PROFILE.Input,
                    "profile",
                    optional=True,
                    tooltip=(
                        "Measurements of this model, from SenCache Calibrate or Load Profile. "
                        "Without a profile, typical figures for the model family are used, which "
                        "is enough to start with."
                    ),
                ),
                make(
                    io.Combo.Input,
                    "control",
                    options=list(CONTROLS),
                    default="budget",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What limits reuse. budget: the share of evaluations above. tolerance: "
                        "the largest expected change of the output, below; the number of "
                        "evaluations then depends on the prompt, and the policy is sencache. "
                        "policy: the settings of the connected policy, as they are."
                    ),
                ),
                make(
                    io.Float.Input,
                    "tolerance",
                    default=0.49,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Largest expected change (RMS) of the model's output over a reuse. "
                        "Raising it reuses more. The paper's Wan settings are 0.49 and 0.98; 0 "
                        "reuses nothing. Only read when control is tolerance."
                    ),
                ),
                make(
                    io.Combo.Input,
                    "rule",
                    options=list(REUSE_RULES),
                    default=_DEFAULT.rule.name,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How a skipped output is predicted. fitted combines the last two outputs "
                        "with measured weights; hold repeats the last one, as the paper does; "
                        "linear continues the line through the last two; quadratic uses three, for "
                        "40 or more steps. taylorseer is a line over step numbers, hicache one of "
                        "half its slope, meancache a still flatter one (5 outputs kept), spectrum "
                        "a smooth curve fitted to all outputs (up to 16 kept)."
                    ),
                ),
                make(
                    io.Float.Input,
                    "start_percent",
                    default=guards.start or 0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Share of the steps (not of the noise schedule) that are all computed at "
                        "the start, where layout and motion form. 0.1 of 20 steps is 2 steps. 0 "
                        "leaves it to the policy: planned chooses for itself, the others begin as "
                        "their methods do. The first two evaluations are always computed."
                    ),
                ),
                make(
                    io.Float.Input,
                    "end_percent",
                    default=guards.end,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Share of the steps after which everything is computed again. 1.0 allows "
                        "reuse to the end; the last step is always computed."
                    ),
                ),
                make(
                    io.Int.Input,
                    "longest_run",
                    default=guards.longest_run,
                    min=1,
                    max=20,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The most evaluations reused in a row. At the default, 3, it depends on "
                        "the budget: as few as possible, or up to 8 where the planned policy finds "
                        "that better. A lower value limits planned too, as far as the budget "
                        "allows."
                    ),
                ),
                make(
                    io.Combo.Input,
                    "tap",
                    options=list(TAPS),
                    default=_DEFAULT.tap,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What is kept for reuse. output: the model's output, as large as the "
                        "latent. stack: the change over the block stack, as in the paper's code; "
                        "needs many times the memory."
                    ),
                ),
                make(
                    io.Int.Input,
                    "min_steps",
                    default=_DEFAULT.min_steps,
                    min=1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Runs with fewer steps than this are computed in full, because distilled "
                        "models and speed LoRAs need every step. Lower it to cache such runs "
                        "anyway."
                    ),
                ),
                make(
                    io.Boolean.Input,
                    "verbose",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Write a line for every evaluation to ComfyUI's log after each run.",
                ),
                make(
                    io.Boolean.Input,
                    "hindsight",
                    default=_DEFAULT.hindsight,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Correct earlier predictions once the next computed output shows how far "
                        "off they were, at no extra cost. Works with one-step samplers such as "
                        "euler, and with the output tap; elsewhere it does nothing."
                    ),
                ),
                make(
                    io.Combo.Input,
                    "learn",
                    options=list(LEARN),
                    default=LEARN[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Whether later runs forecast by what completed ones show of this "
                        "model, at these steps, sampler and cfg, unless a profile is connected. A "
                        "few kilobytes are kept in user/default/sencache/learnt; delete them to "
                        "begin anew. first run in full: where nothing is known yet, one run is "
                        "computed in full to learn from. off: every run forecasts alike."
                    ),
                ),
                make(
                    io.Combo.Input,
                    "aim",
                    options=list(AIMS),
                    default=next(iter(AIMS)),
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "same clip: what the sampler would have made with every step computed; "
                        "choose it to compare with the uncached clip. true clip: what it would "
                        "have made with many more steps. automatic: true clip while a plan saves "
                        "steps, same clip otherwise."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model, with caching."),
                STATS.Output(
                    id="stats",
                    display_name="stats",
                    tooltip="What each run did; connect to SenCache Stats Viewer.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls,
        model,
        budget: float,
        enable: bool = True,
        policy: PolicyChoice | None = None,
        profile=None,
        control: str = "budget",
        tolerance: float = 0.49,
        rule: str = _DEFAULT.rule.name,
        start_percent: float = _DEFAULT.guards.start or 0.0,
        end_percent: float = _DEFAULT.guards.end,
        longest_run: int = _DEFAULT.guards.longest_run,
        tap: str = _DEFAULT.tap,
        min_steps: int = _DEFAULT.min_steps,
        verbose: bool = False,
        hindsight: bool = _DEFAULT.hindsight,
        learn: str = LEARN[0],
        aim: str = next(iter(AIMS)),
    ) -> io.NodeOutput:
        from ..sencache_core.hosts.comfy import attach, detach

        hidden = cls.hidden
        node = hidden.unique_id if hidden is not None else None
        if node and hidden.dynprompt is not None:
            remember(hidden.dynprompt.get_original_prompt(), str(node), model)
        config = config_of(
            *(budget, enable, policy, profile, control, tolerance, rule),
            *(start_percent, end_percent, longest_run, tap, min_steps, hindsight, learn, aim),
        )
        if config is SWITCHED_OFF:
            return io.NodeOutput(model, Reports(Message.of("node.switched_off")))
        if config is IN_FULL:
            bare = detach(model)  # the last Apply in a row rules, also where it says not to cache
            bare.remove_attachments(CONFIG)
            return io.NodeOutput(bare, Reports(Message.of("node.full_budget")))
        reports = Reports()
        teller = _Teller(reports, node, verbose)
        patched = attach(model, config, publish=teller.finished, live=teller.running)
        patched.set_attachments(CONFIG, config)
        return io.NodeOutput(patched, reports)


def config_of(
    budget: float,
    enable: bool = True,
    policy: PolicyChoice | None = None,
    profile: Profile | None = None,
    control: str = "budget",
    tolerance: float = 0.49,
    rule: str = _DEFAULT.rule.name,
    start_percent: float = _DEFAULT.guards.start or 0.0,
    end_percent: float = _DEFAULT.guards.end,
    longest_run: int = _DEFAULT.guards.longest_run,
    tap: str = _DEFAULT.tap,
    min_steps: int = _DEFAULT.min_steps,
    hindsight: bool = _DEFAULT.hindsight,
    learn: str = LEARN[0],
    aim: str = next(iter(AIMS)),
) -> CacheConfig | str:
    """What the inputs of SenCache Apply come to: a configuration, or one of :data:`SWITCHED_OFF`
    and :data:`IN_FULL`.

    Raises:
        ValueError: a value that is none of those to choose from, or two that do not go together.
    """
    if not enable:
        return SWITCHED_OFF
    if control not in CONTROLS:
        raise ValueError(f"Set control to one of {', '.join(CONTROLS)}, not {control!r}.")
    if learn not in LEARN:
        raise ValueError(f"Set learn to one of {', '.join(LEARN)}, not {learn!r}.")
    if aim not in AIMS:
        raise ValueError(f"Set aim to one of {', '.join(AIMS)}, not {aim!r}.")
    # Only sencache knows tolerances, so that asking for one asks for it.
    default = SenCache() if control == "tolerance" else _DEFAULT.policy
    choice = policy or PolicyChoice(default)
    own_settings = choice.fixed or control == "policy"
    if control == "budget" and budget >= 1.0 and not own_settings and AIMS[aim] != "true":
        return IN_FULL
    guards = replace(
        _DEFAULT.guards, longest_run=longest_run, start=start_percent or None, end=end_percent
    )
    config = CacheConfig(
        policy=choice.policy,
        rule=choice.rule or REUSE_RULES[rule](),
        gap_rule=choice.gap_rule or _DEFAULT.gap_rule,
        guards=choice.guards or guards,
        budget=None if own_settings else budget,
        profile=profile,
        tap=tap,
        hindsight=hindsight if choice.hindsight is None else choice.hindsight,
        min_steps=min_steps,
        aim=AIMS[aim],
        learn=None if learn == "off" else LearntStore(folders.learnt(), learn != LEARN[0]),
    )
    if control == "tolerance" and not own_settings:
        config = config.with_tolerance(tolerance)
    return config


class _Teller:
    """Passes reports on to the mailbox, the node's own text and the viewers in the browser."""

    def __init__(self, reports: Reports, node: str | None, verbose: bool) -> None:
        self.reports, self.node, self.verbose = reports, node, verbose
        self._throttle = Throttle(0.5)

    def running(self, report: RunReport) -> None:
        if self._throttle.ready():
            self._send(report)

    def _send(self, report: RunReport) -> None:
        """To the viewers in the browser, with the prompt and the sampler that it belongs to."""
        prompt, sampler = place()
        told = {"node": self.node, "prompt": prompt, "sampler": sampler}
        send_event("sencache.progress", {**told, "report": report.to_dict()})

    def finished(self, report: RunReport) -> None:
        self.reports.post(report)
        self._send(report)  # also where no viewer is reached any more: the run was interrupted
        if self.verbose:
            _log.info("SenCache: %s", "\n".join([str(report.summary()), *report.texts]))
            for r in report.steps:
                figures = {"score": r.score, "limit": r.limit, "error": r.error}
                known = ", ".join(f"{k} {v:.3g}" for k, v in figures.items() if v is not None)
                _log.info("  step %d: %s, %s (%s)", r.step, r.decision, r.reason, known or "-")
