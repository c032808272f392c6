"""Transforms by framework, and which operators do not go through them.

The tests of this folder try every operator of the registry under the transforms that
are quick to try, and `REPRESENTATIVES` under all; what is listed here under `LIMITS`
must fail, all else must not. Run as a script, it writes the page of the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svdinv.operators import OPERATORS

ALL = ("svd", *sorted(OPERATORS))

# One operator for each kind of operation of svdinv.core: a framework sees no others,
# for the rest of an operator is made of the framework's own array functions.
# `test_table` fails if an operator calls an operation that none of these does.
REPRESENTATIVES = (
    *("svd", "eigh", "expm", "kabsch", "nuclear_norm", "spectral_map", "svd_lowrank"),
    "svt",
)
PAGE = Path(__file__).parents[2] / "docs" / "transforms.md"


@dataclass(frozen=True)
class Transform:
    """A transform of a framework.

    Attributes
    ----------
    name : str
        In the table, and in the names of the tests.
    means : str
        What is compared, for the page.
    every : bool
        Whether every operator is tried, or because that would take minutes, the
        representatives, and one operator of each limit.
    """

    name: str
    means: str
    every: bool = True


@dataclass(frozen=True)
class Limit:
    """Operators that do not go through a transform.

    Attributes
    ----------
    framework, transform : str
        Which.
    operators : tuple of str
        Of the registry, or ``svd``.
    why : str
        One sentence for the page, with a full stop.
    endless : bool
        Whether to try it would take minutes, so that no test does.
    """

    framework: str
    transform: str
    operators: tuple[str, ...]
    why: str
    endless: bool = False


TRANSFORMS = {
    "PyTorch": (
        Transform("jvp", "`torch.func.jvp`, and dual tensors of `forward_ad`"),
        Transform(
            "batched gradient",
            "`autograd.grad` with `is_grads_batched`, but not of compiled functions",
        ),
        Transform("vmap", "`vmap(f)`, and the gradient of its sum"),
        Transform("nested vmap", "`vmap(vmap(f))`, and the gradient of its sum"),
        Transform("vmap of grad", "`vmap(grad(f))`, also nested"),
        Transform("jacobian", "`jacrev` and `jacfwd`, and `vmap` of both"),
        Transform("vmap of hessian", "`vmap(hessian(f))`"),
        Transform("checkpoint", "`torch.utils.checkpoint`, not reentrant"),
        Transform("autocast", "value and gradient of single precision, bfloat16"),
        Transform(
            "compile",
            "whole (`fullgraph`), value and gradient, `aot_eager`",
            every=False,
        ),
        Transform(
            "export",
            "`torch.export` with a dynamic batch, value and gradient",
            every=False,
        ),
        Transform("trace", "`torch.jit.trace`, value and gradient", every=False),
    ),
    "JAX": (
        Transform("jit", "`jit` of value and gradient, x64 off and on", every=False),
        Transform("jvp", "`jit(jvp(f))`", every=False),
        Transform(
            "vmap", "`jit` of `vmap(f)`, and of the gradient of its sum", every=False
        ),
        Transform("vmap of grad", "`jit(vmap(vmap(grad(f))))`"),
        Transform("hessian", "`jit` and `vmap` of `jvp(grad(f))`", every=False),
        Transform(
            "scan", "`lax.scan` of `jax.checkpoint`, and the gradient", every=False
        ),
        Transform(
            "export", "`jax.export`, symbolic batch, value and gradient", every=False
        ),
        Transform("export rows", "`jax.export`, symbolic number of rows", every=False),
        Transform("shard_map", "with `check_vma`, value and gradient", every=False),
        Transform(
            "sharded", "`jit` of a sharded batch; the results stay sharded", every=False
        ),
    ),
    "TensorFlow": (
        Transform("tape", "`GradientTape`, persistent, and a tape of a tape"),
        Transform("jacobian", "`tape.jacobian`, by its parallel loop", every=False),
        Transform(
            "ForwardAccumulator",
            "eager. Of a `tf.function` that a tape has differentiated before, most "
            "raise NotImplementedError: make another",
            every=False,
        ),
        Transform(
            "hessian",
            "a tape inside a `ForwardAccumulator`, and around it, eager. In "
            "`tf.function` one inside takes second derivatives of few operators, one "
            "around it, if persistent, of most: a tape of a tape takes those of all. "
            "An accumulator inside another is wrong of functions of TensorFlow's own, "
            "such as `y * (1 / (y * y))` of `y = x * x * x`",
            every=False,
        ),
        Transform(
            "ForwardAccumulator in a function",
            "in `tf.function`, but not around its loops, such as `tf.while_loop`",
            every=False,
        ),
        Transform("unknown batch", "`tf.function`, value and gradient", every=False),
        Transform("unknown rows", "`tf.function`, value and gradient", every=False),
        Transform(
            "vectorized_map",
            "of value and gradient; a tape outside of it raises LookupError, because "
            "TensorFlow drops the gradient: use `tf.map_fn`",
            every=False,
        ),
        Transform(
            "XLA", "`jit_compile=True`, value and gradient of real arrays", every=False
        ),
        Transform("complex XLA", "the same of complex arrays", every=False),
        Transform(
            "SavedModel",
            "saved and loaded, value and gradient; a second one raises TypeError",
            every=False,
        ),
    ),
    "Keras": (
        *(
            Transform(name, f"batch `None`, {how}", every=False)
            for name, how in (
                ("tensorflow", "without `jit_compile`"),
                ("tensorflow, jit_compile", "with `jit_compile`"),
                ("jax", "without `jit_compile`"),
                ("jax, jit_compile", "with `jit_compile`"),
                # With it PyTorch compiles by Inductor, which takes minutes.
                ("torch", "without `jit_compile`; with it is not tested"),
            )
        ),
    ),
    "MLX": (
        Transform("jvp", "`mx.jvp`"),
        Transform("vmap", "`mx.vmap(f)`, and the gradient of its sum"),
        Transform("vmap of grad", "`mx.vmap(mx.grad(f))`"),
        Transform("compile", "`mx.compile` of value and gradient"),
    ),
    "Dask": (
        Transform("chunks", "a batch in chunks, lazy"),
        Transform("vjp", "`svdinv.dask.vjp`, lazy"),
        Transform("jvp", "`svdinv.dask.jvp`, lazy"),
    ),
}

LAYERS = (
    "Casorati",
    "FirmThreshold",
    "LocalLowRank",
    "LowRank",
    "SchattenProx",
    "SingularValueThreshold",
    "TensorSingularValueThreshold",
    "Whitening",
)

_NO_COMPLEX_SVD = (
    "XLA has no SVD of complex matrices in TensorFlow. Operators with "
    '`method="gram"` need none.'
)
_BY_EIGENVALUES = (
    *("eigh", "eigh_generalized", "expm", "hermitian_map", "inv_sqrtm", "logm"),
    *("powm", "psd_project", "sqrtm"),
)

LIMITS: tuple[Limit, ...] = (
    Limit(
        "PyTorch",
        "trace",
        ("svd_lowrank",),
        "The numbers of rows and columns decide what is computed: the error says so.",
    ),
    Limit(
        "JAX",
        "export rows",
        ("bures_distance", *_BY_EIGENVALUES),
        "Matrices are square: a symbol for the rows is one for the columns too.",
    ),
    Limit(
        "JAX",
        "export rows",
        ("svd_lowrank",),
        "The numbers of rows and columns decide what is computed: the error says so.",
    ),
    Limit(
        "JAX",
        "export rows",
        ("tsvt",),
        "`jnp.fft` transforms no axis of symbolic length.",
    ),
    Limit(
        "JAX",
        "sharded",
        ("tsvt",),
        "XLA gathers what it transforms by Fourier, also for `jnp.fft` alone.",
    ),
    Limit(
        "TensorFlow",
        "unknown rows",
        ("local_low_rank", "null_vector", "svd_lowrank"),
        "The numbers of rows and columns decide what is computed: the error says so.",
    ),
    Limit("TensorFlow", "XLA", ("tsvt",), _NO_COMPLEX_SVD),
    Limit(
        "TensorFlow",
        "complex XLA",
        tuple(
            name
            for name in ALL
            if name not in (*_BY_EIGENVALUES, "kabsch", "svd_residual")
        ),
        _NO_COMPLEX_SVD,
    ),
    Limit("TensorFlow", "complex XLA", ("kabsch",), "Points are real."),
    Limit(
        "MLX",
        "compile",
        ("kabsch",),
        "`mx.compile` fails (`_Map_base::at`) at the gradient with weights, `scale` "
        "and `reflection` together; without one of these it compiles.",
    ),
    Limit(
        "Dask",
        "vjp",
        ("svd_lowrank",),
        "Its derivative is an iteration, of which a lazy graph takes minutes.",
        endless=True,
    ),
    Limit(
        "Dask",
        "jvp",
        ("svd_lowrank",),
        "Its derivative is an iteration, of which a lazy graph takes minutes.",
        endless=True,
    ),
    Limit(
        "Keras",
        "tensorflow, jit_compile",
        ("tsvt",),
        _NO_COMPLEX_SVD,
    ),
    Limit(
        "Keras",
        "tensorflow, jit_compile",
        LAYERS,
        "XLA decomposes no complex matrices, and real ones to 1e-6 only, so that the "
        "layers decline it: Keras warns, and runs the model without.",
    ),
)


def limit(framework, transform, operator):
    """Give the limit that an operator has, or None."""
    for found in LIMITS:
        if (found.framework, found.transform) == (framework, transform) and (
            operator in found.operators
        ):
            return found
    return None


def is_tried(framework, transform, operator):
    """Tell whether a test tries the operator under the transform."""
    (known,) = (t for t in TRANSFORMS[framework] if t.name == transform)
    if operator in LAYERS:
        return True
    there = limit(framework, transform, operator)
    first = there is not None and operator == there.operators[0]
    return known.every or first or operator in REPRESENTATIVES


def page():
    """Compose the page of the documentation."""
    names = [f"`{name}`" for name in REPRESENTATIVES]
    lines = [_INTRODUCTION.format(", ".join(names[:-1]) + " and " + names[-1])]
    for framework, transforms in TRANSFORMS.items():
        reasons: list[str] = []
        rows = []
        for row in (*ALL, *LAYERS):
            limits = [limit(framework, t.name, row) for t in transforms]
            if any(limits):
                reasons += [there.why for there in limits if there is not None]
                rows.append((row, limits))
        reasons = list(dict.fromkeys(reasons))
        lines += [f"## {framework}", ""]
        for t in transforms:
            lines.append(f"- **{t.name}**: {t.means}{'' if t.every else ' (*)'}.")
        names = " | ".join(t.name for t in transforms)
        lines += ["", f"| | {names} |", "|---" * len(transforms) + "|---|"]
        for row, limits in rows:
            cells = []
            for t, there in zip(transforms, limits, strict=True):
                endless = there is not None and there.endless
                tried = is_tried(framework, t.name, row) and not endless
                number = "" if there is None else f" ({reasons.index(there.why) + 1})"
                cell = ("yes" if there is None else "no") + number
                cells.append(cell if tried else f"_{cell}_")
            lines.append(f"| `{row}` | " + " | ".join(cells) + " |")
        for row in (True, False):
            cells = ["yes" if row or t.every else "_yes_" for t in transforms]
            label = "other representatives" if row else "all others"
            label += ", and layers" if row and framework == "Keras" else ""
            if row and all(t.every for t in transforms):
                continue
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines += ["", *(f"{k}. {why}" for k, why in enumerate(reasons, 1))]
        lines += [""] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


_INTRODUCTION = """\
# Operators under transforms

Every operator, on every framework, has a value and two derivatives. These tables say
which of the framework's own transforms each goes through: PyTorch's `vmap` and
`torch.compile`, JAX's `shard_map` and `export`, TensorFlow's `jit_compile`, and so on.

A cell in upright letters is a test of an [operator](operators.md) under a transform,
whose result is compared with that of `svdinv.numpy` without one. Where it says "no",
the test must fail; the number is that of the reason.

A cell in _italics_ is not tested, but follows from others. A transform marked (*)
takes seconds to trace an operator, and is tested with the representatives
{}.
These call every kind of operation that any operator calls, by their values and
derivatives of both orders; what else an operator does is a handful of the framework's
own array functions. Where compiled kernels may serve, these run with them and without.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
