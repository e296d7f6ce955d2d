# SPDX-License-Identifier: MIT
"""What the server was started with: the model's name, and the limits that no request can widen."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields

from guide_ext.support.values import as_float, is_int

_FROM_ZERO = {"cached_tokens", "compile"}
_LEAST_COMPILED = 16  # slots


@dataclass(frozen=True)
class Settings:
    """What holds for every request.

    Attributes:
        name: What clients call the model.
        delta: Δ of a level-2 mark, nats, where a request states none.
        trusted_roles: Roles of a chat whose tags act; a request may name fewer of them.
        max_nats: Largest bias of a token, either way, marks that add up included.
        max_spans: Most marks in a prompt.
        max_tokens: Longest answer, in tokens.
        max_prompt_tokens: Longest prompt, in tokens; the model's positions are another limit.
        max_body: Largest body of a request, bytes.
        queue: Most requests that wait; a further one is refused.
        batch: Most answers that are generated at the same time.
        batch_tokens: Most tokens of a batch, padding and the longest answer included.
        cached_tokens: Most tokens whose keys and values are kept for the next turn of a chat.
        compile: Most tokens of a prompt and its answer together for which the forward pass is
            compiled; 0 for none.
        api_key: What clients must send; None for no key.
        cors: Origins whose pages may use the server.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> Settings("embedded").delta
        1.0
        >>> Settings("embedded", queue=0)
        Traceback (most recent call last):
        ...
        ValueError: queue must be a whole number from 1, got 0

    """

    name: str
    delta: float = 1.0
    trusted_roles: tuple[str, ...] = ("system", "user")
    max_nats: float = 20.0
    max_spans: int = 64
    max_tokens: int = 4096
    max_prompt_tokens: int = 32768
    max_body: int = 1 << 20
    queue: int = 32
    batch: int = 16
    batch_tokens: int = 65536
    cached_tokens: int = 16384
    compile: int = 0
    api_key: str | None = None
    cors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in _FROM_ZERO else 1
            if field.type == "int" and not (is_int(value) and value >= least):
                raise ValueError(f"{field.name} must be a whole number from {least}, got {value!r}")
        if 0 < self.compile < _LEAST_COMPILED:
            raise ValueError(
                f"compile must be 0 or a whole number from {_LEAST_COMPILED}, got {self.compile!r}"
            )
        if not 0 < as_float(self.max_nats) < math.inf:
            raise ValueError(f"max_nats must be a finite number above 0, got {self.max_nats!r}")
        if not abs(as_float(self.delta)) <= self.max_nats:
            raise ValueError(
                f"delta must be a number of nats from -{self.max_nats:g} to {self.max_nats:g}, as "
                f"max_nats says, got {self.delta!r}"
            )
        if self.api_key is None and "*" in self.cors:
            raise ValueError("cors must name origins where there is no key, got '*'")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii()):
            raise ValueError("the API key must be ASCII characters, at least one, got others")


def check_host(host: str, api_key: str | None) -> None:
    """Check that a server which others can reach has a key.

    Raises:
        ValueError: If the host is not this machine alone, and there is no key.

    Example:
        >>> check_host("127.0.0.1", None)
        >>> check_host("0.0.0.0", "secret")
        >>> check_host("0.0.0.0", None)
        Traceback (most recent call last):
        ...
        ValueError: --host must be this machine (127.0.0.1) unless --api-key or GUIDE_API_KEY is
        set, got '0.0.0.0': anyone who can reach it could use the model

    """
    if api_key is None and not is_loopback(host):
        raise ValueError(
            "--host must be this machine (127.0.0.1) unless --api-key or GUIDE_API_KEY is set, got "
            f"{host!r}: anyone who can reach it could use the model"
        )


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is that of this machine alone.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "10.0.0.1", "a.org")]
        [True, True, True, False, False]

    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
