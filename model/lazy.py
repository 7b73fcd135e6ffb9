"""TensorFlow, imported when something of it is first used.

A module that takes `tf` and `fused` from here is imported in milliseconds. The samplers' files do:
each holds a sampler's settings beside its mathematics, and so a configuration is checked, and help
printed, before TensorFlow starts. Such a module

- has `from __future__ import annotations`, and uses `tf` inside functions alone;
- imports what needs TensorFlow under `typing.TYPE_CHECKING` if annotations alone name it, or takes
  it by `module`.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _OnFirstUse(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def module(name: str) -> types.ModuleType:
    """A module that is imported when an attribute of it is first asked for.

    Args:
        name: in full, such as "vaefill.model.vae".
    """
    return _OnFirstUse(name)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = module("tensorflow")


class fused:  # noqa: N801, a decorator
    """Decorates a function of tensors: XLA compiles it into one kernel, or few, when first called.

    The same as `tf.function(jit_compile=True)`, which needs TensorFlow where a function is defined.

    Args:
        function: of tensors, nested tuples of them, and hashable Python values, by position; one
            with a loop over tensors is decorated by `loops` first.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _program(self) -> Callable[..., Any]:
        return tf.function(self._function, jit_compile=True, autograph=False)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self._program(*arguments)


def loops(function: _Function) -> _Function:
    """Decorates a function with `for _ in tf.range(...)` in it: the loop is one of the program.

    AutoGraph rewrites this function and none that it calls. Left to rewrite all of a program, as
    `tf.function` does by itself, it takes a third of the time in which a sampler starts; so
    programs are made with `autograph=False`.

    Args:
        function: any that has no conditions over tensors.
    """

    @functools.cache
    def rewritten() -> Callable[..., Any]:
        return tf.autograph.to_graph(function, recursive=False)

    def call(*arguments: Any, **named: Any) -> Any:
        return rewritten()(*arguments, **named)

    functools.update_wrapper(call, function)
    del call.__wrapped__  # type: ignore[attr-defined]  # which `tf.function` would call instead
    return cast(_Function, call)
