"""Build of xenvbd: every .pyx under xenvbd/ becomes an extension module; the rest is in pyproject.toml.

Environment:
  XENVBD_TRACE=1     line tracing in the Cython code, for coverage (slow: never for a release)
  XENVBD_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer, whose findings end the process (make test-asan)
"""
import os
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
TRACE = os.environ.get("XENVBD_TRACE") == "1"
SANITIZE = os.environ.get("XENVBD_SANITIZE") == "1"

WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
MACROS = [("_GNU_SOURCE", "1"), ("__XEN_TOOLS__", "1")]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "linetrace": TRACE,
}

# C sources and libraries of the modules that have any: module -> (sources, libraries)
NATIVE: dict[str, tuple[list[str], list[str]]] = {
    "xenvbd.hv.xen": ([], ["xenevtchn", "xengnttab"]),
    "xenvbd.hv.sim": (sorted(str(p.relative_to(HERE)) for p in (HERE / "xenvbd/hv").glob("machine*.c")), []),
    "xenvbd.disk.uring": ([], ["uring"]),
    "xenvbd.disk.restrict": ([], ["uring"]),
    "xenvbd.disk.rings": ([], ["uring"]),
    "xenvbd.sandbox.seccomp": ([], ["seccomp"]),
}


# The loops over requests are one function each: the calls in them took 20 of 120 instructions a request.
INLINE = [f"--param={what}" for what in ("max-inline-insns-single=1000", "large-function-growth=1000",
                                         "inline-unit-growth=200")]


def extension(path: Path) -> Extension:
    """The extension module of one .pyx file."""
    name = ".".join(path.relative_to(HERE).with_suffix("").parts)
    sources, libraries = NATIVE.get(name, ([], []))
    compile_args, link_args = ["-O2", "-g", "-std=gnu11", *WARNINGS], []
    if path.parent.name == "dataplane":
        compile_args += INLINE
    if SANITIZE:
        compile_args += ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
                         "-fno-omit-frame-pointer"]
        link_args += ["-fsanitize=address,undefined"]
    return Extension(
        name,
        [str(path.relative_to(HERE)), *sources],
        include_dirs=["include"],
        libraries=libraries,
        define_macros=MACROS + ([("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")] if TRACE else []),
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        depends=[str(p.relative_to(HERE)) for d in ("include", "xenvbd") for p in (HERE / d).rglob("*.h")],
    )


os.chdir(HERE)
setup(
    packages=find_packages(include=["xenvbd", "xenvbd.*"]),
    include_package_data=False,         # else the C sources come along
    package_data={"": ["*.pxd"]},
    ext_modules=cythonize(
        [extension(p) for p in sorted((HERE / "xenvbd").rglob("*.pyx"))],
        # One directory a compiler: the C that Cython 3 wrote is not what Debian's would write.
        build_dir=None if TRACE else f"build/cython-{Cython.__version__}",    # coverage looks for the C beside the .pyx
        include_path=["include"],
        compiler_directives=DIRECTIVES,
        nthreads=os.cpu_count() or 1,
    ),
)
