"""Learning from ordinary runs of a diffusers transformer or pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import GUIDANCE, generate, host, network, wan_pipeline
from host_contract import HALF, STEPS, Interrupted, Job

from sencache_core import CacheConfig
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.model.fingerprint import fingerprint


def test_the_next_run_plans_from_the_last(wan, tmp_path):
    with host.attach(wan.module, HALF, wan.scheduler, learn=tmp_path, guidance=GUIDANCE) as cache:
        outs = [wan(Job(seed=seed)) for seed in range(3)]
        cache.close()
    assert [report.basis for report in cache.reports] == ["prior", "learnt", "learnt"]
    assert [report.learnt_from for report in cache.reports] == [0, 1, 2]
    ((_, learnt),) = LearntStore(tmp_path).listed()
    assert learnt.header.fingerprint == fingerprint(wan.module)
    assert learnt.header.guidance == GUIDANCE and learnt.header.samples == 3
    assert (learnt.runs[0].gram != learnt.runs[0].lead).any()
    with host.attach(wan.module, HALF, wan.scheduler, learn=False):
        assert torch.equal(wan(Job(seed=0)), outs[0])


def test_batched_pairs_teach_the_same(wan, tmp_path):
    for name, batched in (("split", False), ("pair", True)):
        options = {"learn": tmp_path / name, "guidance": GUIDANCE}
        with host.attach(wan.module, HALF, wan.scheduler, **options):
            wan(Job(batched=batched))
    split, pair = (
        next(LearntStore(tmp_path / name).listed())[1].runs[0] for name in ("split", "pair")
    )
    assert (split.t == pair.t).all() and abs(split.gram - pair.gram).max() < 1e-3


def test_an_interrupted_run_teaches_nothing(wan, tmp_path):
    attached = host.attach(wan.module, HALF, wan.scheduler, learn=tmp_path / "learnt")
    with attached, pytest.raises(Interrupted):
        wan(Job(fail_at=5))
    assert not (tmp_path / "learnt").exists()


def test_on_unless_told_otherwise(wan, tmp_path, monkeypatch):
    monkeypatch.setenv("SENCACHE_LEARNT", str(tmp_path / "here"))
    with host.attach(wan.module, HALF, wan.scheduler):
        wan()
    ((_, learnt),) = LearntStore(tmp_path / "here").listed()
    assert learnt.header.guidance == 0  # nobody knows a bare transformer's
    assert (learnt.runs[0].gram == learnt.runs[0].lead).all()
    with host.attach(wan.module, HALF, wan.scheduler, learn=False) as cache:
        wan()
    assert cache.reports[0].basis == "prior"
    config = CacheConfig(learn=LearntStore(tmp_path / "own", full_first=True))
    with host.attach(wan.module, config, wan.scheduler) as cache:
        wan()
    assert cache.reports[0].evaluations == STEPS
    assert next(LearntStore(tmp_path / "own").listed())[1].runs[0].complete


def test_a_pipeline_tells_its_guidance(tmp_path):
    pipe = wan_pipeline(transformer=network("wan"))
    with host.attach(pipe, HALF, learn=tmp_path) as cache:
        generate(pipe)
        generate(pipe, seed=1)
    assert [report.basis for report in cache.reports] == ["prior", "learnt"]
    ((_, learnt),) = LearntStore(tmp_path).listed()
    assert learnt.header.guidance == 5.0 and learnt.header.sampler == "uni_pc"
