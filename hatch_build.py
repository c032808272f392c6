"""Build hook: the kernels are compiled where there is a C compiler.

Without one the package is pure Python, and slower. Libraries that are up to date stay.
SVDINV_KERNELS=require, for wheels to publish, makes it an error that there is no
compiler, and compiles anew. SVDINV_KERNELS=skip leaves the kernels out.
"""

import os
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _kernels(root: str) -> Any:
    """Import svdinv/kernels/build.py without the package around it."""
    path = Path(root) / "svdinv" / "kernels" / "build.py"
    spec = spec_from_file_location("svdinv_kernels_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelHook(BuildHookInterface):
    """Compile the kernels into a wheel for the platform, of any Python."""

    def dependencies(self) -> list[str]:
        """Name the compiler to install where there is none."""
        if os.environ.get("SVDINV_KERNELS", "") == "skip":
            return []
        return [] if _kernels(self.root).compiler() else ["ziglang>=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected."""
        wish = os.environ.get("SVDINV_KERNELS", "")
        if self.target_name != "wheel" or wish == "skip":
            return
        build = _kernels(self.root)
        kept = wish != "require" and build.up_to_date()
        try:
            libraries = build.LIBRARIES if kept else build.build()
        except build.BuildError as error:
            if wish == "require":
                raise
            self.app.display_warning(f"svdinv's kernels are left out: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"] += [str(x.relative_to(self.root)) for x in libraries]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
