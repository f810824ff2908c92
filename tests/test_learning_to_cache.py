"""Learning-to-Cache: the greedy search by hand, routers of both forms, and what a run computes."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from layered import (
    PAIRS,
    PLACES,
    REST,
    WEIGHTS,
    Network,
    Part,
    latent,
    measured,
    profile_of,
    ran,
    sampled,
)
from toys import COND, UNCOND, WAN, half_up, schedule

from sencache_core import CacheConfig, Guards
from sencache_core.model.taps import tapped
from sencache_core.policies.learning_to_cache import LearningToCache, read_router
from sencache_core.run.runner import Call
from sencache_core.types import CROSS, MLP, SELF

OPEN = Guards(warmup=1, cooldown=0, longest_run=99)
WHOLE = sum(WEIGHTS.values()) + REST + PAIRS
#: Share of all block work that one layer is, by kind, of three blocks.
SHARES = {k: (w + (PAIRS if k == SELF else 0)) / WHOLE / 3 for k, w in WEIGHTS.items()}


def config(policy, budget=None, steps=20, guards=OPEN):
    return CacheConfig(policy, guards=guards, budget=budget, profile=profile_of(measured(steps)))


def changes(steps: int):
    """By kind ``[depth, rounds]``, relative L1 since the round before."""
    curves = measured(steps)
    found = {k: c.change[:, 0, : steps - 1][:, ::-1] for k, c in curves.kinds.items()}
    return {k: np.pad(v, ((0, 0), (1, 0)), constant_values=np.inf) for k, v in found.items()}


def test_every_other_step_reuses_what_changes_least_for_its_work():
    report, _, network = sampled(config(LearningToCache(0.12)))
    found, spared = changes(20), np.zeros(20)
    largest = max(SHARES.values())
    expected = {SELF: [20] * 3, CROSS: [20] * 3, MLP: [20] * 3}
    for kind, table in found.items():
        for number in range(1, 20, 2):
            for block in range(3):
                if table[block, number] * largest / SHARES[kind] <= 0.12:
                    expected[kind][block] -= 1
                    spared[number] += SHARES[kind]
    assert {kind: ran(network, kind) for kind in expected} == expected
    assert [step.cost for step in report.steps] == pytest.approx(list(1 - spared))
    assert spared[::2].sum() == 0 and len(set(spared)) > 3


@pytest.mark.parametrize("budget", [0.6, 0.7, 0.85])
def test_a_budget_is_met_but_for_one_layer(budget):
    """The next layer in the order of change for work is what it falls short by, at most."""
    report, *_ = sampled(config(LearningToCache(), budget, 50), 50)
    asked = half_up(budget * 50)
    assert asked - max(SHARES.values()) <= report.cost * 50 <= asked + 1e-6


def test_what_is_chosen_first_changes_least_for_its_work():
    """Everything reused at a smaller budget's limit is reused at a looser one, too."""
    tight, *_ = sampled(config(LearningToCache(), 0.9, 50), 50)
    loose, *_ = sampled(config(LearningToCache(), 0.7, 50), 50)
    pairs = zip(tight.steps, loose.steps, strict=True)
    assert all(a.cost >= b.cost - 1e-9 for a, b in pairs)


def checkpoint(path, active) -> str:
    """A checkpoint of routers: ``active [steps, 2 depth]``, in ascending timestep."""
    routers = {f"{n}.prob": torch.where(row, 3.0, -5.0) for n, row in enumerate(active)}
    torch.save({"routers": routers, "args": Namespace(depth=3)}, path)
    return str(path)


@pytest.mark.parity("learning_to_cache", "the authors' router files")
def test_a_checkpoint_is_read_as_the_authors_do(tmp_path):
    """Their loop, counted from the end of sampling: at even numbers what is inactive is reused."""
    active = torch.rand(20, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    path = checkpoint(tmp_path / "router.pt", active)
    table = read_router(path)
    for step in range(20):
        number = 19 - step
        rank = active[number].nonzero().flatten().tolist() if number % 2 == 0 else range(6)
        for block in range(3):
            assert table[SELF][block, step] == (2 * block not in rank)
            assert table[MLP][block, step] == (2 * block + 1 not in rank)


def test_scores_of_a_tenth_are_not_active(tmp_path):
    """As in the authors' commands, a layer runs where its score lies above 0.1, strictly."""
    tenth = torch.tensor([0.1]).logit()
    torch.save({"routers": {"0.prob": torch.cat([tenth - 1e-3, tenth + 1e-3])}}, tmp_path / "r.pt")
    table = read_router(str(tmp_path / "r.pt"))
    assert table[SELF].tolist() == [[True]] and table[MLP].tolist() == [[False]]


def test_a_run_follows_its_router(tmp_path):
    """Outputs are the authors' loop's: what is not active answers with the step before's output."""
    active = torch.rand(20, 6, generator=torch.Generator().manual_seed(5)) < 0.4
    policy = LearningToCache(router=checkpoint(tmp_path / "router.pt", active))
    own = CacheConfig(policy, guards=OPEN, budget=0.3)
    report, outputs, cached = sampled(own)
    assert report.budget is None
    network, kept = Network(), {}
    for step, sigma in enumerate(schedule(20, 1.0).sigmas[:-1]):
        x, number = latent(sigma), 19 - step
        network.at(sigma)
        with torch.no_grad():
            for k, block in enumerate(network.blocks):
                for row, part in ((2 * k, block.attn), (None, block.cross), (2 * k + 1, block.mlp)):
                    if row is None or number % 2 or active[number, row]:
                        kept[part] = part(x)
                    x = x + 0.05 * kept[part]
        torch.testing.assert_close(outputs[step], x)
    layers = [(a, b) for a, b in zip(cached.modules(), network.modules(), strict=True)]
    assert all(a.ran == b.ran for a, b in layers if isinstance(a, Part))


def test_a_router_in_json(tmp_path):
    path = tmp_path / "router.json"
    path.write_text(
        json.dumps({"cross": [[1, 1], [1, 0], [1, 1]], "mlp": [[1, 1], [0, 0], [1, 1]]})
    )
    table = read_router(str(path))
    assert table[CROSS].tolist() == [[False] * 3, [False, True, False]]
    assert table[MLP].tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"heads": [[1]]}', "by kind of layer"),
        ("[1, 2]", "by kind of layer"),
        ('{"self": [[1, 2]]}', "0 or 1"),
        ('{"self": [[1], [1, 0]]}', "inhomogeneous|0 or 1"),
        ('{"self": [[1]], "mlp": [[1, 0]]}', "differ"),
        ("nothing", "Expecting"),
    ],
)
def test_other_json_is_no_router(tmp_path, text, words):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_router(str(tmp_path / "r.json"))


def test_a_router_that_does_not_fit_turns_caching_off_and_says_so(tmp_path):
    path = checkpoint(tmp_path / "router.pt", torch.zeros(20, 6, dtype=torch.bool))
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for router, words in (
        (path, "is for 20 steps, and this run has 30"),
        (str(tmp_path / "missing.pt"), "cannot be read"),
        (str(tmp_path / "other.pt"), "holds no routers"),
    ):
        report, *_ = sampled(CacheConfig(LearningToCache(router=router), guards=OPEN), 30)
        assert report.cost == 1.0
        assert any(words in message for message in report.texts)


def test_a_router_of_another_depth_reuses_nothing_and_says_so(tmp_path):
    path = checkpoint(tmp_path / "router.pt", torch.zeros(20, 6, dtype=torch.bool))
    report, *_ = sampled(CacheConfig(LearningToCache(router=path), guards=OPEN), count=4)
    assert report.cost == 1.0
    assert any("no places to skip" in message for message in report.texts)


def test_with_a_gradient_outputs_go_on_along_their_change():
    """GOC's variant: 0.8 of the change a step, of the last two computed outputs, is added."""
    policy = LearningToCache(5.0, gradient=0.8, where="feed-forward")
    _, outputs, _ = sampled(config(policy))
    network, kept = Network(), {}
    for step, sigma in enumerate(schedule(20, 1.0).sigmas[:-1]):
        x = latent(sigma)
        network.at(sigma)
        with torch.no_grad():
            for block in network.blocks:
                x = x + 0.05 * block.attn(x)
                x = x + 0.05 * block.cross(x)
                past = kept.setdefault(block, [])
                if step % 2 == 0:
                    past.append(block.mlp(x))
                    y = past[-1]
                else:
                    y = past[-1] + 0.4 * (past[-1] - past[-2]) if len(past) > 1 else past[-1]
                x = x + 0.05 * y
        torch.testing.assert_close(outputs[step], x)


@torch.no_grad()
def test_a_branch_that_sat_out_is_computed_when_it_returns(tmp_path):
    """As guidance with a range of its own: what is kept of it is older than the schedule knows.

    Of self-attention and feed-forward one runs at every step, and so no evaluation is full.
    """
    even = [[int(step % 2 == 0)] * 3 for step in range(20)]
    odd = [[int(step % 2 == 1 or step == 0)] * 3 for step in range(20)]
    (tmp_path / "router.json").write_text(json.dumps({"self": even, "mlp": odd}))
    policy = LearningToCache(router=str(tmp_path / "router.json"))
    config, sched = CacheConfig(policy, guards=OPEN), schedule(20, 1.0)
    session, network, computed = config.start(WAN, sched), Network(), {}
    for step, sigma in enumerate(sched.sigmas[:-1]):
        session.begin((latent(sigma),), sigma)
        network.at(sigma)
        for branch in (COND, UNCOND):
            if branch is UNCOND and 5 <= step < 12:
                continue
            before = ran(network, MLP)[0]
            with Call(session, (branch,)) as call, tapped(config.tapping, network, PLACES, call):
                network(latent(sigma))
            computed.setdefault(branch, []).append((step, ran(network, MLP)[0] > before))
    session.finish(True)
    due = [step for step in range(20) if odd[step][0]]
    assert [step for step, did in computed[COND] if did] == due
    here = [step for step in due if step not in range(5, 12)]
    assert [step for step, did in computed[UNCOND] if did] == sorted([*here, 12])
