"""Small checkpoints."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sencache_core.tiny import SPECS, build


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Checkpoints of random weights, two latent frames of four by four, by family."""
    pytest.importorskip("diffusers", reason="the models are those of diffusers")
    from benchmarks import load_checkpoint

    folder = tmp_path_factory.mktemp("small")
    models = {}
    for family, spec in SPECS.items():
        torch.manual_seed(0)
        config = {**spec.config, "num_layers": 3}
        module = build(family).__class__(**config)
        save_file(module.state_dict(), folder / f"{family}.safetensors")
        latent = [spec.latent[0], 2, 4, 4]
        facts = {"family": family, "config": config, "latent": latent, "guidance": 3.0}
        (folder / f"{family}.json").write_text(json.dumps(facts))
        models[family] = load_checkpoint(
            folder / f"{family}.safetensors", folder / f"{family}.json"
        )
    return models
