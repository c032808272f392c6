"""Configurations: dataclasses, written to TOML files and read from them.

Every option is declared once, as a field with a default and help text, from which the
printed file, the checks and the error messages are made.
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from svdinv._missing import needing
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.networks import Recipe
from svdinv.unroll.networks.recipe import registered, to_json
from svdinv.unroll.options import check_ranges, option
from svdinv.unroll.plugins import class_named, naming, near
from svdinv.unroll.tasks.registry import entries
from svdinv.unroll.tasks.task import Task, task_named

LOSSES = ("l1", "mse", "log-l1", "log-mse", "measurement")
"""Names of the losses in `svdinv.unroll.training.losses`."""

CHECKPOINT = "checkpoint.safetensors"
CONFIG = "config.toml"

_PRESETS = Path(__file__).parent / "presets"
_DEEPEST = 8  # levels of nested tables


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of the training of a network, for any task."""

    steps: int = option(20000, "steps of the optimiser", low=1, high=10**9)
    batch: int = option(
        16, "items in a step, of all processes together", low=1, high=2**20
    )
    loss: str = option(
        "l1",
        "l1 or mse: mean absolute or squared error; log-l1 or log-mse: mean over the "
        "items of its logarithm, as in decibels; measurement: the data fidelity, "
        "without the truth; or package.module:function, which takes the estimate, the "
        "truth and the problem",
    )
    learned: tuple[str, ...] = option(
        (),
        "parts of the names of the weights that are learned, such as refinement; the "
        "others keep their initial values",
    )
    penalty: float = option(
        0.0, "weight of the network's own penalty, such as SLR-Net's", low=0, high=1e6
    )
    precision: Literal["float32", "bfloat16"] = option(
        "float32",
        "of the convolutions while training; bfloat16 takes half the time on new "
        "processors",
    )
    optimiser: str = option(
        "Adam", "a class of torch.optim, or package.module:Class, with its defaults"
    )
    learning_rate: float = option(2e-3, "highest learning rate", above=0, high=1e6)
    schedule: Literal["cosine", "linear", "constant"] = option(
        "cosine", "decrease of the learning rate after the warm-up"
    )
    warm_up: float = option(
        0.03, "part of the steps in which the learning rate increases", low=0, below=1
    )
    clip: float = option(
        0.5, "largest gradient norm; larger gradients are scaled down", above=0
    )
    average: float = option(
        0.1,
        "part of the steps so far that the saved weights are averaged over",
        low=0,
        below=1,
    )
    svd: Literal[
        "svt",
        "consistent",
        "minimum-norm",
        "drop",
        "clip",
        "taylor",
        "lorentz",
        "none",
        "torch.linalg.svd",
    ] = option("svt", "decomposition and rule that the low-rank step differentiates")
    checkpoint_every: int = option(500, "steps between two checkpoints", low=1)
    validate_every: int = option(500, "steps between two validations", low=1)

    def __post_init__(self) -> None:
        check_ranges(self)
        if ":" not in self.loss and self.loss not in LOSSES:
            raise ValueError(
                f"loss must be one of {list(LOSSES)}, or package.module:function, got "
                f"{self.loss!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that a training depends on: task, network, and options of the training."""

    task: Task
    network: Recipe
    training: Training = Training()
    seed: int = option(
        0, "seed of the initial weights and of all data", low=0, high=2**63 - 1
    )
    threads: int = option(
        1, "threads of each process; other numbers round differently", low=1, high=1024
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        with naming("network", TypeError):
            to_json(self.network)  # as its weights will be written
        if self.network.axes != self.task.axes:
            raise ValueError(
                f"network.kind: {kind_of(self.network)} reconstructs images "
                f"({self.network.axes}), but those of the task {kind_of(self.task)} "
                f"are ({self.task.axes})"
            )
        count = self.task.trained_channels
        channels = getattr(self.network, "channels", count)
        if count is not None and channels != count:
            raise ValueError(
                f"network.channels must be {count} for the task {kind_of(self.task)}, "
                f"got {channels}"
            )


def read(path: str | Path) -> Config:
    """Read a configuration from a TOML file, with defaults for missing entries.

    Raises ValueError if it is missing or not TOML, or an option is invalid.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a TOML file: {error}") from error
    with naming(path):
        return from_toml(text)


def presets() -> list[str]:
    """Return the names of the configurations included in the package, for `preset`."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def preset(name: str) -> Config:
    """Read a configuration included in the package; ValueError if there is none."""
    if name not in presets():
        raise ValueError(f"no preset {name!r}; there are {', '.join(presets())}")
    return read(_PRESETS / f"{name}.toml")


def from_toml(text: str) -> Config:
    """Make a configuration from TOML text; ValueError if it or an option is invalid."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"not TOML: {error}") from error
    return _config(tables)


def changed(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Change options such as ``{"training.steps": 100}``; ValueError if invalid."""
    return _config(_merged(tomllib.loads(to_toml(config)), overrides))


def differences(one: Config, other: Config) -> list[str]:
    """Return the options that differ, such as "training.steps is 100, not 200"."""
    flat: list[dict[str, Any]] = [{}, {}]
    for options, config in zip(flat, (one, other), strict=True):
        for name, value in tomllib.loads(to_toml(config)).items():
            if isinstance(value, dict):
                options |= {f"{name}.{key}": each for key, each in value.items()}
            else:
                options[name] = value
    first, second = flat
    return [
        f"{name} is {first.get(name)!r}, not {second.get(name)!r}"
        for name in first | second
        if first.get(name) != second.get(name)
    ]


def write(config: Config, path: str | Path) -> None:
    """Write a configuration to a TOML file, with the help text of each option."""
    with replacing(path) as stream:
        stream.write(to_toml(config).encode())


def to_toml(config: Config) -> str:
    """Return a configuration as TOML for `from_toml`; needs tomlkit."""
    with needing("tomlkit", "train"):
        import tomlkit

    document = tomlkit.document()
    for field, value in _options(config):
        if field.name in ("seed", "threads"):
            _add(document, field, value)
    for name in ("task", "network", "training"):
        section = getattr(config, name)
        table = tomlkit.table()
        if name != "training":
            table.add("kind", kind_of(section))
        for field, value in _options(section):
            _add(table, field, value)
        document.add(tomlkit.nl())
        document.add(name, table)
    return tomlkit.dumps(document)


def _options(section: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yield fields and values, without those whose value is None by default.

    Raises ValueError for other values with None, which TOML does not have.
    """
    for field in fields(section):
        value, default = getattr(section, field.name), field.default
        if callable(field.default_factory):
            default = field.default_factory()
        if value is None and default is None:
            continue
        if _has_none(value):
            raise ValueError(
                f"{type(section).__name__}: {field.name} must not be {value!r}, since "
                "TOML has no None; a field may be None if that is its default"
            )
        yield field, value


def _has_none(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and any(map(_has_none, value)))


def _add(table: Any, field: dataclasses.Field[Any], value: Any) -> None:
    """Add an option to a table."""
    import tomlkit

    item = tomlkit.item(_plain(value))
    if help := field.metadata.get("help"):
        item.comment(help)
    table.add(field.name, item)


def _plain(value: Any) -> Any:
    """Return a value for TOML; a component of a network becomes an inline table."""
    import tomlkit

    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    table = tomlkit.inline_table()
    table.add("kind", kind_of(value))
    for field, inner in _options(value):
        table.add(field.name, _plain(inner))
    return table


def kind_of(section: Any) -> str:
    """Return the name of a section's class, registered or as package.module:Class."""
    cls = type(section)
    location = f"{cls.__module__}:{cls.__qualname__}"
    if isinstance(section, Task):
        entry = entries().get(section.kind)
        return section.kind if entry and entry.location == location else location
    # Another process finds a class by its location, unless a notebook defines it.
    named = cls.__module__.startswith("svdinv.") or cls.__module__ == "__main__"
    named = named or "<locals>" in cls.__qualname__
    return cls.__name__ if named and registered().get(cls.__name__) is cls else location


def _merged(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(tables))
    # Kinds first, in any order, because they clear their section.
    kinds_first = sorted(
        overrides, key=lambda name: (not name.endswith(".kind"), name.count("."))
    )
    for name in kinds_first:
        value = overrides[name]
        *path, last = name.split(".")
        table = merged
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"{name}: {part} is not a section")
        if path and last == "kind" and table.get("kind") != value:
            table.clear()  # the options of another kind
        table[last] = value
    return merged


def _config(tables: Mapping[str, Any]) -> Config:
    hints = get_type_hints(Config)
    for name in tables:
        if name not in hints:
            raise ValueError(f"unknown option {name!r}{_suggestion(name, hints)}")
    tables = {"task": {}, "network": {}, "training": {}} | dict(tables)
    sections: dict[str, Any] = {}
    for name in ("task", "network", "training"):
        table = tables[name]
        if not isinstance(table, dict):
            raise ValueError(f"{name} must be a section, [{name}], got {table!r}")
    sections["task"] = _object(tables["task"], "task", task_named, entries())
    known = registered(Recipe)  # with those of the task's module
    find = partial(class_named, base=Recipe, known=known)
    sections["network"] = _object(tables["network"], "network", find, known)
    sections["training"] = _section(Training, "training", tables["training"])
    for name in [name for name in tables if name not in sections]:
        sections[name] = _typed(tables[name], hints[name], name)
    return Config(**sections)


def _object(
    entry: dict[str, Any], name: str, find: Callable[[str], type], known: Iterable[str]
) -> Any:
    """Make an object of the class that a table names as its kind."""
    if name.count(".") > _DEEPEST:
        raise ValueError(f"{name}: tables are nested too deeply")
    table = dict(entry)
    kind = table.pop("kind", None)
    if not isinstance(kind, str):
        raise ValueError(f"{name}.kind must be one of {sorted(known)}, got {kind!r}")
    try:
        cls = find(kind)
    except ValueError as error:
        raise ValueError(f"{name}.kind {error}") from error
    return _section(cls, name, table)


def _section(cls: type, name: str, table: Mapping[str, Any]) -> Any:
    if not is_dataclass(cls):
        raise ValueError(f"{name}: {cls.__name__} must be a dataclass")
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"unknown option {name}.{key}{_suggestion(key, known)}")
        values[key] = _typed(value, hints[key], f"{name}.{key}")
    with naming(name, Exception):  # the class may be user-defined
        return cls(**values)


def _suggestion(name: str, known: Iterable[str]) -> str:
    return near(name, known) or f"; there are {', '.join(known)}"


_PLAIN = (bool, int, float, str)


def _typed(value: Any, hint: Any, name: str) -> Any:
    """Check a value from TOML against the type of a field; lists become tuples."""
    hint = object if hint is Any else hint
    if hint is tuple or (hint is object and isinstance(value, list)):
        hint = tuple[object, ...]
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(value, dict) and not (origin is Literal or hint in _PLAIN):
        # A component of a network, whose class the owner of the field checks.
        find = partial(class_named, base=object, known=registered())
        return _object(value, name, find, registered())
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        if not all(isinstance(each, dict) for each in value):
            raise ValueError(f"{name} must be a list of tables only, got {value!r}")
        return tuple(_typed(each, Any, f"{name}[{i}]") for i, each in enumerate(value))
    if origin in (Union, UnionType):
        choices = [part for part in parts if part is not NoneType]
        return _typed(value, choices[0], name)
    if origin is Literal:
        if value not in parts:
            raise ValueError(f"{name} must be one of {list(parts)}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            sample = '["a", "b"]' if parts[0] is str else "[1, 2]"
            raise ValueError(f"{name} must be a list, such as {sample}, got {value!r}")
        repeated = parts[0] if parts[-1] is Ellipsis else None
        if repeated is None and len(value) != len(parts):
            raise ValueError(f"{name} must have {len(parts)} elements, got {value!r}")
        inner = [repeated] * len(value) if repeated is not None else parts
        return tuple(
            _typed(v, t, f"{name}[{i}]")
            for i, (v, t) in enumerate(zip(value, inner, strict=True))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} is too large") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        description = {int: "a whole number", float: "a number", str: "a string"}
        raise ValueError(
            f"{name} must be {description.get(hint, hint.__name__)}, got {value!r}"
        )
    return value
