"""Electrical impedance tomography in two dimensions: the complete electrode model.

Linear finite elements on triangles with constant conductivity (Somersalo, Cheney &
Isaacson, SIAM J. Appl. Math. 1992). The potential u and the potentials of the
electrodes U_l solve ::

    div(sigma grad u) = 0            inside,
    u + z_l sigma du/dn = U_l        under electrode l,  sigma du/dn = 0 between them,
    integral of sigma du/dn = I_l    over electrode l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdinv._missing import needing
from svdinv.unroll.operators.wrapped import WrappedNonlinear

with needing("scipy", "mri"):
    from scipy.sparse import csc_array, csr_array
    from scipy.sparse.linalg import splu
    from scipy.spatial import Delaunay

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangle mesh with electrodes on its boundary.

    Parameters
    ----------
    nodes : ndarray, shape (nodes, 2)
        Coordinates in metres, or in any unit of length.
    triangles : ndarray of int, shape (triangles, 3)
        Nodes of each triangle.
    electrodes : sequence of ndarray of int, shape (edges, 2)
        Nodes of the edges under each electrode, on the boundary of the mesh.

    Raises
    ------
    ValueError
        If a shape is wrong, a node does not exist or is of no triangle, a triangle
        occurs twice or has no area, or an electrode no edge, one that is not on the
        boundary, or one that occurs twice or under another electrode.
    """

    nodes: Floats
    triangles: Integers
    electrodes: tuple[Integers, ...]

    def __post_init__(self) -> None:
        nodes = np.array(self.nodes, np.float64)
        triangles = np.array(self.triangles)
        electrodes = tuple(np.array(edges) for edges in self.electrodes)
        if nodes.ndim != 2 or nodes.shape[1] != 2:
            raise ValueError(f"nodes must be (nodes, 2), got {nodes.shape}")
        if triangles.ndim != 2 or triangles.shape[1] != 3:
            raise ValueError(f"triangles must be (triangles, 3), got {triangles.shape}")
        if len(electrodes) < 2 or any(
            edges.ndim != 2 or edges.shape[1] != 2 or not len(edges)
            for edges in electrodes
        ):
            raise ValueError(
                "electrodes must be at least two, each an array (edges, 2)"
            )
        for name, index in (
            ("triangles", triangles),
            *(("electrodes", e) for e in electrodes),
        ):
            if index.min() < 0 or index.max() >= len(nodes):
                raise ValueError(f"{name} must name nodes from 0 to {len(nodes) - 1}")
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "triangles", triangles)
        object.__setattr__(self, "electrodes", electrodes)
        size = np.ptp(nodes, axis=0).max() ** 2
        if not (self.areas > 1e-14 * size).all():
            raise ValueError("triangles must have positive areas")
        if lone := len(nodes) - len(np.unique(triangles)):
            raise ValueError(f"nodes must be corners of triangles, {lone} are not")
        if len(np.unique(np.sort(triangles), axis=0)) < len(triangles):
            raise ValueError("triangles must not occur twice")
        sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2))
        sides, times = np.unique(sides, axis=0, return_counts=True)
        boundary = set(map(tuple, sides[times == 1].tolist()))
        under: set[tuple[int, int]] = set()
        for k, edges in enumerate(electrodes):
            for edge in map(tuple, np.sort(edges).tolist()):
                if edge in under:
                    raise ValueError(
                        f"electrodes must not share edges, nor list one twice: {edge} "
                        f"of electrode {k} occurred before"
                    )
                under.add(edge)
                if edge not in boundary:
                    raise ValueError(
                        f"electrodes must lie on the boundary: the nodes {[*edge]} of "
                        f"electrode {k} are no edge of exactly one triangle"
                    )

    @property
    def areas(self) -> Floats:
        """Area of each triangle, shape (triangles,)."""
        a, b, c = np.moveaxis(self.nodes[self.triangles], 1, 0)
        return np.abs(_cross(b - a, c - a)) / 2

    @property
    def centres(self) -> Floats:
        """Centre of each triangle, shape (triangles, 2)."""
        return self.nodes[self.triangles].mean(axis=1)

    def at(self, points: ArrayLike) -> Integers:
        """Index of the nearest triangle centre, shape (...), for points (..., 2)."""
        from scipy.spatial import cKDTree

        return cKDTree(self.centres).query(np.asarray(points))[1]


class Impedance(WrappedNonlinear):
    """Operator from conductivities of triangles to voltages between electrodes.

    Parameters
    ----------
    mesh : Mesh
        The mesh.
    currents : array, shape (electrodes, patterns)
        Current into each electrode for each pattern; each pattern sums to 0.
    voltages : array, shape (electrodes, measurements)
        Weights of the potentials in each measurement, such as 1 and -1 for the voltage
        between two electrodes; each measurement sums to 0.
    contact : float or array, shape (electrodes,)
        Contact impedance z_l > 0, in units of length over conductivity.

    Raises
    ------
    ValueError
        If shapes do not match, sums are not 0, or `contact` is not positive.

    Notes
    -----
    Images have the shape (triangles,), data (patterns, measurements). The derivative of
    the discrete model is computed by the adjoint method: with u_p the potential of
    pattern p and w_m that of the currents `voltages` [:, m],

        dV_pm = - sum over triangles of area dsigma (grad u_p . grad w_m).

    One sparse factorisation yields the fields of all currents. The fields of the last
    image are cached, so that its value and derivative share them.
    """

    def __init__(
        self,
        mesh: Mesh,
        currents: ArrayLike,
        voltages: ArrayLike,
        contact: ArrayLike = 1e-6,
    ) -> None:
        count = len(mesh.electrodes)
        self.mesh = mesh
        self.currents = _patterns(currents, count, "currents")
        self.voltages = _patterns(voltages, count, "voltages")
        z = np.broadcast_to(np.array(contact, np.float64), (count,))
        if not ((z > 0) & np.isfinite(z)).all():
            raise ValueError(
                f"contact must be positive, got {np.asarray(contact).tolist()}"
            )
        self.contact = z
        self._gradient = _gradient(mesh)
        self._contact_matrix = _contacts(mesh, z)
        self._last: tuple[Any, ...] = (None,)
        super().__init__(
            lambda x: self._fields(x)[0],
            self._push,
            self._pull,
            (len(mesh.triangles),),
            (self.currents.shape[1], self.voltages.shape[1]),
        )

    def _push(self, x: Floats, dx: Floats) -> Floats:
        _, u, w = self._fields(x)
        weighted = u * (self.mesh.areas * dx)[:, None]
        return -np.tensordot(weighted, w, ((0, 1), (0, 1)))

    def _pull(self, x: Floats, y: Floats) -> Floats:
        _, u, w = self._fields(x)
        return -self.mesh.areas * np.sum((u @ y) * w, axis=(0, 2))

    def _fields(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Return voltages, and gradients of u_p and w_m, (2, triangles, patterns)."""
        x = np.asarray(x, np.float64)
        key = x.tobytes()
        last = self._last  # read once, since other threads may replace it
        if last[0] == key:
            return last[1:]
        if not (x > 0).all() or not np.isfinite(x).all():
            raise ValueError("conductivities must be positive")
        G, nodes, count = self._gradient, len(self.mesh.nodes), len(self.contact)
        K = (G.T * np.tile(self.mesh.areas * x, 2)) @ G
        K.resize(self._contact_matrix.shape)
        # Unit currents into each electrode except the last, which is grounded.
        unit = np.zeros((nodes + count - 1, count - 1))
        unit[nodes:] = np.eye(count - 1)
        potentials = splu(csc_array(K + self._contact_matrix)).solve(unit)
        gradients = (G @ potentials[:nodes]).reshape(2, -1, count - 1)
        I, M = self.currents[:-1], self.voltages[:-1]
        fields = I.T @ potentials[nodes:].T @ M, gradients @ I, gradients @ M
        self._last = key, *fields
        return fields

    def extra_repr(self) -> str:
        return f"{len(self.mesh.triangles)} triangles, {len(self.contact)} electrodes"


def disc(
    rings: int = 8, electrodes: int = 16, *, coverage: float = 0.5, radius: float = 1.0
) -> Mesh:
    """Mesh a disc with equal electrodes around it, the first starting at angle 0.

    The mesh has about 6 rings^2 triangles, and at least two edges under each electrode.
    `coverage` in (0, 1] is the fraction of the boundary under electrodes. Raises
    ValueError if a number is out of range.
    """
    if rings < 2 or electrodes < 2 or not 0 < coverage <= 1 or not radius > 0:
        raise ValueError(
            "rings and electrodes must be at least 2, coverage in (0, 1] and radius "
            f"positive, got {rings}, {electrodes}, {coverage} and {radius}"
        )
    pitch = 2 * np.pi / electrodes
    edges = max(2, round(coverage * pitch * rings))
    free = max(1, round((1 - coverage) * pitch * rings)) if coverage < 1 else 0
    under = np.linspace(0, coverage * pitch, edges, endpoint=False)
    beside = np.linspace(coverage * pitch, pitch, free, endpoint=False)
    one = np.concatenate([under, beside])
    angles = (one + pitch * np.arange(electrodes)[:, None]).ravel()
    inner: list[Floats] = [np.zeros((1, 2))]
    for ring in range(1, rings):
        turn = 2 * np.pi * (np.arange(6 * ring) + ring % 2 / 2) / (6 * ring)
        inner.append(ring / rings * _around(turn))
    start = sum(map(len, inner))
    nodes = np.concatenate([*inner, _around(angles)])
    first = len(one) * np.arange(electrodes)[:, None] + np.arange(edges)
    along = np.stack([first, (first + 1) % len(angles)], axis=-1) + start
    triangles = Delaunay(nodes).simplices
    return Mesh(radius * nodes, triangles, tuple(along))


def adjacent(electrodes: int) -> Floats:
    """Patterns between neighbouring electrodes, 1 at l and -1 at l + 1.

    Returns all independent ones, (electrodes, electrodes - 1), for `currents` or
    `voltages` of `Impedance`.
    """
    eye = np.eye(electrodes)
    return eye[:, :-1] - eye[:, 1:]


def neighbours(mesh: Mesh) -> Any:
    """Differences across the edges between triangles, times the length of the edge.

    The result is a sparse array L (inner edges, triangles); the total variation of an
    image x is the sum of the magnitudes of L x.
    """
    sides = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
    order = np.lexsort(sides.T)
    same = (sides[order[1:]] == sides[order[:-1]]).all(axis=1)
    one, other = order[:-1][same], order[1:][same]
    ends = mesh.nodes[sides[one]]
    length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)
    rows = np.arange(len(one))
    return csr_array(
        (
            np.concatenate([length, -length]),
            (np.tile(rows, 2), np.concatenate([one // 3, other // 3])),
        ),
        shape=(len(one), len(mesh.triangles)),
    )


def _cross(a: Floats, b: Floats) -> Floats:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _around(angles: Floats) -> Floats:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _patterns(values: ArrayLike, count: int, name: str) -> Floats:
    patterns = np.array(values, np.float64)
    if patterns.ndim != 2 or len(patterns) != count or not patterns.shape[1]:
        raise ValueError(f"{name} must be ({count}, patterns), got {patterns.shape}")
    # Files hold them in single precision.
    if (np.abs(patterns.sum(axis=0)) > 1e-6 * np.abs(patterns).sum(axis=0)).any():
        raise ValueError(f"{name} must have the sum 0 over the electrodes")
    return patterns


def _gradient(mesh: Mesh) -> Any:
    """Sparse matrix (2 T, N) from nodal values to gradients, x components first."""
    a, b, c = np.moveaxis(mesh.nodes[mesh.triangles], 1, 0)
    opposite = np.stack([c - b, a - c, b - a], axis=1)
    double = _cross(b - a, c - a)[:, None]
    values = np.stack([-opposite[..., 1] / double, opposite[..., 0] / double])
    count = len(mesh.triangles)
    rows = np.broadcast_to(np.arange(2 * count).reshape(2, count, 1), values.shape)
    columns = np.broadcast_to(mesh.triangles, values.shape)
    return csr_array(
        (values.ravel(), (rows.ravel(), columns.ravel())),
        shape=(2 * count, len(mesh.nodes)),
    )


def _contacts(mesh: Mesh, z: Floats) -> Any:
    """Sparse system matrix of the electrodes, with the last electrode grounded."""
    edges = np.concatenate(mesh.electrodes)
    electrode = np.repeat(np.arange(len(z)), [len(e) for e in mesh.electrodes])
    ends = mesh.nodes[edges]
    admittance = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) / z[electrode]
    nodes = len(mesh.nodes)
    i, j = edges.T
    l = electrode + nodes
    rows = np.concatenate([i, j, i, j, i, l, j, l, l])
    columns = np.concatenate([i, j, j, i, l, i, l, j, l])
    factors = (1 / 3, 1 / 3, 1 / 6, 1 / 6, -1 / 2, -1 / 2, -1 / 2, -1 / 2, 1)
    values = np.concatenate([factor * admittance for factor in factors])
    size = nodes + len(z)
    matrix = csr_array((values, (rows, columns)), shape=(size, size))
    return matrix[:-1, :-1]
