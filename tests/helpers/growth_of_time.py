# SPDX-License-Identifier: MIT
"""How time grows with size, and marked text of any size.

Every input is measured at two sizes, eight times apart: linear work takes eight times as long,
quadratic work 64 times. What is compared is the ratio of CPU times, half-way between.
"""

import time

from guide_ext.marking.spans import MarkedText, Span, mark

FACTOR = 8
LIMIT = 24
# Below this, a clock says little: a millisecond is some 10,000 steps of the slowest reader here.
LEAST_SECONDS = 1e-3


def grows_linearly(run, make, size):
    """Tell whether `run(make(8 · size))` takes about 8 times as long as `run(make(size))`."""

    def seconds(value):
        start = time.process_time()
        run(value)
        return time.process_time() - start

    small, large = make(size), make(FACTOR * size)
    for _attempt in range(3):  # a disturbed measurement is repeated
        taken = seconds(large)
        if taken <= LIMIT * LEAST_SECONDS or taken <= LIMIT * seconds(small):
            return True
    return False


SHAPES = {
    "neighbours": lambda n: "The cat <!!->sleeps<-!!> in the barn. " * n,
    "several kinds": lambda n: "<!->The<-!> <!!->cat<-!!> <!2.5->sleeps<-!> <?a->here<-?a>. " * n,
    "inside words": lambda n: "un<!!->believ<-!!><!!->ably<-!!> " * n,
    "nested": lambda n: "<!->" * n + "a cat" + "<-!>" * n,
    "nested, with text": lambda n: "<!0.01->a cat " * n + "<-!>" * n,
    "nested, with space": lambda n: "<!0.01-> " * n + "a" + " <-!>" * n,
    "one around all": lambda n: "<?->" + "<!!->cat<-!!> " * n + "<-?>",
    "crossing": lambda n: MarkedText(
        "cat " * 2 * n, tuple(Span(4 * i, 4 * (i + n), delta=0.01) for i in range(n))
    ),
    "by substring": lambda n: mark("cat and dog " * n, substring="cat", level=2),
}
