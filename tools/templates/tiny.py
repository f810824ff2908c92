"""Workflows with the bundled tiny model: nothing to download."""

from __future__ import annotations

from .parts import (
    ASKED,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    LOWER,
    MODEL,
    SAMPLE,
    SEEN,
    SENCACHE,
    VIOLET,
    Column,
    Columns,
    Group,
    Node,
    apply,
    columns,
    ksampler,
    latent,
    note,
    shift,
    stack,
    unet,
    viewer,
)

CIRCLE = "a red circle moving left on a dark striped background"
SETTINGS = {"seed": 7, "steps": 50, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
UNCACHED = "Uncached, to compare"


def _model() -> Group:
    loader = unet("unet", "sencache_tiny_wan.safetensors")._replace(models=(), id=2)
    return stack(MODEL, BLUE, loader, shift("unet.MODEL", 5.0, id=5))


def _asked() -> Group:
    prompt = Node("positive", "SenCacheTinyPrompt", {"text": CIRCLE}, title="Prompt", id=3)
    other = prompt._replace(key="negative", widgets={"text": ""}, title="Negative prompt", id=4)
    size = latent(128, 128, 13)._replace(id=6)
    return stack(ASKED, GREEN, prompt, other._replace(collapsed=True), size)


def _frames(key: str, samples: str, **more) -> Node:
    return Node(key, "SenCacheTinyDecode", {"family": "wan"}, {"latent": samples}, **more)


def _save(key: str, frames: str, name: str, **more) -> Node:
    saved = {"filename_prefix": name, "fps": 8.0}
    return Node(key, "SaveAnimatedWEBP", saved, {"images": frames}, **more)


def _compare(key: str, image: str, around: str = "", **more) -> Node:
    both = {"reference": f"plain.IMAGE{around}", "image": image}
    return Node(key, "SenCacheCompare", {}, both, **more)


def start(api: bool = False) -> Columns:
    """``api``: with a plan, the picture of the difference and both clips, for the demo without a
    browser."""
    head = note(
        "## Start here\n\nPress **Run**. A tiny model that came with SenCache draws a moving shape "
        "twice: with SenCache, which computes 25 of 50 steps, and with every step, to compare."
        "\n\n1. *SenCache Stats Viewer* shows which steps were computed, which were skipped, and "
        "the time saved.\n2. Move **budget** in *SenCache Apply* and run again: lower is faster, "
        "and departs further from the uncached clip.\n3. In your own workflow, put *SenCache "
        "Apply* between the model and the sampler. That is all.\n\nTo switch the uncached clip "
        "off, right-click its group and choose *Bypass Group Nodes*.",
        height=350,
    )
    ((words,),) = head.rows
    head = head._replace(rows=((words._replace(id=1),),))
    sampler = ksampler("sampler", "apply.model", title="KSampler (with SenCache)", **SETTINGS)
    full = ksampler("full", "shift.MODEL | below", title="KSampler (uncached)", **SETTINGS)
    cached = _frames("cached", "sampler.LATENT", id=12, width=290)
    saved = _save("save", "cached.IMAGE", "sencache_tiny", id=13)
    clip = ((cached, saved), _compare("compare", "cached.IMAGE", " | below", id=16, height=300))
    seen = stack(SEEN, VIOLET, viewer("sampler.LATENT")._replace(id=10))
    plain = _frames("plain", "full.LATENT", id=14)
    if api:
        own = {name: SETTINGS[name] for name in ("steps", "sampler_name", "scheduler")}
        plan = Node("plan", "SenCachePlan", own, {"model": "apply.model"}, id=11)
        picture = {"images": "compare.difference"}
        clip += (
            plan,
            _save("plain_save", "plain.IMAGE", "sencache_tiny_uncached", id=15),
            Node("seen", "PreviewImage", {}, picture, id=17),
        )
    return columns(
        [head, _model()],
        [stack(SENCACHE, VIOLET, apply("shift.MODEL", 0.5)._replace(id=7)), _asked()],
        [
            stack(SAMPLE, BROWN, sampler._replace(id=8)),
            stack(UNCACHED, GREY, full._replace(id=9), plain),
        ],
        [seen, Group("4. The clip, and how far it is from the uncached one", BROWN, (clip,))],
    )


def compare_methods() -> Columns:
    head = note(
        "## Compare two methods\n\nThe same seed three times: by SenCache's plan (A), by another "
        "method (B), and in full. *SenCache Compare* tells how far A and B depart from the clip in "
        "full. Both compute the same share of the steps, so this compares quality, not speed.\n\n"
        "Choose the other method in *SenCache Policy Select*. *aim* is *same clip* on both: "
        "otherwise SenCache heads for the clip that many more steps would give.\n\nFor your own "
        "model, replace the loader, the prompts and the decoders.",
    )

    def lane(letter: str) -> Group:
        low, around = letter.lower(), " | below" if letter == "B" else ""
        shown = viewer(f"sampler_{low}.LATENT", f"apply_{low}.stats{around}", f"viewer_{low}")
        title = f"SenCache Compare ({letter} with the full clip)"
        compare = _compare(f"compare_{low}", f"frames_{low}.IMAGE", title=title)
        return stack(f"{letter}: {SEEN.lower()}", VIOLET, shown, compare)

    def cached(letter: str) -> Node:
        title = f"SenCache Apply ({letter})"
        return apply("shift.MODEL", 0.4, f"apply_{letter.lower()}", title, aim="same clip")

    def sampler(key: str, model: str, title: str) -> Node:
        return ksampler(key, model, title=f"KSampler ({title})", **SETTINGS)

    other = Node("policy", "SenCachePolicySelect", {"policy": "teacache"})
    second = cached("B")
    second = second._replace(links={**second.links, "policy": "policy.policy"})
    return columns(
        [head, _model(), stack("2. The other method", VIOLET, other)],
        [stack(SENCACHE, VIOLET, cached("A"), second), _asked()],
        [
            stack(
                SAMPLE,
                BROWN,
                sampler("sampler_a", "apply_a.model", "A"),
                _frames("frames_a", "sampler_a.LATENT"),
                sampler("sampler_b", "apply_b.model", "B"),
                _frames("frames_b", "sampler_b.LATENT"),
            ),
            stack(
                "In full, to compare",
                GREY,
                sampler("full", "shift.MODEL | below", "in full"),
                _frames("plain", "full.LATENT"),
            ),
        ],
        [lane("A"), lane("B")],
    )


def calibrate() -> Columns:
    settings = {**SETTINGS, "steps": 30, "seed": 1}
    head = note(
        "## Calibrate a model\n\nSenCache works without this: it starts from typical figures of "
        "the model family and learns from your runs. Measuring your own model once, with its LoRAs "
        "and settings, gives the plan its figures from the first run on.\n\n1. Press **Run**. "
        "*SenCache Calibrate* samples two clips and measures. The cost is shown before it starts."
        "\n2. The profile goes to *SenCache Apply*, and to a file that *SenCache Load Profile* "
        "finds in any workflow.\n\nThis measures a tiny bundled model. For your own, replace "
        "the loader and the prompts, and give *SenCache Calibrate* your sampler's settings.",
        height=360,
    )
    conds = {"positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"}
    inputs = {"model": "shift.MODEL", **conds, "latent_image": "latent.LATENT"}
    measure = Node("measure", "SenCacheCalibrate", {"samples": 2, **settings}, inputs)
    cached = apply("shift.MODEL | below", 0.5)
    cached = cached._replace(links={**cached.links, "profile": "measure.profile"})
    sampler = ksampler("sampler", "apply.model", **settings)
    far = {
        name: came if name == "model" else f"{came} | below" for name, came in sampler.links.items()
    }
    clip = (
        _frames("frames", "sampler.LATENT", width=215),
        _save("save", "frames.IMAGE", "sencache_calibrated"),
    )
    seen = stack(SEEN, VIOLET, viewer("sampler.LATENT"))
    return (
        Column(270, (head, _model(), _asked())),
        Column(255, (stack("2. Measure once", BLUE, measure),)),
        Column(255, (stack("3. SenCache", VIOLET, cached),)),
        Column(255, (stack("4. Sample", BROWN, sampler._replace(links=far)),), LOWER),
        Column(480, (seen, Group("5. The clip", BROWN, (clip,)))),
    )
