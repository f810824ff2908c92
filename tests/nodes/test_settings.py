"""Settings that the server reads, and nodes that stand in for others."""

import asyncio
import json

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture
def choose(pack, monkeypatch, tmp_path):
    """Sets what ComfyUI's settings file says, as at its start."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    setting = pack.part("nodes.settings").setting

    def write(text: str) -> None:
        (tmp_path / "default").mkdir(exist_ok=True)
        (tmp_path / "default" / "comfy.settings.json").write_text(text, encoding="utf-8")
        setting.cache_clear()

    setting.cache_clear()
    yield write
    setting.cache_clear()


def test_the_settings_file_may_lack_or_hold_anything(pack, choose):
    setting = pack.part("nodes.settings").setting
    assert setting("Replace", False) is False
    for text in ("", "[]", "{", '{"SenCache.Replace": "yes"}'):
        choose(text)
        assert setting("Replace", False) is False
    choose('{"SenCache.Replace": true}')
    assert setting("Replace", False) is True


def test_the_folder_of_profiles_is_a_name_of_ones_own(pack, choose, tmp_path):
    folders, home = pack.part("nodes.folders"), tmp_path / "default" / "sencache"
    assert folders.user_profiles() == home / "profiles"
    choose(json.dumps({"SenCache.Profiles": "my models"}))
    assert folders.user_profiles() == home / "my models"
    assert folders.learnt() == home / "learnt"
    for bad in ("../elsewhere", "/etc", "a/b", "", "learnt", "C:\\temp", ".."):
        choose(json.dumps({"SenCache.Profiles": bad}))
        assert folders.user_profiles() == home / "profiles", bad


def test_dead_caches_are_replaced_only_where_asked(pack, choose, monkeypatch):
    replacements = pack.part("nodes.replacements")
    latest = pytest.importorskip("comfy_api.latest")
    if not hasattr(latest.io, "NodeReplace"):
        pytest.skip("this ComfyUI cannot replace nodes")
    from app.node_replace_manager import NodeReplaceManager

    manager = NodeReplaceManager()

    async def register(_, replacement):
        manager.register(replacement)

    monkeypatch.setattr(latest.ComfyAPI.NodeReplacement, "register", register)
    asyncio.run(replacements.register())
    assert manager.as_dict() == {}
    choose('{"SenCache.Replace": true}')
    asyncio.run(replacements.register())
    assert set(manager.as_dict()) == {"TeaCache", "MagCache"}
    prompt = {
        "1": {"class_type": "UNETLoader", "inputs": {}, "_meta": {}},
        "2": {
            "class_type": "TeaCache",
            "inputs": {"model": ["1", 0], "model_type": "ltxv", "rel_l1_thresh": 0.4},
            "_meta": {},
        },
        "3": {"class_type": "KSampler", "inputs": {"model": ["2", 0]}, "_meta": {}},
    }
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "SenCacheApply", pack.nodes["SenCacheApply"])
    manager.apply_replacements(prompt)
    assert prompt["2"]["class_type"] == "SenCacheApply"
    assert prompt["2"]["inputs"] == {"model": ["1", 0], "budget": 0.5}
    assert prompt["3"]["inputs"]["model"] == ["2", 0]
