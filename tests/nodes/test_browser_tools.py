"""Compare's player, Calibrate's page and the list of profiles in the real frontend."""

# ruff: noqa: F811  fixtures of another module are found by their names

import os
from pathlib import Path

import pytest
from test_browser import (  # noqa: F401
    APP,
    NODES,
    SECONDS,
    TINY,
    browser,
    load,
    open_frontend,
    our_faults,
    page,
    pytestmark,
    queue_tiny,
    tab,
    use_vue,
)

SHOTS = os.environ.get("SENCACHE_SHOTS")
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])

#: Adds a Calibrate node that samples as the first KSampler of the graph does.
CALIBRATE = f"""([name, samples, steps]) => {{
  const {{ graph }} = {APP};
  const like = {NODES}.find((node) => node.type === "KSampler");
  const node = LiteGraph.createNode("SenCacheCalibrate");
  node.pos = [0, 3000]; // where nothing lies over it
  graph.add(node);
  for (const input of ["positive", "negative", "latent_image"]) {{
    const link = graph.links.get(like.inputs.find((one) => one.name === input).link);
    graph.getNodeById(link.origin_id).connect(link.origin_slot, node, input);
  }}
  const shift = {NODES}.find((one) => one.type.startsWith("ModelSampling"));
  shift.connect(0, node, "model");
  const values = {{ name, samples, steps, cfg: 4, probes: 1, seed: 1 }};
  values.control_after_generate = "fixed";
  for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
  return String(node.id);
}}"""


def show(tab, kind: str) -> None:
    """Bring the node of a kind to the upper left at full size, below nothing."""
    tab.keyboard.press("Escape")  # the frontend's list of templates
    tab.evaluate(
        f"""(kind) => {{
          const node = {NODES}.find((one) => one.type === kind);
          const over = {NODES}.find((one) => one.title === "Difference, amplified");
          if (over) {APP}.graph.remove(over);
          const {{ ds }} = {APP}.canvas;
          ds.scale = 1;
          ds.offset[0] = 100 - node.pos[0];
          ds.offset[1] = 110 - node.pos[1];
          node.setSize([520, 780]);
          {APP}.canvas.setDirty(true, true); }}""",
        kind,
    )
    tab.wait_for_timeout(700)


def shot(tab, name: str) -> None:
    if SHOTS:
        tab.screenshot(path=Path(SHOTS) / f"{name}.png")


def click(tab, selector: str, number: int = 0) -> None:
    """In the page itself: other nodes may lie over it."""
    tab.evaluate(
        "([selector, number]) => document.querySelectorAll(selector)[number].click()",
        [selector, number],
    )


def text(tab, selector: str) -> str:
    return tab.evaluate(
        "(selector) => document.querySelector(selector)?.textContent ?? ''", selector
    )


def pixels(tab) -> int:
    """How many pixels of the player's canvas are not see-through."""
    return tab.evaluate(
        """() => {
          const { width, height } = document.querySelector(".sencache-stage canvas");
          const pen = document.querySelector(".sencache-stage canvas").getContext("2d");
          const { data } = pen.getImageData(0, 0, width, height);
          return data.filter((value, i) => i % 4 === 3 && value).length; }"""
    )


READY = """() => document.querySelector(".sencache-player")?.textContent.includes("From the run")"""


@RENDERERS
def test_two_clips_are_played_wiped_and_subtracted(page, server, vue):
    name = "vue" if vue else "canvas"
    use_vue(page, vue)
    load(page, TINY)
    show(page, "SenCacheCompare")
    video = "document.querySelector('a.sencache-save')?.href"
    earlier = page.evaluate(f"() => {video}")  # of another test's run of this workflow
    queue_tiny(page, seed=51 + vue, length=9)
    page.wait_for_function(f"(earlier) => {video} && {video} !== earlier", arg=earlier)
    page.wait_for_function(READY)
    page.wait_for_timeout(500)
    drawn = pixels(page)
    assert drawn > 5000
    shot(page, f"compare_{name}_wipe")
    box = page.evaluate(
        """() => {
          const stage = document.querySelector(".sencache-stage");
          const { x, y, width, height } = stage.getBoundingClientRect();
          return [x + width / 2, y + height / 2, width]; }"""
    )
    node = f"() => [...{NODES}.find((one) => one.type === 'SenCacheCompare').pos]"
    before = page.evaluate(node)
    page.mouse.move(box[0], box[1])
    page.mouse.down()
    page.mouse.move(box[0] + 40, box[1], steps=4)
    page.mouse.up()
    divider = (
        "() => Number(document.querySelector('.sencache-stage').getAttribute('aria-valuenow'))"
    )
    assert page.evaluate(divider) > 50 and page.evaluate(node) == before
    click(page, ".sencache-modes button", 1)
    page.wait_for_timeout(300)
    shot(page, f"compare_{name}_sides")
    click(page, ".sencache-modes button", 2)
    page.wait_for_function(READY)
    assert "of 255 brighter" in text(page, ".sencache-scale")
    shot(page, f"compare_{name}_difference")
    where = "() => document.querySelector('.sencache-controls output').textContent"
    assert page.evaluate(where) == "1 / 9"
    click(page, ".sencache-play")
    page.wait_for_function(f"() => ({where})() !== '1 / 9'")
    click(page, ".sencache-play")
    shown = text(page, ".sencache-panels")
    assert "PSNR" in shown and "SSIM" in shown
    answer = page.request.get(page.evaluate(f"() => {video}"))
    assert answer.status == 200 and answer.body()[4:8] == b"ftyp"
    saved = page.evaluate(
        f"() => {APP}.graph.serialize().nodes.find((n) => n.type === 'SenCacheCompare')"
    )
    assert saved["widgets_values"] == [4, 16, "uncached", "cached"]
    queue_tiny(page, seed=51 + vue, length=9)  # ComfyUI keeps all results
    page.wait_for_timeout(1500)
    assert pixels(page) > 5000
    open_frontend(page, server)
    use_vue(page, vue)
    load(page, TINY)
    page.wait_for_function(READY)
    assert text(page, ".sencache-player").count("mean PSNR") == 1
    assert our_faults(page) == []


def test_clips_that_do_not_match_are_told_in_words(page):
    load(page, TINY)
    page.evaluate(
        f"""() => {{
          const compare = {NODES}.find((one) => one.type === "SenCacheCompare");
          compare.disconnectInput(compare.inputs.findIndex((one) => one.name === "image")); }}"""
    )
    queue_tiny(page, seed=53)
    page.wait_for_function(
        """() => document.querySelector(".sencache-player")?.textContent.includes(
          "connect a clip to image")"""
    )


@RENDERERS
def test_a_calibration_is_followed_cancelled_and_resumed(page, server, vue):
    name = "vue" if vue else "canvas"
    use_vue(page, vue)
    load(page, TINY)
    queue_tiny(page, steps=12)  # sets sizes; what it samples is not waited for
    node = page.evaluate(CALIBRATE, [f"walk {name}", 60, 12])
    show(page, "SenCacheCalibrate")
    page.evaluate(f"(node) => {APP}.queuePrompt(0, 1, [node])", node)
    state = "document.querySelector('.sencache-calibration')?.textContent ?? ''"
    page.wait_for_function(f"() => /from 2 samples|from 3 samples/.test({state})")
    assert "left" in text(page, ".sencache-head")
    assert page.locator(".sencache-measured svg").count() >= 3
    shot(page, f"calibrate_{name}_running")
    click(page, ".sencache-head button")
    page.wait_for_function(f"() => ({state}).includes('Stopped:')")
    path = server.folder / "user/default/sencache/profiles" / f"walk {name}.safetensors"
    assert path.is_file()
    shot(page, f"calibrate_{name}_stopped")
    kept = int(text(page, ".sencache-head h4").split()[1])
    page.evaluate(
        f"""([node, samples]) => {{
          const widgets = {APP}.graph.getNodeById(node).widgets;
          widgets.find((one) => one.name === "samples").value = samples; }}""",
        [node, kept + 1],
    )
    click(page, ".sencache-head button")
    page.wait_for_function(
        f"(count) => ({state}).includes(`Done: ${{count}} samples`)", arg=kept + 1
    )
    shot(page, f"calibrate_{name}_done")
    assert f"walk {name}.safetensors" in text(page, ".sencache-calibration")
    assert len(list(path.parent.glob(f"walk {name}*"))) == 1
    assert our_faults(page) == []


def test_the_list_of_profiles(page, server):
    from profiles import HEADER, MEAN, T

    from sencache_core import Profile

    folder = server.folder / "user/default/sencache/profiles"
    folder.mkdir(parents=True, exist_ok=True)
    Profile(HEADER, T, MEAN).save(folder / "listed.safetensors")
    load(page, TINY)
    page.evaluate(f"() => {APP}.extensionManager.command.execute('SenCache.Library')")
    row = page.locator(".sencache-library li", has_text="listed")
    row.wait_for()
    assert "2 samples" in row.text_content() and "euler, simple" in row.text_content()
    shot(page, "library")
    row.get_by_text("Rename").click()
    row.locator("input").fill("listed anew")
    row.locator("input").press("Enter")
    row = page.locator(".sencache-library li", has_text="listed anew")
    row.wait_for()
    with page.expect_download() as download:
        row.get_by_text("Export").click()
    exported = Path(download.value.path()).read_bytes()
    assert exported == (folder / "listed anew.safetensors").read_bytes()
    load_file = page.locator(".sencache-library input[type=file]")
    file = {"mimeType": "application/octet-stream"}
    load_file.set_input_files({**file, "name": "again.safetensors", "buffer": exported})
    page.locator(".sencache-library li", has_text="again").wait_for()
    load_file.set_input_files({**file, "name": "torn.safetensors", "buffer": exported[:99]})
    page.wait_for_function(
        """() => document.querySelector(".sencache-library .sencache-note")
          .textContent.includes("torn")"""
    )
    shot(page, "library_refused")
    row = page.locator(".sencache-library li", has_text="again")
    row.get_by_text("Delete").click()
    shot(page, "library_delete")
    row.locator("form button").first.click()
    row.wait_for(state="detached")
    assert not (folder / "again.safetensors").exists()
    page.keyboard.press("Escape")
    page.locator(".sencache-library").wait_for(state="detached")
    assert our_faults(page) == []
