"""``torch.autocast`` for tensors of the meta device, which torch does not have.

Inside :class:`EmulatedAutocast` tensors of the meta device are cast as autocast would cast them on
the device that trains, wherever autocast is enabled for the CPU. That flag is torch's own: forward
passes enter ``torch.autocast("cpu", dtype)`` as they would, sublayers that switch it off do so
here too, and gradient checkpointing restores it when it computes a layer again. The emulation must
therefore last for the whole step, backward pass included::

    with EmulatedAutocast("cuda"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = ...
        loss.backward()

:func:`emulated_autocast` is both, for a forward pass alone.

What is cast to what is read off ``autocast_mode.h`` and ``autocast_mode.cpp`` of torch 2.13: by
operation, before it is dispatched. A cast of a float32 leaf that requires a gradient is kept until
the outermost region ends, as the weight cache of autocast does; the cast of a frozen weight is
not, and lives as long as the backward pass needs it. Sublayers of transformers that switch
autocast off by ``maybe_autocast`` (rotary positions) do not do so on the meta device; what they
give out is of the same type and size all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from autopeft.workers.memory.kernels import Device


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Operations in the lower precision, on both devices and on one of them. ``einsum`` is so on the
#: CPU through the products it is made of.
_LOWER = _words("""
    _convolution addbmm addmm baddbmm bmm conv1d conv2d conv3d conv_tbc conv_transpose1d
    conv_transpose2d conv_transpose3d einsum linalg_vecdot linear matmul mm prelu
    scaled_dot_product_attention
""")
LOWER: dict[Device, frozenset[str]] = {
    "cpu": _LOWER | _words("_addmm_activation _native_multi_head_attention mkldnn_rnn_layer"),
    "cuda": _LOWER
    | _words("""
        _scaled_dot_product_flash_attention _thnn_fused_gru_cell _thnn_fused_lstm_cell addmv addr
        chain_matmul convolution cudnn_convolution cudnn_convolution_transpose gru_cell
        linalg_multi_dot lstm_cell mv rnn_relu_cell rnn_tanh_cell
    """),
}
#: Operations in float32, whatever they are given. ``cross_entropy`` is so on CUDA through the
#: logarithm of the softmax that it is made of.
_FLOAT32 = _words("""
    binary_cross_entropy_with_logits cdist cosine_embedding_loss cross_entropy_loss
    hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss
    multilabel_margin_loss nll_loss nll_loss2d poisson_nll_loss smooth_l1_loss soft_margin_loss
    triplet_margin_loss
""")
FLOAT32: dict[Device, frozenset[str]] = {
    "cpu": _FLOAT32
    | _words("""
        _grid_sampler_2d_cpu_fallback _lu_with_info adaptive_avg_pool3d adaptive_max_pool3d
        avg_pool3d binary_cross_entropy cholesky cholesky_inverse cholesky_solve ctc_loss
        fake_quantize_per_tensor_affine fft_fft fft_fft2 fft_fftn fft_hfft fft_ifft fft_ifft2
        fft_ifftn fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn
        fractional_max_pool2d fractional_max_pool3d geqrf grid_sampler grid_sampler_2d
        grid_sampler_3d inverse linalg_cholesky linalg_cholesky_ex linalg_cond linalg_eig
        linalg_eigh linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv
        linalg_inv_ex linalg_lstsq linalg_matrix_rank linalg_qr linalg_solve linalg_svd
        linalg_svdvals linalg_tensorinv linalg_tensorsolve lu_solve max_pool3d max_unpool2d
        max_unpool3d multilabel_margin_loss_forward nanquantile orgqr ormqr pinverse polar prod
        qr quantile reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
        replication_pad3d stft svd trace triangular_solve view_as_complex
    """),
    "cuda": _FLOAT32
    | _words("""
        _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d acos asin cosh cosine_similarity dist
        erfinv exp expm1 frobenius_norm group_norm layer_norm log log10 log1p log2 log_softmax
        logsumexp native_layer_norm nuclear_norm pdist pow reciprocal renorm rms_norm rsqrt sinh
        softmax softplus tan upsample_bicubic2d upsample_bilinear2d upsample_linear1d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    """),
}
#: Reductions that are told to give float32, where their caller names no type.
REDUCED_TO_FLOAT32: dict[Device, frozenset[str]] = {
    "cpu": frozenset(),
    "cuda": _words("cumprod cumsum linalg_matrix_norm linalg_vector_norm norm prod sum"),
}
#: Operations in the widest type among what they are given.
WIDEST: dict[Device, frozenset[str]] = {
    "cpu": _words("cat index_copy stack"),
    "cuda": _words("""
        addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot
    """),
}
#: What Python calls an operation that has another name below.
_OTHER_NAMES = {
    "__matmul__": "matmul",
    "__rmatmul__": "matmul",
    "__pow__": "pow",
    "__rpow__": "pow",
    "cross_entropy": "cross_entropy_loss",
    "vector_norm": "linalg_vector_norm",
    "matrix_norm": "linalg_matrix_norm",
}
#: Kernels of attention, called directly where those of another device are accounted for.
_ATTENTION = "_scaled_dot_product"


class EmulatedAutocast(TorchFunctionMode):
    """Cast tensors of the meta device where autocast is enabled for the CPU.

    Not for several threads at once.

    Args:
        device: Whose lists of operations count.
    """

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._lower = LOWER[device]
        self._float32 = FLOAT32[device]
        self._reduced = REDUCED_TO_FLOAT32[device]
        self._widest = WIDEST[device]
        #: Casts by the ``id`` of their leaf, which is kept too so that the ``id`` stays taken.
        self._casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._clear_below: Callable[[], None] | None = None

    def __enter__(self) -> EmulatedAutocast:
        below = torch.clear_autocast_cache

        def clear() -> None:
            self._casts.clear()
            below()

        # Called where the outermost region ends.
        torch.clear_autocast_cache = clear
        self._clear_below = below
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        assert self._clear_below is not None
        torch.clear_autocast_cache = self._clear_below
        self._casts.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            return self._backward(args[0])
        if not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        name = _name_of(func)
        if name in self._lower or name.startswith(_ATTENTION):
            dtype = torch.get_autocast_dtype("cpu")
        elif name in self._float32:
            dtype = torch.float32
        elif name in self._reduced and kwargs.get("dtype") is None:
            if args and _is_eligible(args[0]):
                kwargs = {**kwargs, "dtype": torch.float32}
            return func(*args, **kwargs)
        elif name in self._widest:
            types_given = {each.dtype for each in _tensors(args, kwargs) if _is_eligible(each)}
            if len(types_given) < 2:
                return func(*args, **kwargs)
            dtype = torch.float32
        else:
            return func(*args, **kwargs)
        args = self._cast(args, dtype)
        kwargs = {key: self._cast(value, dtype) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass of a scalar as torch does, with casts in layers computed again.

        A mode is off while it answers, and each of torch's own functions asks it anew: this goes
        one level below them.
        """
        with self._on_top():
            torch.autograd.graph._engine_run_backward(
                (loss,),
                (torch.ones_like(loss),),
                False,
                False,
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )

    @contextmanager
    def _on_top(self) -> Iterator[None]:
        super().__enter__()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self._cast(each, dtype) for each in value)
        if not _is_eligible(value) or value.dtype == dtype:
            return value
        is_kept = (
            value.requires_grad
            and value.is_leaf
            and not value._is_view()
            and value.dtype == torch.float32
        )
        if not is_kept:
            return value.to(dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = (value, value.to(dtype))
        return self._casts[id(value)][1]


@contextmanager
def emulated_autocast(device: Device, dtype: torch.dtype) -> Iterator[None]:
    """Cast tensors of the meta device as ``torch.autocast(device, dtype)`` casts its own."""
    with EmulatedAutocast(device), torch.autocast("cpu", dtype):
        yield


def _name_of(func: Any) -> str:
    """Return what an operation is called in ATen."""
    schema = getattr(func, "_schema", None)
    name = str(getattr(func, "__name__", "") if schema is None else schema.name.split("::")[-1])
    return _OTHER_NAMES.get(name, name)


def _is_eligible(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_meta
        and value.is_floating_point()
        and value.dtype != torch.float64
    )


def _tensors(args: Any, kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, tuple | list):
            yield from _tensors(value, {})
        elif isinstance(value, torch.Tensor):
            yield value
