"""The nodes in a real headless ComfyUI, driven by API prompts."""

import asyncio
import copy
import json
import time
from pathlib import Path

import aiohttp
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
PROMPT = ROOT / "sencache_core" / "app" / "comfy_prompts" / "sencache_tiny_wan_api.json"
MODEL = "sencache_tiny_wan.safetensors"
STEPS = 12

pytestmark = pytest.mark.comfyui


def graph(steps: int = STEPS, seed: int = 1, **apply) -> dict:
    """Tiny model, SenCache Apply, KSampler, viewer, latent saved; on a quarter of the area."""
    sampler = {"seed": seed, "steps": steps, "cfg": 4.0, "denoise": 1.0}
    sampler |= {"sampler_name": "euler", "scheduler": "simple", "model": ["apply", 0]}
    sampler |= {"positive": ["pos", 0], "negative": ["neg", 0], "latent_image": ["latent", 0]}
    return {
        "unet": node(
            "UNETLoader", unet_name="sencache_tiny_wan.safetensors", weight_dtype="default"
        ),
        "shift": node("ModelSamplingSD3", model=["unet", 0], shift=5.0),
        "apply": node(
            "SenCacheApply", **{"model": ["shift", 0], "budget": 0.5, "learn": "off", **apply}
        ),
        "pos": node("SenCacheTinyPrompt", text="a red circle moving left", family="wan"),
        "neg": node("SenCacheTinyPrompt", text="", family="wan"),
        "latent": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1),
        "sampler": node("KSampler", **sampler),
        "viewer": node("SenCacheStatsViewer", latent=["sampler", 0], stats=["apply", 1]),
        "save": node("SaveLatent", samples=["viewer", 0], filename_prefix="t"),
    }


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def latent(server, outputs: dict, key: str = "save"):
    """The latent that a SaveLatent node wrote."""
    (file,) = outputs[key]["latents"]
    return load_file(server.folder / "output" / file["subfolder"] / file["filename"])[
        "latent_tensor"
    ]


def runs(outputs: dict, key: str = "viewer") -> list[dict]:
    return outputs[key]["sencache"][0]["runs"]


@pytest.fixture(scope="module")
def plain(server):
    """The latent sampled without any SenCache node."""
    prompt = graph()
    del prompt["apply"], prompt["viewer"]
    prompt["sampler"]["inputs"]["model"] = ["shift", 0]
    prompt["save"]["inputs"]["samples"] = ["sampler", 0]
    return latent(server, server.run(prompt))


@pytest.fixture(scope="module")
def cached(server):
    return server.run(graph())


def test_half_the_evaluations(server, cached, plain):
    (run,) = runs(cached)
    assert run["evaluations"] == STEPS // 2
    assert run["calls"] + run["calls_saved"] >= STEPS
    assert len(run["steps"]) == run["num_steps"] == STEPS
    assert run["completed"] and run["family"] == "wan" and run["node"] == "sampler"
    assert (run["policy"], run["rule"]) == ("planned", "fitted")
    assert any("generic prior" in message["text"] for message in run["messages"])
    out = latent(server, cached)
    assert out.isfinite().all() and (out != plain).any()


def test_cached_sample_is_close(server):
    """At the size and about the step number that the model was made for."""
    out = []
    for on in (False, True):
        prompt = graph(steps=30, enable=on)
        prompt["latent"]["inputs"].update(width=128, height=128, length=13)
        out.append(latent(server, server.run(prompt)))
    assert 0 < (out[1] - out[0]).square().mean().sqrt() / out[0].std() < 0.25


def test_off_is_off(server, plain):
    for setting in ({"enable": False}, {"budget": 1.0}):
        outputs = server.run(graph(**setting))
        assert (latent(server, outputs) == plain).all(), setting
        data = outputs["viewer"]["sencache"][0]
        assert not data["runs"] and data["notes"]


def test_without_apply_nothing_is_cached(server, plain):
    """What remains of a graph whose Apply is bypassed."""
    prompt = graph()
    del prompt["apply"], prompt["viewer"]["inputs"]["stats"]
    prompt["sampler"]["inputs"]["model"] = ["shift", 0]
    prompt["plot"] = node("PreviewImage", images=["viewer", 1])
    outputs = server.run(prompt)
    assert (latent(server, outputs) == plain).all()
    data = outputs["viewer"]["sencache"][0]
    assert data["runs"] == [] and data["notes"][0]["text"].startswith("Nothing is cached")
    assert outputs["plot"]["images"]


def test_the_first_of_two_applies_may_be_missing(server):
    prompt = graph()
    prompt["viewer"]["inputs"]["stats_2"] = prompt["viewer"]["inputs"].pop("stats")
    data = server.run(prompt)["viewer"]["sencache"][0]
    assert [run["label"] for run in data["runs"]] == ["Run"]
    assert "first stage" in data["notes"][0]["text"]


def test_a_viewer_shows_no_run_of_another_sampler(server):
    prompt = graph(seed=6)
    prompt["plain"] = copy.deepcopy(prompt["sampler"])
    prompt["plain"]["inputs"]["model"] = ["shift", 0]
    prompt["last"] = node("LatentBlend", samples1=["plain", 0], samples2=["plain", 0])
    prompt["last"]["inputs"]["blend_factor"] = 0.5
    prompt["viewer"]["inputs"]["latent"] = ["last", 0]
    prompt["save2"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="t")
    data = server.run(prompt)["viewer"]["sencache"][0]
    assert data["runs"] == [] and data["notes"][0]["text"].startswith("No run to show")


def test_nodes_that_lack_an_input_say_so_and_the_rest_runs(server):
    prompt = graph()
    prompt["compare"] = node("SenCacheCompare", reference=["frames", 0])
    prompt["frames"] = node("SenCacheTinyDecode", latent=["viewer", 0], family="wan")
    prompt["shown"] = node("PreviewImage", images=["compare", 4])
    prompt["profile"] = node("SenCacheProfileSave", name="none")
    outputs = server.run(prompt)
    assert "connect a clip to image." in outputs["compare"]["text"][0]
    assert outputs["profile"]["text"][0].startswith("Nothing was saved")
    assert "shown" not in outputs and outputs["save"]["latents"]
    assert not (server.folder / "user/default/sencache/profiles/none.safetensors").exists()


def test_progress_goes_to_the_browser_that_queued(server):
    """With the prompt and the sampler it is of, and to the end, interrupted or not."""
    told, others = asyncio.run(_watch(server, graph(seed=8), stop=False))
    assert others == []
    last = told[-1]
    assert (last["node"], last["sampler"]) == ("apply", "sampler")
    assert last["report"]["completed"] and last["report"]["ended"]
    told, others = asyncio.run(_watch(server, graph(steps=300, seed=8), stop=True))
    assert others == []
    assert not told[0]["report"]["ended"]
    assert told[-1]["report"]["ended"] and not told[-1]["report"]["completed"]


async def _watch(server, prompt: dict, stop: bool) -> tuple[list[dict], list[dict]]:
    """SenCache's messages to the browser that queues ``prompt`` and to another, until its end; with
    ``stop`` it is interrupted at the first one."""
    told: dict[str, list[dict]] = {"own": [], "other": []}
    ends = ("execution_success", "execution_interrupted", "execution_error")
    async with aiohttp.ClientSession() as session:
        own, other = [
            await session.ws_connect(f"{server.url}/ws?clientId={name}", max_msg_size=0)
            for name in told
        ]
        queued = server.post("/prompt", {"prompt": prompt, "client_id": "own"})["prompt_id"]

        async def listen(socket, name: str) -> None:
            async for message in socket:
                data = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
                if data.get("type") == "sencache.progress":
                    assert data["data"]["prompt"] == queued
                    told[name].append(data["data"])
                    if stop:
                        await asyncio.to_thread(server.post, "/interrupt", {})
                if data.get("type") in ends:
                    return

        reader = asyncio.create_task(listen(other, "other"))
        await asyncio.wait_for(listen(own, "own"), 120)
        reader.cancel()
    return told["own"], told["other"]


def test_policy_off_is_bit_equal_and_reported(server, plain):
    prompt = graph(policy=["policy", 0], control="policy")
    prompt["policy"] = node("SenCachePolicySelect", policy="off", preset="Wan slow", settings="")
    outputs = server.run(prompt)
    assert (latent(server, outputs) == plain).all()
    (run,) = runs(outputs)
    assert run["evaluations"] == STEPS and "off" in run["why"]["text"]


def test_tolerance_zero_is_bit_equal(server, plain):
    outputs = server.run(graph(control="tolerance", tolerance=0.0))
    assert (latent(server, outputs) == plain).all()
    assert runs(outputs)[0]["why"]["text"].startswith("Nothing was skipped")


def test_preset_rules_over_the_budget(server):
    prompt = graph(budget=0.9, policy=["policy", 0])
    choice = {"policy": "paper preset", "policy.preset": "Wan fast"}
    if (
        "preset"
        in server.get("/object_info/SenCachePolicySelect")["SenCachePolicySelect"]["input"][
            "required"
        ]
    ):
        choice = {"policy": "paper preset", "preset": "Wan fast", "settings": ""}
    prompt["policy"] = node("SenCachePolicySelect", **choice)
    (run,) = runs(server.run(prompt))
    assert (run["rule"], run["budget"]) == ("hold", None)


def planned(server, **settings) -> dict:
    """Policy Select set to planned, as this ComfyUI writes it."""
    settings = {"correct": True, "risk": 0.0, "mask": "", **settings}
    listed = server.get("/object_info/SenCachePolicySelect")["SenCachePolicySelect"]["input"]
    if "preset" not in listed["required"]:
        named = {f"policy.{key}": value for key, value in settings.items()}
        return node("SenCachePolicySelect", policy="planned", **named)
    text = "\n".join(f"{key} = {value}" for key, value in settings.items())
    return node("SenCachePolicySelect", policy="planned", preset="Wan slow", settings=text)


def plan(prompt: dict) -> dict:
    """Only the plan of ``prompt``'s sampler."""
    own = ("steps", "sampler_name", "scheduler", "denoise")
    settings = {key: prompt["sampler"]["inputs"][key] for key in own}
    kept = {key: prompt[key] for key in ("unet", "shift", "apply", "policy") if key in prompt}
    return {**kept, "plan": node("SenCachePlan", model=["apply", 0], **settings)}


def test_the_plan_is_what_runs(server):
    prompt = graph(policy=["policy", 0], aim="true clip")
    prompt["policy"] = planned(server, correct=False)
    outputs = server.run(plan(prompt))["plan"]
    lines = outputs["text"][0].splitlines()
    assert lines[0].startswith(f"{STEPS // 2} of {STEPS} steps")
    assert "Predictions off by" in lines[2] and "Final latent" in lines[2]
    mask = lines[1]
    ran = server.run(prompt)
    assert runs(ran)[0]["mask"] == mask
    assert mask in ran["viewer"]["text"][0]
    pasted = graph(policy=["policy", 0], budget=0.9, aim="true clip")  # own masks: else the same
    pasted["policy"] = planned(server, mask=mask)
    assert (latent(server, server.run(pasted)) == latent(server, ran)).all()
    assert server.run(plan(pasted))["plan"]["text"][0].splitlines()[:3] == lines[:3]


def test_what_cannot_be_planned_is_said(server):
    def said(prompt: dict) -> str:
        return server.run(plan(prompt))["plan"]["text"][0]

    short = said(graph(steps=6))
    assert short.startswith("6 of 6") and "min_steps" in short
    assert "switched off" in said(graph(enable=False))
    adaptive = graph()
    adaptive["sampler"]["inputs"]["sampler_name"] = "dpm_adaptive"
    assert "chooses its own steps" in said(adaptive)
    assert "decides as the run goes" in said(graph(control="tolerance"))
    wrong = graph(policy=["policy", 0])
    wrong["policy"] = planned(server, mask="C.C.")
    assert "4 letters" in said(wrong)


def test_new_seed_gives_new_figures(server, cached):
    (run,) = runs(server.run(graph(seed=2)))
    errors = [s["error"] for s in run["steps"]]
    assert len(run["steps"]) == STEPS
    assert errors != [s["error"] for s in runs(cached)[0]["steps"]]


def test_two_samplers_on_one_model(server, cached):
    prompt = graph()
    prompt["sampler2"] = copy.deepcopy(prompt["sampler"])
    prompt["sampler2"]["inputs"]["seed"] = 5
    prompt["viewer2"] = node("SenCacheStatsViewer", latent=["sampler2", 0], stats=["apply", 1])
    prompt["save2"] = node("SaveLatent", samples=["viewer2", 0], filename_prefix="t2")
    prompt["apply"]["inputs"]["min_steps"] = 9  # another node than the one ComfyUI has kept
    outputs = server.run(prompt)
    assert [run["node"] for run in runs(outputs, "viewer")] == ["sampler"]
    assert [run["node"] for run in runs(outputs, "viewer2")] == ["sampler2"]
    assert (latent(server, outputs) == latent(server, cached)).all()


def test_a_cached_run_leaves_its_first_steps_to_an_uncached_one(server, plain):
    prompt = graph(budget=0.5)
    prompt["store"] = node("SenCacheStore", model=["shift", 0], limit_gb=1.0)
    prompt["resume"] = node("SenCacheResume", model=["store", 0])
    prompt["apply"]["inputs"]["model"] = ["resume", 0]
    (run,) = runs(server.run(prompt))
    assert run["evaluations"] == STEPS // 2
    folder = server.folder / "user" / "default" / "sencache" / "stored"
    assert len(list(folder.glob("*.safetensors"))) == STEPS // 2
    prompt["apply"]["inputs"]["budget"] = 1.0
    assert (latent(server, server.run(prompt)) == plain).all()
    assert STEPS // 2 < len(list(folder.glob("*.safetensors"))) < STEPS // 2 + STEPS


def test_two_stages_of_one_model(server):
    prompt = graph()
    first = prompt["sampler"]["inputs"]
    shared = {k: v for k, v in first.items() if k not in ("seed", "denoise", "latent_image")}
    shared |= {"noise_seed": 1, "steps": 24, "add_noise": "enable"}
    prompt["sampler"] = node(
        "KSamplerAdvanced",
        **shared,
        latent_image=["latent", 0],
        start_at_step=0,
        end_at_step=12,
        return_with_leftover_noise="enable",
    )
    prompt["sampler2"] = node(
        "KSamplerAdvanced",
        **{**shared, "add_noise": "disable"},
        latent_image=["sampler", 0],
        start_at_step=12,
        end_at_step=100,
        return_with_leftover_noise="disable",
    )
    prompt["viewer"]["inputs"]["latent"] = ["sampler2", 0]
    found = runs(server.run(prompt))
    assert [(run["node"], run["num_steps"]) for run in found] == [("sampler", 12), ("sampler2", 12)]


def test_short_runs_are_left_alone(server):
    (run,) = runs(server.run(graph(steps=6)))
    assert run["evaluations"] == 6
    assert any("min_steps" in message["text"] for message in run["messages"])


def test_interrupt_leaves_nothing_behind(server, cached):
    long = graph(steps=300, seed=3, budget=0.9)
    prompt_id = server.queue(long)
    deadline = time.monotonic() + 60
    while not server.get("/queue")["queue_running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)
    server.post("/interrupt", {})
    entry = server.wait(prompt_id)
    kinds = [message[0] for message in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds
    again = server.run(graph(seed=1, verbose=True))
    assert (latent(server, again) == latent(server, cached)).all()
    (run,) = runs(again)
    assert run["completed"] and len(run["steps"]) == STEPS


def test_calibrate_then_load(server):
    prompt = graph()
    shared = {k: v for k, v in prompt["sampler"]["inputs"].items() if k != "model"}
    prompt["measure"] = node(
        "SenCacheCalibrate", **shared, model=["shift", 0], samples=2, name="my tiny", probes=2
    )
    prompt["apply"]["inputs"]["profile"] = ["measure", 0]
    outputs = server.run(prompt)
    assert runs(outputs)[0]["evaluations"] == STEPS // 2
    saved = server.folder / "user" / "default" / "sencache" / "profiles" / "my tiny.safetensors"
    assert saved.is_file() and not list(saved.parent.glob("*.part"))
    assert load_file(saved)["moments.gain"].shape[0] == 2
    assert not any("prior" in message["key"] for message in runs(outputs)[0]["messages"])
    listed = server.get("/object_info/SenCacheProfileLoad")["SenCacheProfileLoad"]["input"]
    assert "my tiny.safetensors" in json.dumps(listed)
    prompt = graph(profile=["load", 0])
    prompt["load"] = node("SenCacheProfileLoad", name="my tiny.safetensors")
    prompt["again"] = node("SenCacheProfileSave", profile=["load", 0], name="my tiny")
    loaded = server.run(prompt)
    assert (latent(server, loaded) == latent(server, outputs)).all()
    assert (saved.parent / "my tiny_2.safetensors").is_file()


def test_example_prompt_runs(server):
    """The bundled workflow as it is, on fewer steps."""
    prompt = json.loads(PROMPT.read_text(encoding="utf-8"))
    for one in prompt.values():
        if "steps" in one["inputs"]:
            one["inputs"]["steps"] = STEPS
    outputs = server.run(prompt)
    by_kind = {one["class_type"]: outputs.get(key, {}) for key, one in prompt.items()}
    assert by_kind["SenCacheStatsViewer"]["sencache"][0]["runs"][0]["evaluations"] == STEPS // 2
    assert "PSNR" in by_kind["SenCacheCompare"]["text"][0]
    assert by_kind["SaveAnimatedWEBP"]["images"]


def test_scripts_and_help_are_served(server):
    import urllib.request

    listed = server.get("/extensions")
    assert [p for p in listed if p.endswith("/sencache/viewer.js")] == [
        "/extensions/sencache/viewer.js"
    ]
    for file in ("lib/view.js", "docs/SenCacheApply.md"):
        with urllib.request.urlopen(f"{server.url}/extensions/sencache/{file}") as answer:
            assert answer.status == 200


def test_ten_runs_of_one_graph_learn(server):
    """The tenth forecasts by nine, and SenCache Plan shows its plan."""
    folder = server.folder / "user" / "default" / "sencache" / "learnt"
    before, steps = set(folder.glob("*.safetensors")), STEPS + 2  # as no other test has
    for number in range(9):
        (run,) = runs(server.run(graph(steps, 100 + number, learn="on")))
        assert run["basis"] == ("learnt" if number else "prior")
        assert run["learnt_from"] == number and run["evaluations"] == steps // 2
    prompt = graph(steps, 200, learn="on", policy=["policy", 0])
    prompt["policy"] = planned(server, correct=False)
    mask = server.run(plan(prompt))["plan"]["text"][0].splitlines()[1]
    (run,) = runs(server.run(prompt))
    assert run["learnt_from"] == 9 and run["mask"] == mask
    assert any(
        "what 9 earlier runs of this model showed" in line["text"] for line in run["messages"]
    )
    (file,) = set(folder.glob("*.safetensors")) - before
    assert file.stat().st_size < 200_000
    unseen = steps + 5  # no other test has as many either
    full = server.run(graph(unseen, learn="first run in full"))
    assert runs(full)[0]["evaluations"] == unseen
