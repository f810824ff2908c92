"""Distances, percentiles and bootstrap intervals on numbers made by hand."""

from dataclasses import replace

import pytest
import torch

from benchmarks import measures


def test_psnr():
    reference = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    assert measures.psnr(reference, reference) == 100.0
    assert measures.psnr(reference + 0.1, reference) == pytest.approx(20, abs=1e-4)
    assert measures.psnr(reference + 0.1, reference, peak=10.0) == pytest.approx(40, abs=1e-4)


def test_distance_is_that_of_decoded_clips(small):
    model = small["wan"]
    x = torch.randn(1, *model.spec.latent, generator=torch.Generator().manual_seed(0))
    span = float(x.max() - x.min())
    assert measures.distance(model, x + span / 10, x) == pytest.approx(20, abs=1e-3)
    decoded = replace(model, codec="wan")
    clips = [decoded.decode(latent) for latent in (x + 0.1, x)]
    assert measures.distance(decoded, x[0] + 0.1, x) == measures.psnr(*clips)
    with pytest.raises(ArithmeticError, match="not finite"):
        measures.distance(model, x / 0, x)


def test_the_tenth_percentile():
    assert measures.tail(range(11)) == 1.0
    assert measures.tail([5.0]) == 5.0
    assert measures.tail([30, 40, 20, 10]) == pytest.approx(13.0)


def test_shares_are_of_pairs_with_the_best_peer():
    ours = [10.0, 20.0, 30.0, 40.0]
    peers = {"weak": [0.0, 0.0, 0.0, 0.0], "best": [11.0, 19.0, 30.0, 39.0]}
    won = measures.nearer(ours, peers)
    assert (won.peer, won.share) == ("best", 0.625)  # lost, won, equal, won
    # Draws of four from shares 0, 1, 1/2, 1: the middle 95 % of their means, counted out.
    assert (won.low, won.high) == (0.25, 1.0)


def test_intervals_are_those_of_the_binomial():
    ours = [1.0] * 24 + [0.0] * 8
    won = measures.nearer(ours, {"a": [0.5] * 32})
    assert won.share == 0.75
    # Binomial of 32 draws at 0.75: 2.5 % lie below 19, 2.5 % above 28.
    assert won.low == pytest.approx(19 / 32, abs=1 / 32)
    assert won.high == pytest.approx(28 / 32, abs=1 / 32)
    certain = measures.nearer([1.0] * 5, {"a": [0.0] * 5})
    assert (certain.share, certain.low, certain.high) == (1.0, 1.0, 1.0)


def test_the_best_peer_is_chosen_anew_in_each_draw():
    """Two peers of one mean, of which ours beats one always and the other never."""
    ours = [1.0] * 20
    peers = {"beaten": [0.9] * 20, "even": [0.0, 1.9] * 10}
    won = measures.nearer(ours, peers)
    assert won.low < 0.6 and won.high == 1.0
