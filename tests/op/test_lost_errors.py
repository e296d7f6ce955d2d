# SPDX-License-Identifier: MIT
"""Errors keep type and text on their way through the compiled kernels."""

import gc
import signal
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from attention_cases import Case

from guide_ext.op import chunked, libraries
from guide_ext.op.attention import biased_attention

STATUS = libraries.library_status()
needs_library = pytest.mark.skipif(not STATUS.loaded, reason=STATUS.reason)
needs_alarm = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="no interval timer on this system"
)
# Calls without a compiled kernel: C++ sends them back to Python.
SENT_BACK = {
    "float64": Case(seqlen_q=64, seqlen_k=64, dtype=torch.float64),
    "large heads": Case(seqlen_q=64, seqlen_k=64, head_dim=520),
}


class _Oddity(BaseException):
    """What nobody catches by mistake."""


WAYS = {
    "function": biased_attention,
    "operator": torch.ops.guide.biased_attention,
    "inference": torch.inference_mode()(torch.ops.guide.biased_attention),
    "compiled": torch.compile(biased_attention, fullgraph=True, backend="aot_eager"),
}


def _failing(monkeypatch, error):
    """Let the chunked implementation raise in the middle of its work."""

    def fail(*_):
        raise error

    monkeypatch.setattr(chunked, "saturated", fail)


@pytest.mark.parametrize("case", SENT_BACK.values(), ids=SENT_BACK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt("Ctrl-C"), torch.OutOfMemoryError("CUDA out of memory."), _Oddity(1, "two")],
    ids=lambda error: type(error).__name__,
)
def test_the_same_error_arrives(monkeypatch, case, way, error):
    tensors = case.tensors()
    if way == "compiled":  # before anything fails: what the compiler meets, it wraps
        WAYS[way](*tensors.values())
    _failing(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        WAYS[way](*tensors.values())
    assert caught.value is error
    assert "_forward_rows" in {entry.name for entry in caught.traceback}


def test_on_every_backend(monkeypatch, backend):
    """The CUDA library has its own connection to Python, as has the emulated one."""
    error = KeyboardInterrupt("Ctrl-C")
    _failing(monkeypatch, error)
    with pytest.raises(KeyboardInterrupt) as caught:
        backend.run(*backend.draw(SENT_BACK["large heads"]).values())
    assert caught.value is error


@pytest.mark.parametrize("case", SENT_BACK.values(), ids=SENT_BACK)
def test_under_autograd_and_autocast(monkeypatch, case):
    tensors = case.tensors()
    tensors["query"].requires_grad_()
    error = KeyboardInterrupt("Ctrl-C")
    _failing(monkeypatch, error)
    with pytest.raises(KeyboardInterrupt) as caught, torch.autocast("cpu", enabled=False):
        biased_attention(*tensors.values())
    assert caught.value is error


def test_in_the_backward_pass(monkeypatch):
    tensors = SENT_BACK["float64"].tensors()
    tensors["query"].requires_grad_()
    out = biased_attention(*tensors.values())[0]
    error = KeyboardInterrupt("Ctrl-C")
    _failing(monkeypatch, error)
    with pytest.raises(KeyboardInterrupt) as caught:
        out.sum().backward()
    assert caught.value is error


def test_in_threads_each_gets_its_own(monkeypatch):
    monkeypatch.setattr(chunked, "saturated", lambda *_: (_ for _ in ()).throw(
        ValueError(threading.current_thread().name)
    ))  # fmt: skip
    tensors = SENT_BACK["float64"].tensors()
    wrong = []

    def work():
        for _ in range(50):
            try:
                biased_attention(*tensors.values())
            except ValueError as error:
                if str(error) == threading.current_thread().name:
                    continue
            wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_kept_alive(monkeypatch):
    """Neither what passed through C++ nor what the same operator raised for another caller."""
    operators = (torch.ops.guide.biased_attention, torch.ops.guide.biased_attention_chunked)
    for run in operators:
        error = _Oddity()
        _failing(monkeypatch, error)
        with pytest.raises(_Oddity):
            run(*SENT_BACK["float64"].tensors().values())
        reference = weakref.ref(error)
        monkeypatch.undo()
        del error
        gc.collect()
        assert reference() is None


def test_an_error_that_was_handled_inside_is_not_raised_later(monkeypatch):
    """As a signal handler may call the operator, and catch, while C++ waits for Python."""
    original = chunked.saturated
    tensors = SENT_BACK["float64"].tensors()
    expected = biased_attention(*tensors.values())

    def call_and_catch(bias, dtype):
        monkeypatch.setattr(chunked, "saturated", original)
        for run in (biased_attention, torch.ops.guide.biased_attention_chunked):
            with pytest.raises(ValueError, match="query must"):
                run(*(tensors[name][0] for name in ("query", "key", "value")))
        return original(bias, dtype)

    monkeypatch.setattr(chunked, "saturated", call_and_catch)
    for result, truth in zip(biased_attention(*tensors.values()), expected, strict=True):
        assert result.equal(truth)
    error = _Oddity()
    _failing(monkeypatch, error)
    with pytest.raises(_Oddity) as caught:
        biased_attention(*tensors.values())
    assert caught.value is error


def _call_for_ever(query):
    while True:
        biased_attention(query, query, query)


@needs_alarm
@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_a_signal_handler_may_raise(seconds):
    """A real one, whenever it comes: in C++, at the door of Python, or in the midst of it."""

    def interrupt(*_):
        raise KeyboardInterrupt("Ctrl-C")

    query = torch.randn(1, 4, 3000, 64, dtype=torch.float64)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            _call_for_ever(query)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- memory


def _words(error):
    """Leave out the numbers, as the length of what could not be had."""
    return "".join(letter for letter in str(error) if not letter.isdigit())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("which", ["out", "influence_out"])
@pytest.mark.parametrize("way", ["function", "operator", "inference"])
def test_a_lack_of_memory_is_what_torch_raises(dtype, which, way):
    side = 2**20
    query = torch.zeros(1, 1, 1, 1, dtype=dtype).expand(1, side, side, 1)
    keys = torch.zeros(1, 1, 4, 1, dtype=dtype)
    influence = None
    if which == "influence_out":
        query = query[:, :1, :1]
        influence = torch.zeros(1, 1, 1).expand(1, 2**44, 4)
    with pytest.raises(RuntimeError) as truth:
        torch.empty(1, side, side, 1)
    with pytest.raises(RuntimeError) as caught:
        WAYS[way](query, keys, keys, None, influence)
    assert type(caught.value) is type(truth.value)
    assert "DefaultCPUAllocator: can't allocate memory" in str(caught.value)
    assert _words(caught.value) == _words(truth.value)


def test_a_lack_of_memory_on_every_backend(backend):
    if backend.device.type != "cpu":
        pytest.skip("see test_a_lack_of_device_memory_is_what_torch_raises")
    side = 2**20
    query = torch.zeros(1, 1, 1, 8, dtype=backend.dtypes[0]).expand(1, side, side, 8)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator: can't allocate memory"):
        backend.run(query, query[:, :1, :4], query[:, :1, :4])


SCRATCH = """
import resource, torch, guide_ext
torch.set_num_threads(1)
query, value = torch.randn(1, 1, 512, 512), torch.randn(1, 1, 512, 1)
guide_ext.biased_attention(query[..., :8], query[..., :8], query[..., :8])
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
hoard = []
try:  # there is room for the results, but not for what the kernel works in
    while True:
        hoard.append(bytearray(100_000))
except MemoryError:
    pass
try:
    guide_ext.biased_attention(query, query, value)
    text = "enough memory"
except RuntimeError as error:
    text = f"{type(error).__name__}: {error}"
hoard.clear()
print(text)
"""


@needs_library
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says how much is mapped")
def test_a_lack_of_scratch_memory_is_what_torch_raises():
    done = subprocess.run([sys.executable, "-c", SCRATCH], capture_output=True, text=True)
    assert done.stdout.startswith("RuntimeError: "), done.stdout + done.stderr
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_lack_of_device_memory_is_what_torch_raises():
    query = torch.zeros(1, 1, 1, 8, dtype=torch.float16, device="cuda").expand(1, 2**15, 2**27, 8)
    keys = torch.zeros(1, 1, 4, 8, dtype=torch.float16, device="cuda")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        biased_attention(query, keys, keys)
