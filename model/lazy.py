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
from typing import TYPE_CHECKING, Any


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
    AutoGraph, which rewrites Python loops and takes its time, is left out unless asked for.

    Args:
        function: of tensors, nested tuples of them, and hashable Python values, by position.
        autograph: whether the function has Python loops or conditions over tensors.
    """

    def __init__(self, function: Callable[..., Any], autograph: bool = False):
        self._function = function
        self._autograph = autograph
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _program(self) -> Callable[..., Any]:
        return tf.function(self._function, jit_compile=True, autograph=self._autograph)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self._program(*arguments)
