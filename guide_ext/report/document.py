# SPDX-License-Identifier: MIT
"""The frame of every page: one HTML document that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files


def document(title: str, policy: str, style: str, body: str) -> str:
    """Return a whole HTML document.

    Args:
        title: Plain text.
        policy: What the browser may do besides nothing (Content-Security-Policy).
        style: CSS.
        body: HTML of the body.

    Example:
        >>> document("a < b", "img-src data:", "", "<main></main>").splitlines()[0]
        '<!DOCTYPE html>'

    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def asset(name: str) -> str:
    """Return a file that lies beside this module."""
    return files("guide_ext.report").joinpath(name).read_text(encoding="utf-8")


def sha256_source(text: str) -> str:
    """Name an inline style or script by its hash, for a policy that allows no other.

    Example:
        >>> sha256_source("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
