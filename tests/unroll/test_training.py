from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from svdinv.unroll.masks import uniform_mask
from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import TLRNet
from svdinv.unroll.training import TrainingConfig, reconstruct, train

NETWORK = TLR(cells=2, features=8, block=16, start="fill", side="samples")
CONFIG = TrainingConfig(steps=12, batch=4, patch=16)


@pytest.fixture(scope="module")
def photos():
    """Smooth colour pictures, some with a black surround."""
    y, x = np.mgrid[0:40, 0:48] / np.float32(40)
    waves = [np.sin(3 * x + k) * np.cos(5 * y - k) / 2 + 0.5 for k in range(3)]
    bright = np.stack(waves, axis=-1).astype(np.float32)
    return [bright, bright[::-1] * (x > 0.5)[..., None].astype(np.float32)]


BLACK = [np.zeros((20, 20, 3), np.float32)]


def test_lowers_the_error_on_what_it_has_not_seen(photos, rng):
    unseen = photos[0][::-1, ::-1]
    mask = uniform_mask(unseen.shape, 0.4, rng)

    def error(network):
        return float(np.mean((reconstruct(network, unseen, mask) - unseen) ** 2))

    # From zeros: the fill leaves little to learn of pictures as smooth as these.
    network = replace(NETWORK, start="adjoint")
    config = replace(CONFIG, steps=60)
    first = train(photos[:1], network, config, limit=1)
    result = train(photos[:1], network, config)
    assert result.ending == "finished"
    assert len(result.losses) == 60
    assert np.mean(result.losses[-10:]) < 0.7 * np.mean(result.losses[:10])
    assert error(result.network) < 0.7 * error(first.network)


def test_follows_the_seed_and_leaves_the_global_one_alone(photos):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = train(photos, NETWORK, CONFIG)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    two = train(photos, NETWORK, CONFIG)
    other = train(photos, NETWORK, replace(CONFIG, seed=1))
    assert one.losses == two.losses
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.losses[0] != other.losses[0]


def test_a_limit_cuts_the_schedule_but_does_not_squeeze_it(photos):
    whole = train(photos, NETWORK, CONFIG)
    part = train(photos, NETWORK, CONFIG, limit=5)
    assert part.ending == "limited"
    assert part.losses == whole.losses[:5]


def test_both_svds_see_the_same_batches_and_weights(photos):
    ours = train(photos, NETWORK, CONFIG, limit=1)
    theirs = train(photos, NETWORK, CONFIG, limit=1, svd=torch.linalg.svd)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)


def test_stops_when_told_to(photos):
    seen = []

    def on_step(step, loss):
        seen.append((step, loss))
        return step == 3

    result = train(photos, NETWORK, CONFIG, on_step=on_step)
    assert result.ending == "stopped"
    assert seen == list(enumerate(result.losses, start=1))
    assert len(seen) == 3
    assert not result.network.training


def test_cap_ends_the_training_and_is_told(photos):
    result = train(photos, NETWORK, CONFIG, cap_seconds=1e-6)
    assert result.ending == "capped"
    assert len(result.losses) == 1
    assert result.cooled_from == 1


def test_no_cap_no_cooling(photos):
    result = train(photos, NETWORK, CONFIG, cap_seconds=1e6)
    assert result.ending == "finished"
    assert result.cooled_from is None


def test_black_patches_break_torch_and_nothing_else():
    theirs = train(BLACK, NETWORK, CONFIG, svd=torch.linalg.svd)
    assert theirs.ending == "broken"
    assert theirs.breakdown.step == 1 == len(theirs.losses)
    assert 0 < theirs.breakdown.weights_lost <= theirs.breakdown.weights
    assert theirs.breakdown.dark_patches == theirs.breakdown.patches == CONFIG.batch
    ours = train(BLACK, NETWORK, CONFIG)
    assert ours.ending == "finished"
    assert ours.breakdown is None
    assert all(p.isfinite().all() for p in ours.network.parameters())


@pytest.fixture
def network():
    torch.manual_seed(5)
    return TLRNet(NETWORK)


def test_reconstruct_keeps_the_samples_and_the_interval(network, rng):
    truth = rng.random((21, 30, 3), dtype=np.float32)
    mask = uniform_mask(truth.shape, 0.4, rng)
    for ensemble in (False, True):
        image = reconstruct(network, truth * mask, mask, ensemble=ensemble)
        assert image.dtype == np.float32
        assert image.shape == truth.shape
        assert image.min() >= 0
        assert image.max() <= 1
        np.testing.assert_allclose(image[mask], truth[mask], atol=1e-6)


def test_ensemble_does_not_care_how_the_picture_is_held(network, rng):
    """Blocks fit, so turning the picture turns the average of all eight."""
    truth = rng.random((32, 48, 3), dtype=np.float32)
    mask = uniform_mask(truth.shape, 0.4, rng)
    upright = reconstruct(network, truth * mask, mask)
    turned = reconstruct(
        network, np.rot90(truth * mask)[:, ::-1], np.rot90(mask)[:, ::-1]
    )
    np.testing.assert_allclose(turned, np.rot90(upright)[:, ::-1], atol=1e-5)
    single = reconstruct(network, truth * mask, mask, ensemble=False)
    assert np.abs(single - upright).max() > 1e-3
