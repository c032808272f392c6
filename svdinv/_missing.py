"""Errors for frameworks and packages that are not installed or too old."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


def command(extra: str) -> str:
    """Return the command that installs an extra, from the source of svdinv itself.

    The source is a folder, an archive or a repository if pip has recorded one (PEP
    610), else an index.
    """
    import json  # expensive, and seldom needed
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        noted = metadata.distribution("svdinv").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        noted = None
    origin = json.loads(noted or "{}")
    url, vcs = origin.get("url", ""), origin.get("vcs_info", {}).get("vcs")
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{url2pathname(urlsplit(url).path)}[{extra}]'"
    place = f" @ {vcs}+{url}" if vcs else f" @ {url}" if url else ""
    return f"pip install 'svdinv[{extra}]{place}'"


def explain_missing(module: str, extra: str) -> ImportError:
    """Return the ImportError for a module, which names the extra to install."""
    return ImportError(f"svdinv needs {module} for this: {command(extra)}", name=module)


def check_version(module: str, found: str, least: str) -> None:
    """Raise ImportError if a framework is older than svdinv requires."""
    old, new = (tuple(map(int, re.findall(r"\d+", v)[:3])) for v in (found, least))
    if old < new:
        raise ImportError(
            f"svdinv needs {module} {least} or later, found {found}: {command(module)}",
            name=module,
        )


@contextmanager
def needing(module: str, extra: str) -> Iterator[None]:
    """Name the extra to install if an import within fails for lack of `module`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:  # a module that it needs
            raise
        raise explain_missing(module, extra) from error
