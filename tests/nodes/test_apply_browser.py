"""SenCache Apply in the real frontend: the slider answers at once, the run says what it brought."""

import json
import os
from pathlib import Path

import pytest
import test_browser
from test_browser import APP, CHROMIUM, NODES, TINY, load, our_faults, use_vue

browser, tab, page = test_browser.browser, test_browser.tab, test_browser.page

#: A loose bound in ms on the time from the slider's move to the answer, best of several.
LATE = 500
MOVES = (0.62, 0.34, 0.78, 0.56, 0.44, 0.66)
SECONDS = 60

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
]

NODE = f"""{NODES}.find((node) => node.type === "SenCacheApply")"""
PANEL = """(node) => node.widgets.find((one) => one.name === "sencache_preview").element"""
LINE = f"""({PANEL})({NODE}).querySelector(".sencache-line").textContent"""


def shot(view, name: str) -> None:
    folder = os.environ.get("SENCACHE_SHOTS")
    if folder:
        view.screenshot(path=str(Path(folder) / f"{name}.png"))


def says(view, text: str, where: str = LINE) -> None:
    try:
        view.wait_for_function(
            f"(text) => ({where}).includes(text)", arg=text, timeout=1000 * SECONDS
        )
    except Exception as error:
        raise AssertionError(f"{text!r} is not said but {view.evaluate(where)!r}") from error


def panel_text(kind: str) -> str:
    return f"""({PANEL})({NODES}.find((node) => node.type === "{kind}")).textContent"""


def show(view, *kinds: str) -> None:
    """Bring nodes of these kinds side by side into view."""
    while view.evaluate("() => !!document.querySelector('[role=dialog]')"):
        view.keyboard.press("Escape")  # the frontend's own greeting
        view.wait_for_timeout(300)
    view.evaluate(
        f"""(kinds) => {{
          const all = {NODES};
          for (const node of all) node.pos = [node.pos[0] + 4000, node.pos[1]];
          kinds.forEach((kind, i) => {{
            all.find((one) => one.type === kind).pos = [400 * i, 0]; }});
          Object.assign({APP}.canvas.ds, {{ scale: 1.3, offset: [120, 110] }});
          {APP}.canvas.setDirty(true, true); }}""",
        list(kinds),
    )
    view.wait_for_timeout(800)


def drag(view, share: float) -> None:
    """Press the slider in the classic canvas at ``share`` of its width."""
    x, y = view.evaluate(
        f"""(share) => {{
          const node = {NODE}, slider = node.widgets.find((one) => one.name === "budget");
          const at = [node.pos[0] + 15 + share * (node.size[0] - 30), node.pos[1] + slider.y + 10];
          const [x, y] = {APP}.canvas.ds.convertOffsetToCanvas(at);
          const box = {APP}.canvas.canvas.getBoundingClientRect();
          return [x + box.left, y + box.top]; }}""",
        share,
    )
    view.mouse.move(x, y)
    view.mouse.down()
    view.mouse.move(x + 2, y)
    view.mouse.up()


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_apply(page, server, vue):
    use_vue(page, vue)
    name = "vue" if vue else "canvas"
    load(page, TINY)
    says(page, "25 of 50 steps, about 2x")
    page.evaluate(
        f"""() => {{
          const plan = LiteGraph.createNode("SenCachePlan");
          {APP}.graph.add(plan);
          {NODE}.connect(0, plan, 0); }}"""
    )
    show(page, "SenCacheApply", "SenCachePlan")
    shot(page, f"apply_{name}_before")

    # One slider and one preset: the rest is hidden, and keeps its values.
    hidden = page.evaluate(
        f"() => {NODE}.widgets.filter((one) => one.options?.advanced).map((one) => one.name)"
    )
    assert {"rule", "tap", "learn", "aim", "min_steps"} <= set(hidden)
    drawn = page.evaluate(
        f"""() => {{
          const node = {NODE}, own = node.widgets.find((one) => one.name === "sencache_preview");
          return [node.size[1], own.element.getBoundingClientRect().height]; }}"""
    )
    assert drawn[1] > 80
    if not vue:
        gaps = page.evaluate(
            f"() => {NODE}.widgets.filter((one) => !one.hidden && one.name !== 'sencache_hint')"
            ".map((one) => one.y)"
        )
        assert max(b - a for a, b in zip(gaps, gaps[1:], strict=False)) < 40, gaps
    else:
        assert not page.get_by_text("start_percent", exact=True).count()

    # The slider answers.
    page.evaluate(
        f"""() => {{
          const line = ({PANEL})({NODE}).querySelector(".sencache-line"), seen = (window.seen = []);
          new MutationObserver(() => seen.push(performance.now())).observe(
            line, {{ childList: true, characterData: true, subtree: true }});
          const slider = {NODE}.widgets.find((one) => one.name === "budget");
          const before = slider.callback;
          slider.callback = function () {{
            window.moved = performance.now(); return before.apply(this, arguments); }}; }}"""
    )
    times = []
    for budget in MOVES:
        page.evaluate("() => { window.seen.length = 0; window.moved = 0; }")
        if vue:
            page.evaluate(
                f"""(budget) => {{
                  const slider = {NODE}.widgets.find((one) => one.name === "budget");
                  slider.value = budget; slider.callback(budget); }}""",
                budget,
            )
        else:
            drag(page, (budget - 0.2) / 0.8)
        steps = page.evaluate(
            f"() => Math.floor(50 * {NODE}.widgets.find((w) => w.name === 'budget').value + 0.5)"
        )
        says(page, f"{steps} of 50 steps")
        times.append(page.evaluate("() => window.seen.at(-1) - window.moved"))
    print(f"\n{name}: slider to text, ms: {', '.join(f'{one:.0f}' for one in sorted(times))}")
    assert min(times) < LATE, times

    # A preset sets the slider and is pressed.
    page.evaluate(f"""() => ({PANEL})({NODE}).querySelector("[data-preset='fast']").click()""")
    says(page, "18 of 50 steps")
    state = page.evaluate(
        f"""() => {{
          const pressed = [...({PANEL})({NODE}).querySelectorAll("[aria-pressed='true']")];
          const slider = {NODE}.widgets.find((one) => one.name === "budget");
          return [slider.value, pressed.map((one) => one.textContent)]; }}"""
    )
    assert state == [0.36, ["Fast"]]
    saved = page.evaluate(
        f"() => {APP}.graph.serialize().nodes.find((n) => n.type === 'SenCacheApply')"
    )
    own = json.loads(TINY.read_text(encoding="utf-8"))
    before = next(node for node in own["nodes"] if node["type"] == "SenCacheApply")
    assert saved["widgets_values"] == [0.36, *before["widgets_values"][1:]]

    # Plan warns where its sampler is another one, and answers to its button.
    set_widgets(page, "SenCachePlan", steps=20)
    says(page, "samples otherwise: 50 steps of euler", panel_text("SenCachePlan"))
    shot(page, f"apply_{name}_plan")

    # Steps of the sampler are read anew.
    set_widgets(page, "KSampler", steps=12, seed=1000 + vue)
    set_widgets(page, "EmptyHunyuanLatentVideo", width=64, height=64, length=5)
    page.evaluate("() => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('graphChanged'))")
    says(page, "of 12 steps, about")
    page.evaluate(f"() => {APP}.queuePrompt(0, 1)")
    says(page, "x faster, 4 of 12 steps")
    shot(page, f"apply_{name}_after")
    clipped = page.evaluate(
        f"""() => {{
          const page = ({PANEL})({NODE}).querySelector(".sencache-panel-page");
          return page.scrollHeight - page.clientHeight; }}"""
    )
    assert clipped <= 0, clipped
    set_palette(page, "light")
    shot(page, f"apply_{name}_light")
    set_palette(page, "dark")
    page.evaluate(f"""() => ({PANEL})({NODE}).querySelector("[data-preset='balanced']").click()""")
    says(page, "6 of 12 steps, about 2x")

    # In a subgraph too.
    page.evaluate(f"() => {{ {APP}.graph.convertToSubgraph(new Set([{NODE}])); }}")
    set_widgets(page, "KSampler", steps=14)
    says(page, "7 of 14 steps, about 2x")

    # What is missing is named.
    page.evaluate(f"(mode) => {{ {NODE}.mode = mode; }}", 4)
    page.evaluate("() => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('graphChanged'))")
    says(page, "Bypassed", panel_text("SenCacheApply"))
    page.evaluate(f"(mode) => {{ {NODE}.mode = mode; }}", 0)
    page.evaluate(
        f"""() => {{
          for (const node of {NODES}) if (node.type === "KSampler") {APP}.graph.remove(node);
          window.comfyAPI.api.api.dispatchEvent(new CustomEvent('graphChanged')); }}"""
    )
    says(page, "Connect a sampler", panel_text("SenCacheApply"))
    shot(page, f"apply_{name}_nothing")
    assert our_faults(page) == []


def set_palette(view, palette: str) -> None:
    view.evaluate(
        f"(one) => {APP}.extensionManager.setting.set('Comfy.ColorPalette', one)", palette
    )
    view.wait_for_timeout(500)


def set_widgets(view, kind: str, **values) -> None:
    view.evaluate(
        f"""([kind, values]) => {{
          for (const node of {NODES}.filter((one) => one.type === kind))
            for (const widget of node.widgets ?? [])
              if (widget.name in values) {{
                widget.value = values[widget.name]; widget.callback?.(widget.value); }}
          window.comfyAPI.api.api.dispatchEvent(new CustomEvent("graphChanged")); }}""",
        [kind, values],
    )
