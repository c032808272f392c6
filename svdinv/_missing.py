"""The errors that a face raises where its framework is not installed, or is old."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


def command(extra: str) -> str:
    """Make the command that installs an extra, from where svdinv itself came.

    That is a folder, an archive or a repository if pip has noted one (PEP 610), or else
    an index.
    """
    import json  # dear, and seldom needed
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
    """Make the ImportError of a module that names the extra of svdinv to install."""
    return ImportError(f"svdinv needs {module} for this: {command(extra)}", name=module)


def check_version(module: str, found: str, least: str) -> None:
    """Raise ImportError if a framework is older than what svdinv works with."""
    old, new = (tuple(map(int, re.findall(r"\d+", v)[:3])) for v in (found, least))
    if old < new:
        raise ImportError(
            f"svdinv needs {module} {least} or later, found {found}: {command(module)}",
            name=module,
        )


@contextmanager
def needing(module: str, extra: str) -> Iterator[None]:
    """Name the extra to install, where an import within finds that there is none."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:  # one that it needs itself
            raise
        raise explain_missing(module, extra) from error
