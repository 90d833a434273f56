"""Tensors that say they are on a GPU and compute on the CPU: what would mix devices there is refused here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# A name of a device of which torch knows no more than the name, whatever it was built for.
GPU = torch.device("lazy", 0)
aten = torch.ops.aten
# What a GPU tensor may do with CPU tensors: be indexed by them, be copied from and to.
MIXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten.copy_.default,
    aten._to_copy.default,
}


class OnGpu(Tensor):
    """A tensor whose device is `GPU` and whose numbers are in `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        wrapper = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=GPU
        )
        wrapper.held = held
        return wrapper

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.tolist:  # refused to subclasses
                return args[0].held.tolist()
            if func is Tensor.new_tensor:  # it does not dispatch
                return OnGpu(args[0].held.new_tensor(*args[1:], **(kwargs or {})))
            if func in (Tensor.__getitem__, Tensor.__setitem__):  # nor do lists among the indices
                args = (args[0], _listed(args[1]), *args[2:])
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class PretendedGpu(TorchDispatchMode):
    """Within it `GPU` is a device like any other.

    Attributes:
        read: how many numbers were brought to the CPU, each a wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default and isinstance(args[0], OnGpu):
            self.read += 1
        if not kwargs and not any(isinstance(x, (OnGpu, list, tuple)) for x in args):
            return func(*args)  # nothing to do with the GPU, soon told
        return _run(func, args, kwargs or {})


def to_gpu(tensor: Tensor) -> Tensor:
    """The same numbers on `GPU`."""
    return OnGpu(tensor.clone())


def _listed(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_listed(one) for one in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _held(tree: Any) -> Any:
    return tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, tree)


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    on_gpu = [x for x in given if isinstance(x, OnGpu)]
    if on_gpu and func not in MIXING:
        strangers = [tuple(x.shape) for x in given if not isinstance(x, OnGpu) and x.ndim > 0]
        if strangers:
            raise RuntimeError(f"{func}: tensors on two devices, on the CPU those of shape {strangers}")
    wanted = kwargs.get("device")
    goes = bool(on_gpu) if wanted is None else torch.device(wanted).type == GPU.type
    if func is aten.copy_.default:
        goes = isinstance(args[0], OnGpu)
    if goes and (generator := kwargs.get("generator")) is not None and generator.device.type == "cpu":
        raise RuntimeError(f"{func}: a generator of the CPU for numbers on the GPU")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain_args, plain_kwargs = _held((args, kwargs))
    result = func(*plain_args, **plain_kwargs)

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor) or not goes:
            return value
        # In-place operations give back the tensor they were given.
        same = [x for x in on_gpu if x.held is value]
        return same[0] if same else OnGpu(value)

    return tree_map(back, result)
