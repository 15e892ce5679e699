"""Changes of weights: each against its paper's equation written out, and their gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autopeft.workers.modules._weights import WeightPart, applied, weight_of
from autopeft.workers.modules.binary_mask import BinaryMaskConfig, BinaryMaskPart
from autopeft.workers.modules.flora import FloraConfig, FloraPart
from autopeft.workers.modules.hut import HutConfig, HutPart
from autopeft.workers.modules.lottery_ticket import LotteryTicketConfig, LotteryTicketPart
from autopeft.workers.modules.prune_regrow import PruneRegrowConfig, PruneRegrowPart
from autopeft.workers.modules.said import SaidConfig, SaidPart, walsh_hadamard
from autopeft.workers.modules.snell import SnellConfig, SnellPart
from autopeft.workers.modules.sparse_mask import (
    SparseMaskConfig,
    SparseMaskPart,
    drawn_positions,
)
from autopeft.workers.modules.tlora import TloraConfig, TloraPart
from tests.workers.modules.parts import IN, OUT, close, drawn_with, inputs, layer_of, part_of

PARTS: dict[str, tuple[Any, Any]] = {
    "sparse-mask": (SparseMaskPart, SparseMaskConfig(density=0.2)),
    "snell": (SnellPart, SnellConfig(rank=4, sparsity=0.5)),
    "hut": (HutPart, HutConfig(rank=3)),
    "said": (SaidPart, SaidConfig(dimension=10)),
    "flora": (FloraPart, FloraConfig(rank=4, scale=0.7)),
    "tlora": (TloraPart, TloraConfig(transform_rank=2, residual_rank=3)),
    "lottery-ticket": (LotteryTicketPart, LotteryTicketConfig()),
    "prune-regrow": (PruneRegrowPart, PruneRegrowConfig(density=0.2)),
    "binary-mask": (BinaryMaskPart, BinaryMaskConfig(spread=0.1)),
}
#: Those whose gradient is a derivative: masks pass theirs on, and SNELL's threshold is constant.
SMOOTH = [name for name in PARTS if name not in ("binary-mask", "snell")]


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("name", PARTS)
def test_output_is_that_of_the_changed_weight(name: str, kind: str) -> None:
    layer, x = layer_of(kind), inputs(2, 3, IN)
    part = part_of(PARTS[name][0], layer, PARTS[name][1])
    weight, bias = part.merged(layer, weight_of(layer), layer.bias)

    assert not close(weight, weight_of(layer), 1e-3)
    assert close(part(layer, x), x @ weight.T + bias)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("name", PARTS)
def test_gradients_are_those_of_plain_differentiation(name: str, kind: str) -> None:
    layer, x = layer_of(kind), inputs(2, 3, IN)
    part = part_of(PARTS[name][0], layer, PARTS[name][1])
    learned = part.learned()

    plainly = layer(x) + x @ part.change(*learned).T
    expected = torch.autograd.grad(plainly.sin().sum(), (x, *learned))
    found = torch.autograd.grad(part(layer, x).sin().sum(), (x, *learned))

    assert all(close(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    layer, x = layer_of(), inputs(2, IN)
    part = part_of(PARTS[name][0], layer, PARTS[name][1])

    def run(*learned: torch.Tensor) -> torch.Tensor:
        return applied(layer, x, part.change(*learned))

    assert torch.autograd.gradcheck(run, part.learned(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PARTS if name != "snell"])
def test_start_changes_nothing(name: str) -> None:
    layer = layer_of()
    part = part_of(PARTS[name][0], layer, PARTS[name][1], drawn=False)

    assert close(part.change(*part.learned()), torch.zeros(OUT, IN, dtype=torch.float64), 1e-6)


class Dense(WeightPart):
    """A change that is itself what trains."""

    def __init__(self, base: Any, config: Any, path: str, pool: Any) -> None:
        super().__init__(base)
        self.values = torch.nn.Parameter(torch.zeros(base.weight.shape))

    def change(self, *learned: torch.Tensor) -> torch.Tensor:
        return learned[0].tanh()


def test_nothing_as_large_as_the_weight_is_kept_for_the_backward_pass() -> None:
    layer, x = layer_of(), inputs(2, IN)
    part = part_of(SparseMaskPart, layer, SparseMaskConfig(density=0.05))
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        part(lambda given: given.new_zeros(2, OUT), x)

    assert sorted(kept) == [round(0.05 * IN * OUT), x.numel()]


def test_convolution_is_changed_as_its_weight_would_be() -> None:
    layer, x = layer_of("convolution"), inputs(2, 3, 6, 7)
    part = part_of(Dense, layer, None)  # type: ignore[arg-type]
    changed = torch.nn.functional.conv2d(
        x, layer.weight + part.values.tanh(), layer.bias, stride=layer.stride
    )
    expected = torch.autograd.grad(changed.sin().sum(), (x, part.values))
    found = torch.autograd.grad(part(layer, x).sin().sum(), (x, part.values))

    assert close(part(layer, x), changed)
    assert all(close(one, other) for one, other in zip(found, expected, strict=True))


def test_low_precision_layer_keeps_its_dtype_and_trains_in_float32() -> None:
    layer = torch.nn.Linear(IN, OUT).bfloat16().requires_grad_(False)
    part = HutPart(layer, HutConfig(rank=2), "path", {})
    x = torch.randn(4, IN, dtype=torch.bfloat16, requires_grad=True)
    output = part(layer, x)
    output.float().sum().backward()

    assert output.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert part.A.grad is not None
    assert part.A.grad.dtype == torch.float32


def test_autocast_runs_and_gives_gradients() -> None:
    layer = torch.nn.Linear(IN, OUT).requires_grad_(False)
    part = FloraPart(layer, FloraConfig(rank=2), "path", {})
    x = torch.randn(4, IN, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = part(layer, x).float().square().mean()
    loss.backward()

    assert part.core.grad is not None
    assert part.core.grad.any()


def test_sparse_mask_changes_its_positions_and_no_others() -> None:
    layer = layer_of()
    part = part_of(SparseMaskPart, layer, SparseMaskConfig(density=0.1))
    change = part.change(*part.learned()).detach()

    assert len(part.values) == round(0.1 * IN * OUT)
    assert change.count_nonzero() == len(part.values)
    assert torch.equal(change.flatten()[part.positions.long()], part.values.detach())


def test_magnitude_selects_the_largest_weights() -> None:
    layer = layer_of()
    part = part_of(SparseMaskPart, layer, SparseMaskConfig(density=0.1, selection="magnitude"))
    sizes = layer.weight.abs().flatten()
    count = round(0.1 * IN * OUT)

    assert set(part.positions.tolist()) == set(sizes.argsort(descending=True)[:count].tolist())


def test_mask_file_gives_the_positions(tmp_path: Path) -> None:
    file = tmp_path / "mask.safetensors"
    save_file({"some.layer": torch.tensor([5, 2, 90])}, file)
    part = part_of(SparseMaskPart, layer_of(), SparseMaskConfig(mask_file=str(file)))

    assert part.positions.tolist() == [2, 5, 90]


@pytest.mark.parametrize(
    ("name", "positions", "message"),
    [
        ("other.layer", [1], "holds no mask for some.layer, but for other.layer"),
        ("some.layer", [1, 1], "needs at least one position, each once"),
        ("some.layer", [IN * OUT], "needs whole numbers from 0 to 95"),
    ],
)
def test_mask_file_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, positions: list[int], message: str
) -> None:
    file = tmp_path / "mask.safetensors"
    save_file({name: torch.tensor(positions)}, file)

    with pytest.raises(ValueError, match=message):
        SparseMaskPart(layer_of(), SparseMaskConfig(mask_file=str(file)), "some.layer", {})


@pytest.mark.parametrize(("size", "count"), [(10, 9), (1000, 3), (1000, 400), (7, 7)])
def test_drawn_positions_are_distinct_and_ascending(size: int, count: int) -> None:
    with drawn_with(4):
        positions = drawn_positions(size, count).tolist()

    assert len(set(positions)) == count
    assert positions == sorted(positions)
    assert 0 <= positions[0] <= positions[-1] < size


def test_snell_is_the_shrunken_difference_of_distances() -> None:
    layer = layer_of()
    part = part_of(SnellPart, layer, SnellConfig(rank=4, sparsity=0.75))
    dense = torch.empty(OUT, IN, dtype=torch.float64)
    for i in range(OUT):
        for j in range(IN):
            near, far = (part.rows[h, i] - part.columns[h, j] for h in (0, 1))
            dense[i, j] = 0.1 * (near.norm() - far.norm()).detach()
    threshold = dense.abs().flatten().sort().values[round(0.75 * IN * OUT) - 1]
    expected = dense.sign() * (dense.abs() - threshold).clamp(min=0)
    found = part.change(*part.learned()).detach()

    assert close(found, expected)
    assert found.count_nonzero() == IN * OUT - round(0.75 * IN * OUT)


def test_hut_multiplies_the_weight_by_a_low_rank_matrix() -> None:
    layer = layer_of()
    part = part_of(HutPart, layer, HutConfig(rank=3))
    weight, _ = part.merged(layer, layer.weight, None)

    assert close(weight, layer.weight * (part.A @ part.B))


def test_hut_of_rank_one_scales_rows_and_columns() -> None:
    layer, x = layer_of(), inputs(5, IN)
    part = part_of(HutPart, layer, HutConfig(rank=1))

    scaled = part.A[:, 0] * ((x * part.B[0]) @ layer.weight.T) + layer.bias
    assert close(part(layer, x), scaled)


def test_flora_of_a_convolution_is_a_tucker_product() -> None:
    layer = layer_of("convolution")
    part = part_of(FloraPart, layer, FloraConfig(rank=2, scale=0.5))
    a, b, c, d = part.factors
    expected = 0.5 * torch.einsum("pqrs,op,iq,hr,ws->oihw", part.core, a, b, c, d)

    assert close(part.change(*part.learned()), expected)
    assert [tuple(f.shape) for f in part.factors] == [(OUT, 2), (3, 2), (2, 2), (3, 2)]


def test_tlora_is_weight_times_ring_plus_ring() -> None:
    layer = layer_of()
    part = part_of(TloraPart, layer, TloraConfig(transform_rank=2, residual_rank=3))

    def entry(first: torch.Tensor, second: torch.Tensor, o: int, i: int) -> torch.Tensor:
        rows, columns = second.shape[:2]
        return torch.trace(first[o // rows, i // columns] @ second[o % rows, i % columns]).detach()

    transform = torch.tensor(
        [[entry(part.transform_1, part.transform_2, o, i) for i in range(IN)] for o in range(IN)],
        dtype=torch.float64,
    )
    residual = torch.tensor(
        [[entry(part.residual_1, part.residual_2, o, i) for i in range(IN)] for o in range(OUT)],
        dtype=torch.float64,
    )
    weight, _ = part.merged(layer, layer.weight, None)

    assert close(weight, layer.weight @ transform + residual)


def test_said_is_the_fastfood_projection() -> None:
    layer = layer_of()
    part = part_of(SaidPart, layer, SaidConfig(dimension=10))
    hadamard = walsh_hadamard(torch.eye(16, dtype=torch.float64))
    padded = torch.zeros(16, dtype=torch.float64)
    padded[:10] = part.vector.values.detach()
    blocks = []
    for signs, order, normal in zip(part.signs, part.order, part.normal, strict=True):
        permutation = torch.eye(16, dtype=torch.float64)[order.long()]
        blocks.append(hadamard @ torch.diag(normal) @ permutation @ hadamard @ (signs * padded))
    flat = torch.cat(blocks)[: IN * OUT] / (16 * math.sqrt(len(blocks)))
    expected = part.scale.detach() * flat.view(OUT, IN)

    assert close(part.change(*part.learned()), expected)


def test_walsh_hadamard_of_four_is_sylvesters() -> None:
    expected = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])

    assert torch.equal(walsh_hadamard(torch.eye(4)), expected.float())


def test_said_keeps_lengths_on_average() -> None:
    layer = torch.nn.Linear(256, 128).requires_grad_(False)
    part = SaidPart(layer, SaidConfig(dimension=512), "path", {})
    with drawn_with(6):
        vector = torch.randn(512)
    length = part.change(vector, torch.ones(1)).norm() / vector.norm()

    # 128 * 256 numbers, each normal: the relative deviation of the length is about 1/sqrt(2n).
    assert abs(float(length) - 1) < 0.05


def test_said_shares_its_vector_and_draws_each_projection_from_the_path() -> None:
    pool: dict[Any, Any] = {}
    one = SaidPart(layer_of(), SaidConfig(dimension=8), "first", pool)
    two = SaidPart(layer_of(), SaidConfig(dimension=8), "second", pool)
    again = SaidPart(layer_of(), SaidConfig(dimension=8), "first", {})

    assert two.learned()[0] is one.learned()[0]
    assert [name for name, _ in two.named_parameters()] == ["scale"]
    assert torch.equal(one.normal, again.normal)
    assert not torch.equal(one.normal, two.normal)


def test_binary_mask_sets_weights_to_zero_and_passes_the_gradient_on() -> None:
    layer, x = layer_of(), inputs(5, IN)
    part = part_of(BinaryMaskPart, layer, BinaryMaskConfig(spread=0.1))
    kept = (part.scores >= 0).double()
    weight, _ = part.merged(layer, layer.weight, None)
    (gradient,) = torch.autograd.grad(part(layer, x).sin().sum(), part.scores)
    of_weight = (x @ (layer.weight * kept).T + layer.bias).cos().T @ x

    assert 0 < float(kept.mean()) < 1
    assert close(weight, layer.weight * kept)
    assert close(gradient, of_weight * layer.weight)
