"""Train the gate of ``policies/bag.py`` and write its weights: minutes on one core.

    python tools/train_bag.py

The planner finds a schedule for every bundled model, number of steps and budget, for a forecast
that holds. Each is sampled once, as it is; what the gate would have read at every round, and what
the schedule does there, is what it learns. It is scored on schedules that were kept aside.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sencache_core import (  # noqa: E402
    FAMILIES,
    CacheConfig,
    Guards,
    Hold,
    Planned,
    Schedule,
    flow_sigmas,
)
from sencache_core.app.demo import (  # noqa: E402
    calibration_prompts,
    load_diffusers,
    make_scheduler,
    sample,
)
from sencache_core.hosts import diffusers as host  # noqa: E402
from sencache_core.policies.bag import BagState, Gate  # noqa: E402
from sencache_core.tiny import SPECS  # noqa: E402
from sencache_core.tiny.sampling import cog_alphas, cog_timesteps  # noqa: E402

OUT = ROOT / "sencache_core" / "policies" / "bag.json"
STEPS, BUDGETS, UNITS, ROUNDS = (20, 40), (0.3, 0.4, 0.5, 0.65), 16, 300
PARTS = 4


@dataclass(frozen=True)
class Teacher(Planned):
    """A plan that notes what the gate would have read, and what it does itself."""

    seen: list = None

    def start(self, run):
        return super().start(run), BagState(run, self.mask.upper().count("C"))

    def decide(self, step, last, state):
        own, read = state
        figures = read.figures(step, last)
        read.x = step.x
        decision, own = super().decide(step, last, own)
        self.seen.append((figures, self.mask[step.ordinal] == "C"))
        return decision, (own, read)

    def observe(self, step, state):
        own, read = state
        read.x, read.last, read.spent = step.x, step.ordinal, read.spent + 1
        return super().observe(step, own), read


def levels(family: str, steps: int) -> Schedule:
    if SPECS[family].prediction == "flow":
        return Schedule(flow_sigmas(steps, SPECS[family].shift), "euler")
    signal = [float(cog_alphas()[t].clamp_min(1e-12)) for t in cog_timesteps(steps)]
    return Schedule((*((1 / a - 1) ** 0.5 for a in signal), 0.0), "ddim")


def lessons(family: str) -> list[list]:
    """What every schedule of a family shows, one list a schedule."""
    module, scheduler, prompts = (
        load_diffusers(family),
        make_scheduler(family),
        calibration_prompts(),
    )
    found = []
    for steps in STEPS:
        for budget in BUDGETS:
            guards = Guards(1, 0, 10)
            plain = CacheConfig(Planned(), Hold(), guards, budget, hindsight=False)
            mask = str(plain.plan(FAMILIES[family], levels(family, steps)))
            seen: list = []
            guards = Guards(1, 0, 10_000)
            config = CacheConfig(Teacher(mask=mask, seen=seen), Hold(), guards, hindsight=False)
            prompt = prompts[len(found) % len(prompts)]
            with host.attach(module, config, scheduler) as cached:
                sample(family, module, scheduler, prompt, len(found), steps)
            (report,) = cached.reports
            done = "".join("." if step.decision == "reused" else "C" for step in report.steps)
            assert done == mask, (done, mask, report.texts)
            print(f"{family:9s} {steps} {budget:.2f} {mask}", flush=True)
            found.append(seen)
    return found


def train(rows: list) -> dict:
    """Weights of a gate, fitted to ``(figures, computed)`` rows, both kinds counting alike."""
    torch.manual_seed(0)
    x = torch.tensor([row for row, _ in rows], dtype=torch.float64)
    y = torch.tensor([label for _, label in rows], dtype=torch.float64)
    mean, spread = x.mean(dim=0), x.std(dim=0)
    x = (x - mean) / spread
    inner, outer = torch.nn.Linear(6, UNITS), torch.nn.Linear(UNITS, 1)
    net = torch.nn.Sequential(inner, torch.nn.Tanh(), outer).double()
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=(1 - y.mean()) / y.mean())
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        loss(net(x)[:, 0], y).backward()
        optimizer.step()
    raw = {"mean": mean, "spread": spread, "inner": inner.weight, "inner_bias": inner.bias}
    raw |= {"outer": outer.weight[0], "outer_bias": outer.bias[0]}
    return {name: np.round(value.detach().numpy(), 5).tolist() for name, value in raw.items()}


def right(weights: dict, rows: list) -> float:
    """Share of the rows that a gate decides as they were."""
    arrays = {name: np.array(value) for name, value in weights.items() if name != "outer_bias"}
    gate = Gate(**arrays, outer_bias=weights["outer_bias"])
    return float(np.mean([(gate(figures) > 0.5) == computed for figures, computed in rows]))


def main() -> None:
    torch.set_num_threads(1)
    runs = [seen for family in SPECS for seen in lessons(family)]
    aside = []
    for part in range(PARTS):
        learnt = [row for k, seen in enumerate(runs) if k % PARTS != part for row in seen]
        others = [row for k, seen in enumerate(runs) if k % PARTS == part for row in seen]
        aside.append(right(train(learnt), others))
    rows = [row for seen in runs for row in seen]
    gate = train(rows)
    told = (
        f"python tools/train_bag.py: {len(rows)} rounds of {len(runs)} planned schedules of the "
        f"bundled models ({', '.join(SPECS)}; {', '.join(map(str, STEPS))} steps; budgets "
        f"{', '.join(map(str, BUDGETS))}). It decides {right(gate, rows):.0%} of them as planned; "
        f"trained on three quarters, {np.mean(aside):.0%} of the fourth's."
    )
    OUT.write_text(json.dumps({"source": told, "gate": gate}, indent=1) + "\n", encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
