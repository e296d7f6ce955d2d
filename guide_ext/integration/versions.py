# SPDX-License-Identifier: MIT
"""The versions of transformers that are known here; importing this refuses all others.

Every version is tried before it is let in: 5.24 renamed the cache, of which a bias must know.
"""

from __future__ import annotations

from guide_ext.support.extras import require

OLDEST, FIRST_UNKNOWN = "5.23", "5.25"


def check_transformers() -> None:
    """Check that transformers is there, in a version that is known.

    Raises:
        MissingPackageError: If it is not installed.
        ImportError: If it is another version.

    """
    found = require("transformers", "to steer models").__version__
    version = require("packaging.version", "to compare versions").Version
    if not version(OLDEST) <= version(found) < version(FIRST_UNKNOWN):
        raise ImportError(
            f"guide_ext.integration must run with transformers >= {OLDEST} and < {FIRST_UNKNOWN}, "
            f"got {found}; install it with: pip install 'guide_ext[transformers]'"
        )


check_transformers()
