# SPDX-License-Identifier: MIT
"""Text that acts on a terminal, and a real one to show it on."""

import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from importlib.resources import files

# Title, clipboard, clear, a colour, C1's sequence, backspaces and a lone carriage return that
# rewrite a line, an override that turns it around, half a surrogate.
HOSTILE = (
    "\x1b]0;pwned\x07\x1b]52;c;cHduZWQ=\x1b\\\x1b[2J\x1b[31m\x9b2J\x9d0;x\x9c"
    "rm\b\b\rls\x7f\u202ecod\u2066x\u2069\udc9b\x00"
)
# What may leave the product on the way to people.
OBEYED = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n"} | {
    *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\udc9b"
}
MAIN = "from guide_ext.cli import main; main()"
ANSWERED = "the title \x1b]0;pwned\x07 \x1b[2J \x9b2J e\b\r\u202e"


def hostile_model(folder):
    """Save the embedded model with a tokenizer that decodes one word as `ANSWERED`."""
    source = str(files("guide_ext").joinpath("embedded", "model"))
    shutil.copytree(source, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    replaced = {"type": "Replace", "pattern": {"String": "boulanger"}, "content": ANSWERED}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], replaced]}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return str(folder)


def on_terminal(*arguments, columns=80):
    """Run the command line on a terminal and return what that was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=environment | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    os.close(theirs)
    sent = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux says so where the other end is closed
            break
        if not piece:
            break
        sent += piece
    os.close(ours)
    process.wait()
    return sent.decode("utf-8")
