"""A GPU that is none: tensors say that they are on it, and are computed on the processor.

Torch's FakeTensorMode keeps devices apart without a GPU too, but its tensors hold no numbers, so
that it ends at the first `nonzero`. These hold them: a whole step runs, and an operation that mixes
devices raises, as a GPU's would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.__future__ import (
    get_overwrite_module_params_on_conversion,
    set_overwrite_module_params_on_conversion,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
computed: Counter[str] = Counter()  # operations on the pretended device, by name
# Operations that torch chooses on a GPU with cuDNN -> what the processor has for them.
ON_PROCESSOR: dict[Any, Callable[..., Any]] = {
    aten.cudnn_grid_sampler.default: lambda image, grid: aten.grid_sampler_2d(
        image, grid, 0, 0, True
    ),
    aten.cudnn_batch_norm.default: lambda *given: (
        *aten.native_batch_norm(*given),
        torch.empty(0, dtype=torch.uint8, device="cpu"),  # what cuDNN keeps for the gradient
    ),
}
# These read a tensor's numbers, which waits for the device, or take them from anywhere.
COPIES = {aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default}


class DevicesMixed(RuntimeError):
    """An operation got tensors of both devices."""


class OnDevice(Tensor):
    """A tensor of the pretended device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        # No driver is asked of a tensor without memory, and yet it has the other's dispatch keys.
        shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        tensor = Tensor._make_subclass(
            cls, shape, False, dispatch_device=True, device_for_backend_keys=DEVICE
        )
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return dispatched(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Numbers of the tensor, which torch gives of no subclass."""
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a tensor of a GPU has no NumPy array; copy it to the processor first")

    def __repr__(self) -> str:  # printing would compute on the device
        return f"OnDevice({self.held!r})"


class Pretended(TorchDispatchMode):
    """Makes new tensors on the pretended device where they are asked for there."""

    # Under this key, torch's own for tensors without a device behind them, it looks for no driver.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Result of an operation: on the device if its tensors are, or if that is asked for."""
    if func is torch.ops.prim.device.default:
        return DEVICE
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with Pretended():  # made of others, such as Tensor.to()
            return func.decompose(*args, **kwargs)
    flat, _ = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if asked is not None and asked.type not in (DEVICE.type, "cpu"):
        return func(*args, **kwargs)
    if func not in COPIES:
        others = [t for t in tensors if not isinstance(t, OnDevice) and t.dim() > 0]
        if on_device and others and not is_index_of_device(func, others, args):
            sizes = [tuple(t.shape) for t in others]
            raise DevicesMixed(f"{func} got tensors of {DEVICE} and of the processor: {sizes}")
    goes_there = bool(on_device) if asked is None else asked.type == DEVICE.type
    if goes_there and isinstance(generator := kwargs.get("generator"), torch.Generator):
        raise DevicesMixed(f"{func} on {DEVICE} got a generator of {generator.device}")
    if func is aten.copy_.default:
        goes_there = isinstance(args[0], OnDevice)
    if func is aten._local_scalar_dense.default:
        goes_there = False
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
    computed[func.name().partition(".")[0]] += bool(on_device)
    real_args, real_kwargs = tree_map(real_of, (args, kwargs))
    found = ON_PROCESSOR.get(func, func)(*real_args, **real_kwargs)
    return tree_map(lambda value: placed(value, goes_there, tensors), found)


def is_index_of_device(func: Any, others: list[Tensor], args: tuple) -> bool:
    """A GPU's tensors may be indexed by the processor's, and in no other way be mixed."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return isinstance(args[0], OnDevice) and all(
        any(o is i for i in args[1] if i is not None) for o in others
    )


def real_of(value: Any) -> Any:
    """The tensor that holds the numbers of one of the device; all else as it is."""
    return value.held if isinstance(value, OnDevice) else value


def placed(value: Any, on_device: bool, inputs: list[Tensor]) -> Any:
    """Result of an operation, on the device if it belongs there; one of the inputs is itself."""
    if not isinstance(value, Tensor):
        return value
    for tensor in inputs:
        if real_of(tensor) is value:
            return tensor
    return OnDevice(value) if on_device else value


def to_device(module: torch.nn.Module) -> torch.nn.Module:
    """Move a module's parameters and buffers to the pretended device, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter.data, OnDevice):
                moved = OnDevice(parameter.data)
                part._parameters[name] = torch.nn.Parameter(moved, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, OnDevice):
                part._buffers[name] = OnDevice(buffer)
    return module


def placed_on(name: str, value: Any) -> Any:
    """A tensor or module on the device of this name, which may be the pretended one."""
    if name != "pretended":
        return value.to(name)
    torch._C._ensureCUDADeviceGuardSet()
    return OnDevice(value) if isinstance(value, Tensor) else to_device(value)


def enter_without_gradients(mode: Any) -> None:
    """Begin torch.inference_mode() as no_grad(): views of a subclass have no place in it."""
    mode.instead = torch.set_grad_enabled(not mode.mode)
    mode.instead.__enter__()


def leave_without_gradients(mode: Any, *error: Any) -> None:
    """End it."""
    mode.instead.__exit__(*error)


def backward(total: Tensor) -> None:
    """Tensor.backward(), node by node: torch's own asks the driver for the streams of a device."""
    waiting = {total.grad_fn: [torch.ones_like(total)]}
    with torch.no_grad():
        while waiting:  # a node is made after those that it takes from; leaves count as the last
            node = max(waiting, key=lambda node: node._sequence_nr())
            given = waiting.pop(node)
            if hasattr(node, "variable"):
                add_to_gradient(node.variable, *given)
                continue
            found = node(*given)
            found = found if isinstance(found, tuple) else (found,)
            for gradient, (other, place) in zip(found, node.next_functions, strict=True):
                if other is not None and gradient is not None:
                    inputs = other._input_metadata
                    gradient = fitted(gradient, inputs[place])
                    sums = waiting.setdefault(other, [None] * len(inputs))
                    sums[place] = gradient if sums[place] is None else sums[place] + gradient


def fitted(gradient: Tensor, value: Any) -> Tensor:
    """A gradient in the shape and numbers of its value, and where that is, as torch has it."""
    if gradient.device != value.device:
        raise DevicesMixed(f"a gradient of {gradient.device} is of a tensor of {value.device}")
    return gradient.sum_to_size(value.shape).to(value.dtype)


def add_to_gradient(leaf: Tensor, gradient: Tensor) -> None:
    """Add to the gradient of a leaf of the graph."""
    leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad.add_(gradient)


ORIGINAL_SUBMIT = ThreadPoolExecutor.submit


def submit_pretending(
    pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future:
    """ThreadPoolExecutor.submit(): torch's modes are a thread's own."""

    def pretending() -> Any:
        torch._C._set_only_lift_cpu_tensors(True)
        with Pretended():
            return work(*args, **kwargs)

    return ORIGINAL_SUBMIT(pool, pretending)


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """A machine with a GPU, as far as torch says; not for one that has it.

    Yields how often each operation was computed on it. With an old torch the test is skipped.
    """
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"torch {torch.__version__} cannot pretend a GPU")
    computed.clear()
    torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does where there is no driver
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is made, then moved
    in_place = get_overwrite_module_params_on_conversion()
    set_overwrite_module_params_on_conversion(True)  # of Module.to(): new ones
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=False),
        mock.patch.object(torch.cuda, "mem_get_info", return_value=(8 << 30, 8 << 30)),
        mock.patch.object(torch.cuda, "empty_cache"),
        mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor),
        mock.patch.object(torch.Tensor, "backward", backward),
        mock.patch.object(torch.inference_mode, "__enter__", enter_without_gradients),
        mock.patch.object(torch.inference_mode, "__exit__", leave_without_gradients),
        mock.patch.object(ThreadPoolExecutor, "submit", submit_pretending),
        Pretended(),
    ):
        try:
            yield computed
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
            set_overwrite_module_params_on_conversion(in_place)
