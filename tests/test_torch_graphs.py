"""PyTorch's graphs: exported, traced, saved, and with numbers that change."""

from __future__ import annotations

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from interpreters import run
from torch.autograd import grad

import svdinv.torch as st
from svdinv.core.functions import SpectralFunction, TopSubgradient
from svdinv.core.operation import Operation
from svdinv.core.operation_text import from_text, to_text
from svdinv.core.spectral_operations import Map
from svdinv.core.svd_operations import SVD, Decomposition
from svdinv.core.thresholds import Firm

# Raised by PyTorch's own code: TorchScript is deprecated, and warns of constants.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::torch.jit.TracerWarning",
)


NODE = torch.ops.svdinv.operation.default


def matrices(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


class Module(torch.nn.Module):
    """A function of the scaled argument; the scales are what is learned."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scales = torch.nn.Parameter(torch.tensor([1.0, 0.5, 2.0, 1.5]).double())

    def forward(self, A):
        return self.function(A * self.scales)


def residual(A):
    """A sum of what has a gradient by PyTorch and what has one by svdinv."""
    return A + st.svt(A, 0.5)


def fitted(A):
    return st.lstsq(A, A[..., :1] ** 2)


def far(A):
    M = A @ A.mT + torch.eye(A.shape[-2], dtype=A.dtype)
    return st.bures_distance(M, torch.eye(A.shape[-2], dtype=A.dtype), squared=True)


FUNCTIONS = {"svt": residual, "lstsq": fitted, "bures_distance": far}


def gradients(module, A):
    (scales,) = module.parameters()
    A = A.clone().requires_grad_()
    return grad(module(A).square().sum(), (A, scales))


def exported(module, A, **how):
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = ({0: batch},)
    return torch.export.export(module, (A,), dynamic_shapes=shapes, **how)


def traced(module, A):
    return torch.jit.trace(module, (A,))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("how", ["export", "strict", "trace"])
def test_gradients_of_a_kept_graph(name, how):
    """Also where part of them is PyTorch's own, and of what had none at tracing."""
    module, A = Module(FUNCTIONS[name]), matrices(3, 5, 4)
    if how == "trace":
        program, B = traced(module, A), A + 0.1
    else:
        program, B = exported(module, A, strict=how == "strict").module(), A[[2, 0]]
    for found, exact in zip(gradients(program, B), gradients(module, B), strict=True):
        torch.testing.assert_close(found, exact)


def test_a_kept_graph_at_repeated_values():
    module, A = Module(lambda A: st.svt(A, 0.5)), matrices(2, 5, 4)
    program = exported(module, A).module()
    I = torch.eye(5, 4, dtype=A.dtype)[None] / module.scales.detach()
    (found, _), (exact, _) = gradients(program, I), gradients(module, I)
    assert exact.isfinite().all()
    torch.testing.assert_close(found, exact)


def test_second_derivatives_of_a_kept_graph():
    A = matrices(3, 5, 4).requires_grad_()
    program = exported(Module(residual), A.detach()).module()
    for f in (program, traced(Module(residual), A.detach())):
        torch.autograd.gradgradcheck(f, (A,))


SAVED = """
import json
import sys
import torch
folder, *names = sys.argv[1:]

def outcome(name):
    A, exact = torch.load(f"{folder}/{name}.pt")
    try:
        if name == "trace":
            program = torch.jit.load(f"{folder}/{name}.pt2")
        else:
            program = torch.export.load(f"{folder}/{name}.pt2").module()
        found = program(A)
        if "no gradient" not in name:
            (found,) = torch.autograd.grad(found.square().sum(), program.parameters())
        torch.testing.assert_close(found, exact)
    except Exception as error:
        return str(error)
    return "the same"

without = {name: outcome(name) for name in names}
assert "svdinv" not in sys.modules
import svdinv.torch
print(json.dumps([without, {name: outcome(name) for name in names}]))
"""


def test_saved_graphs_in_another_process(tmp_path):
    """They need svdinv, but for values alone, which PyTorch's own functions compute."""
    module, A = Module(residual), matrices(3, 5, 4)
    names = "export", "export, no gradient", "trace"
    for name in names:
        alone = "no gradient" in name
        with torch.set_grad_enabled(not alone):
            exact = module(A) if alone else gradients(module, A)[1]
            torch.save((A, exact), tmp_path / f"{name}.pt")
            program = tmp_path / f"{name}.pt2"
            if name == "trace":
                traced(module, A).save(program)
            else:
                torch.export.save(exported(module, A), program)
    done = run("-c", SAVED, tmp_path, *names)
    assert done.returncode == 0, done.stderr
    without, with_svdinv = json.loads(done.stdout)
    assert with_svdinv == dict.fromkeys(names, "the same")
    assert without.pop("export, no gradient") == "the same"
    assert "the same" not in without.values()
    assert "svdinv" in without["trace"]
    assert "svdinv" in done.stderr  # where torch.export says what is missing


def test_a_function_of_ones_own_in_a_kept_graph():
    """Its derivative is one that the graph cannot hold, and no silent zero."""
    A, B = matrices(3, 5, 4), matrices(5, 5, 4)
    module = Module(lambda A: A + st.spectral_map(A, torch.tanh))
    for program in (exported(module, A).module(), traced(module, A)):
        torch.testing.assert_close(program(B), module(B))
        with pytest.raises(Exception, match="spectral_map needs df"):
            gradients(program, B)

    def slope(s):
        return 1 - torch.tanh(s) ** 2

    module = Module(lambda A: st.spectral_map(A, torch.tanh, slope))
    for found, exact in zip(
        gradients(exported(module, A).module(), B), gradients(module, B), strict=True
    ):
        torch.testing.assert_close(found, exact)


NUMBERS = {
    "firm": lambda A, x: st.firm_threshold(A, 0.3, x),
    "schatten": lambda A, x: st.schatten_norm(A, x),
    "log": lambda A, x: st.log_sum_threshold(A, 0.3, x),
    "power": lambda A, x: st.powm(A.mT @ A, x),
    "positive": lambda A, x: st.psd_project(A.mT @ A, x / 10),
    "inverse": lambda A, x: st.pinv(A, rcond=x / 1000),
}


@pytest.mark.parametrize(
    ("name", "dynamic"),
    # With symbols for the sizes too, which take seconds, one of each decomposition.
    [*((name, None) for name in NUMBERS), ("firm", True), ("power", True)],
)
def test_numbers_that_change_between_calls(name, dynamic):
    """Dynamo makes symbols of them, at first."""
    torch._dynamo.reset()
    call, A = NUMBERS[name], matrices(3, 5, 4).requires_grad_()
    compiled = torch.compile(call, backend="eager", fullgraph=True, dynamic=dynamic)
    for x in (2.3, 2.7, 3.1):
        found, exact = (grad(f(A, x).square().sum(), A)[0] for f in (compiled, call))
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("columns", [8, 15])
def test_a_seed_where_the_number_of_rows_changes_between_calls(columns):
    torch._dynamo.reset()

    def call(A):
        return st.svd_lowrank(A, 2, seed=0).S

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    for rows in (12, 13, 20, 21):
        A = matrices(2, rows, columns) * 0.5 ** torch.arange(columns)
        A.requires_grad_()
        found, exact = (grad(f(A).square().sum(), A)[0] for f in (compiled, call))
        torch.testing.assert_close(found, exact)


def test_text_of_operations():
    for operation in (SVD(rtol=1e-3), Map(Firm(2.5)), Map(TopSubgradient(None))):
        numbers = []
        text = to_text(operation, numbers)
        assert from_text(text, tuple(numbers)) == operation


def test_every_operation_has_a_text():
    """An operation is a frozen dataclass, if it has no fields too."""
    found = [Operation]
    for kind in found:
        found += kind.__subclasses__()
        assert dataclasses.is_dataclass(kind) or kind in (Operation, Decomposition)
    assert len(found) > 30


@dataclasses.dataclass(frozen=True)
class Own(SpectralFunction):
    """A function that other code than svdinv's defines."""

    power: float = 2.0

    def value(self, s, tau, xp):
        return s**self.power

    def difference(self, a, b, tau, xp):
        return a.s + b.s

    def second_difference(self, points, d, tau, xp):
        return xp.ones_like(points[0].s + points[1].s + points[2].s)


def test_a_spectral_function_of_ones_own():
    """Nothing but its code says how to make it anew; Dynamo goes through that."""
    module, A = Module(lambda A: st.spectral_operator(A, Own())), matrices(3, 5, 4)
    for trace in (exported, traced):
        with pytest.raises(TypeError, match=r"Own\(power=2.0\).* of other code"):
            trace(module, A)
        with torch.no_grad():
            program = trace(module, A)
        run = program.module() if trace is exported else program
        torch.testing.assert_close(run(A), module(A))
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for found, exact in zip(gradients(compiled, A), gradients(module, A), strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize(
    "text",
    [
        '["os","system",["true"]]',
        '["svdinv.core.operation","sys",["true"]]',
        '["svdinv.core.thresholds","dataclass",[]]',
        '["svdinv.core.thresholds","Soft",[false]]',
        '["svdinv.core.thresholds","None",[]]',
        '["svdinv.core.spectral_operations","Map",[{},{}]]',
        '["svdinv.core.svd_operations","SVD",[1,2,3,4,5,6,7]]',
        "[]",
        "{",
    ],
)
def test_a_text_of_no_operation(text):
    """Of which some would do harm, and others are of another version."""
    with pytest.raises(RuntimeError, match="another version of svdinv"):
        from_text(text, (0.5,))


@pytest.mark.parametrize("how", ["export", "trace"])
def test_forward_mode_of_a_kept_graph_raises(how):
    """PyTorch would drop the tangents of any operation of others."""
    A = matrices(3, 5, 4)
    program = traced(Plain(residual), A)
    if how == "export":
        program = torch.export.export(Plain(residual), (A,)).module()
    with pytest.raises(Exception, match="has no forward mode"):
        torch.func.jvp(program, (A,), (A,))
    torch.testing.assert_close(torch.func.vmap(program)(A[None])[0], residual(A))


@pytest.mark.parametrize("name", ["schatten", "bures_distance"])
def test_decompositions_of_an_exported_graph(name):
    """They take a detached array for the array itself."""
    functions = {"schatten": lambda A: st.schatten_norm(A, 1.5), **FUNCTIONS}
    module, A = Module(functions[name]), matrices(3, 5, 4)
    program = exported(module, A).run_decompositions().module()
    for found, exact in zip(gradients(program, A), gradients(module, A), strict=True):
        torch.testing.assert_close(found, exact)


ROWS = {
    "svd": lambda A: st.svd(A).S,
    "svt": lambda A: st.svt(A, 0.1),
    "gram": lambda A: st.svt(A, 0.1, method="gram"),
    "low_rank": lambda A: st.low_rank(A, 2),
    "pinv": st.pinv,
    "whiten": lambda A: st.whiten(A, 0.1).white,
    "sure": lambda A: st.sure(A, 0.3, 0.1),
    "robust_pca": lambda A: st.robust_pca(A, iterations=3).low_rank,
    "cca": lambda A: st.cca(A, A[..., :2] ** 2).correlations,
    "a threshold by the rows": lambda A: st.svt(A, A.shape[-2] ** -0.5),
}


@pytest.mark.parametrize(
    ("name", "recorded"),
    [*((name, True) for name in ROWS), ("svd", False), ("svt", False), ("pinv", False)],
)
def test_an_exported_graph_of_any_number_of_rows(name, recorded):
    A, B = matrices(3, 6, 4), matrices(2, 9, 4)
    shapes = ({0: torch.export.Dim("b", min=1), 1: torch.export.Dim("r", min=5)},)
    module = Plain(ROWS[name])
    with torch.set_grad_enabled(recorded):
        program = torch.export.export(module, (A,), dynamic_shapes=shapes).module()
    assert program(B).isfinite().all()
    torch.testing.assert_close(program(B), module(B))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_operation_is_as_pytorch_wants_it(name):
    A, calls = matrices(3, 5, 4), []

    class Recorded(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is NODE:
                x, *rest = args
                calls.append(([t.detach() for t in x], *rest))
            return function(*args, **(kwargs or {}))

    program = exported(Module(FUNCTIONS[name]), A).module()
    with Recorded():
        gradients(program, A)
    assert len(calls) > 1
    tests = "test_schema", "test_autograd_registration", "test_faketensor"
    for call in calls:
        torch.library.opcheck(NODE, call, test_utils=tests)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_a_gauge_is_reported_as_ever():
    """Dynamo cannot trace a report, and runs it eagerly; an exported graph has it."""
    A = matrices(3, 4, 4) + 1j * matrices(3, 4, 4)

    def phase(A):
        return st.svd(A, gauge="warn").U.real.sum()

    torch._dynamo.reset()
    compiled = torch.compile(phase, backend="aot_eager")
    program = torch.export.export(Plain(phase), (A,)).module()
    for f in (phase, compiled, program):
        with pytest.warns(UserWarning, match="depends on"):
            f(A.clone().requires_grad_()).backward()


@pytest.mark.parametrize("name", ["nuclear_norm", "svt", "polar", "pinv"])
def test_the_first_run_minds_lazy_conjugates(name):
    """PyTorch excludes their dispatch key there, in this shape 1.5 Q lost its sign."""
    A = torch.complex(matrices(6, 256), matrices(256, 6).T.contiguous())
    A = A.to(torch.complex64).requires_grad_()
    tau = (1.0,) if name == "svt" else ()

    def loss(A):
        y = getattr(st, name)(A, *tau).abs().square()
        return (y * torch.arange(y.numel()).reshape(y.shape)).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found, exact = compiled(A), loss(A)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(grad(found, A), grad(exact, A), rtol=1e-3, atol=1e-5)


class Plain(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, A):
        return self.function(A)


def product(A):
    U, S, Vh = st.svd(A)
    return (U * S[..., None, :]) @ Vh


@pytest.mark.parametrize("function", [st.svdvals, product, lambda A: st.svt(A, 0.5)])
def test_a_batch_of_large_matrices_stays_dynamic(function):
    """What a GPU would choose by sizes is no condition of the graph."""

    class Values(torch.nn.Module):
        def forward(self, A):
            return function(A)

    A = torch.randn(8, 64, 64, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch", min=1, max=1000)}
    with torch.no_grad():
        program = torch.export.export(Values(), (A,), dynamic_shapes=(batch,))
        found, expected = program.module()(A[:2]), function(A[:2])
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:Dynamo does not know:UserWarning")
def test_a_penalty_of_a_transform_beside_an_operator_runs_again():
    """Where a transform has ended the graph, no frame of an operator is compiled."""

    def penalised(A):
        slope = torch.func.grad(st.nuclear_norm)(A)
        return st.nuclear_norm(A**2) + (slope**3).sum()

    torch._dynamo.reset()
    compiled = torch.compile(penalised, backend="aot_eager")
    for scale in (1.0, 2.0, 3.0):
        A = (scale * matrices(4, 3)).requires_grad_()
        found, expected = (grad(f(A), A)[0] for f in (compiled, penalised))
        torch.testing.assert_close(found, expected)
