# SPDX-License-Identifier: MIT
"""Pages of reports: texts that want to be markup, and a strict reader of what became of them."""

import copy
import html.parser

DOCUMENT = "Yesterday, the old baker hides the key in the barn. Anna likes the salt."
STEERED = f"<!!->Summarize in French<-!!>\n{DOCUMENT}"
TWO_GROUPS = (
    "<?rule-><!!->Summarize in French<-!!><-?rule>\nYesterday, the old baker hides the key in "
    "<?place->the barn<-?place>. Anna likes the salt."
)


HOSTILE = (
    "<script>alert(1)</script>", "</script>", "<!--", '" onmouseover="alert(1)', "' x='", "&amp;",
    "<img src=x onerror=alert(1)>", "\u202eevil", "\x00", "\ud800", "]]>", "${x}", "\\u003c", "$a$",
    "$\\frac{$", "</style><script>", "{0}{name}%s",
)  # fmt: skip


VOID = {"meta", "img", "input", "br", "hr", "link", "source"}


def hostile_record(record):
    """The record, but every text in it wants to be markup."""
    found = copy.deepcopy(record)
    found["model"] = HOSTILE[0]
    names = dict(zip(found["groups"], HOSTILE, strict=False))
    found["groups"] = list(names.values())
    prompt = found["prompt"]
    prompt["groups"] = {names[name]: flags for name, flags in prompt["groups"].items()}
    rows = [prompt["tokens"], *(run["tokens"] for run in found["runs"])]
    for index, token in enumerate(token for row in rows for token in row):
        token["text"] = token["token"] = HOSTILE[index % len(HOSTILE)]
    for run in found["runs"]:
        run["answer"] = HOSTILE[0]
        for row, group in zip(run["summary"], found["groups"], strict=True):
            row["group"] = group
    return found


class Reader(html.parser.HTMLParser):
    """Checks that tags nest, and remembers elements, attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else None, data))

    def tokens(self):
        return [found for _, found in self.elements if "data-token" in found]


def pixels(path):
    """Read a picture, ``[height, width, 3]``."""
    import matplotlib.image

    return matplotlib.image.imread(path)[..., :3]
