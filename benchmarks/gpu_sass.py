# SPDX-License-Identifier: MIT
"""Print a hash of the machine code of every CUDA kernel, as JSON: equal builds have equal hashes.

python benchmarks/gpu_sass.py
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1] / "guide_ext" / "libguide_ext_cuda.so"


def sass_hashes(listing: str) -> dict[str, str]:
    """Hash the instructions of every kernel in what `cuobjdump -sass` prints.

    Example:
        >>> listing = "code for sm_80\\n Function : f\\n /*0000*/ EXIT ; /* 0x0 */\\n"
        >>> list(sass_hashes(listing))
        ['sm_80 f']

    """
    hashes: dict[str, str] = {}
    architecture, name, digest = "", "", hashlib.sha256()
    for line in listing.splitlines():
        if code := re.match(r"\s*code for (sm_\w+)", line):
            architecture = code[1]
        elif function := re.match(r"\s*Function : (\S+)", line):
            name, digest = f"{architecture} {function[1]}", hashlib.sha256()
        elif name and re.match(r"\s*/\*[0-9a-f]{4,}\*/", line):
            digest.update(line.strip().encode())
            hashes[name] = digest.hexdigest()[:16]
    return hashes


def main() -> int:
    """Hash the library of this checkout."""
    done = subprocess.run(
        ["cuobjdump", "-sass", str(LIBRARY)], capture_output=True, text=True, check=False
    )
    sys.stdout.write("\n" + json.dumps(sass_hashes(done.stdout), indent=1) + "\n")
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
