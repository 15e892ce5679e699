"""The optimisers a trial can be trained with, and their state as tensors that can be stored.

=============  ==================================================================================
``adamw``      ``torch.optim.AdamW``
``adamw-8bit``  ``AdamW8bit`` of bitsandbytes: the moments of what has 4,096 numbers or more are
               kept in 8 bits, in blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861)
``sgd``        ``torch.optim.SGD`` without momentum: nothing is kept
``adafactor``  ``Adafactor`` of transformers as its trainer makes it, with the learning rate that
               it is given: row and column means of the second moments are kept (Shazeer and
               Stern 2018, arXiv 1804.04235)
``lora-fa``    :class:`LoraFA`
=============  ==================================================================================

All leave a parameter without a gradient as it is, and decay weights apart from the gradient.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from autopeft.errors import InvalidJobError
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.hooks import NO_HOOKS, Hooks
from autopeft.workers.settings import OptimizerName, TrainingSettings

Groups = list[dict[str, Any]]
#: B of a layer, its A, and its scaling.
Pair = tuple[Tensor, Tensor, float]

#: What AdamW keeps for each parameter; ``step`` is a scalar.
MOMENTS = frozenset({"exp_avg", "exp_avg_sq", "step"})
#: Tables of values that bitsandbytes has once and names in each state.
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}
#: What Adafactor finds anew in each step.
_NOT_KEPT = frozenset({"RMS"})


class LoraFA(torch.optim.AdamW):
    """AdamW that corrects the gradient of B for an A that stays as it is.

    Zhang et al. 2023 (arXiv 2308.03303) as PEFT implements it: the gradient of B is replaced by
    ``(A A^T)^-1 / s^2`` times it, ``s`` being LoRA's scaling, so that the update of the weight
    comes closest to the gradient of the whole weight. Unlike PEFT's ``LoraFAOptimizer`` it
    computes the correction in float32, skips what has no gradient, and takes DoRA and layers of
    other methods, which train as under AdamW.

    Args:
        groups: Parameters; those of A are frozen and not among them.
        pairs: B of each layer, its A, and its scaling.
        lr: Learning rate.
    """

    #: Added to the diagonal, as in PEFT.
    DELTA = 1e-8

    def __init__(self, groups: Groups, pairs: list[Pair], lr: float) -> None:
        # One parameter after the other, so that no copy of all of them is made.
        super().__init__(groups, lr=lr, foreach=False)
        self._pairs = pairs

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Correct the gradients, then take AdamW's step."""
        assert closure is None
        with torch.no_grad():
            for b, a, scaling in self._pairs:
                if b.grad is not None:
                    b.grad.copy_(b.grad.float() @ self._correction(a.float(), scaling))
        super().step()
        return None

    def _correction(self, a: Tensor, scaling: float) -> Tensor:
        """Return ``r x r`` for ``r x in``."""
        gram = a @ a.T
        gram.diagonal().add_(self.DELTA)
        inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
        return inverse / scaling**2


def freeze_lora_a(model: Any) -> list[Pair]:
    """Freeze the first matrix of each LoRA layer; return B, A and the scaling of each.

    Layers that PEFT takes as parameters (stacked experts), block-diagonal ones, and those of
    methods that build on LoRA are left as they are.
    """
    from peft.tuners.adalora.layer import AdaLoraLayer
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    pairs: list[Pair] = []
    for module in model.modules():
        if not isinstance(module, LoraLayer) or isinstance(module, AdaLoraLayer | ParamWrapper):
            continue
        for adapter, first in module.lora_A.items():
            second = module.lora_B[adapter]
            if type(first) is nn.Linear and type(second) is nn.Linear:
                first.weight.requires_grad_(False)
                if second.weight.requires_grad:
                    pairs.append((second.weight, first.weight, module.scaling[adapter]))
    return pairs


def check_optimizer(name: OptimizerName) -> None:
    """Make sure that an optimiser's package is there.

    Raises:
        InvalidJobError: bitsandbytes is missing.
    """
    if name == "adamw-8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidJobError(
            "training.optimizer is adamw-8bit, which needs the package bitsandbytes",
            hint="pip install 'autopeft[quantization]', or choose adamw or adafactor",
        )


def make_optimizer(
    model: Any, learning_rate: float, settings: TrainingSettings, hooks: Hooks = NO_HOOKS
) -> torch.optim.Optimizer:
    """Return the optimiser that settings name, over the trainable parameters.

    Weight decay touches weight matrices only: biases, scales (IA3), magnitudes (DoRA) and
    normalisations do not decay. Each group carries ``lr_scale``, the multiple of the learning
    rate that the hooks ask for.

    Args:
        model: Injected model; ``lora-fa`` freezes parameters of it.
        learning_rate: Peak learning rate.
        settings: Optimiser and weight decay.
        hooks: What the configuration's methods ask for.

    Raises:
        InvalidJobError: a package that the optimiser needs is missing.
    """
    check_optimizer(settings.optimizer)
    pairs = freeze_lora_a(model) if settings.optimizer == "lora-fa" else []
    groups = _groups(model, learning_rate, settings, hooks)
    if settings.optimizer == "lora-fa":
        return LoraFA(groups, pairs, learning_rate)
    if settings.optimizer == "sgd":
        # Fused, it makes no copy of what decays.
        return torch.optim.SGD(groups, lr=learning_rate, fused=True)
    if settings.optimizer == "adamw-8bit":
        bitsandbytes: Any = importlib.import_module("bitsandbytes.optim")
        in_8_bits: torch.optim.Optimizer = bitsandbytes.AdamW8bit(groups, lr=learning_rate)
        return in_8_bits
    if settings.optimizer == "adafactor":
        from transformers import Adafactor

        factored: torch.optim.Optimizer = Adafactor(
            groups, lr=learning_rate, scale_parameter=False, relative_step=False
        )
        return factored
    return torch.optim.AdamW(groups, lr=learning_rate)


def weight_decays(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay touches a parameter: it is a matrix, and of no normalisation."""
    return parameter.ndim >= 2 and name.endswith("weight") and "norm" not in name.lower()


def _groups(model: Any, learning_rate: float, settings: TrainingSettings, hooks: Hooks) -> Groups:
    parameters = trainable_parameters(model)
    scales = hooks.learning_rate_scales(model, learning_rate)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        stays = not weight_decays(name, parameter)
        groups.setdefault((scales.get(name, 1.0), stays), []).append(parameter)
    return [
        {
            "params": groups[scale, stays],
            "weight_decay": 0.0 if stays else settings.weight_decay,
            "lr_scale": scale,
        }
        for scale, stays in sorted(groups)
    ]


def optimizer_tensors(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as ``<parameter name>:<what it is>`` tensors.

    Whole numbers, as some optimisers count their steps in, become tensors of integers.
    """
    return {
        f"{name}:{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in trainable_parameters(model).items()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
        if key not in _TABLES and key not in _NOT_KEPT
    }


def load_optimizer_tensors(
    model: Any, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put what :func:`optimizer_tensors` returned into a fresh optimiser.

    Raises:
        ValueError: the tensors belong to another set of parameters, or to another optimiser.
    """
    parameters = trainable_parameters(model)
    # A parameter that never received a gradient has no state, as in the optimiser itself.
    stored = {key.rpartition(":")[0] for key in tensors}
    if not stored <= parameters.keys():
        raise _other(stored - parameters.keys())
    expected = {
        f"{name}:{key}" for name in stored for key in _kept_for(optimizer, parameters[name])
    }
    if set(tensors) != expected:
        raise _other(set(tensors) ^ expected)
    for name in stored:
        parameter = parameters[name]
        optimizer.state[parameter] = {
            key: _restored(key, tensors[f"{name}:{key}"], parameter)
            for key in _kept_for(optimizer, parameter)
        } | dict(_fresh(optimizer, parameter))


def _other(odd: set[str]) -> ValueError:
    named = ", ".join(sorted(odd)[:3])
    return ValueError(f"optimiser state of other parameters, for example {named}")


def _kept_for(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> frozenset[str]:
    """Return the names of what an optimiser keeps for a parameter from step to step."""
    kind = type(optimizer).__name__
    if kind == "SGD":
        return frozenset()
    if kind == "Adafactor":
        factored = {"exp_avg_sq_row", "exp_avg_sq_col"} if parameter.ndim >= 2 else {"exp_avg_sq"}
        return frozenset({"step", *factored})
    if kind == "AdamW8bit":
        scales = {"absmax1", "absmax2"} if _is_in_8_bits(optimizer, parameter) else set()
        return frozenset({"step", "state1", "state2", *scales})
    return MOMENTS


def _restored(key: str, stored: Tensor, parameter: nn.Parameter) -> Any:
    if key != "step":
        return stored.to(parameter.device, copy=True)
    # AdamW counts in a tensor on the CPU, the others in a number.
    return stored.to("cpu", copy=True) if stored.is_floating_point() else int(stored)


def _fresh(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Iterator[tuple[str, Any]]:
    """Yield what a state holds besides what is kept."""
    kind = type(optimizer).__name__
    if kind == "Adafactor":
        yield "RMS", 0
    elif kind == "AdamW8bit" and _is_in_8_bits(optimizer, parameter):
        tables = optimizer.name2qmap  # type: ignore[attr-defined]
        for key, name in _TABLES.items():
            tables[name] = tables[name].to(parameter.device)
            yield key, tables[name]


def _is_in_8_bits(optimizer: Any, parameter: nn.Parameter) -> bool:
    return bool(parameter.numel() >= optimizer.args.min_8bit_size)
