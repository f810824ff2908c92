"""SenCache Policy Select: its inputs grow from the fields of the policies."""

from __future__ import annotations

from dataclasses import Field, fields

from comfy_api.latest import io

from ..sencache_core import POLICIES, Guards, Policy
from ..sencache_core.policies.groups import grouped
from ..sencache_core.policies.presets import PRESETS
from .host import ALIASES, CATEGORY, make
from .sockets import POLICY, PolicyChoice

PRESET = "paper preset"

_ABOUT = (
    "Chooses how SenCache Apply decides what to reuse, and with which settings. Under a budget the "
    "tolerances of the sencache policy only set the shape (strict early, looser later) and are "
    "scaled to meet the budget; set control to 'policy' in SenCache Apply to use them as they are. "
    "A mask or a paper preset always takes the place of the budget."
)
_CHOICE = (
    "How to decide what to reuse, ordered by what is reused: first those that skip whole steps, "
    "then those of blocks, of attention and of guidance. planned is the default and needs no "
    "settings; the first setting of each says what the method does, and so does the help page."
)
_PRESET = (
    "Settings published by a method's authors for one model family, with their reuse rule and "
    "longest run, without hindsight. The share of evaluations follows from them; the budget is not "
    "used."
)
_DEFAULT = next(iter(POLICIES))
#: Policies as the menu has them, by the depth at which they work, and those that never reuse.
_MENU = {name: group for group, names in grouped().items() for name in names}
_MENU |= {name: "" for name in POLICIES if name not in _MENU}


def settings_of(policy: type[Policy]) -> dict[str, Field]:
    """Fields of a policy that people may set, by name."""
    return {f.name: f for f in fields(policy) if not f.metadata.get("hidden")}


def _widgets(name: str) -> list:
    """Of a policy's settings; the first one's words begin with what the policy does."""
    policy, settings = POLICIES[name], list(settings_of(POLICIES[name]).values())
    about = f"{policy.title}, {_MENU[name]}: it decides by {policy.decides}."
    return [
        _widget(field, "" if number else f"{about}\n\n") for number, field in enumerate(settings)
    ]


def _widget(field: Field, before: str = ""):
    # Optional: a workflow that was saved before a setting came to be runs on with its default.
    words = before + field.metadata.get("help", "")
    shared = {"default": field.default, "tooltip": words, "optional": True}
    if isinstance(field.default, bool):
        return io.Boolean.Input(field.name, **shared)
    if "choices" in field.metadata:
        return io.Combo.Input(field.name, options=list(field.metadata["choices"]), **shared)
    if isinstance(field.default, str):
        return io.String.Input(field.name, **shared)
    bounds = {key: field.metadata.get(key) for key in ("min", "max", "step")}
    number = io.Int if isinstance(field.default, int) else io.Float
    return number.Input(field.name, **shared, **bounds)


def _choose(name: str, settings: dict) -> PolicyChoice:
    """The choice that widgets named.

    Raises:
        ValueError: no such policy or setting. The message lists what there is.
    """
    if name == PRESET:
        if settings.get("preset") not in PRESETS:
            raise ValueError(f"Choose one of these presets: {', '.join(PRESETS)}.")
        preset = PRESETS[settings["preset"]]
        rules = {"rule": preset.rule, "gap_rule": preset.gap_rule, "guards": preset.guards}
        return PolicyChoice(preset.policy, **rules, hindsight=False, fixed=True)
    if name not in POLICIES:
        raise ValueError(f"There is no policy {name!r}: choose {', '.join(POLICIES)} or {PRESET}.")
    known = settings_of(POLICIES[name])
    if unknown := settings.keys() - known.keys():
        raise ValueError(
            f"The policy {name!r} has no setting {', '.join(sorted(unknown))}: remove it; there "
            f"are {', '.join(sorted(known)) or 'none'}."
        )
    if mask := settings.get("mask", "").strip():
        # Written out: no guard but the first evaluation's has a say.
        guards = Guards(cooldown=0, longest_run=len(mask))
        policy = POLICIES[name](**{**settings, "mask": mask})
        return PolicyChoice(policy, guards=guards, fixed=True)
    return PolicyChoice(POLICIES[name](**settings))


def _schema(inputs: list):
    return make(
        io.Schema,
        node_id="SenCachePolicySelect",
        display_name="SenCache Policy Select",
        category=CATEGORY,
        search_aliases=ALIASES,
        description=_ABOUT,
        inputs=inputs,
        outputs=[POLICY.Output(id="choice", display_name="policy", tooltip="For SenCache Apply.")],
    )


class _Dynamic(io.ComfyNode):
    """Shows the widgets of the chosen policy only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        option = io.DynamicCombo.Option
        options = [option(name, _widgets(name)) for name in _MENU]
        preset = io.Combo.Input("preset", options=list(PRESETS), tooltip=_PRESET)
        choice = io.DynamicCombo.Input(
            "policy",
            options=[*options, option(PRESET, [preset])],
            tooltip=_CHOICE,
            # web/policy.js writes the group before each name: a combo has no headings.
            extra_dict={"sencache_groups": _MENU},
        )
        return _schema([choice])

    @classmethod
    def execute(cls, policy: dict | None) -> io.NodeOutput:
        settings = {name: value for name, value in (policy or {}).items() if value is not None}
        return io.NodeOutput(_choose(settings.pop("policy", _DEFAULT), settings))


class _Plain(io.ComfyNode):
    """For ComfyUI without dynamic combos: settings as lines of text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        shown = settings_of(POLICIES[_DEFAULT]).values()
        example = "\n".join(f"{field.name} = {field.default}" for field in shown)
        return _schema(
            [
                io.Combo.Input("policy", options=[*_MENU, PRESET], tooltip=_CHOICE),
                io.Combo.Input("preset", options=list(PRESETS), tooltip=_PRESET),
                io.String.Input(
                    "settings",
                    multiline=True,
                    default="",
                    placeholder=example,
                    tooltip="Settings of the policy, one 'name = value' per line; empty: defaults.",
                ),
            ]
        )

    @classmethod
    def execute(cls, policy: str, preset: str, settings: str = "") -> io.NodeOutput:
        if policy == PRESET:
            return io.NodeOutput(_choose(policy, {"preset": preset}))
        return io.NodeOutput(_choose(policy, parse_settings(policy, settings)))


def parse_settings(policy: str, text: str) -> dict:
    """Settings from lines ``name = value``; blank lines and ``#`` comments are skipped.

    Raises:
        ValueError: a line that is none, or a value that is no number where one is due.
    """
    known = settings_of(POLICIES[policy]) if policy in POLICIES else {}
    out = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, sign, value = (part.strip() for part in line.partition("="))
        default = known[name].default if name in known else ""
        if not sign or not (value or isinstance(default, str)):
            raise ValueError(f"The setting {line!r} cannot be read: write it as name = value.")
        try:
            if isinstance(default, bool):
                out[name] = {"true": True, "false": False}[value.lower()]
            else:
                out[name] = type(default)(value)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"The setting {name} cannot be {value!r}: write it as {name} = {default}, or "
                "another value of that kind."
            ) from error
    return out


SenCachePolicySelect = _Dynamic if hasattr(io, "DynamicCombo") else _Plain
