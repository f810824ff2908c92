"""What is told before a run, by a live server, is what the run then does."""

import copy

import pytest
from test_server import STEPS, graph, node, planned, runs

ROUTE = "/sencache/preview"

pytestmark = pytest.mark.comfyui


def ask(server, prompt: dict, at: str = "apply") -> dict:
    return server.post(ROUTE, {"prompt": prompt, "node": at})


def masks(server, prompt: dict, at: str = "apply") -> list[str]:
    told = ask(server, prompt, at)
    assert told["state"] == "plan" and told["unknown"] is None, told
    return [run["mask"] for run in told["runs"]]


def fixed(server, **settings) -> dict:
    """A graph whose plan is not corrected on the way, so that it can be compared to the letter."""
    prompt = graph(**{"policy": ["policy", 0], **settings})
    prompt["policy"] = planned(server, correct=False)
    return prompt


def sampled_by(prompt: dict, kind: str, **inputs) -> dict:
    """``prompt`` with another sampler in the place of its own."""
    own = prompt["sampler"]["inputs"]
    kept = {name: own[name] for name in ("positive", "negative", "latent_image")}
    prompt["sampler"] = node(kind, model=["apply", 0], **{**kept, **inputs})
    return prompt


def custom(prompt: dict, sigmas: list, sampler: str = "euler", cfg: float = 4.0) -> dict:
    """With a guider, noise and noise levels of nodes of their own."""
    own = prompt["sampler"]["inputs"]
    pair = {name: own[name] for name in ("positive", "negative")}
    prompt |= {
        "guider": node("CFGGuider", model=["apply", 0], cfg=cfg, **pair),
        "noise": node("RandomNoise", noise_seed=1),
        "select": node("KSamplerSelect", sampler_name=sampler),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["select", 0],
            sigmas=sigmas,
            latent_image=["latent", 0],
        ),
    }
    return prompt


def of_ksampler(server, sampler: str, scheduler: str = "simple", **more) -> dict:
    prompt = fixed(server, **more.pop("apply", {}))
    prompt["sampler"]["inputs"] |= {"sampler_name": sampler, "scheduler": scheduler, **more}
    return prompt


def scheduled(server) -> dict:
    """A scheduler behind a second shift node; steps from a primitive; all in a subgraph."""
    prompt = custom(fixed(server), ["levels", 0], "dpmpp_2m")
    prompt["steps"] = node("PrimitiveInt", value=STEPS + 2)
    prompt["levels"] = node(
        "BasicScheduler", model=["shift", 0], scheduler="beta", steps=["steps", 0], denoise=0.9
    )
    text = copy.deepcopy(prompt)
    names = {name: f"12:{name}" for name in text if name not in ("viewer", "save")}

    def renamed(value):
        known = isinstance(value, list) and value[0] in names
        return [names[value[0]], value[1]] if known else value

    for one in text.values():
        one["inputs"] = {key: renamed(value) for key, value in one["inputs"].items()}
    return {names.get(name, name): one for name, one in text.items()}


def ltx(server) -> dict:
    """LTX-Video with its own scheduler, which asks for the size of the latent."""
    prompt = sampled_by(
        fixed(server),
        "SamplerCustom",
        sampler=["select", 0],
        sigmas=["levels", 0],
        add_noise=True,
        noise_seed=1,
        cfg=3.0,
    )
    prompt["unet"]["inputs"]["unet_name"] = "sencache_tiny_ltx.safetensors"
    prompt["latent"] = node("EmptyLTXVLatentVideo", width=64, height=64, length=9, batch_size=1)
    for name in ("pos", "neg"):
        prompt[name]["inputs"]["family"] = "ltx"
    prompt["apply"]["inputs"]["model"] = ["unet", 0]
    prompt["select"] = node("KSamplerSelect", sampler_name="euler")
    shifts = {"max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}
    prompt["levels"] = node("LTXVScheduler", steps=STEPS, latent=["latent", 0], **shifts)
    return prompt


CASES = {
    "euler": lambda server: of_ksampler(server, "euler"),
    "the same clip": lambda server: of_ksampler(server, "euler", apply={"aim": "same clip"}),
    "multistep": lambda server: of_ksampler(server, "uni_pc", "karras"),
    "two evaluations": lambda server: of_ksampler(server, "heun"),
    "fresh noise": lambda server: of_ksampler(server, "euler_ancestral", denoise=0.6),
    "unguided": lambda server: of_ksampler(server, "euler", cfg=1.0, steps=24),
    "another rule": lambda server: of_ksampler(server, "ddim", apply={"rule": "hold"}),
    "in a subgraph": scheduled,
    "ltx": ltx,
}


@pytest.mark.parametrize("case", CASES)
def test_the_preview_is_what_runs(server, case):
    prompt = CASES[case](server)
    at = next(key for key, one in prompt.items() if one["class_type"] == "SenCacheApply")
    told = masks(server, prompt, at)
    outputs = server.run(prompt)
    assert told == [run["mask"] for run in runs(outputs)], case
    assert "." in told[0]


def test_stages_know_of_each_other(server):
    """The second one spends what the first has left over, each with a cache of its own."""
    prompt = fixed(server, budget=0.72)
    prompt["second"] = copy.deepcopy(prompt["apply"])
    prompt["second"]["inputs"]["budget"] = 0.4
    shared = {"noise_seed": 1, "steps": 26, "cfg": 4.0, "sampler_name": "euler"}
    shared["scheduler"] = "simple"
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 11}
    prompt = sampled_by(
        prompt, "KSamplerAdvanced", **shared, **first, return_with_leftover_noise="enable"
    )
    prompt["sampler2"] = copy.deepcopy(prompt["sampler"])
    prompt["sampler2"]["inputs"] |= {
        "model": ["second", 0],
        "add_noise": "disable",
        "latent_image": ["sampler", 0],
        "start_at_step": 11,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
    }
    prompt["viewer"]["inputs"] |= {"latent": ["sampler2", 0], "stats_2": ["second", 1]}
    told = masks(server, prompt), masks(server, prompt, "second")
    ran = [run["mask"] for run in runs(server.run(prompt))]
    assert [told[0][0], told[1][0]] == ran
    assert {len(mask) for mask in ran} == {11, 15}
    # Which run followed is known from now on, and rules how the budget is shared.
    prompt["sampler"]["inputs"]["noise_seed"] = 2
    told = masks(server, prompt) + masks(server, prompt, "second")
    assert told == [run["mask"] for run in runs(server.run(prompt))]


def test_split_sigmas(server):
    prompt = custom(fixed(server), ["split", 0])
    levels = {"model": ["shift", 0], "scheduler": "simple", "steps": 24, "denoise": 1.0}
    prompt["levels"] = node("BasicScheduler", **levels)
    prompt["split"] = node("SplitSigmas", sigmas=["levels", 0], step=10)
    prompt["sampler2"] = copy.deepcopy(prompt["sampler"])
    prompt["nothing"] = node("DisableNoise")
    more = {"noise": ["nothing", 0], "sigmas": ["split", 1], "latent_image": ["sampler", 0]}
    prompt["sampler2"]["inputs"] |= more
    prompt["viewer"]["inputs"]["latent"] = ["sampler2", 0]
    told = masks(server, prompt)
    assert told == [run["mask"] for run in runs(server.run(prompt))]
    assert [len(mask) for mask in told] == [10, 14]


def test_what_was_learnt_and_a_profile_count(server):
    prompt = fixed(server, learn="on", steps=STEPS + 3)
    assert ask(server, prompt)["runs"][0]["basis"] == "prior"
    server.run(prompt)
    prompt["sampler"]["inputs"]["seed"] = 2
    (told,) = ask(server, prompt)["runs"]
    (run,) = runs(server.run(prompt))
    assert (
        (told["basis"], told["learnt_from"]) == (run["basis"], run["learnt_from"]) == ("learnt", 1)
    )
    assert told["mask"] == run["mask"]
    shared = {k: v for k, v in prompt["sampler"]["inputs"].items() if k != "model"}
    measure = graph()
    measure["measure"] = node(
        "SenCacheCalibrate", **shared, model=["shift", 0], samples=2, name="ahead", probes=2
    )
    measure["keep"] = node("SenCacheProfileSave", profile=["measure", 0], name="ahead again")
    prompt["apply"]["inputs"]["profile"] = ["measure", 0]
    told = ask(server, {**prompt, "measure": measure["measure"]})
    assert told["unknown"]["values"] == {"node": "SenCacheCalibrate"}
    server.run(measure)
    prompt["apply"]["inputs"]["profile"] = ["load", 0]
    prompt["load"] = node("SenCacheProfileLoad", name="ahead.safetensors")
    (told,) = ask(server, prompt)["runs"]
    (run,) = runs(server.run(prompt))
    assert told["basis"] == run["basis"] == "profile" and told["mask"] == run["mask"]


def test_what_cannot_be_known_is_named(server):
    def why(prompt: dict, at: str = "apply") -> dict:
        told = ask(server, prompt, at)
        assert told["state"] == "unknown" and told["runs"] == []
        return told["unknown"]

    alone = graph()
    del alone["sampler"], alone["viewer"], alone["save"]
    assert why(alone)["key"] == "sampler_missing"
    linked = graph()
    linked["sampler"]["inputs"]["steps"] = ["count", 0]
    linked["count"] = {**node("StringLength", string="abc"), "_meta": {"title": "Count them"}}
    assert why(linked) == {"key": "runs", "values": {"node": "Count them"}}
    loose = graph()
    del loose["apply"]["inputs"]["model"]
    assert why(loose)["key"] == "connect"
    gone = graph()
    gone["unet"]["inputs"]["unet_name"] = "gone.safetensors"
    assert why(gone) == {"key": "file", "values": {"file": "gone.safetensors"}}
    two = graph()
    two["apply2"] = copy.deepcopy(two["apply"])
    two["apply2"]["inputs"]["model"] = ["apply", 0]
    two["sampler"]["inputs"]["model"] = ["apply2", 0]
    assert why(two) == {"key": "overruled", "values": {"node": "SenCacheApply"}}
    assert masks(server, two, "apply2") == masks(server, graph())
    other = graph()
    other["easy"] = node("EasyCache", model=["shift", 0], reuse_threshold=0.2)
    other["easy"]["inputs"] |= {"start_percent": 0.1, "end_percent": 0.9, "verbose": False}
    other["apply"]["inputs"]["model"] = ["easy", 0]
    assert "EasyCache" in why(other)["values"]["error"]
    assert server.post(ROUTE + "?", {"prompt": graph(), "node": "viewer"})["unknown"]["key"]


def test_a_model_of_unknown_making_is_known_once_it_ran(server):
    prompt = fixed(server)
    prompt["merge"] = node("ModelMergeSimple", model1=["unet", 0], model2=["unet", 0], ratio=0.5)
    prompt["shift"]["inputs"]["model"] = ["merge", 0]
    told = ask(server, prompt)
    assert told["unknown"] == {"key": "loader", "values": {"node": "ModelMergeSimple"}}
    mask = runs(server.run(prompt))[0]["mask"]
    assert masks(server, prompt) == [mask]
    prompt["merge"]["inputs"]["ratio"] = 0.4
    assert ask(server, prompt)["state"] == "unknown"
    last = "merge"
    for k in range(40):  # 2**40 ways lead through it
        prompt[f"more{k}"] = node("ModelMergeSimple", model1=[last, 0], model2=[last, 0], ratio=0.5)
        last = f"more{k}"
    prompt["shift"]["inputs"]["model"] = [last, 0]
    assert ask(server, prompt)["state"] == "unknown"


def test_where_nothing_is_skipped(server):
    assert ask(server, graph(enable=False))["state"] == "off"
    assert ask(server, graph(budget=1.0))["state"] == "full"
    (short,) = ask(server, graph(steps=6))["runs"]
    assert short["mask"] == "CCCCCC" and not short["reuses"]
    assert "min_steps" in str(short["messages"])
    (seen,) = ask(server, graph(control="tolerance"))["runs"]
    assert seen["mask"] == "" and "decides as the run goes" in str(seen["why"])
    (forced,) = ask(server, graph(start_percent=0.8, budget=0.3))["runs"]
    assert forced["cost"] > 0.3 * STEPS + 1 and "cannot be met" in str(forced["messages"])


def test_quality_falls_with_the_budget(server):
    told = [ask(server, graph(steps=30, budget=b / 100))["runs"][0] for b in (90, 50, 36, 20)]
    errors = [run["error"] for run in told]
    assert errors == sorted(errors) and errors[0] < errors[-1]


def test_seeds_leave_the_stamp_alone(server):
    stamps = [ask(server, graph(seed=seed))["stamp"] for seed in (1, 2)]
    assert stamps[0] == stamps[1] != ask(server, graph(steps=13))["stamp"]


def test_plan_says_where_the_sampler_differs(server):
    prompt = graph(steps=20)
    own = {"steps": 20, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    prompt["plan"] = node("SenCachePlan", model=["apply", 0], **own)
    alike = ask(server, prompt, "plan")
    assert alike["differs"] is None
    assert [run["mask"] for run in alike["runs"]] == masks(server, prompt)
    prompt["plan"]["inputs"]["steps"] = 14
    told = ask(server, prompt, "plan")
    assert told["differs"] == {"node": "KSampler", "steps": 20, "sampler": "euler"}
    assert told["runs"][0]["steps"] == 14
    text = server.run({k: v for k, v in prompt.items() if k != "save"})["plan"]["text"][0]
    assert told["runs"][0]["mask"] in text and "KSampler samples otherwise" in text
