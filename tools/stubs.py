"""Write the stubs of the modules whose names come into being at run time.

Editors and type checkers read a stub in place of its module. Signatures and docstrings
of the operators are in one stub, generic in the types of arrays; those of the modules
of frameworks name them in the types of theirs, as the standard library's `random` names
the methods of a generator.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any, NamedTuple

from svdinv.operators import OPERATORS

ROOT = Path(__file__).parents[1]
RESULTS = "svdinv.core.results"
FUNCTIONS = "svdinv.numpy"  # where all of them are
GENERIC = "svdinv._operators"
HEADER = "# Written by `make stubs` (tools/stubs.py): change what that reads.\n"


class Face(NamedTuple):
    """How to write a module down."""

    imports: str
    array: str  # type of results
    given: str  # type of arguments
    functions: str = ""  # class of `GENERIC` whose methods it has
    layer: str = ""  # base of layers


FACES = {
    "svdinv.torch": Face(
        "import torch\nfrom svdinv.torch import nn as nn",
        "torch.Tensor",
        "torch.Tensor",
        "Operators",
    ),
    "svdinv.torch.nn": Face(
        "from torch import Tensor, nn", "Tensor", "Tensor", layer="nn.Module"
    ),
    "svdinv.tf": Face(
        "from tensorflow import Tensor\n"
        "from tensorflow.types.experimental import TensorLike",
        "Tensor",
        "TensorLike",
        "Operators",
    ),
    "svdinv.jax": Face(
        "import jax\nfrom jax.typing import ArrayLike",
        "jax.Array",
        "ArrayLike",
        "Operators",
    ),
    "svdinv.numpy": Face(
        "from numpy.typing import ArrayLike, NDArray",
        "NDArray[Any]",
        "ArrayLike",
        "ArrayFunctions",
    ),
    "svdinv.cupy": Face(
        "import cupy", "cupy.ndarray", "cupy.ndarray", "ArrayFunctions"
    ),
    "svdinv.dask": Face(
        "from dask.array import Array", "Array", "Array", "ArrayFunctions"
    ),
    "svdinv.mlx": Face("from mlx.core import array", "array", "array", "Operators"),
    "svdinv.keras": Face("import keras", "Any", "Any", layer="keras.layers.Layer"),
}

_GENERIC = Face("from typing import Generic, TypeVar", "Array", "ArrayLike")

# The argument that the type of the result depends on, and its values for the members
# of that type, in their order.
OPTIONS = {"svd": ("compute_uv", (True, False)), "kabsch": ("scale", (False, True))}

_NAMES = {
    "collections.abc": ["Callable"],
    "typing": ["Any", "Literal", "NamedTuple", "overload"],
    "svdinv.core.functions": ["SpectralFunction"],
    "svdinv.core.gauge": ["Gauge"],
    "svdinv.core.hermitian": ["HermitianFunction"],
    RESULTS: import_module(RESULTS).__all__,
    "svdinv.layers": ["Pair"],
}


# Aliases that are written out: an editor shows the values that an option may have.
_OPTIONS = {
    name: str(getattr(import_module(source), name)).removeprefix("typing.")
    for source, name in (
        ("svdinv.core.degenerate", "Repeated"),
        ("svdinv.core.factors", "Method"),
        ("svdinv.core.hermitian_operations", "Triangle"),
        ("svdinv.layers", "DataFormat"),
        ("svdinv.operators.statistics", "Kind"),
        ("svdinv.layers", "Reduction"),
    )
}


class _Verbatim(str):
    """Text that a signature shows without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def annotation(kind: str, face: Face, array: str) -> _Verbatim:
    """Write an annotation in the types of a framework."""

    def fill(text: str, array: str) -> str:
        return re.sub(r"(?<![\w.])Array\b", array, text)

    # Names that a module imports begin with an underscore there, and a stub has no
    # names of modules as others: editors would list them.
    kind = re.sub(r"(?<![\w.])_?(?:(?:layers|mx|tf)\.|(?<=_))", "", str(kind))
    kind = re.sub(rf"\b({'|'.join(_OPTIONS)})\b", lambda m: _OPTIONS[m[0]], kind)
    kind = re.sub(r"Callable\[\[.*?\], \w+\]", lambda m: fill(m[0], face.array), kind)
    kind = re.sub(rf"\b({'|'.join(_NAMES[RESULTS])})\b", rf"\1[{face.array}]", kind)
    return _Verbatim(fill(kind, array))


def signature(face: Face, function: Any, method: bool = False) -> Signature:
    """Give the signature of a function in the types of a framework."""
    found = inspect.signature(function)
    parameters = list(found.parameters.values())
    for i, p in enumerate(parameters):
        if p.annotation is not p.empty:
            kind = annotation(p.annotation, face, face.given)
            parameters[i] = p.replace(annotation=kind)
    if method and "self" not in found.parameters:
        parameters.insert(0, Parameter("self", Parameter.POSITIONAL_OR_KEYWORD))
    result = found.return_annotation
    kind = "None" if result is found.empty else annotation(result, face, face.array)
    return Signature(parameters, return_annotation=_Verbatim(kind))


def overloads(whole: Signature, name: str, values: Any) -> Iterator[Signature]:
    """Yield a signature for each value of an option, and at last that for any."""
    every, option = dict(whole.parameters), whole.parameters[name]
    place = list(every).index(name)
    before = {n: p.replace(default=p.empty) for n, p in list(every.items())[:place]}
    members = map(_Verbatim, str(whole.return_annotation).split(" | "))
    for value, member in zip(values, members, strict=True):
        kind = _Verbatim(f"Literal[{value}]")
        given = [{name: option.replace(annotation=kind)}]
        if value != option.default:
            bare = given[0][name].replace(default=option.empty)
            given = [{name: bare.replace(kind=bare.KEYWORD_ONLY)}]
            if bare.kind is not bare.KEYWORD_ONLY:
                given.append({**before, name: bare})
        for changed in given:
            parameters = (every | changed).values()
            yield Signature(list(parameters), return_annotation=member)
    yield whole


def docstring(thing: Any) -> str:
    """Write a docstring, indented."""
    text = inspect.getdoc(thing) or ""
    raw, end = "r" * ("\\" in text), "\n" * ("\n" in text)
    return indent(f'{raw}"""{text}{end}"""', "    ") + "\n"


def function_stub(
    face: Face, name: str, function: Callable[..., Any], method: bool = False
) -> str:
    """Write a function, with overloads if it has such an option."""
    whole, doc = signature(face, function, method), docstring(function)
    option, values = OPTIONS.get(name, ("", ()))
    if option not in whole.parameters:
        return f"def {name}{whole}:\n{doc}"
    first, *others = overloads(whole, option, values)
    text = f"@overload\ndef {name}{first}:\n{doc}"
    return text + "".join(f"@overload\ndef {name}{other}: ...\n" for other in others)


def tuple_stub(cls: type) -> str:
    """Write a named tuple."""
    face, fields = FACES[cls.__module__], inspect.get_annotations(cls).items()
    kinds = (
        (name, annotation(kind.__forward_arg__, face, "")) for name, kind in fields
    )
    lines = (f"    {name}: {kind}\n" for name, kind in kinds)
    return f"class {cls.__name__}(NamedTuple):\n{docstring(cls)}" + "".join(lines)


def layer_stub(face: Face, cls: type) -> str:
    """Write a layer: its base, attributes and what it has beside its framework's."""
    own = [b for b in cls.__mro__ if b.__module__.startswith("svdinv")]
    bases = [b.__name__ for b in own[1:2] if b.__module__ == cls.__module__]
    base = bases[0] if bases and bases[0][0] != "_" else face.layer
    made = signature(face, cls.__init__, method=True)
    fields = {p.name: p.annotation for p in made.parameters.values()}
    for b in own:
        for name, kind in inspect.get_annotations(b).items():
            fields.setdefault(name, annotation(kind, face, face.array))
    made = made.replace(return_annotation=_Verbatim("None"))
    parts = [f"class {cls.__name__}({base}):\n{docstring(cls)}"]
    for name, kind in fields.items():
        if name[0] != "_" and name not in ("self", "threshold", "trainable", "kwargs"):
            parts.append(f"    {name}: {kind}\n")
    parts.append(f"    def __init__{made}: ...\n")
    above = next(b for b in cls.__mro__ if b not in own and b is not object)
    for name in dict.fromkeys(name for b in own for name in vars(b)):
        member: Any = getattr(cls, name)
        known = name not in ("forward", "call") and hasattr(above, name)
        if name[0] == "_" or known or not (callable(member) or hasattr(member, "fget")):
            continue
        head = "@property\n" if hasattr(member, "fget") else ""
        whole = signature(face, getattr(member, "fget", member), method=True)
        text = f"{head}def {name}{whole}:\n{docstring(member)}"
        if name == "forward":  # of the call PyTorch knows no more than that it is one
            text += f"def __call__{whole}: ...\n"
        parts.append(indent(text, "    "))
    return "".join(parts)


def generic_stub() -> str:
    """Write the operators, and what modules with a tape of their own have beside them.

    They are methods of classes that exist in the stub alone.
    """
    module = import_module(FUNCTIONS)
    lines = [
        '"""Functions of arrays, by their types: for the stubs of the modules."""',
        _imported(_GENERIC.imports),
        'Array = TypeVar("Array")',
        'ArrayLike = TypeVar("ArrayLike")',
    ]
    for head, names in {
        "Operators(Generic[Array, ArrayLike])": set(OPERATORS),
        "ArrayFunctions(Operators[Array, ArrayLike])": {*module.__all__} - {*OPERATORS},
    }.items():
        lines.append(f"class {head}:")
        for name in sorted(names):
            text = function_stub(_GENERIC, name, getattr(module, name), method=True)
            lines.append(indent(text, "    "))
    return formatted("\n".join(lines))


def _imported(imports: str) -> str:
    """Add the names that signatures may have."""
    lines = (f"\nfrom {s} import {', '.join(names)}" for s, names in _NAMES.items())
    return imports + "".join(lines)


def stub(name: str) -> str:
    """Write the stub of a module."""
    module, face = import_module(name), FACES[name]
    imports, parts = face.imports, []
    kind = face.functions
    if kind:
        imports += f"\nfrom {GENERIC} import {kind} as _{kind}"
        parts.append(f"_functions: _{kind}[{face.array}, {face.given}]\n")
    for public in module.__all__:
        thing = getattr(module, public)
        if isinstance(thing, ModuleType):
            continue
        if kind and (public in OPERATORS or kind == "ArrayFunctions"):
            parts.append(f"{public} = _functions.{public}\n")
        elif thing.__module__ != name:
            imports += f"\nfrom {thing.__module__} import {public} as {public}"
        elif not isinstance(thing, type):
            parts.append(function_stub(face, public, thing))
        elif issubclass(thing, tuple):
            parts.append(tuple_stub(thing))
        else:
            parts.append(layer_stub(face, thing))
    return formatted(
        f'"""{inspect.getdoc(module)}\n"""\n{_imported(imports)}\n\n' + "".join(parts)
    )


def results_stub() -> str:
    """Write the stub of the named tuples, generic in the type of array."""
    text = path_of(RESULTS).with_suffix(".py").read_text("utf-8")
    text = text.replace("(NamedTuple)", "(NamedTuple, Generic[Array])")
    text = text.replace("import NamedTuple", "import Generic, NamedTuple, TypeVar")
    array = 'Array = TypeVar("Array")'
    return formatted(text.replace("from svdinv.core.namespace import Array", array))


def formatted(text: str) -> str:
    """Leave out imports without use, sort the others, break lines as elsewhere."""
    for command in (["check", "--select=F401,I", "--fix-only", "-q"], ["format"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename=stub.pyi", "-"],
            input=text, capture_output=True, check=True, encoding="utf-8",
            cwd=ROOT,
        ).stdout  # fmt: skip
    return HEADER + text


def path_of(name: str) -> Path:
    """Give the path of the stub of a module, which may have no module."""
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")


def main() -> None:
    """Write all stubs, but those of frameworks that are not installed."""
    path_of(RESULTS).write_text(results_stub(), "utf-8")
    path_of(GENERIC).write_text(generic_stub(), "utf-8")
    for name in FACES:
        try:
            text = stub(name)
        except ImportError as error:
            print(f"{name} is left as it is: {error}", file=sys.stderr)
        else:
            path_of(name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
