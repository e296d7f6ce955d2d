# SPDX-License-Identifier: MIT
"""A `forward` whose signature names the steering arguments.

transformers' Trainer reads from the signature of `forward` which columns of a data set to keep, and
drops the others silently. The hooks of `enable` take the steering arguments out before `forward`
runs. If the hooks have not run, `forward` still gets the arguments, and does not ignore them.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Callable
from typing import Any

from guide_ext.integration.call.arguments import (
    NAMES_ATTRIBUTE,
    STEERING_ARGUMENTS,
    steering_arguments,
    with_steering,
)
from guide_ext.integration.model.state import is_enabled

# What __reduce_ex__ returns as the maker of objects whose class does not define its own way.
_PLAIN_MAKERS = (copyreg.__newobj__, copyreg.__newobj_ex__)  # type: ignore[attr-defined]


def name_steering(model: Any) -> None:
    """Make the signature of a model's `forward` name the steering arguments.

    The model gets a new class that is derived from its own and has the same name, as `fully_shard`
    does it. A method on the model itself would not work with the copies of `DataParallel`, with
    `torch.export` and with accelerate. If the model has a `forward` of its own already, such as
    that of accelerate's hooks, that one is wrapped, too.

    Args:
        model: A transformers model. Nothing changes if its signature names the arguments already.

    """
    found = model.__dict__.get("forward")
    if found is not None and not _names_steering(found):
        model.__dict__["forward"] = _InstanceForward(model, found)
    kind: Any = type(model)
    if not _names_steering(kind.forward):
        model.__class__ = _named_class(kind, kind.forward, steering_arguments(model))


def _names_steering(forward: Callable[..., Any]) -> bool:
    return STEERING_ARGUMENTS[0] in inspect.signature(forward).parameters


@functools.cache
def _named_class(base: Any, original: Any, steering: tuple[str, ...]) -> Any:
    """Make the class for enabled models of class `base`, whose forward is `original`."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = _steering_in(kwargs)
        if name is not None:
            return _before_hooks(self, name, args, kwargs)
        return base.forward(self, *args, **kwargs)

    def validate(self: Any, given: dict[str, Any]) -> None:
        # generate() accepts what forward names, but some models then drop it on the way there.
        names = [name for name in steering if given.get(name) is not None]
        if names and not is_enabled(self):
            raise _not_enabled(self, names[0])
        base._validate_model_kwargs(self, given)

    def reduce(self: Any, protocol: Any) -> Any:
        make, arguments, *rest = super(named, self).__reduce_ex__(max(protocol, 2))  # type: ignore[misc]
        if type(self) is not named or make not in _PLAIN_MAKERS:
            return (make, arguments, *rest)  # the class defines its own way
        # Pickle finds `base` under the name of the class. A disabled model goes back to `base`.
        if is_enabled(self):
            return (_new, (base, steering), *rest)
        return (base.__new__, (base,), *rest)

    attributes = {
        "forward": _described(forward, original, steering),
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    if hasattr(base, "_validate_model_kwargs"):
        attributes["_validate_model_kwargs"] = validate
    named = type(base)(base.__name__, (base,), attributes)
    return named


def _new(base: Any, steering: tuple[str, ...]) -> Any:
    """Make an object of the class for enabled models; pickle calls this."""
    named = _named_class(base, base.forward, steering)
    return named.__new__(named)


class _InstanceForward:
    """Replaces a forward that is an attribute of a model, such as that of accelerate's hooks.

    It is an object and not a closure, so that a copied or pickled model calls itself and not the
    model that it was copied from.
    """

    def __init__(self, model: Any, found: Callable[..., Any]) -> None:
        self._model = model
        self._found = found

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the replaced forward, with the steering arguments."""
        return with_steering(inspect.signature(self._found), steering_arguments(self._model))

    @property
    def _guide_names(self) -> tuple[str, ...]:
        """The names of its parameters, see `arguments.named`."""
        return tuple(self.__signature__.parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; see its `forward`."""
        name = _steering_in(kwargs)
        if name is not None:
            return _before_hooks(self._model, name, args, kwargs)
        return self._found(*args, **kwargs)


def _steering_in(kwargs: dict[str, Any]) -> str | None:
    """Return the name of an argument that starts with ``guide_`` and is still there, or None."""
    for name, value in kwargs.items():
        if name.startswith("guide_") and value is not None:
            return name
    return None


def _described(forward: Any, original: Any, steering: tuple[str, ...]) -> Any:
    """Give a new forward the name, the documentation and the signature of the original."""
    functools.update_wrapper(forward, original)
    # Code that unwraps a forward, as accelerate does, must stop here.
    del forward.__wrapped__
    signature = with_steering(inspect.signature(original), steering)
    forward.__signature__ = signature
    names = [name for name in signature.parameters if name != "self"]
    setattr(forward, NAMES_ATTRIBUTE, tuple(names))
    return forward


def _before_hooks(model: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Serve a call of `forward` whose steering arguments no hook has taken out.

    Either somebody called `model.forward()`, which runs no hooks: then call the model, with hooks.
    Or the model is not enabled: then raise ValueError.
    """
    if is_enabled(model):
        return model(*args, **kwargs)
    raise _not_enabled(model, name)


def _not_enabled(model: Any, name: str) -> ValueError:
    return ValueError(
        f"{name} must go to an enabled model, got a {type(model).__name__} that is not, or no "
        "longer; call guide_ext.integration.enable(model), or leave it out to run the model "
        f"unsteered (dataset.remove_columns({name!r}), where Trainer passes it on)"
    )
