# SPDX-License-Identifier: MIT
"""The versions of transformers that are supported; importing this module refuses all others.

A version is tested before it is added, as a change may matter: 5.24 renamed the cache, which must
be found for the bias to reach the right tokens.
"""

from __future__ import annotations

from guide_ext.support.extras import require

OLDEST, FIRST_UNKNOWN = "5.23", "5.25"


def check_transformers() -> None:
    """Check that transformers is installed, in a supported version.

    Raises:
        MissingPackageError: If it is not installed.
        ImportError: If its version is not supported.

    """
    found = require("transformers", "to steer models").__version__
    version = require("packaging.version", "to compare versions").Version
    if not version(OLDEST) <= version(found) < version(FIRST_UNKNOWN):
        raise ImportError(
            f"guide_ext.integration must run with transformers >= {OLDEST} and < {FIRST_UNKNOWN}, "
            f"got {found}; install it with: pip install 'guide_ext[transformers]'"
        )


check_transformers()
