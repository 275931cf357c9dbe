"""How values are pickled where Ray runs: by the pickler that Ray itself uses for arguments and results.

A class of ``__main__`` (a script or notebook) is pickled with its code, and recognised on arrival by an id that the pickler
assigned. Ray's pickler is its own copy of cloudpickle, with its own ids: with cloudpickle proper, a value's class would
differ from that of a task's argument. Ray's pickler keeps it one class in driver, tasks and actors; a type's serializer
registered with Ray (``ray.util.register_serializer``) applies to values too, where they are pickled: arrays and tables have
forms of their own (``raykv.client.codecs``).

An ``ObjectRef`` is refused at any depth: the object ends with its owner's process, and the store would keep a dangling
name. It is caught before Ray's own reducer, which would pin the object for as long as this process lives.
"""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from typing import Any, ClassVar, NoReturn

import ray
from ray import cloudpickle

from raykv.errors import InvalidOption


def _refuse(ref: Any) -> NoReturn:
    raise InvalidOption(
        f"a value must not hold an {type(ref).__name__}: its object ends with the process that owns it, and the store would "
        "keep a name for nothing; put what ray.get() returns for it"
    )


_refused: dict[type, Any] = {ray.ObjectRef: _refuse, ray.ObjectRefGenerator: _refuse}


class _ValuePickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    dispatch_table: ClassVar[ChainMap[type, Any]] = ChainMap(_refused, *cloudpickle.CloudPickler.dispatch_table.maps)


def pickled(value: Any) -> bytes:
    """Return the value's pickle. Raises ``InvalidOption`` for an ``ObjectRef``, and what its own code raises."""
    remote = sys.modules.get("ray.util.client.common")
    if remote is not None:  # a client of Ray's client server has refs of its own
        _refused.setdefault(remote.ClientObjectRef, _refuse)
    with io.BytesIO() as file:
        _ValuePickler(file).dump(value)
        return file.getvalue()
