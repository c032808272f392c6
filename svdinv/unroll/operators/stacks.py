"""Several operators of one image, their data one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from svdinv.unroll.arrays import Array, along, namespace
from svdinv.unroll.operators.linear import Compound, Operator, Product, factors_of


class Stack(Compound):
    """Measure one image by several operators, one measurement behind the other.

    Parameters
    ----------
    operators : sequence of Operator
        All for images of the same shape. Their measurements have the same shape but
        for the length of the axis.
    axis : int
        Axis of the measurements along which they are joined, negative.
    lengths : sequence of int or None, optional
        How long each measurement is along that axis; asked of the operators by
        default. Those that do not tell, but keep the size of the image, share what is
        left of the others in equal parts.

    Raises
    ------
    ValueError
        If there are no operators, `axis` is not negative, or an operator does not tell
        the length of its data.
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
        if axis >= 0:
            raise ValueError(f"axis must be negative, got {axis}")
        self.linear = all(operator.linear for operator in self.operators)
        asked = lengths or [_length(operator, axis) for operator in self.operators]
        self.lengths: tuple[int | None, ...] = tuple(asked)
        if len(self.lengths) != len(self.operators):
            raise ValueError(
                f"lengths must be one for each of {len(self.operators)} operators, got "
                f"{self.lengths}"
            )

    def forward(self, x: Array) -> Array:
        parts = [operator.forward(x) for operator in self.operators]
        found = [part.shape[self.axis] for part in parts]
        due = self._cut(sum(found))
        if found != due:
            raise ValueError(f"the data have the lengths {found}, and not {due}")
        return namespace(x).concat(parts, axis=self.axis)

    def adjoint(self, y: Array) -> Array:
        pairs = zip(self.operators, self.split(y), strict=True)
        images = [operator.adjoint(part) for operator, part in pairs]
        return sum(images[1:], images[0])

    def split(self, y: Array) -> list[Array]:
        """Cut measurements, as `forward` gives them, into those of each operator.

        Raises ValueError if they have another length.
        """
        parts, begin = [], 0
        for length in self._cut(y.shape[self.axis]):
            parts.append(along(y, self.axis, slice(begin, begin + length)))
            begin += length
        return parts

    def __mul__(self, other: Any) -> Operator:
        """Multiply each operator: what there is of subsets stays."""
        if not isinstance(other, Operator):
            return super().__mul__(other)
        return _StackProduct(Product([self, *factors_of(other)]))

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        return Stack(parts, self.axis, self.lengths)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        same = [getattr(other, "operators", ()) for other in others]
        if any(len(parts) != len(self.operators) for parts in same):
            return super().stacked(others, data)
        parts = zip(self.operators, *same, strict=True)
        return self.rebuilt([first.stacked(rest, data) for first, *rest in parts])

    def project_to_samples(self, y: Array) -> Array:
        pairs = zip(self.operators, self.split(y), strict=True)
        parts = [operator.project_to_samples(part) for operator, part in pairs]
        return namespace(y).concat(parts, axis=self.axis)

    def extra_repr(self) -> str:
        return f"[{', '.join(map(repr, self.operators))}], axis={self.axis}"

    def _cut(self, total: int) -> list[int]:
        """Share a length among the operators."""
        open_ = sum(length is None for length in self.lengths)
        rest = total - sum(length or 0 for length in self.lengths)
        share, over = divmod(rest, open_) if open_ else (0, rest)
        if rest < 0 or over:
            raise ValueError(
                f"measurements of length {total} do not fit the lengths {self.lengths} "
                "of the operators"
            )
        cut = [share if length is None else length for length in self.lengths]
        return [int(length) for length in cut]


class _StackProduct(Stack):
    """A stack behind other operators, which are applied once for all of it."""

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
        same = [getattr(other, "product", other) for other in others]
        return _StackProduct(self.product.stacked(same, data))

    def __repr__(self) -> str:
        return repr(self.product)


def _length(operator: Operator, axis: int) -> int | None:
    try:
        return operator.data_length(axis)
    except NotImplementedError:
        raise ValueError(
            f"lengths must be given: {operator!r} does not tell that of its data"
        ) from None
