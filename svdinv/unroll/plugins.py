"""Objects that a configuration names as ``package.module:name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__all__ = ["imported"]


def imported(name: str) -> Any:
    """Import ``package.module:name``; modules in the current folder are found, too.

    Raises ValueError if it is no such name, there is nothing of it, or the module
    raises or exits.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{name!r} is not of the form package.module:name")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # the module is anybody's
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name}: importing {module} ended in {what}") from error
