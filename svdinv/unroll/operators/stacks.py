"""Stacks of operators, which apply to one image and concatenate their data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from svdinv.unroll.arrays import Array, along, namespace
from svdinv.unroll.operators.linear import Compound, Operator, Product, factors_of


class Stack(Compound):
    """Apply several operators to one image and concatenate their data.

    Parameters
    ----------
    operators : sequence of Operator
        Operators with equal image shapes, and equal data shapes except along `axis`.
    axis : int
        Negative axis of the data, along which they are concatenated.
    lengths : sequence of int or None, optional
        Lengths of the data along that axis; by default from the operators. Those with
        None share the remaining length in equal parts.

    Raises
    ------
    TypeError
        If one of the operators is not an `Operator`.
    ValueError
        If there are no operators, `axis` is not negative, or a length is unknown.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        axis: int = -1,
        lengths: Sequence[int | None] | None = None,
    ) -> None:
        self.operators = self.parts = tuple(operators)
        self.axis = axis
        if not self.operators:
            raise ValueError("operators must not be empty")
        if not all(isinstance(operator, Operator) for operator in self.operators):
            got = ", ".join(type(operator).__name__ for operator in self.operators)
            raise TypeError(f"operators must be Operators, got {got}")
        if axis >= 0:
            raise ValueError(f"axis must be negative, got {axis}")
        self.linear = all(operator.linear for operator in self.operators)
        values = lengths or [_length(operator, axis) for operator in self.operators]
        self.lengths: tuple[int | None, ...] = tuple(values)
        if len(self.lengths) != len(self.operators):
            raise ValueError(
                f"lengths must be one for each of {len(self.operators)} operators, got "
                f"{self.lengths}"
            )

    def forward(self, x: Array) -> Array:
        parts = [operator.forward(x) for operator in self.operators]
        actual = [part.shape[self.axis] for part in parts]
        expected = self._cut(sum(actual))
        if actual != expected:
            raise ValueError(f"the data have the lengths {actual}, expected {expected}")
        return namespace(x).concat(parts, axis=self.axis)

    def adjoint(self, y: Array) -> Array:
        pairs = zip(self.operators, self.split(y), strict=True)
        images = [operator.adjoint(part) for operator, part in pairs]
        return sum(images[1:], images[0])

    def split(self, y: Array) -> list[Array]:
        """Split data of `forward` by operators; ValueError if the length is wrong."""
        parts, start = [], 0
        for length in self._cut(y.shape[self.axis]):
            parts.append(along(y, self.axis, slice(start, start + length)))
            start += length
        return parts

    def __mul__(self, other: Any) -> Operator:
        """Multiply each operator, so that the product is a stack, too."""
        if not isinstance(other, Operator):
            return super().__mul__(other)
        return _StackProduct(Product([self, *factors_of(other)]))

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        return Stack(parts, self.axis, self.lengths)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        other_parts = [getattr(other, "operators", ()) for other in others]
        if any(len(parts) != len(self.operators) for parts in other_parts):
            return super().stacked(others, data)
        parts = zip(self.operators, *other_parts, strict=True)
        return self.rebuilt([first.stacked(rest, data) for first, *rest in parts])

    def project_to_samples(self, y: Array) -> Array:
        pairs = zip(self.operators, self.split(y), strict=True)
        parts = [operator.project_to_samples(part) for operator, part in pairs]
        return namespace(y).concat(parts, axis=self.axis)

    def extra_repr(self) -> str:
        return f"[{', '.join(map(repr, self.operators))}], axis={self.axis}"

    def _cut(self, total: int) -> list[int]:
        """Return the lengths of the operators' data for a total length."""
        unknown = sum(length is None for length in self.lengths)
        remaining = total - sum(length or 0 for length in self.lengths)
        share, excess = divmod(remaining, unknown) if unknown else (0, remaining)
        if remaining < 0 or excess:
            raise ValueError(
                f"measurements of length {total} do not fit the lengths {self.lengths} "
                "of the operators"
            )
        lengths = [share if length is None else length for length in self.lengths]
        return [int(length) for length in lengths]


class _StackProduct(Stack):
    """A stack times other operators, which are applied only once."""

    def __init__(self, product: Any) -> None:
        stack, *inner = product.factors
        parts = [operator * Product(inner) for operator in stack.operators]
        super().__init__(parts, stack.axis, stack.lengths)
        self.product = product

    def forward(self, x: Array) -> Array:
        return self.product.forward(x)

    def adjoint(self, y: Array) -> Array:
        return self.product.adjoint(y)

    def derivative(self, x: Array) -> Operator:
        return self if self.linear else _StackProduct(self.product.derivative(x))

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        return _StackProduct(self.product.replace_arrays(convert))

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        products = [getattr(other, "product", other) for other in others]
        return _StackProduct(self.product.stacked(products, data))

    def __repr__(self) -> str:
        return repr(self.product)


def _length(operator: Operator, axis: int) -> int | None:
    try:
        return operator.data_length(axis)
    except NotImplementedError:
        raise ValueError(
            f"lengths must be passed: {operator!r} does not define data_length"
        ) from None
