"""The real frontend in Chromium: workflows load, the viewer fills and survives a reload."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
TINY = WORKFLOWS[0]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
STEPS = 10
LONG = 1000
#: The longest that a test waits for anything.
SECONDS = 90

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
]

APP = "window.comfyAPI.app.app"
#: All nodes of the open graph, those of subgraphs too, and the pages of the viewers among them.
NODES = f"""(function all(graph, seen = new Set()) {{
  if (!graph || seen.has(graph)) return [];
  seen.add(graph);
  return graph._nodes.flatMap((node) => [node, ...all(node.subgraph, seen)]);
}})({APP}.rootGraph ?? {APP}.graph)"""
VIEWERS = f"""{NODES}.filter((node) => node.type === "SenCacheStatsViewer").map((node) =>
  node.widgets.find((one) => one.name === "sencache_view").element)
  .map((view) => view.querySelector(".sencache-page"))"""
MUTE, BYPASS = 2, 4
ID = "00000000-1111-4222-8333-444444444444"
RAN = f"{STEPS // 2} of {STEPS} steps computed"
#: Said while a long run is under way, once the time left is known.
RUNNING = f" of {LONG}, about"
READY = f"""() => window.comfyAPI?.app && {APP}.graph && {APP}.extensionManager?.setting
  && ["SenCacheStatsViewer", "MarkdownNote"].every((t) => LiteGraph.registered_node_types[t])"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield window
        window.close()


@pytest.fixture(scope="module")
def tab(browser, server) -> Iterator:
    """One page for all tests: to open it takes longer than most of them."""
    tab = browser.new_page(viewport={"width": 1600, "height": 900})
    tab.faults = []
    tab.on("pageerror", lambda error: tab.faults.append(f"{error}\n{error.stack}"))
    tab.on(
        "console",
        lambda message: tab.faults.append(message.text) if message.type == "error" else None,
    )
    tab.set_default_timeout(1000 * SECONDS)
    open_frontend(tab, server)
    yield tab
    tab.close()


@pytest.fixture
def page(tab):
    tab.faults.clear()
    tab.keyboard.press("Escape")  # what the frontend asks about missing models
    use_vue(tab, False)
    return tab


def open_frontend(tab, server) -> None:
    tab.goto(server.url)
    tab.wait_for_function(READY)
    tab.wait_for_timeout(1000)


def load(tab, path: Path) -> dict:
    """Open a workflow, under an id that is the same every time."""
    graph = {**json.loads(path.read_text(encoding="utf-8")), "id": ID}
    tab.evaluate(f"(graph) => {APP}.loadGraphData(graph)", graph)
    return graph


def our_faults(tab) -> list[str]:
    return [text for text in tab.faults if "sencache" in text.lower() and "huggingface" not in text]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_loads(page, path):
    graph = load(page, path)
    kinds = page.evaluate(f"() => {APP}.graph._nodes.map((n) => n.type)")
    assert sorted(kinds) == sorted(node["type"] for node in graph["nodes"])
    missing = page.evaluate(
        f"() => {APP}.graph._nodes.filter((n) => !LiteGraph.registered_node_types[n.type])"
        ".map((n) => n.type)"
    )
    old_host = not page.evaluate("() => !!LiteGraph.registered_node_types.VOIDSampler")
    if old_host and path.stem.startswith(("07", "08")):
        pytest.skip("this ComfyUI does not have the family")
    assert missing == []
    values = page.evaluate(
        f"() => {APP}.graph._nodes.filter((n) => n.type === 'SenCacheApply')"
        ".map((n) => n.widgets.find((w) => w.name === 'budget').value)"
    )
    assert values and all(0.2 <= value <= 1 for value in values)
    assert our_faults(page) == []


def wait_for_text(tab, text: str, without: str = "\0") -> None:
    """Until a viewer of the open graph says ``text``, also one that is drawn nowhere."""
    says = f"""([text, without]) => {VIEWERS}.some((page) =>
      page.textContent.includes(text) && !page.textContent.includes(without))"""
    try:
        tab.wait_for_function(says, arg=[text, without])
    except Exception as error:
        raise AssertionError(f"{text!r} is not said; instead: {viewer_text(tab)}") from error


def wait_for_run(tab, text: str = RAN) -> None:
    """Until a viewer says ``text`` of the graph as it was queued last."""
    wait_for_text(tab, text, without="Earlier run")


def viewer_text(tab) -> str:
    return tab.evaluate(f"() => {VIEWERS}.map((page) => page.textContent).join('|')")


def use_vue(tab, on: bool) -> None:
    if on and not tab.evaluate("() => !!LiteGraph.registered_node_types.VOIDSampler"):
        pytest.skip("the frontend of this ComfyUI shows no DOM widgets in Vue nodes")
    tab.evaluate(f"(on) => {APP}.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", on)


def queue_tiny(tab, **values) -> None:
    """Queue the open tiny workflow with widgets by name; small and short unless they say more."""
    values = {"steps": STEPS, "width": 64, "height": 64, "length": 5, "seed": 7, **values}
    tab.evaluate(
        f"""(values) => {{
          for (const node of {NODES}) for (const widget of node.widgets ?? [])
            if (widget.name in values && node.type !== "SenCacheApply")
              widget.value = values[widget.name];
          {APP}.queuePrompt(0, 1); }}""",
        values,
    )


def run_tiny(tab, vue: bool = False, **values) -> None:
    """Load the tiny workflow, run it on a few steps, wait for the viewer."""
    use_vue(tab, vue)
    load(tab, TINY)
    tab.wait_for_function("() => document.querySelector('.sencache-view')")
    queue_tiny(tab, **values)
    wait_for_run(tab)


def start_long_run(tab, seed: int) -> None:
    """One that is not over before a page has been loaded anew."""
    queue_tiny(tab, steps=LONG, seed=seed)
    wait_for_text(tab, RUNNING)


def interrupt(tab, server) -> None:
    server.post("/interrupt", {})
    quiet = f"(text) => {VIEWERS}.every((page) => !page.textContent.includes(text))"
    tab.wait_for_function(quiet, arg=RUNNING)


def viewer_size(tab) -> dict:
    """Size of the viewer's node, in the graph and as saved, and the chart's place in it."""
    return tab.evaluate(
        f"""() => {{
          const node = {NODES}.find((one) => one.type === "SenCacheStatsViewer");
          const box = document.querySelector(".sencache-view").getBoundingClientRect();
          const drawn = [box.width, box.height].map(Math.round);
          return {{ node: [...node.size], saved: [...node.serialize().size], drawn }}; }}"""
    )


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_viewer_fills(page, vue):
    run_tiny(page, vue)
    assert page.locator(".sencache-track .sencache-strip > g").count() == STEPS
    page.locator("[data-key=fold-about]").evaluate("(one) => one.click()")
    mask = page.locator(".sencache-mask code").text_content()
    assert len(mask) == STEPS and mask.count("C") == STEPS // 2
    page.wait_for_function(  # the chart is drawn anew whenever the node is laid out
        """() => {
          const drawn = document.querySelector(".sencache-column > svg.sencache-chart");
          const box = drawn?.getBoundingClientRect();
          return box && box.width > 100 && box.height > 40; }"""
    )
    saved = page.evaluate(
        f"() => {APP}.graph.serialize().nodes.find((n) => n.type === 'SenCacheStatsViewer')"
    )
    assert not saved.get("widgets_values")
    foreign = page.evaluate(
        """() => [...document.querySelectorAll(".sencache-view *")]
          .flatMap((one) => [...one.classList]).filter((name) => !name.startsWith("sencache-"))"""
    )
    assert foreign == []
    assert our_faults(page) == []


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_the_open_table_leaves_the_node_as_it_is(page, vue):
    run_tiny(page, vue)
    queue_tiny(page, steps=30)
    wait_for_run(page, "15 of 30 steps computed")
    page.wait_for_timeout(500)
    before = viewer_size(page)
    page.evaluate("() => document.querySelector('.sencache-view summary').click()")
    page.wait_for_timeout(1000)
    assert page.evaluate("() => document.querySelector('.sencache-view details').open")
    assert viewer_size(page) == before
    rows = page.evaluate(
        """() => {
          const box = document.querySelector(".sencache-table");
          return { high: box.clientHeight, all: box.scrollHeight }; }"""
    )
    assert rows["high"] <= 220 < rows["all"]


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_the_side_panel_leaves_the_chart_as_it_is(page, vue):
    use_vue(page, vue)
    load(page, TINY)
    button = page.locator("button[aria-label='Toggle properties panel']")
    if not button.count():
        pytest.skip("this frontend has no side panel")
    page.wait_for_timeout(500)
    page.keyboard.press("Escape")
    before = viewer_size(page)
    select = f"""() => {APP}.canvas.selectNode(
      {NODES}.find((one) => one.type === "SenCacheStatsViewer"))"""
    page.evaluate(select)
    button.click()
    page.wait_for_timeout(1000)
    assert viewer_size(page) == before
    page.evaluate(f"() => {APP}.canvas.deselectAll()")
    page.wait_for_timeout(500)
    assert viewer_size(page) == before


def test_a_bypassed_apply_is_shown_as_such(page):
    run_tiny(page, seed=3)
    page.evaluate(f"(mode) => {{ {APP}.graph.getNodeById(7).mode = mode; }}", MUTE)
    queue_tiny(page, seed=3)
    wait_for_text(page, "Nothing is cached")
    assert "steps computed" not in viewer_text(page)


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_an_interrupted_run_ends(page, server, vue):
    use_vue(page, vue)
    load(page, TINY)
    start_long_run(page, seed=11)
    interrupt(page, server)
    wait_for_text(page, "Stopped at")
    assert f" of {LONG}." in viewer_text(page)
    queue_tiny(page, seed=12)
    wait_for_run(page)
    assert "Stopped at" not in viewer_text(page)


def test_a_chart_of_before_is_dated(page):
    """By a refused graph, and where the workflow is opened anew."""
    run_tiny(page, seed=4)
    assert "Earlier run" not in viewer_text(page)
    page.evaluate(
        f"""() => {{
          const node = {APP}.graph.getNodeById(8);
          node.disconnectInput(node.inputs.findIndex((one) => one.name === "model")); }}"""
    )
    queue_tiny(page, seed=4)
    wait_for_text(page, "refused the graph")
    load(page, TINY)
    wait_for_text(page, "Earlier run")
    queue_tiny(page, unet_name="no_such_model.safetensors")
    wait_for_text(page, "refused the graph")
    assert RAN in viewer_text(page)


def test_a_chart_stays_with_its_workflow_and_tab(page, server):
    """The other workflow has the same node ids; a run goes on while it is looked at."""
    graph = {**json.loads(TINY.read_text(encoding="utf-8")), "id": ID}
    opened = f"(graph) => {APP}.loadGraphData(graph, true, true, 'first')"
    page.evaluate(opened, graph)
    start_long_run(page, seed=21)
    other = {**graph, "id": "11111111-2222-4333-8444-555555555555"}
    page.evaluate(opened.replace("first", "second"), other)
    page.wait_for_timeout(1500)  # three messages of the run
    assert "Queue the graph" in viewer_text(page)
    page.keyboard.press("Escape")  # an old frontend asks about missing models
    page.get_by_text("first", exact=True).first.click()
    wait_for_text(page, RUNNING)
    interrupt(page, server)
    wait_for_text(page, "Stopped at")


def test_a_run_is_followed_over_a_reload(page, server):
    load(page, TINY)
    start_long_run(page, seed=31)
    page.wait_for_timeout(2000)  # the frontend keeps the graph for the next time
    open_frontend(page, server)
    load(page, TINY)
    wait_for_text(page, RUNNING)
    interrupt(page, server)
    wait_for_text(page, "Stopped at")


def test_a_viewer_in_a_subgraph(page, server):
    load(page, TINY)
    page.evaluate(
        f"() => {{ {APP}.graph.convertToSubgraph(new Set([{APP}.graph.getNodeById(10)])); }}"
    )
    start_long_run(page, seed=41)
    interrupt(page, server)
    wait_for_text(page, "Stopped at")
    queue_tiny(page, seed=42)
    wait_for_run(page)
    assert our_faults(page) == []


def test_viewer_survives_a_reload(page, server):
    """After the graph ran, a fresh page that loads the same workflow shows the last figures."""
    run_tiny(page, seed=5)
    open_frontend(page, server)
    load(page, TINY)
    wait_for_text(page, "Earlier run")
    assert RAN in viewer_text(page)
    page.evaluate(
        f"""() => {APP}.graph.remove(
          {APP}.graph._nodes.find((n) => n.type === 'SenCacheStatsViewer'))"""
    )
    page.wait_for_function("() => !document.querySelector('.sencache-view')?.isConnected")
    assert our_faults(page) == []


def test_each_node_bypassed_or_muted(page, server):
    """As the frontend makes a prompt of it: all runs but what ComfyUI's own nodes then lack."""
    load(page, TINY)
    small = {"steps": STEPS, "width": 64, "height": 64, "length": 5}
    own = page.evaluate(
        f"""(small) => {{
          for (const node of {NODES}) for (const widget of node.widgets ?? [])
            if (widget.name in small) widget.value = small[widget.name];
          return {NODES}.filter((one) => one.type.startsWith("SenCache"))
            .map((one) => [one.id, one.type]); }}""",
        small,
    )
    assert len(own) > 6
    for mode in (BYPASS, MUTE):
        for key, kind in own:
            case = f"{kind} {key}, mode {mode}"
            prompt, saved, after = page.evaluate(
                f"""async ([key, mode]) => {{
                  const node = {APP}.graph.getNodeById(key);
                  node.mode = mode;
                  const {{ output, workflow }} = await {APP}.graphToPrompt();
                  const after = node.mode;
                  node.mode = 0;
                  const saved = workflow.nodes.find((one) => String(one.id) === String(key));
                  return [output, saved.mode, after]; }}""",
                [key, mode],
            )
            assert saved == after == mode, case
            try:
                answer = server.post("/prompt", {"prompt": prompt})
            except AssertionError as refused:  # ComfyUI's samplers, all of them, lack a prompt
                assert kind == "SenCacheTinyPrompt", (case, refused)
                answer = json.loads(str(refused))
            errors = answer.get("node_errors") or {}
            foreign = {one["class_type"] for one in errors.values()}
            assert not [name for name in foreign if name.startswith("SenCache")], (case, errors)
            if "prompt_id" not in answer:
                continue
            entry = server.wait(answer["prompt_id"], SECONDS)
            assert entry["status"]["status_str"] == "success", (case, entry["status"])
            by_kind = {prompt[k]["class_type"]: v for k, v in entry["outputs"].items()}
            if kind in ("SenCacheApply", "SenCacheStatsViewer"):
                assert not errors, case
                kinds = [prompt[k]["class_type"] for k, v in entry["outputs"].items()]
                clips = [one for one in kinds if one == "SaveAnimatedWEBP"]
                assert len(clips) == 1, case
            if kind == "SenCacheApply":
                assert by_kind["SenCacheStatsViewer"]["text"][0].startswith("Nothing is cached")
            if kind == "SenCacheTinyDecode":
                assert by_kind["SenCacheCompare"]["text"][0].startswith("Nothing to compare")


def shot(tab, name: str) -> None:
    """Keep a picture of the viewer where SENCACHE_SHOTS names a folder."""
    if folder := os.environ.get("SENCACHE_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=Path(folder) / f"{name}.png")


def show_viewer(tab, width: int = 500, height: int = 520) -> None:
    """Bring the viewer into sight, at the size given."""
    dialog = tab.locator("[role=dialog]:visible")
    for _ in range(5):  # templates are offered to new users, at a moment of the frontend's choice
        if not dialog.count():
            break
        tab.keyboard.press("Escape")
        tab.wait_for_timeout(500)
    tab.evaluate(
        f"""([width, height]) => {{
          const node = {NODES}.find((one) => one.type === "SenCacheStatsViewer");
          node.flags.collapsed = false;
          node.setSize([width, height]);
          const {{ ds }} = {APP}.canvas;
          ds.scale = 1;
          ds.offset = [420 - node.pos[0], 120 - node.pos[1]];
          {APP}.canvas.setDirty(true, true); }}""",
        [width, height],
    )
    tab.wait_for_timeout(600)


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_the_viewer_is_read_by_pointer_and_keys_and_kept_as_files(page, server, vue):
    name = "vue" if vue else "canvas"
    run_tiny(page, vue, seed=51)
    show_viewer(page)
    queue_tiny(page, seed=52, steps=LONG)
    tops, top = [], "() => document.querySelector('.sencache-track').getBoundingClientRect().top"
    for text in (f"of {LONG}", RUNNING):  # from the first moment on nothing moves
        wait_for_text(page, text, without="Earlier run")
        assert page.locator(".sencache-track .sencache-strip > g").count() == LONG
        tops.append(page.evaluate(top))
    shot(page, f"{name}-live")
    assert tops[0] == tops[1]
    interrupt(page, server)
    wait_for_text(page, "Stopped at")
    shot(page, f"{name}-stopped")
    queue_tiny(page, seed=53)
    wait_for_run(page)
    assert "before" in viewer_text(page)  # the run before the one that was interrupted
    assert page.locator(".sencache-before .sencache-strip > g").count() == STEPS
    track = page.locator(".sencache-track")
    where = page.evaluate(f"() => [...{APP}.canvas.ds.offset]")
    track.focus()
    page.keyboard.press("Home")
    assert "Step 1: always computed, first step." in viewer_text(page)
    page.keyboard.press("ArrowRight")
    assert track.get_attribute("aria-valuenow") == "2"
    assert track.get_attribute("aria-valuetext").startswith("Step 2:")
    assert page.evaluate(f"() => [...{APP}.canvas.ds.offset]") == where
    shot(page, f"{name}-done")
    page.keyboard.press("Escape")
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<svg"), ("csv", b"run,ordinal")):
        with page.expect_download() as kept:
            page.locator(f"[data-key={kind}]").evaluate("(one) => one.click()")
        assert Path(kept.value.path()).read_bytes().startswith(start), kind
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("[data-key=copy]").evaluate("(one) => one.click()")
    wait_for_text(page, "Copied")
    copied = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    assert copied["runs"][0]["evaluations"] == STEPS // 2
    for size in ((340, 430), (900, 520)):
        show_viewer(page, *size)
        wide = page.evaluate(
            """() => [...document.querySelectorAll(".sencache-page *")].filter((one) =>
              one.closest(".sencache-table, .sencache-tabs, svg") === null
              && one.getBoundingClientRect().right > one.closest(".sencache-view")
                .getBoundingClientRect().right + 1).map((one) => one.className)"""
        )
        assert wide == [], size
        shot(page, f"{name}-{size[0]}")
    page.evaluate(
        f"""() => {{ const node = {NODES}.find((one) => one.type === "SenCacheStatsViewer");
          node.collapse ? node.collapse() : node.flags.collapsed = true; }}"""
    )
    page.wait_for_timeout(600)
    shot(page, f"{name}-collapsed")
    page.evaluate(f"() => {NODES}.find((one) => one.type === 'SenCacheStatsViewer').collapse()")
    show_viewer(page)
    assert RAN in viewer_text(page)
    assert our_faults(page) == []


def test_the_viewer_in_the_light_theme_and_for_colour_blind_eyes(page):
    setting = f"(theme) => {APP}.extensionManager.setting.set('Comfy.ColorPalette', theme)"
    run_tiny(page, seed=61)
    show_viewer(page)
    session = page.context.new_cdp_session(page)
    emulate = "Emulation.setEmulatedVisionDeficiency"
    try:
        for theme in ("dark", "light"):
            page.evaluate(setting, theme)
            page.wait_for_timeout(600)
            for kind in ("none", "deuteranopia", "achromatopsia"):
                session.send(emulate, {"type": kind})
                shot(page, f"{theme}-{kind}")
            session.send(emulate, {"type": "none"})
            # WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for what a figure is read from.
            for of, least in ((".sencache-large", 4.5), (".sencache-small", 4.5), ("rect", 3)):
                assert contrast(page, of) >= least, (theme, of)
    finally:
        session.send(emulate, {"type": "none"})
        page.evaluate(setting, "dark")


def contrast(tab, selector: str) -> float:
    """The smallest contrast of what a selector finds in the viewer with the viewer's ground."""
    return tab.evaluate(
        """(selector) => {
          const brush = document.createElement("canvas").getContext("2d");
          const light = (colour) => {
            brush.fillStyle = colour;
            brush.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3)
              .map((part) => part / 255)
              .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const view = document.querySelector(".sencache-view");
          const ground = light(getComputedStyle(view).backgroundColor);
          const found = selector === "rect"
            ? [...view.querySelectorAll(".sencache-track g > rect")].map((one) =>
                getComputedStyle(one).fill).filter((fill) => !fill.includes("url"))
            : [...view.querySelectorAll(selector)].map((one) => getComputedStyle(one).color);
          return Math.min(...found.map(light).map((own) =>
            (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05))); }""",
        selector,
    )


def test_no_serious_finding_of_axe(page):
    """``SENCACHE_AXE``: axe-core's ``axe.min.js``, which is no part of this repository."""
    axe = os.environ.get("SENCACHE_AXE")
    if not axe:
        pytest.skip("SENCACHE_AXE names no axe.min.js (npm pack axe-core)")
    run_tiny(page, seed=71)
    show_viewer(page)
    for name in ("steps", "about"):
        page.locator(f"[data-key=fold-{name}]").evaluate("(one) => one.click()")
    page.add_script_tag(path=axe)
    found = page.evaluate("() => axe.run('.sencache-view')")
    worst = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in worst] == []
    assert len(found["passes"]) > 10


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_faults_are_told_on_the_node(page, vue):
    """A wire that is missing, another cache on the model, and what a run failed of."""
    use_vue(page, vue)
    load(page, TINY)
    says = f"""() => {NODES}.map((node) => [node.id, node.widgets?.find(
      (one) => one.name === "sencache_hint")?.element]).filter(([, box]) => box && !box.hidden)
      .map(([id, box]) => `${{id}}: ${{box.textContent}}`).join("|")"""

    def wait(*parts: str) -> None:
        told = f"(parts) => parts.every((part) => ({says})().includes(part))"
        try:
            page.wait_for_function(told, arg=list(parts))
        except Exception as error:
            raise AssertionError(f"{parts}; instead: {page.evaluate(says)}") from error

    page.wait_for_function(f"() => ({says})() === ''")
    size = f"() => {APP}.graph.serialize().nodes.find((node) => node.id == 7).size[1]"
    before = page.evaluate(size)
    page.evaluate(
        f"""() => {{ const [apply, viewer] = [7, 10].map((id) => {APP}.graph.getNodeById(id));
          apply.disconnectOutput(0);
          viewer.disconnectInput(viewer.inputs.findIndex((one) => one.name === "stats")); }}"""
    )
    wait("7: Nothing is cached yet", "10: Nothing to show yet")
    assert page.evaluate(size) == before  # what is saved knows nothing of the hint
    page.wait_for_timeout(500)
    shown = page.locator(".sencache-hint:visible").first.bounding_box()
    assert shown and shown["height"] > 10
    shoot(page, f"hint_{'vue' if vue else 'canvas'}")
    page.evaluate(
        f"""() => {{ const [apply, sampler, viewer] = [7, 8, 10].map(
            (id) => {APP}.graph.getNodeById(id));
          const other = LiteGraph.createNode("EasyCache");
          {APP}.graph.add(other);
          apply.connect(1, viewer, 1);
          apply.connect(0, other, 0);
          other.connect(0, sampler, 0); }}"""
    )
    wait("7: EasyCache is on the same model")
    queue_tiny(page, seed=51)
    wait("7: The last run stopped here. EasyCache is already on this model")
    shoot(page, f"failed_{'vue' if vue else 'canvas'}")
    page.evaluate(
        f"(mode) => {{ {NODES}.find((n) => n.type === 'EasyCache').mode = mode; }}", BYPASS
    )
    queue_tiny(page, seed=51)
    page.wait_for_function(f"() => ({says})() === ''")
    wait_for_run(page)
    assert our_faults(page) == []


def test_new_nodes_follow_the_settings_and_old_caches_can_be_replaced(page):
    use_vue(page, False)
    load(page, TINY)
    made = page.evaluate(
        f"""() => {{
          const settings = {APP}.extensionManager.setting;
          settings.set("SenCache.Budget", 0.8);
          const made = LiteGraph.createNode("SenCacheApply");
          settings.set("SenCache.Budget", 0.5);
          return made.widgets.find((one) => one.name === "budget").value; }}"""
    )
    assert made == 0.8
    badges = page.evaluate(
        f"() => {APP}.extensions.flatMap((one) => one.aboutPageBadges ?? []).map((b) => b.label)"
    )
    assert [one for one in badges if one.startswith("SenCache ")]
    names = page.evaluate(
        """() => { const node = LiteGraph.createNode("SenCachePolicySelect");
          const { options } = node.widgets.find((one) => one.name === "policy");
          return options.getOptionLabel("teacache"); }"""
    )
    if page.evaluate("() => !!LiteGraph.registered_node_types.VOIDSampler"):
        assert names == "Whole step: teacache"
    replaced = page.evaluate(
        f"""() => {{
          const graph = {APP}.graph;
          const [shift, apply, sampler] = [5, 7, 8].map((id) => graph.getNodeById(id));
          const old = LiteGraph.createNode("EasyCache");
          graph.add(old);
          graph.remove(apply);
          shift.connect(0, old, 0); old.connect(0, sampler, 0);
          const entries = () => {APP}.extensions.find((one) => one.name === "SenCache.Replace")
            .getNodeMenuItems(old);
          const off = entries().length;
          {APP}.extensionManager.setting.set("SenCache.Replace", true);
          entries()[0].callback();
          {APP}.extensionManager.setting.set("SenCache.Replace", false);
          const link = graph.links.get(sampler.inputs[0].link);
          const now = graph.getNodeById(link.origin_id);
          const from = graph.links.get(now.inputs[0].link).origin_id;
          const left = graph._nodes.some((one) => one.type === "EasyCache");
          return [off, now.type, String(from), left];
        }}"""
    )
    assert replaced == [0, "SenCacheApply", "5", False]
    assert our_faults(page) == []


def test_templates_are_listed_in_order_with_their_pictures(page):
    titles = page.evaluate(
        "async () => (await window.comfyAPI.api.api.getWorkflowTemplates()).sencache"
    )
    assert titles == [path.stem for path in WORKFLOWS]
    page.evaluate(f"() => {APP}.extensionManager.command.execute('Comfy.BrowseTemplates')")
    listed = page.locator("[role=dialog]").get_by_text("sencache", exact=True).last
    listed.click()
    page.locator("[role=dialog]").get_by_text(WORKFLOWS[0].stem).first.wait_for()
    page.wait_for_timeout(1500)
    shoot(page, "templates")
    page.keyboard.press("Escape")


def shoot(tab, name: str) -> None:
    """A picture for people, where SENCACHE_SHOTS names a folder."""
    if folder := os.environ.get("SENCACHE_SHOTS"):
        tab.screenshot(path=Path(folder) / f"{name}.png")
