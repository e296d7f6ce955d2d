# SPDX-License-Identifier: MIT
"""Learn a Δ for each layer and head by gradient, from questions whose answers are known."""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration.decoding import check_seed
from guide_ext.integration.examples import Example, check_examples, fingerprint
from guide_ext.integration.inputs import encode
from guide_ext.integration.learned import LearnedDelta
from guide_ext.integration.likelihood import check_positions, targets_of
from guide_ext.integration.model.state import refuse_readers_of_both_sides, strength_size
from guide_ext.support.files import json_text, write_text
from guide_ext.support.values import as_float, finite, is_int

_DIGITS = 6


def learn_delta(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    by: str = "head",
    start: float = 1.0,
    rounds: int = 20,
    patience: int = 3,
    held_out: float = 0.3,
    learning_rate: float = 0.1,
    penalty: float = 0.1,
    batch_size: int = 8,
    seed: int = 0,
    saved: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LearnedDelta:
    """Learn how many nats a mark is to mean in each layer and head.

    The model stays as it is; what is learned is one number per head. The loss is the negative
    log-likelihood of the right answers, plus `penalty` times the variance of the table, which draws
    it towards one Δ. Some examples are held out: the table with the best likelihood on these is
    returned, and learning ends when it has not become better for some rounds. Memory is that of a
    training step on one example, without gradients of the weights.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        examples: The questions, at least two; some dozens for a table by head.
        by: What gets a number of its own: ``"head"``; ``"layer"``; ``"one"`` for all together.
        start: The Δ that all begin with, nats.
        rounds: How often all examples are seen at most.
        patience: After how many rounds without a better likelihood on held-out examples to stop.
        held_out: The share of the examples that is held out, above 0 and below 1.
        learning_rate: The most that Adam moves a number in a step, roughly, nats.
        penalty: Nats of loss for a table with a variance of 1.
        batch_size: Examples of a step. Each is computed by itself.
        seed: Chooses what is held out, and the order of the rest.
        saved: A file that gets the state after each round. With it, the same call goes on after an
            interruption, or with more `rounds` or `patience`.
        on_progress: Called with the number of examples that were computed, and the most that may
            be.

    Returns:
        The table, and what it is worth on the held-out examples.

    Raises:
        ValueError: If there are fewer than two examples, one has no answer, no mark or one that
            states its own Δ, an argument is out of range, the model cannot be steered by head or
            does not write answers, a likelihood is no number, or the file is of another call.
        OSError: If the file cannot be read or written.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> pairs = {"The cat sleeps.": "Le chat dort.", "The dog eats.": "Le chien mange."}
        >>> texts = [f"<!!->Summarize in French<-!!>: {text}" for text in pairs]
        >>> prompts = [guide.as_prompt(tokenizer, text) for text in texts]
        >>> examples = [Example(*pair) for pair in zip(prompts, zip(pairs.values()))]
        >>> found = guide.learn_delta(model, tokenizer, examples, by="layer", rounds=2)
        >>> len(found.nats), found.held_out >= found.at_start
        (4, True)
        >>> inputs = guide.encode(model, tokenizer, prompts[0], steering=found.steering())
        >>> inputs["guide_strength"].shape
        torch.Size([1, 4, 4])

    """
    size = strength_size(model)
    refuse_readers_of_both_sides(model, "learn_delta()")
    _check_options(by, start, rounds, patience, held_out, learning_rate, penalty, batch_size, seed)
    check_examples("learn_delta()", tokenizer, examples)
    learned, judging = _halves(examples, held_out, seed)
    layers, heads = size
    shape = {"head": (layers, heads), "layer": (layers, 1), "one": (1, 1)}[by]
    weights = fingerprint(model, tokenizer)
    told = [
        *(weights, by, start, learning_rate, penalty, batch_size, seed),
        *([example.name() for example in part] for part in (learned, judging)),
    ]
    state = _State.load(saved, told) or _State.begin(shape, start)
    total = 2 * len(judging) + rounds * len(examples)
    done = 2 * len(judging) + (len(state.losses) - 1) * len(examples) if state.losses else 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    def judged(table: Tensor) -> float:
        values = []
        for example in judging:
            with torch.no_grad():
                values.append(float(_likelihood(model, tokenizer, example, table)))
            advance()
        return math.fsum(values) / len(values)

    with _frozen(model):
        if not state.losses:
            state.plain = judged(torch.zeros(size))
            state.losses.append(-judged(torch.full(size, float(start))))
            state.best = list(state.table)
        while len(state.losses) <= rounds and len(state.losses) - 1 - state.best_round < patience:
            order = list(learned)
            random.Random(f"{seed} {len(state.losses)}").shuffle(order)
            for first in range(0, len(order), batch_size):
                _step(
                    model, tokenizer, order[first : first + batch_size], state, size, shape,
                    learning_rate=learning_rate, penalty=penalty, advance=advance,
                )  # fmt: skip
            state.judge(-judged(_whole(state.table, shape, size)))
            state.save(saved, told)
    table = _whole(state.best, shape, size)
    return LearnedDelta(
        nats=tuple(tuple(round(value, _DIGITS) for value in row) for row in table.tolist()),
        by=by,
        start=float(start),
        plain=state.plain,
        at_start=-state.losses[0],
        held_out=-state.losses[state.best_round],
        learned_from=len(learned),
        judged_by=len(judging),
        rounds=state.best_round,
        model=weights,
    )


@dataclass
class _State:
    """Where learning stands: plain numbers, so that a file brings them back bit by bit.

    Attributes:
        table: The learned numbers, flat.
        mean: Adam's mean of their gradients.
        square: Adam's mean of the squares.
        steps: How many steps were taken.
        plain: Likelihood of the held-out answers without steering.
        losses: Negative likelihood of these, at the start and after each round.
        best: The table of the best round.

    """

    table: list[float]
    mean: list[float]
    square: list[float]
    steps: int = 0
    plain: float = 0.0
    losses: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, shape: tuple[int, int], start: float) -> _State:
        count = shape[0] * shape[1]
        return cls([float(start)] * count, [0.0] * count, [0.0] * count)

    @property
    def best_round(self) -> int:
        return self.losses.index(min(self.losses))

    def judge(self, loss: float) -> None:
        if loss < min(self.losses):
            self.best = list(self.table)
        self.losses.append(loss)

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Take a step of Adam."""
        table = torch.tensor(self.table, dtype=torch.float64)
        table.grad = gradient
        adam = torch.optim.Adam([table], lr=learning_rate)
        adam.state[table] = {
            "step": torch.tensor(float(self.steps)),
            "exp_avg": torch.tensor(self.mean, dtype=torch.float64),
            "exp_avg_sq": torch.tensor(self.square, dtype=torch.float64),
        }
        adam.step()
        moments = adam.state[table]
        self.steps += 1
        self.table, self.mean, self.square = (
            numbers.tolist() for numbers in (table, moments["exp_avg"], moments["exp_avg_sq"])
        )

    def save(self, path: str | Path | None, told: list[Any]) -> None:
        if path is not None:
            write_text(path, json_text({"key": told, "state": asdict(self)}))

    @classmethod
    def load(cls, path: str | Path | None, told: list[Any]) -> _State | None:
        if path is None or not Path(path).exists():
            return None
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            key, state = held["key"], cls(**held["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"saved must be a file that this function wrote, got {str(path)!r}"
            ) from error
        if key != json.loads(json.dumps(told)):
            raise ValueError(
                "saved must be of the same model, examples and settings, got others in "
                f"{str(path)!r}; name another file, or delete it"
            )
        return state


def _step(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    state: _State,
    size: tuple[int, int],
    shape: tuple[int, int],
    *,
    learning_rate: float,
    penalty: float,
    advance: Callable[[], None],
) -> None:
    """Move the table by the mean gradient of some examples."""
    flat = torch.tensor(state.table, dtype=torch.float64, requires_grad=True)
    for example in examples:
        loss = -_likelihood(model, tokenizer, example, flat.view(shape).expand(size).float())
        (loss / len(examples)).backward()  # type: ignore[no-untyped-call]
        advance()
    if penalty and flat.numel() > 1:
        (penalty * flat.var(correction=0)).backward()  # type: ignore[no-untyped-call]
    gradient = flat.grad
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            "model must give the answers a likelihood with a gradient, got none or one that is no "
            "number; try dtype float32"
        )
    state.step(gradient, learning_rate)


def _likelihood(model: Any, tokenizer: Any, example: Example, table: Tensor) -> Tensor:
    """Return the log-likelihood of an example's answers, 0-d; the table gets its gradient.

    Every way to say the answer is a row behind the same prompt. Shorter ones are filled up on the
    right with tokens that nothing before them sees.
    """
    targets = targets_of(tokenizer, example.answers)
    inputs = encode(model, tokenizer, [example.prompt], delta=1.0)
    ids, bias = inputs["input_ids"], inputs["guide_bias"]
    longest = max(map(len, targets))
    check_positions(model, ids.shape[1] + longest)
    answers = torch.tensor(
        [[*target, *[target[0]] * (longest - len(target))] for target in targets],
        device=ids.device,
    )
    rows, more = answers.shape[0], longest - 1
    how: dict[str, Any] = {
        "input_ids": torch.cat([ids.expand(rows, -1), answers[:, :more]], 1),
        "guide_bias": torch.cat([bias.expand(rows, -1), bias.new_zeros(rows, more)], 1),
        "guide_strength": table.to(ids.device).expand(rows, -1, -1),
    }
    how["attention_mask"] = torch.ones_like(how["input_ids"])
    if "logits_to_keep" in inspect.signature(type(model).forward).parameters:
        how["logits_to_keep"] = longest
    logits = model(**how, use_cache=False).logits[:, -longest:].float()
    chances = logits.log_softmax(-1).gather(2, answers[..., None])[..., 0]
    lengths = torch.tensor([len(target) for target in targets], device=ids.device)
    counted = torch.arange(longest, device=ids.device) < lengths[:, None]
    found = chances.where(counted, 0.0).sum(1).logsumexp(0)
    if not bool(torch.isfinite(found)):
        raise ValueError(
            "model must give the answer a probability, got logits that are no numbers; try dtype "
            "float32"
        )
    assert isinstance(found, Tensor)
    return found


def _whole(flat: Sequence[float], shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return torch.tensor(flat, dtype=torch.float64).view(shape).expand(size).float()


def _halves(
    examples: Sequence[Example], held_out: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn from and those that are held out, at least one of each."""
    if len(examples) < 2:
        raise ValueError(
            f"examples must be at least two, one of them to be held out, got {len(examples)}"
        )
    order = list(examples)
    random.Random(f"held out {seed}").shuffle(order)
    count = min(max(1, round(held_out * len(order))), len(order) - 1)
    return order[count:], order[:count]


def _check_options(
    by: str,
    start: float,
    rounds: int,
    patience: int,
    held_out: float,
    learning_rate: float,
    penalty: float,
    batch_size: int,
    seed: int,
) -> None:
    if by not in ("head", "layer", "one"):
        raise ValueError(f"by must be 'head', 'layer' or 'one', got {by!r}")
    finite("start", start)
    counts = {"rounds": rounds, "patience": patience, "batch_size": batch_size}
    for name, count in counts.items():
        if not is_int(count) or count < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {count!r}")
    check_seed(seed)
    if not 0 < as_float(held_out) < 1:
        raise ValueError(f"held_out must be a number above 0 and below 1, got {held_out!r}")
    if not 0 < as_float(learning_rate) < math.inf:
        raise ValueError(f"learning_rate must be a finite number above 0, got {learning_rate!r}")
    if not 0 <= as_float(penalty) < math.inf:
        raise ValueError(f"penalty must be a finite number from 0, got {penalty!r}")


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Compute without dropout and without gradients of the weights, and leave all as it was."""
    was_training = [module for module in model.modules() if module.training]
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    model.eval()
    for weight in wanted:
        weight.requires_grad_(False)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)
        for module in was_training:
            module.training = True
