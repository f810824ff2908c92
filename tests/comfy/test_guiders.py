"""Guiders and wrappers of other packs switch, split, skip and bypass, and all of it is seen."""

from __future__ import annotations

import importlib
from dataclasses import replace

import models
import pytest
import torch

from sencache_core import CacheConfig, Guards, Hold, Planned

pytestmark = pytest.mark.comfyui

STEPS = 12


def guide_of(base=None, **methods):
    """A guider class with methods of its own."""
    import comfy.samplers

    return type("OwnGuider", (base or comfy.samplers.CFGGuider,), methods)


def made(cls, model, case, cfg=4.0):
    out = cls(model)
    out.set_conds(case.positive, case.negative)
    out.cfg = cfg
    return out


def compare(runs, host, case, cls, config=None, patch=lambda m: m, cfg=4.0, **kwargs):
    """Samples of the plain run and the cached one, its report, and the network's calls."""
    kwargs.setdefault("steps", STEPS)
    plain_model = patch(case.model)
    guide = made(cls, plain_model, case, cfg) if cls else None
    plain = runs.sample(plain_model, case, guide=guide, **kwargs)
    reports = runs.Reports()
    cached = patch(host.attach(case.model, config or CacheConfig(), reports))
    guide = made(cls, cached, case, cfg) if cls else None
    with runs.counted(case.model) as calls:
        out = runs.sample(cached, case, guide=guide, **kwargs)
    return plain, out, reports.last, calls[0]


def told_once(report, words):
    assert sum(words in said for said in report.texts) == 1, report.texts


# What the values of options tell apart


def switching(name, values):
    """A guider that gives an option another value in every round."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        self.rounds = getattr(self, "rounds", -1) + 1
        value = values(self.rounds) if callable(values) else values[self.rounds % len(values)]
        options = model_options["transformer_options"] | {name: value}
        return super(cls, self).predict_noise(
            x, timestep, model_options | {"transformer_options": options}, seed
        )

    cls = guide_of(predict_noise=predict_noise)
    return cls


def strengthened(model):
    """A pack's patch that reads its strength from an option."""

    def block(args, extra):
        out = extra["original_block"](args)
        out["img"] = out["img"] * (1 + args["transformer_options"].get("pack_strength", 0.0))
        return out

    out = model.clone()
    out.set_model_patch_replace(block, "dit", "double_block", 1)
    return out


@pytest.mark.parametrize("tap", ["output", "stack"])
@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("ltxav", "run_ax", (True, False)),
        ("ltxav", "stg_self_attn_blocks", ([0], [1])),
        ("wan_t2v", "pack_strength", (0.0, 0.5)),
    ],
)
def test_a_switch_is_no_replay(runs, host, name, option, values, tap):
    """On paired sigmas the second round of a pair has the other value."""
    case = models.load(name)
    cls, config = switching(option, values), replace(runs.REPLAY, tap=tap)
    sigmas = runs.paired(case.model, 3)
    plain, out, _, _ = compare(
        runs,
        host,
        case,
        cls,
        config,
        strengthened if name == "wan_t2v" else lambda m: m,
        sigmas=sigmas,
    )
    assert runs.error(out, plain) <= 1e-5
    steady = compare(runs, host, case, switching(option, values[:1]), config, sigmas=sigmas)
    assert steady[2].reused == 3


@pytest.mark.parametrize("option", ["pack_step", "pack_mark"])
def test_what_counts_the_rounds_stops_no_reuse(runs, host, option):
    """Named after the clock, or found by its values."""
    case = models.load("wan_t2v")
    report = compare(runs, host, case, switching(option, lambda k: 7 * k + 1))[2]
    assert report.reused == STEPS // 2


def test_a_replaced_function_is_a_new_branch(runs, host):
    """Two patches in one place, by turns."""
    case = models.load("wan_t2v")

    def scaled(factor):
        def block(args, extra):
            out = extra["original_block"](args)
            return out | {"img": out["img"] * factor}

        return {"dit": {("double_block", 1): block}}

    cls = switching("patches_replace", (scaled(1.0), scaled(1.5)))
    sigmas = runs.paired(case.model, 3)
    plain, out, _, _ = compare(runs, host, case, cls, runs.REPLAY, sigmas=sigmas)
    assert runs.error(out, plain) <= 1e-5


def test_lora_hooks_in_force_are_part_of_the_key(runs, host):
    """The strength changes in a round that is to be reused: its hooked branch is computed."""
    import comfy.hooks

    case = models.load("wan_t2v")
    weights = {
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": models.noise(128, 4, seed=50),
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": models.noise(4, 128, seed=51),
        "diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(4.0),
    }
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0, 0.0))
    sampling = case.model.get_model_object("model_sampling")
    sigmas = runs.sigmas_of(case.model, "euler", STEPS)
    share = next(k / 1000 for k in range(1000) if sampling.percent_to_sigma(k / 1000) <= sigmas[4])
    frames.add(comfy.hooks.HookKeyframe(0.0, share))
    hooks.set_keyframes_on_hooks(frames)
    case.positive = comfy.hooks.set_hooks_for_conditioning(case.positive, hooks)
    mask = Planned(mask="CC" + "." * (STEPS - 3) + "C")
    config = CacheConfig(mask, budget=None, guards=Guards(longest_run=STEPS))
    _, _, report, calls = compare(runs, host, case, None, config, sigmas=sigmas)
    ran = [record.calls for record in report.steps]
    assert calls == sum(ran)
    assert [k for k, n in enumerate(ran) if n and 1 < k < STEPS - 1] == [5]


# Guiders that are not quite ComfyUI's


@pytest.mark.parametrize("cfg", [[4.0, 3.0], None, "4.0"])
def test_a_scale_that_is_no_number(runs, host, cfg):
    def predict_noise(self, x, timestep, model_options=None, seed=None):
        kept, self.cfg = self.cfg, 4.0
        try:
            return super(cls, self).predict_noise(x, timestep, model_options, seed)
        finally:
            self.cfg = kept

    cls = guide_of(predict_noise=predict_noise)
    case = models.load("wan_t2v")
    plain, out, report, calls = compare(runs, host, case, cls, CacheConfig(budget=1.0), cfg=cfg)
    assert runs.same(out, plain) and report.calls == calls == STEPS
    report = compare(runs, host, case, cls, cfg=cfg)[2]
    assert report.reused == STEPS // 2


def test_a_guider_without_conds(runs, host):
    def outer_predict_noise(self, *args, **kwargs):
        self.hidden = self.__dict__.pop("conds")
        try:
            return super(cls, self).outer_predict_noise(*args, **kwargs)
        finally:
            self.conds = self.hidden

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        import comfy.samplers

        conds = self.hidden["negative"], self.hidden["positive"]
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *conds, self.cfg, model_options=model_options, seed=seed
        )

    cls = guide_of(outer_predict_noise=outer_predict_noise, predict_noise=predict_noise)
    case = models.load("wan_t2v")
    _, _, report, calls = compare(runs, host, case, cls)
    assert report.reused == STEPS // 2 and report.calls == calls


@pytest.mark.parametrize("handed", ["options", "nothing", "network"])
def test_a_guider_that_calls_the_model_itself(runs, host, handed):
    def predict_noise(self, x, timestep, model_options=None, seed=None):
        text = self.conds["positive"][0]["model_conds"]["c_crossattn"].cond
        if handed == "network":
            sampling = self.inner_model.model_sampling
            out = self.inner_model.diffusion_model(
                x, sampling.timestep(timestep), context=text, transformer_options={}
            )
            return sampling.calculate_denoised(timestep, out, x)
        more = {"transformer_options": model_options["transformer_options"]}
        return self.inner_model.apply_model(
            x, timestep, c_crossattn=text, **(more if handed == "options" else {})
        )

    case = models.load("wan_t2v")
    plain, out, report, calls = compare(runs, host, case, guide_of(predict_noise=predict_noise))
    assert runs.same(out, plain)
    assert report.calls == calls == STEPS == report.evaluations
    assert report.reused == 0 and report.cost == 1 and report.idle == 0
    told_once(report, "computed in full")
    network = case.model.model.diffusion_model
    assert not network._forward_pre_hooks


def test_a_wrapper_that_rewrites_cond_or_uncond_alone(runs, host):
    case = models.load("wan_t2v")

    def rewritten(executor, x, t, concat, cross, control, options, **kwargs):
        return executor(x, t, concat, cross, control, options | {"cond_or_uncond": [0]}, **kwargs)

    def patch(model):
        out = model.clone()
        out.model_options["transformer_options"].setdefault("wrappers", {})
        out.wrappers = {
            "apply_model": {"pack": [rewritten]} | out.wrappers.get("apply_model", {})
        } | {kind: by_key for kind, by_key in out.wrappers.items() if kind != "apply_model"}
        return out

    plain, out, report, calls = compare(runs, host, case, None, patch=patch)
    assert runs.same(out, plain)
    assert report.calls == calls == STEPS == report.evaluations
    told_once(report, "computed in full")


def halves(x, t, cross, options):
    for k in range(x.shape[0]):
        yield x[k : k + 1], t[k : k + 1], cross[k : k + 1]


def split_over(model):
    """One call per condition, in a wrapper over ours."""

    def split(executor, x, t, concat, cross, control, options, **kwargs):
        return torch.cat(
            [
                executor(a, b, concat, c, control, options, **kwargs)
                for a, b, c in halves(x, t, cross, options)
            ]
        )

    out = model.clone()
    ours = out.wrappers.get("apply_model", {})
    out.wrappers["apply_model"] = {"low_memory": [split]} | ours
    return out


def split_under(model):
    out = split_over(model)
    out.wrappers["apply_model"] = dict(reversed(out.wrappers["apply_model"].items()))
    return out


def split_by_slot(model):
    def split(function, params):
        c = params["c"]
        cross = c["c_crossattn"]
        return torch.cat(
            [
                function(a, b, **(c | {"c_crossattn": part}))
                for a, b, part in halves(params["input"], params["timestep"], cross, None)
            ]
        )

    out = model.clone()
    out.set_model_unet_function_wrapper(split)
    return out


@pytest.mark.parametrize("patch", [split_over, split_by_slot])
def test_one_call_per_condition_over_ours_is_computed(runs, host, patch):
    case = models.load("wan_t2v")
    plain, out, report, calls = compare(runs, host, case, None, patch=patch)
    assert runs.same(out, plain)
    assert report.calls == calls == 2 * STEPS
    assert report.evaluations == STEPS and report.reused == 0 and report.cost == 1
    told_once(report, "computed in full")


def test_one_call_per_condition_under_ours_is_counted(runs, host):
    case = models.load("wan_t2v")
    _, _, report, calls = compare(runs, host, case, None, patch=split_under)
    assert report.reused == report.evaluations == STEPS // 2
    assert report.calls == calls == STEPS


def test_rounds_that_the_guider_answers_itself_are_idle(runs, host):
    def predict_noise(self, x, timestep, model_options=None, seed=None):
        self.rounds = getattr(self, "rounds", -1) + 1
        if self.rounds % 3 != 2:
            self.last = super(cls, self).predict_noise(x, timestep, model_options, seed)
        return self.last

    cls = guide_of(predict_noise=predict_noise)
    case = models.load("wan_t2v")
    _, _, report, calls = compare(runs, host, case, cls, steps=30)
    assert report.idle == 10
    assert [r.decision for r in report.steps[2::3]] == ["idle"] * 10
    assert sum(r.calls for r in report.steps if r.decision == "reused") == 0
    assert report.evaluations == calls == report.calls
    assert report.evaluations + report.reused == 20
    assert report.cost == pytest.approx(report.evaluations / 20)


# Guidance that hindsight cannot follow


def stock(module, cls, *args):
    def patch(model):
        try:
            node = getattr(importlib.import_module(f"comfy_extras.{module}"), cls)
        except (ImportError, AttributeError):
            pytest.skip(f"this ComfyUI lacks {cls}")
        if hasattr(node, "execute"):
            return node.execute(model, *args).result[0]
        return node().patch(model, *args)[0]

    return patch


NOT_LINEAR = {
    "rescaled": stock("nodes_model_advanced", "RescaleCFG", 0.7),
    "projected": stock("nodes_apg", "APG", 1.0, 5.0, 0.5),
    "zero_star": stock("nodes_cfg", "CFGZeroStar"),
    "norm": stock("nodes_cfg", "CFGNorm", 1.0),
    "mahiro": stock("nodes_mahiro", "Mahiro"),
    "damped": stock("nodes_tcfg", "TCFG"),
    "overridden": stock("nodes_custom_sampler", "CFGOverride", 1.0, 0.0, 0.5),
}


def own_function(model):
    out = model.clone()
    out.set_model_sampler_cfg_function(lambda args: args["cond"].clamp(-1, 1))
    return out


def own_guider(model, case):
    def predict_noise(self, x, timestep, model_options=None, seed=None):
        out = super(cls, self).predict_noise(x, timestep, model_options, seed)
        return out * (x.std() / out.std())

    cls = guide_of(predict_noise=predict_noise)
    return made(cls, model, case)


@pytest.mark.parametrize("name", [*NOT_LINEAR, "own_function", "own_guider"])
def test_hindsight_is_off_under_guidance_that_is_not_linear(runs, host, name):
    from sencache_core.hosts.comfy_guidance import linear_guidance

    case = models.load("wan_t2v")
    patch = own_function if name == "own_function" else NOT_LINEAR.get(name, lambda m: m)
    model = patch(case.model)
    guide = own_guider(model, case) if name == "own_guider" else runs.guider(model, case)
    assert not linear_guidance(guide)
    reports = runs.Reports()
    outs = []
    for hindsight in (True, False):
        config = CacheConfig(rule=Hold(), hindsight=hindsight)  # which never gives way to holding
        cached = patch(host.attach(case.model, config, reports))
        guide = own_guider(cached, case) if name == "own_guider" else runs.guider(cached, case)
        outs.append(runs.sample(cached, case, steps=STEPS, guide=guide))
    assert runs.same(*outs)
    told_once(reports[0], "guidance")
    assert not any("guidance" in said for said in reports[1].texts)


def dual(model, case):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    out = Guider_DualCFG(model)
    out.set_conds(case.positive, models.text("wan_t2v", 3), case.negative)
    out.set_cfg(3.0, 2.0)
    return out


def test_a_scale_that_a_guider_does_not_use_is_not_its_guidance(runs, host):
    """All guiders begin with a scale of 1, which those with scales of their own leave at that."""
    from sencache_core.hosts.comfy_guidance import guidance_scale

    case, reports = models.load("wan_t2v"), runs.Reports()
    strange = made(guide_of(predict_noise=lambda *_, **__: None), case.model, case, cfg=1.0)
    for found in (dual(case.model, case), strange):
        assert found.cfg == 1.0 and guidance_scale(found) == 0.0
    for scale in (1.0, 4.0):
        assert guidance_scale(runs.guider(case.model, case, scale)) == scale
    basic = importlib.import_module("comfy_extras.nodes_custom_sampler").Guider_Basic(case.model)
    basic.set_conds(case.positive)
    assert guidance_scale(basic) == 1.0

    model = host.attach(case.model, CacheConfig(Planned(), budget=0.34), reports)
    runs.sample(model, case, steps=STEPS, guide=dual(model, case))
    runs.sample(model, case, steps=STEPS, cfg=1.0)
    guided, alone = (
        [said for said in report.texts if "without guidance" in said] for report in reports
    )
    assert alone and not guided


@pytest.mark.parametrize("guider", ["plain", "basic", "dual"])
def test_hindsight_follows_guidance_of_fixed_weights(runs, host, guider):
    from sencache_core.hosts.comfy_guidance import linear_guidance

    case = models.load("wan_t2v")

    def guide(model):
        if guider == "plain":
            return runs.guider(model, case)
        if guider == "dual":
            return dual(model, case)
        from comfy_extras.nodes_custom_sampler import Guider_Basic

        out = Guider_Basic(model)
        out.set_conds(case.positive)
        return out

    outs = []
    for hindsight in (True, False):
        cached = host.attach(case.model, CacheConfig(hindsight=hindsight))
        found = guide(cached)
        assert linear_guidance(found)
        outs.append(runs.sample(cached, case, steps=STEPS, guide=found))
    assert not runs.same(*outs)
