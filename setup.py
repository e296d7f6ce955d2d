# SPDX-License-Identifier: MIT
"""Build the compiled libraries with CMake and Ninja. CMakeLists.txt says what, this only drives it.

Environment:
    GUIDE_BUILD: OFF installs the pure-PyTorch package without any compiled library.
    GUIDE_CUDA: AUTO (default), ON or OFF: build the CUDA library.
    GUIDE_INSTRUCTION_SETS: Those of the CPU kernels, as "avx2" or "avx512;avx2" (default: all); the
        portable kernels are always built.
    MAX_JOBS: parallel compiler jobs.
    CMAKE_ARGS: further arguments of CMake.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE_DIR = Path(__file__).resolve().parent
COMPILER_HELP = """\
guide_ext: cannot build the compiled attention kernels: {reason}
  Debian, Ubuntu:  apt-get install g++        Fedora:  dnf install gcc-c++
  CMake and Ninja: pip install cmake ninja
Or install the pure-PyTorch package, slower but complete:  GUIDE_BUILD=OFF pip install ...
"""


class CMakeBuild(build_ext):  # type: ignore[misc]
    """Run CMake, and put `libguide_ext.so` beside `_C`."""

    def build_extensions(self) -> None:
        """Configure, compile and install into the folder that becomes the package."""
        check_tools()
        # Kept between builds, so that the next one compiles only what has changed.
        build_dir = SOURCE_DIR / "build" / "cmake" / str(sys.implementation.cache_tag)
        prefix = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent.parent
        configure = [
            *("cmake", "-S", str(SOURCE_DIR), "-B", str(build_dir), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DGUIDE_CUDA={os.environ.get('GUIDE_CUDA', 'AUTO')}",
            f"-DGUIDE_INSTRUCTION_SETS={os.environ.get('GUIDE_INSTRUCTION_SETS', '')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        build = ["cmake", "--build", str(build_dir)]
        if jobs := os.environ.get("MAX_JOBS"):
            build += ["--parallel", jobs]
        install = ["cmake", "--install", str(build_dir), "--prefix", str(prefix)]
        for command in (configure, build, install):
            if subprocess.run(command, check=False).returncode != 0:
                raise SystemExit(f"guide_ext: failed: {shlex.join(command)} (see the lines above)")

    def copy_extensions_to_source(self) -> None:
        """Editable installs: every library goes beside the Python sources, in one step each."""
        built = list((Path(self.build_lib) / "guide_ext").glob("*.so"))
        for library in built:
            target = SOURCE_DIR / "guide_ext" / library.name
            partial = target.with_suffix(".partial")
            shutil.copy2(library, partial)
            partial.replace(target)
        # One that is no longer built, such as that of CUDA, would be loaded beside newer ones.
        for old in (SOURCE_DIR / "guide_ext").glob("libguide_ext*.so"):
            if old.name not in {library.name for library in built}:
                old.unlink()


def check_tools() -> None:
    """Exit with what to install if a tool of the build is missing."""
    # The wheels of CMake and Ninja put them beside Python: on PATH only in an active environment.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(shutil.which(shlex.split(name)[0]) for name in compilers if name):
        raise SystemExit(COMPILER_HELP.format(reason="no C++ compiler (CXX, c++, g++, clang++)"))
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            raise SystemExit(COMPILER_HELP.format(reason=f"no {tool}"))


if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"guide_ext: needs setuptools >= 77, this is {setuptools.__version__}: "
        "pip install --upgrade setuptools"
    )
switch = os.environ.get("GUIDE_BUILD", "ON")
if switch not in ("ON", "OFF"):
    raise SystemExit(f"guide_ext: GUIDE_BUILD must be ON or OFF, got {switch!r}")
setup(
    ext_modules=[Extension("guide_ext._C", sources=[])] if switch == "ON" else [],
    cmdclass={"build_ext": CMakeBuild},
    # Libraries that an editable install left in the source tree are no part of a wheel.
    exclude_package_data={"guide_ext": ["*.so"]},
)
