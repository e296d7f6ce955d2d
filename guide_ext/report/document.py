# SPDX-License-Identifier: MIT
"""Where HTML is written: whatever is put into it is escaped here, and nowhere else.

`markup` fills templates, `inert_json` hands data to a script, `document` frames the whole. A linter
(ruff, S704) refuses every other way to make HTML, and templates that are not written out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from guide_ext.influence.record import visible


def markup(template: str, /, *values: str | float, **named: str | float) -> Markup:
    """Fill a template with values; texts are made visible and escaped, HTML stays what it is.

    Args:
        template: HTML, written out in the source, with the fields of `str.format`. Attributes must
            be in quotes.
        values: Texts, numbers, or what `markup` returned.
        named: The same, by name.

    Example:
        >>> cell = markup("<b>{:.2f}</b>", 0.125)
        >>> print(markup('<td title="{name}">{}</td>', cell, name='"><script>'))
        <td title="&#34;&gt;&lt;script&gt;"><b>0.12</b></td>

    """
    return Markup(template).format(  # noqa: S704 - the one place
        *map(_shown, values), **{name: _shown(value) for name, value in named.items()}
    )


def joined(parts: Iterable[Markup], between: str = "") -> Markup:
    """Return pieces of HTML one after another, with text between them.

    Example:
        >>> print(joined([markup("<b>a</b>"), markup("<i>b</i>")], " < "))
        <b>a</b> &lt; <i>b</i>

    """
    return markup("{}", between).join(parts)


def inert_json(data: Any) -> Markup:
    r"""Return JSON for an element ``script``, of which no HTML parser takes anything for markup.

    Raises:
        ValueError: If there is NaN or an infinity in it.

    Example:
        >>> print(inert_json(["</script>"]))
        ["\u003c/script\u003e"]

    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no character that begins markup is left


def nested(page: Markup) -> Markup:
    """Return a whole document as the value of an attribute, such as ``srcdoc``."""
    # As a plain text: what is HTML already is not escaped again otherwise.
    return Markup(html.escape(str(page), quote=True))  # noqa: S704 - just escaped


def document(title: str, policy: str, style: Markup, body: Markup) -> Markup:
    """Return a whole HTML document, which loads nothing from anywhere.

    Args:
        title: Plain text.
        policy: What the browser may do besides nothing (Content-Security-Policy).
        style: CSS, of `asset`.
        body: HTML of the body.

    Example:
        >>> page = document("a < b", "img-src data:", markup(""), markup("<main></main>"))
        >>> print(page.splitlines()[0], "a &lt; b" in page)
        <!DOCTYPE html> True

    """
    return markup(
        """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
""",
        policy=policy,
        title=title,
        style=style,
        body=body,
    )


def asset(package: str, name: str) -> Markup:
    """Return a style or a script that lies in a package of ours."""
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - our own file


def sha256_source(text: str) -> str:
    """Name an inline style or script by its hash, for a policy that allows no other.

    Example:
        >>> sha256_source("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: str | float) -> str | float:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return visible(str(value)) if is_text else value
