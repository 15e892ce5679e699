"""Remember what operations on the meta device give out: sizes follow from sizes.

On the meta device torch works out many results in Python, at up to a millisecond an operation.
The passes that account for a model repeat a few hundred operations thousands of times, so the
sizes of each result are kept for the process, by operation and sizes of its arguments.

A real step on the CPU that is taken for its sizes alone need not multiply either: once an
operation of :data:`COSTLY` has been run for some sizes, zeros stand in for what it would give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Size, stride and type of a tensor.
_Description = tuple[torch.Size, tuple[int, ...], torch.dtype]
#: Descriptions of all results, and whether they came as one tensor.
_Answer = tuple[tuple[_Description | None, ...], bool]

#: Answers kept at most; beyond that all are forgotten.
MOST_ANSWERS = 100_000

_answers: dict[Any, _Answer | None] = {}
_is_functional: dict[Any, bool] = {}


#: Operations that take nearly all the time of a step on the CPU, and whose results' sizes follow
#: from sizes.
COSTLY = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_softmax", "_softmax_backward_data"),
        *("_scaled_dot_product_flash_attention_for_cpu_backward", "_log_softmax_backward_data"),
        *("native_layer_norm", "native_layer_norm_backward", "gelu", "gelu_backward"),
        *("silu", "silu_backward", "_log_softmax"),
    )
)

#: A product of each group of rows with the matrix of its own; on the meta device torch answers
#: it in bfloat16 alone, where every other device knows float32 too.
_GROUPED_PRODUCT = torch.ops.aten._grouped_mm.default


class _UnknownError(Exception):
    """An argument whose effect on the result cannot be known from sizes."""


class QuickAnswers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answer every operation inside a ``with`` block from memory where that is possible."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that keeps torch.compile out costs more than the rest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return answer(func, args, kwargs or {})


def answer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation, or give fresh tensors of the sizes it gave out before.

    Only for operations that neither change nor share the storage of an argument, on tensors
    of the meta device; all others are run.
    """
    if func is _GROUPED_PRODUCT:
        return _grouped_product(*args, **kwargs)
    functional = _is_functional.get(func)
    if functional is None:
        schema = func._schema
        functional = not schema.is_mutable and all(r.alias_info is None for r in schema.returns)
        _is_functional[func] = functional
    if not functional:
        return func(*args, **kwargs)
    return _answer(func, args, kwargs, "meta")


def answer_without_numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, or give zeros for it where it is costly and has been run.

    Tensors of other devices are computed with as ever.
    """
    return _answer(func, args, kwargs, "cpu") if func in COSTLY else func(*args, **kwargs)


def _answer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: str) -> Any:
    try:
        key = (
            func,
            device,
            _key(args, device),
            _key(tuple(kwargs.items()), device) if kwargs else (),
        )
        known = _answers.get(key, ())
    except (_UnknownError, TypeError):
        return func(*args, **kwargs)
    if known:
        found = [None if each is None else _fresh(each, device) for each in known[0]]
        return found[0] if known[1] else tuple(found)
    result = func(*args, **kwargs)
    if known == ():
        if len(_answers) >= MOST_ANSWERS:
            _answers.clear()
        _answers[key] = _described(result, args, device)
    return result


def _grouped_product(
    rows: torch.Tensor,
    columns: torch.Tensor,
    offsets: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> torch.Tensor:
    """Return ``rows x n`` for three-dimensional ``columns``, ``groups x m x n`` for two."""
    size: tuple[int, ...] = (rows.shape[-2], columns.shape[-1])
    if rows.ndim == columns.ndim:
        groups = rows.shape[0] if rows.ndim == 3 or offsets is None else offsets.shape[0]
        size = (groups, *size)
    return rows.new_empty(size)


def _key(value: Any, device: str) -> Any:
    """Return all that a result's sizes depend on.

    Raises:
        _UnknownError: it depends on more.
    """
    kind = type(value)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        if value.device.type != device or value.is_complex():
            raise _UnknownError
        return value.shape, value.stride(), value.dtype
    if kind is tuple or kind is list:
        return (kind, *[_key(each, device) for each in value])
    if isinstance(value, torch.Tensor):
        raise _UnknownError
    return kind, value


def _described(result: Any, args: Any, device: str) -> _Answer | None:
    """Return what :func:`answer` needs to give such a result again, None where it cannot."""
    is_single = isinstance(result, torch.Tensor)
    results = (result,) if is_single else result
    if type(results) is not tuple:
        return None
    storages = {tensor.untyped_storage()._cdata for tensor in tensors_in(args)}
    described: list[_Description | None] = []
    for each in results:
        if each is None:
            described.append(None)
            continue
        if type(each) is not torch.Tensor or each.device.type != device or each.is_complex():
            return None
        storage = each.untyped_storage()
        description = (each.shape, each.stride(), each.dtype)
        same_size = _fresh(description, "meta").untyped_storage().nbytes() == storage.nbytes()
        if storage._cdata in storages or each.storage_offset() or not same_size:
            return None
        storages.add(storage._cdata)
        described.append(description)
    return tuple(described), is_single


def _fresh(description: _Description, device: str) -> torch.Tensor:
    size, stride, dtype = description
    if device == "meta":
        return torch.empty_strided(size, stride, dtype=dtype, device=device)
    if torch.empty(size, device="meta").stride() == stride:
        return torch.zeros(size, dtype=dtype)  # memory that nothing is written to costs no time
    return torch.empty_strided(size, stride, dtype=dtype).zero_()


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return all tensors among arguments or results, those in tuples and lists included.

    In place of a sparse tensor come its indices and values, which have the storages.
    """
    if isinstance(value, torch.Tensor):
        if value.layout is torch.sparse_coo:
            return [value._indices(), value._values()]
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for each in value for tensor in tensors_in(each)]
    return []
