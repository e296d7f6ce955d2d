# SPDX-License-Identifier: MIT
"""Write HTML: every value that goes into it is escaped here, and nowhere else.

`markup` fills templates, `inert_json` passes data to a script, `document` makes the whole page. A
linter (ruff, S704) refuses other ways to make HTML, and templates that are not literals.
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
    """Fill a template with values. Texts are escaped and made visible; HTML is put in as it is.

    Args:
        template: HTML, a literal in the source, with the fields of `str.format`. Attributes must
            be in quotes.
        values: Texts, numbers, or HTML that `markup` returned.
        named: The same, by name of the field.

    Example:
        >>> cell = markup("<b>{:.2f}</b>", 0.125)
        >>> print(markup('<td title="{name}">{}</td>', cell, name='"><script>'))
        <td title="&#34;&gt;&lt;script&gt;"><b>0.12</b></td>

    """
    return Markup(template).format(  # noqa: S704 - the one place
        *map(_shown, values), **{name: _shown(value) for name, value in named.items()}
    )


def joined(parts: Iterable[Markup], between: str = "") -> Markup:
    """Join pieces of HTML with a text between them.

    Example:
        >>> print(joined([markup("<b>a</b>"), markup("<i>b</i>")], " < "))
        <b>a</b> &lt; <i>b</i>

    """
    return markup("{}", between).join(parts)


def inert_json(data: Any) -> Markup:
    r"""Return JSON for a ``script`` element, in which an HTML parser finds no markup.

    Raises:
        ValueError: If the data hold NaN or an infinity.

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
    # str(): html.escape would leave Markup as it is.
    return Markup(html.escape(str(page), quote=True))  # noqa: S704 - just escaped


def document(title: str, policy: str, style: Markup, body: Markup) -> Markup:
    """Return a whole HTML document, which may not load anything from elsewhere.

    Args:
        title: Plain text.
        policy: What the browser is allowed, in the words of a Content-Security-Policy; everything
            else is forbidden.
        style: CSS, as `asset` returns it.
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
    """Return the text of a style or a script that one of our packages contains."""
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - our own file


def sha256_source(text: str) -> str:
    """Return the hash of an inline style or script, for a policy that allows only this one.

    Example:
        >>> sha256_source("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: str | float) -> str | float:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return visible(str(value)) if is_text else value
