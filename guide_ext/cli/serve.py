# SPDX-License-Identifier: MIT
"""``guide-ext serve``: a steered model behind the API of OpenAI."""

from __future__ import annotations

import os
import webbrowser
from typing import Annotated

import typer

from guide_ext.cli.complete import complete_model
from guide_ext.cli.options import DeltaOption, DeviceOption, DtypeOption, load_model
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import say

_KEY = "GUIDE_API_KEY"


def serve(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=complete_model,
            help="A checkpoint folder, a .gguf file, a hub id, 'embedded' or 'smollm2'.",
        ),
    ] = EMBEDDED,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0 for any that is free.", min=0, max=65535)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"Key that clients must send. Better in the environment, as {_KEY}: others can "
            "read a command line."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: as here.")
    ] = None,
    delta: DeltaOption = 1.0,
    trusted_roles: Annotated[
        str, typer.Option(help="Roles whose tags act, with commas.")
    ] = "system,user",
    max_nats: Annotated[float, typer.Option(help="Largest bias of a token, nats.")] = 20.0,
    max_spans: Annotated[int, typer.Option(help="Most marks in a prompt.", min=1)] = 64,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 4096,
    queue: Annotated[int, typer.Option(help="Most requests that wait.", min=1)] = 32,
    batch: Annotated[int, typer.Option(help="Most answers at the same time.", min=1)] = 16,
    cached_tokens: Annotated[
        int, typer.Option(help="Tokens whose keys and values are kept for the next turn.", min=0)
    ] = 16384,
    compile_slots: Annotated[
        int,
        typer.Option(
            "--compile",
            help="Compile the forward pass for answers that run alone and have, with their prompt, "
            "at most so many tokens; takes minutes at the start. 0 for none.",
            min=0,
        ),
    ] = 0,
    cors: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may use the server; may be repeated."),
    ] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a model: OpenAI's API, in which marked text acts.

    [bold]guide-ext serve smollm2[/bold], then with any client of OpenAI's API, base URL
    http://127.0.0.1:8000/v1: text inside <!!-> … <-!!> of system and user messages gets more
    attention; extra_body={"guide": {"delta": 2}} says how much.

    Stop it with Ctrl+C: answers that have begun are finished.
    """
    from guide_ext.support.extras import require

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "to serve a model")
    from guide_ext.serve.run import run
    from guide_ext.serve.settings import Settings, check_host

    api_key = api_key or os.environ.get(_KEY) or None
    settings = Settings(
        name or model,
        delta=delta,
        trusted_roles=tuple(part.strip() for part in trusted_roles.split(",") if part.strip()),
        max_nats=max_nats,
        max_spans=max_spans,
        max_tokens=max_tokens,
        queue=queue,
        batch=batch,
        cached_tokens=cached_tokens,
        compile=compile_slots,
        api_key=api_key,
        cors=tuple(cors or ()),
    )
    check_host(host, api_key)  # before a model is loaded
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)

    def ready(address: str) -> None:
        say(f"guide-ext serves {settings.name!r} at {address}/v1")
        if open_page:
            webbrowser.open(address)

    if compile_slots:
        say(f"compiling the forward pass for answers up to {compile_slots} tokens: some minutes")
    run(loaded, tokenizer, settings, host=host, port=port, on_ready=ready)
