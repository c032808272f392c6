"""Iterations that a traced program holds once, not as often as they are made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat as compat

from svdinv.unroll.arrays import Array, is_tensorflow, namespace, real_dtype


def iterate(
    body: Callable[..., tuple[Array, ...]],
    state: tuple[Array, ...],
    rows: Sequence[tuple[float, ...]],
) -> tuple[Array, ...]:
    """Make ``state = body(*state, *row)`` for each row in turn; give the last state.

    As a loop of Python; but in JAX, and in a graph of TensorFlow, as one of theirs:
    they would compile each iteration anew, which takes minutes for some dozens of
    singular value decompositions. There the numbers of a row are arrays without axes;
    in a column all are int, or all float. `body` keeps shapes and dtypes.
    """
    if len(rows) > 1 and compat.is_jax_array(state[0]):
        return _in_jax(body, state, rows)
    if len(rows) > 1 and is_tensorflow(state[0]):
        tf = sys.modules["tensorflow"]
        if not tf.executing_eagerly():
            return _in_tensorflow(tf, body, state, rows)
    for row in rows:
        state = body(*state, *row)
    return state


def _columns(state: tuple[Array, ...], rows: Sequence[tuple[float, ...]]) -> list[Any]:
    xp = namespace(state[0])
    dtype = real_dtype(state[0], xp)
    return [
        xp.asarray(column, dtype=dtype if isinstance(column[0], float) else xp.int32)
        for column in zip(*rows, strict=True)
    ]


def _in_jax(
    body: Callable[..., tuple[Array, ...]],
    state: tuple[Array, ...],
    rows: Sequence[tuple[float, ...]],
) -> tuple[Array, ...]:
    jax = sys.modules["jax"]

    def once(state: tuple[Array, ...], row: list[Array]) -> tuple[Any, None]:
        return body(*state, *row), None

    last, _ = jax.lax.scan(once, state, _columns(state, rows))
    return tuple(last)


def _in_tensorflow(
    tf: Any,
    body: Callable[..., tuple[Array, ...]],
    state: tuple[Array, ...],
    rows: Sequence[tuple[float, ...]],
) -> tuple[Array, ...]:
    columns = _columns(state, rows)

    def once(i: Array, *state: Array) -> tuple[Array, ...]:
        new = body(*state, *(column[i] for column in columns))
        # Blocks of an image of unknown size come back in a shape that is unknown.
        shaped = (tf.ensure_shape(n, s.shape) for n, s in zip(new, state, strict=True))
        return (i + 1, *shaped)

    _, *last = tf.while_loop(
        lambda i, *_: i < len(rows),
        once,
        (tf.constant(0), *state),
        maximum_iterations=len(rows),
    )
    return tuple(last)
