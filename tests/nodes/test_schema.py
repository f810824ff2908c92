"""Node ids, inputs and files around them: what published workflows rely on."""

import importlib.util
import inspect
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
SNAPSHOT = Path(__file__).with_name("schema.json")
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
PROMPT = ROOT / "sencache_core" / "app" / "comfy_prompts" / "sencache_tiny_wan_api.json"

pytestmark = pytest.mark.comfyui

IDS = [
    "SenCacheApply",
    "SenCacheCalibrate",
    "SenCacheCompare",
    "SenCachePlan",
    "SenCachePolicySelect",
    "SenCacheProfileLoad",
    "SenCacheProfileSave",
    "SenCacheResume",
    "SenCacheStatsViewer",
    "SenCacheStore",
    "SenCacheTinyDecode",
    "SenCacheTinyPrompt",
]


def inputs(node) -> dict[str, list[str]]:
    kinds = node.INPUT_TYPES()
    return {kind: list(kinds.get(kind, {})) for kind in ("required", "optional")}


def test_all_nodes_load(pack):
    assert sorted(pack.nodes) == IDS


@pytest.mark.parametrize("name", IDS)
def test_inputs_equal_parameters_of_execute(pack, name):
    node = pack.nodes[name]
    schema = [i.id for i in node.GET_SCHEMA().inputs]
    parameters = inspect.signature(node.execute).parameters
    assert sorted(schema) == sorted(parameters)
    # ComfyUI 0.3.64 refuses a node with an output of the same id as an input.
    assert not set(schema) & {output.id for output in node.GET_SCHEMA().outputs}
    optional = {i.id for i in node.GET_SCHEMA().inputs if i.optional}
    assert optional <= {
        k for k, p in parameters.items() if p.default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize("name", IDS)
def test_everything_is_explained(pack, name):
    schema = pack.nodes[name].GET_SCHEMA()
    assert schema.description
    assert schema.category.startswith("SenCache")
    assert [i.id for i in schema.inputs if not i.tooltip] == []
    assert (ROOT / "web" / "docs" / f"{name}.md").is_file()


def pinned(path: Path, found: dict) -> dict:
    """What ``path`` holds; with SENCACHE_UPDATE=1 in the environment it is written first."""
    if os.environ.get("SENCACHE_UPDATE") == "1":
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def test_schema_never_changes(pack):
    """Rename or reorder nothing: append inputs at the end, then update the file."""
    found = {}
    for name, node in sorted(pack.nodes.items()):
        outputs = [o.get_io_type() for o in node.GET_SCHEMA().outputs]
        found[name] = {**inputs(node), "outputs": outputs}
    known = pinned(SNAPSHOT, found)
    if not hasattr(pack.part("nodes.policy").io, "DynamicCombo"):
        known["SenCachePolicySelect"]["required"] = ["policy", "preset", "settings"]
    assert found == known


def test_english_locale_equals_the_schema(pack):
    if not hasattr(pack.part("nodes.policy").io, "DynamicCombo"):
        pytest.skip("the file is written from the newer schema")
    found = {}
    for name, node in sorted(pack.nodes.items()):
        schema = node.GET_SCHEMA()
        words = {"display_name": schema.display_name, "description": schema.description}
        words["inputs"] = {i.id: {"tooltip": i.tooltip} for i in schema.inputs}
        told = {str(k): {"tooltip": o.tooltip} for k, o in enumerate(schema.outputs) if o.tooltip}
        found[name] = words | ({"outputs": told} if told else {})
    assert found == pinned(LOCALES / "en" / "nodeDefs.json", found)


def test_host_and_pack_keep_their_own_nodes_module(pack):
    import nodes

    assert nodes is pack.host_nodes
    assert hasattr(nodes, "MAX_RESOLUTION")
    assert Path(pack.part("nodes").__file__).resolve() == ROOT / "nodes" / "__init__.py"


def test_root_is_importable_without_a_package():
    spec = importlib.util.spec_from_file_location("lone", ROOT / "__init__.py")
    spec.submodule_search_locations = None
    module = importlib.util.module_from_spec(spec)
    module.__package__ = ""
    spec.loader.exec_module(module)
    assert not hasattr(module, "comfy_entrypoint")


def test_entry_point_only(pack):
    """ComfyUI ignores comfy_entrypoint where NODE_CLASS_MAPPINGS exists."""
    assert not hasattr(pack.module, "NODE_CLASS_MAPPINGS")
    assert (ROOT / pack.module.WEB_DIRECTORY).is_dir()


def test_a_broken_node_leaves_the_rest(pack, monkeypatch, caplog):
    package = pack.part("nodes")
    monkeypatch.setattr(package, "NODES", (("apply", "SenCacheApply"), ("nowhere", "SenCacheX")))
    assert [node.__name__ for node in package.load_nodes()] == ["SenCacheApply"]
    assert len([r for r in caplog.records if "SenCacheX" in r.getMessage()]) == 1


def test_policies_appear_by_themselves(pack):
    module, core = pack.part("nodes.policy"), pack.part("sencache_core")
    if not hasattr(module.io, "DynamicCombo"):
        pytest.skip("this ComfyUI has no dynamic combos")
    (choice,) = pack.nodes["SenCachePolicySelect"].GET_SCHEMA().inputs
    keys = {option.key: [i.id for i in option.inputs] for option in choice.options}
    assert {*keys} == {*core.POLICIES, module.PRESET}
    assert next(iter(keys)) == "planned"
    by_depth = [
        n for names in pack.part("sencache_core.policies.groups").grouped().values() for n in names
    ]
    assert list(keys) == [*by_depth, "off", module.PRESET]
    for option in choice.options[: len(by_depth)]:  # the first setting says what the method does
        policy = core.POLICIES[option.key]
        assert option.inputs[0].tooltip.startswith(f"{policy.title}, ")
        assert f"decides by {policy.decides}." in option.inputs[0].tooltip
    assert "early_tolerance" in keys["sencache"]
    widgets = {i.id: i.get_io_type() for i in choice.options[0].inputs}
    assert widgets == {
        "correct": "BOOLEAN",
        "risk": "FLOAT",
        "mask": "STRING",
        "may_save": "FLOAT",
    }


def test_settings_as_text(pack):
    module = pack.part("nodes.policy")
    text = "# mine\ntolerance = 0.7\n\nearly_share=0.3 # strict part"
    assert module.parse_settings("sencache", text) == {"tolerance": 0.7, "early_share": 0.3}
    text = "correct = false\nrisk = 0.5\nmask ="
    known = {"correct": False, "risk": 0.5, "mask": ""}
    assert module.parse_settings("planned", text) == known
    with pytest.raises(ValueError, match="name = value"):
        module.parse_settings("sencache", "tolerance")
    with pytest.raises(ValueError, match=r"tolerance cannot be .lots.: write it as"):
        module.parse_settings("sencache", "tolerance = lots")
    with pytest.raises(ValueError, match="has no setting colour"):
        module._choose("sencache", {"colour": "red"})


def test_presets(pack):
    module = pack.part("nodes.policy")
    choice = module._choose(module.PRESET, {"preset": "Wan fast"})
    assert choice.fixed
    assert (choice.policy.tolerance, choice.rule.name, choice.guards.longest_run) == (
        0.98,
        "hold",
        3,
    )


def test_presets_are_the_papers(pack):
    """Neither forecast nor hindsight, whatever Apply shows."""
    choice = pack.part("nodes.policy")._choose("paper preset", {"preset": "Wan slow"})
    config = applied(pack, policy=choice, rule="fitted", hindsight=True, budget=0.3)
    assert (config.policy.name, config.rule.name, config.hindsight) == ("sencache", "hold", False)
    assert config.budget is None and config.guards == choice.guards


def test_apply_alone_plans_for_the_budget(pack):
    config = applied(pack, budget=0.4)
    found = (config.policy.name, config.rule.name, config.hindsight, config.budget)
    assert found == ("planned", "fitted", True, 0.4)
    assert applied(pack, budget=0.4, hindsight=False).hindsight is False


def test_a_tolerance_asks_for_sencache(pack):
    config = applied(pack, budget=0.5, control="tolerance", tolerance=0.7)
    assert (config.policy.name, config.policy.tolerance, config.budget) == ("sencache", 0.7, None)


def test_a_mask_rules_over_budget_and_guards(pack):
    choice = pack.part("nodes.policy")._choose("planned", {"mask": " C.....C... ", "risk": 0.0})
    config = applied(pack, policy=choice, budget=0.9, start_percent=0.5)
    core = pack.part("sencache_core")
    plan = config.plan(core.FAMILIES["wan"], core.Schedule(core.flow_sigmas(10, 5.0), "euler"))
    assert str(plan) == "C.....C..."
    with pytest.raises(ValueError, match="written with C"):
        pack.part("nodes.policy")._choose("planned", {"mask": "Cab"})


def applied(pack, **inputs):
    """The configuration that SenCache Apply makes of its inputs."""
    kept = {}
    clone = SimpleNamespace(set_attachments=kept.__setitem__)
    attached = []
    with pytest.MonkeyPatch.context() as patch:
        host = pack.part("sencache_core.hosts.comfy")
        patch.setattr(host, "attach", lambda _, config, **__: attached.append(config) or clone)
        assert pack.run("SenCacheApply", model=object(), **inputs)[0] is clone
    assert list(kept.values()) == attached
    return attached[0]


def test_apply_off_returns_the_very_model(pack):
    from comfy.model_patcher import ModelPatcher

    cpu = torch.device("cpu")
    node, model = pack.nodes["SenCacheApply"], ModelPatcher(torch.nn.Identity(), cpu, cpu)
    for arguments in ({"budget": 0.5, "enable": False}, {"budget": 1.0}):
        out = node.execute(model, **arguments)
        assert out.args[0] is model
        assert out.args[1].note


def report(pack, step="reused"):
    core = pack.part("sencache_core")
    made = core.RunReport("wan", "sencache", "linear", "output", 3, 0.5, completed=True)
    decisions = ("forced", step, "computed")
    made.steps = [
        core.StepRecord(i, i, 1 - i / 3, 1 - i / 3, d, "why", 0.1, 0.2, seconds=0.5)
        for i, d in enumerate(decisions)
    ]
    return made


def test_mailbox_keeps_the_last_run_of_each_sampler(pack, monkeypatch):
    reports, host = pack.part("nodes.reports"), pack.part("nodes.host")
    box, first, second, third = reports.Reports(), *(report(pack) for _ in range(3))
    for here, what in (
        (host.Place("p1", "7"), first),
        (host.Place("p1", "8"), second),
        (host.Place("p2", "7"), third),
    ):
        monkeypatch.setattr(reports, "place", lambda here=here: here)
        box.post(what)
    assert [e.report for e in box.read({"7", "8"})] == [second, third]
    assert [e.report for e in box.read({"7"})] == [third]
    assert [e.report for e in box.read({"99"})] == [third]  # of this prompt, in a loop perhaps
    assert box.read({"99"}, {"7", "8"}) == []


def test_payload_is_plain_json(pack):
    viewer, reports, host = (pack.part(f"nodes.{n}") for n in ("viewer", "reports", "host"))
    one = reports.Entry(report(pack), host.Place("p", "7"), 1e9)
    data = viewer.payload([one], [], {})
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["runs"][0]["evaluations"] == 2
    both = viewer.payload([one, one], [], {"7": "High noise"})
    assert [run["label"] for run in both["runs"]] == ["High noise 1", "High noise 2"]
    assert "earlier run" in data["notes"][0]["text"]
    picture = pack.part("nodes.picture").draw_reports(data)
    assert picture.shape[0] == 1 and picture.shape[-1] == 3
    assert 0 <= picture.min() and picture.max() <= 1 and picture.std() > 0.05


def test_a_plan_is_drawn(pack):
    plan, picture = pack.part("nodes.plan"), pack.part("nodes.picture")
    for shown in (
        plan._plan("CC.C..C", 0.01, [None, None, 0.1, 0.2, 0.1, 0.3, 0.2], ["A note."]),
        plan._plan("CCC", 0.0, [None] * 3, []),
        plan._unknown("Why not."),
    ):
        drawn = picture.draw_plan(shown)
        assert drawn.shape[0] == 1 and drawn.shape[-1] == 3 and drawn.std() > 0.05


@pytest.mark.parametrize("count", [1, 700])
def test_any_number_of_evaluations_can_be_drawn(pack, count):
    plan, picture = pack.part("nodes.plan"), pack.part("nodes.picture")
    shown = plan._plan("C" * count, 0.0, [0.1] * count, [])
    assert picture.draw_plan(shown).std() > 0
    made = report(pack)
    made.steps = made.steps[:1] * count
    run = {**made.to_dict(), "label": "Run"}
    assert picture.draw_reports({"runs": [run], "notes": []}).std() > 0


def test_charts_name_what_ran_in_part_and_show_idle_rounds(pack):
    """By the report's own words, whatever they are."""
    picture = pack.part("nodes.picture")
    drawn = []
    for part in ("", "last blocks"):
        made = report(pack, "partial")
        made.steps[1].part, made.steps[2].decision = part, "idle"
        run = {**made.to_dict(), "label": "Run"}
        assert (run["evaluations"], run["idle"]) == (2, 1)
        drawn.append(picture.draw_reports({"runs": [run], "notes": []}))
    assert (drawn[0] != drawn[1]).any()
    assert pack.part("nodes.reports").mask_of(made) == "Ch-"


def test_no_node_knows_what_a_partial_round_runs():
    """Policies say it; charts and plans show their words."""
    files = [*(ROOT / "web").rglob("*.js"), *(ROOT / "nodes").glob("*.py")]
    named = [path for path in files if path.name != "policy.py"]  # describes the policies
    assert not [p.name for p in named if "conditional branch" in p.read_text(encoding="utf-8")]


def test_empty_payload_says_what_to_do(pack):
    viewer = pack.part("nodes.viewer")
    data = viewer.payload([], [], {})
    assert not data["runs"] and "Connect" in data["notes"][0]["text"]
    assert pack.part("nodes.picture").draw_reports(data).std() > 0


def test_profile_names_are_made_safe(pack, monkeypatch, tmp_path):
    folders = pack.part("nodes.folders")
    monkeypatch.setattr(folders, "user_profiles", lambda: tmp_path)
    path = folders.new_profile_path("../../etc/evil name.safetensors")
    assert path.parent == tmp_path
    path.write_text("")
    again = folders.new_profile_path("../../etc/evil name.safetensors")
    assert again != path and again.parent == tmp_path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_use_existing_inputs(pack, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    own = [node for node in graph["nodes"] if node["type"].startswith("SenCache")]
    assert {"SenCacheApply", "SenCacheStatsViewer"} <= {node["type"] for node in own}
    for node in own:
        kinds = inputs(pack.nodes[node["type"]])
        known = set(kinds["required"] + kinds["optional"])
        assert {i["name"].split(".")[0] for i in node["inputs"]} <= known
    linked = {link[0] for link in graph["links"]}
    assert all(i["link"] in linked | {None} for node in graph["nodes"] for i in node["inputs"])


def test_workflows_apply_the_defaults(pack):
    """All settings of SenCache Apply but the budget, which each workflow chooses; where clips are
    compared, or a draft stands for a final, the aim is the same clip."""
    schema = pack.nodes["SenCacheApply"].GET_SCHEMA()
    defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}
    assert defaults["start_percent"] == 0  # the policy's own
    assert pack.part("sencache_core.config").DEFAULT_GUARDS.start is None
    prompt = json.loads(PROMPT.read_text(encoding="utf-8"))
    found = [n["inputs"] for n in prompt.values() if n["class_type"] == "SenCacheApply"]
    for path in WORKFLOWS:
        graph = json.loads(path.read_text(encoding="utf-8"))
        for node in (n for n in graph["nodes"] if n["type"] == "SenCacheApply"):
            named = node["widgets_values_named"]
            assert list(named.values()) == node["widgets_values"], path
            aim = "same clip" if path.stem.startswith(("09", "10")) else defaults["aim"]
            assert named["aim"] == aim, path
            found.append({**named, "aim": defaults["aim"]})
    assert len(found) > len(WORKFLOWS)
    for saved in found:
        assert {**defaults, "budget": saved["budget"]} == {k: saved[k] for k in defaults}


def test_workflows_are_ready_for_the_template_page():
    """A picture each, no id (the frontend gives one to each that is opened), no wider than a
    screen; the first needs no file that does not come with the pack."""
    for path in WORKFLOWS:
        assert path.with_suffix(".jpg").read_bytes()[:2] == b"\xff\xd8", path
        graph = json.loads(path.read_text(encoding="utf-8"))
        assert "id" not in graph, path
        assert graph["groups"], path
        right = max(node["pos"][0] + node["size"][0] for node in graph["nodes"])
        assert right - min(node["pos"][0] for node in graph["nodes"]) <= 1700, path
        files = [m for node in graph["nodes"] for m in node["properties"].get("models", ())]
        assert all(one["url"].startswith("https://") and one["directory"] for one in files), path
        note = next(node for node in graph["nodes"] if node["type"] == "MarkdownNote")
        assert all(one["name"] in note["widgets_values"][0] for one in files), path
    first = WORKFLOWS[0].read_text(encoding="utf-8")
    assert "https://" not in first and "nothing to download" in WORKFLOWS[0].stem


def test_no_absolute_paths():
    for path in (ROOT / "example_workflows").glob("*.json"):
        assert not re.search(r"/(root|home|work|tmp)/", path.read_text(encoding="utf-8")), path
