"""Interpreter of pickles of arrays, which calls nothing that a pickle names.

A pickle is a program that may call anything, and even NumPy's own functions can be led to read
memory that is not theirs. This interpreter knows containers, numbers, text and arrays. It makes
each array itself, once dtype, shape and the number of bytes are found to agree.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_DIMENSIONS = 8
MAX_OPERATIONS = 1 << 24  # of a pickle: a list of 400,000 pairs with an array each takes that many
LARGEST = {"U": 0x10FFFF, "b": 1}  # code point, and byte of a truth value
MAX_NAME = 60  # characters of what a file asks for, in the text of an error

PLAIN = re.compile(r"[<>=|]?([biufUS])(\d{1,4})")  # NumPy's name of a dtype: kind and size
OBJECT = re.compile(r"[|]?O8?")
SCALARS = (type(None), bool, int, float, str, bytes)

# The names that a pickle may ask for; NumPy 1 and 2, Python 2 and 3 have them in different modules.
NAMES = {
    (module, name)
    for modules, name in (
        (("numpy",), "ndarray"),
        (("numpy",), "dtype"),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct"),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar"),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer"),
        (("_codecs",), "encode"),
        (("builtins", "__builtin__"), "bytes"),
    )
    for module in modules
}


class PickleError(ValueError):
    """A file that is damaged; the text says how, to stand after the file's name."""


class PickleRefused(PickleError):
    """A file that holds more than arrays and containers; the text names what."""


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape that can be an array's.

    Raises:
        PickleError: for anything else.
    """
    is_right = type(shape) is tuple and len(shape) <= MAX_DIMENSIONS
    if not is_right or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise PickleError("its arrays have no right shape")
    return shape


def array_of_bytes(
    data: bytes | bytearray | str, dtype: np.dtype, shape: tuple[int, ...], is_fortran: bool
) -> np.ndarray:
    """Make an array of plain values from exactly its bytes; Python 2 has them as text.

    Raises:
        PickleError: if there are fewer or more, or such that are no text or truth value.
    """
    raw = data.encode("latin1") if type(data) is str else data
    if not isinstance(raw, bytes | bytearray) or dtype.itemsize == 0:
        raise PickleError("its arrays have no bytes")
    if math.prod(checked_shape(shape)) * dtype.itemsize != len(raw):
        raise PickleError("its arrays have not the bytes of their shape")
    flat = np.frombuffer(raw, dtype=dtype) if raw else np.empty(0, dtype)
    codes = {"U": np.dtype("u4").newbyteorder(dtype.byteorder), "b": np.dtype("u1")}.get(dtype.kind)
    if codes is not None and (flat.view(codes) > LARGEST[dtype.kind]).any():
        raise PickleError("its text or truth values are none")
    return flat.reshape(shape, order="F" if is_fortran else "C")


class PickledDType:
    """A dtype in the making: its state says the byte order."""

    def __init__(self, name: Any) -> None:
        found = PLAIN.fullmatch(name) if type(name) is str else None
        self.is_object = type(name) is str and OBJECT.fullmatch(name) is not None
        if found is None and not self.is_object:
            shown = name[:MAX_NAME] if type(name) is str else type(name).__name__
            raise PickleRefused(f"it holds an array of {shown}")
        self._name = "O" if found is None else "".join(found.groups())
        self.made = np.dtype(self._name)

    def set_state(self, state: Any) -> None:
        """Take the byte order; sizes and flags follow from the name, whatever the file says."""
        if type(state) is not tuple or len(state) != 8 or state[0] != 3:
            raise PickleRefused("it holds a dtype of another form")
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise PickleRefused("it holds a dtype with fields")
        if not self.is_object:
            self.made = np.dtype(state[1] + self._name)


class PickledArray:
    """An array in the making: it is empty until its state comes."""

    def __init__(self) -> None:
        self.made: np.ndarray | None = None  # of plain values
        self.items: list[Any] | None = None  # of objects
        self.shape: tuple[int, ...] = ()

    def set_state(self, state: Any) -> None:
        """Take shape and content."""
        version, shape, dtype, is_fortran, content = state
        if version != 1 or type(dtype) is not PickledDType or self.made is not None or self.items:
            raise PickleRefused("it holds an array of another form")
        if dtype.is_object:
            if type(content) is not list or math.prod(checked_shape(shape)) != len(content):
                raise PickleError("its arrays have not the objects of their shape")
            self.items, self.shape = content, shape
        else:
            self.made = array_of_bytes(content, dtype.made, shape, bool(is_fortran))


class PickledName:
    """A name that a pickle asks for, one of NAMES."""

    def __init__(self, module: Any, name: Any) -> None:
        if (module, name) not in NAMES:
            raise PickleRefused(f"it asks for {module}.{name}"[:MAX_NAME])
        self.name = name


class PickleInterpreter:
    """A pickle's stack and memo; `run` goes through its operations."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return what is left on the stack in the end; arrays are still in the making."""
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if operation.name not in STEPS:
                raise PickleRefused(f"it uses pickle's {operation.name}")
            if count > MAX_OPERATIONS:
                raise PickleRefused(f"it has more than {MAX_OPERATIONS} operations")
            STEPS[operation.name](self, argument)
        (value,) = self.stack
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Take all that lies above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def make_tuple(self, count: int | None) -> None:
        """Make a tuple of the last `count` values, or of those above the mark."""
        items = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)]
        self.push(tuple(items if count is None else reversed(items)))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise PickleError("its pickle appends to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or any(type(key) not in SCALARS for key in items[::2]):
            raise PickleRefused("it has keys that are no text and no number")
        target.update(zip(items[::2], items[1::2], strict=True))

    def find(self, argument: str) -> None:
        """Push a name that stands in one text, as protocols up to 3 have it."""
        self.push(PickledName(*argument.split(" ", 1)))

    def find_on_stack(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise PickleError("its pickle names nothing")
        self.push(PickledName(module, name))

    def call(self, _: None) -> None:
        """Make what a name of NAMES would make of its arguments."""
        arguments, name = self.stack.pop(), self.stack.pop()
        is_call = type(name) is PickledName and name.name in CALLS and type(arguments) is tuple
        if not is_call:
            raise PickleRefused("it calls what is no function")
        self.push(CALLS[name.name](*arguments))

    def build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (PickledDType, PickledArray):
            raise PickleRefused("it sets the state of what is no array")
        target.set_state(state)

    def keep(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def recall(self, key: int) -> None:
        self.push(self.memo[key])


def _reconstruct(kind: Any, shape: Any, _: Any) -> PickledArray:
    if type(kind) is not PickledName or kind.name != "ndarray" or shape != (0,):
        raise PickleRefused("it makes what is no plain array")
    return PickledArray()


def _scalar(dtype: Any, data: Any) -> Any:
    if type(dtype) is not PickledDType or dtype.is_object:
        raise PickleRefused("it holds a number of another form")
    return array_of_bytes(data, dtype.made, (), False).item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: None = None) -> PickledArray:
    if (
        type(dtype) is not PickledDType
        or dtype.is_object
        or order not in ("C", "F")
        or axes is not None
    ):
        raise PickleRefused("it holds an array of another form")
    found = PickledArray()
    found.made = array_of_bytes(data, dtype.made, shape, order == "F")
    return found


def _encode(text: Any, encoding: Any) -> bytes:
    """Make bytes, which protocol 2 of Python 3 has as text."""
    if type(text) is not str or encoding != "latin1":
        raise PickleRefused("it encodes text")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """Make empty bytes, which protocol 2 of Python 3 has as a call."""
    if arguments:
        raise PickleRefused("it makes bytes")
    return b""


CALLS: dict[str, Callable[..., Any]] = {
    "dtype": lambda name, *_: PickledDType(name),
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _from_buffer,
    "encode": _encode,
    "bytes": _no_bytes,
}

_values = (
    *("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_nothing = lambda machine, _: None  # noqa: E731
STEPS: dict[str, Callable[[PickleInterpreter, Any], None]] = {
    **dict.fromkeys(_values, PickleInterpreter.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), PickleInterpreter.keep),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), PickleInterpreter.recall),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": PickleInterpreter.mark,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": PickleInterpreter.make_tuple,
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop() for _ in "kv"][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": PickleInterpreter.find,
    "STACK_GLOBAL": PickleInterpreter.find_on_stack,
    "REDUCE": PickleInterpreter.call,
    "BUILD": PickleInterpreter.build,
}


def _small_integer(machine: PickleInterpreter, value: int) -> None:
    if abs(value) >= 1 << 63:
        raise PickleRefused("it holds an integer of more than 64 bits")
    machine.push(value)


STEPS["LONG1"] = _small_integer
