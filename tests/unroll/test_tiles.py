from __future__ import annotations

import numpy as np
import pytest

from svdinv.unroll.tiles import tiles


@pytest.mark.parametrize("shape", [(64, 64), (1, 70), (33, 100)])
def test_every_pixel_is_kept_once_and_seen_with_its_surroundings(shape):
    image = np.arange(np.prod(shape)).reshape(shape)
    found = np.full(shape, -1)
    for seen, inside, kept in tiles(*shape, 32, 8):
        assert (found[kept] == -1).all()
        found[kept] = image[seen][inside]
        for part, whole, length in zip(kept, seen, shape, strict=True):
            assert whole.start == max(0, part.start - 8)
            assert whole.stop == min(length, part.stop + 8)
            assert whole.start % 8 == 0
            assert part.stop - part.start <= 32
    np.testing.assert_array_equal(found, image)
