# SPDX-License-Identifier: MIT
"""Draw docs/serve.png: the page of the server, in a real browser, after an answer.

python docs/draw_serve.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent / "tests" / "helpers")]

import browser  # noqa: E402
from serving import MODEL, running  # noqa: E402

import guide_ext.integration as guide  # noqa: E402
from guide_ext.marking.spans import parse  # noqa: E402
from guide_ext.serve.settings import Settings  # noqa: E402


def main() -> None:
    """Write the prompt of the README, mark what is marked there, answer, take a picture."""
    marked = parse((DOCS / "example_prompt.txt").read_text(encoding="utf-8"))
    (span,) = marked.spans
    with (
        running(*guide.load_embedded(), Settings(MODEL)) as server,
        tempfile.TemporaryDirectory() as folder,
        browser.opener(Path(folder)) as opened,
    ):
        page = opened(f"{server.address}/", width=1100, height=1000)
        page.until("document.querySelector('#model').textContent === 'embedded'")
        page.run("document.querySelector('#prompt').focus()")
        page.type(marked.text)
        page.run(
            f"(f => {{ f.focus(); f.setSelectionRange({span.start}, {span.end}) }})"
            "(document.querySelector('#prompt'))"
        )
        page.press("KeyM", held=1)
        page.run("(f => { f.focus(); f.setSelectionRange(999, 999) })"
                 "(document.querySelector('#prompt'))")  # fmt: skip
        page.press("Enter", held=2)
        page.until(
            "document.querySelector('#stop').disabled && "
            "document.querySelectorAll('#answer-guided .tok').length > 3"
        )
        (DOCS / "serve.png").write_bytes(page.screenshot())


if __name__ == "__main__":
    main()
