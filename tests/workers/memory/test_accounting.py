"""Saved and live storages, on graphs small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from autopeft.workers.memory.accounting import (
    INPUT,
    LiveBytes,
    SavedStorages,
    StorageLabels,
)

FLOAT32 = 4
DEVICES = ["cpu", "meta"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_input_of_a_linear_layer_counts_once_and_weights_never(device: str) -> None:
    first, second = (nn.Linear(5, 3, bias=False, device=device) for _ in range(2))
    model = nn.ModuleList([first, second])
    x = torch.zeros(7, 5, device=device)
    saved = SavedStorages(model)
    with saved:
        y = first(x) + second(x)
    assert saved.num_bytes() == 7 * 5 * FLOAT32
    del y


def test_frozen_layer_saves_nothing(device: str) -> None:
    model = nn.Linear(5, 3, device=device).requires_grad_(False)
    x = torch.zeros(7, 5, device=device, requires_grad=True)
    saved = SavedStorages(model)
    with saved:
        y = model(x * 1.0)
    assert saved.num_bytes() == 0
    assert y.requires_grad


def test_view_counts_its_whole_storage_once(device: str) -> None:
    x = torch.zeros(10, device=device)
    w = torch.zeros(4, device=device, requires_grad=True)
    saved = SavedStorages(nn.Identity())
    with saved:
        y = (x[:4] * w) + (x[6:] * w)
    assert saved.num_bytes() == 10 * FLOAT32
    del y


def test_dropped_branch_no_longer_counts(device: str) -> None:
    w = torch.zeros(4, device=device, requires_grad=True)
    saved = SavedStorages(nn.Identity())
    with saved:
        kept = (w.exp() * 1.0).sum()  # exp saves its result
        dropped = w.exp()
        assert saved.num_bytes() == 2 * 4 * FLOAT32
        del dropped
    assert saved.num_bytes() == 4 * FLOAT32
    del kept
    assert saved.num_bytes() == 0


def test_gradients_are_unchanged_by_the_hooks() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    with SavedStorages(nn.Identity()):
        y = (w.exp() * w).sum()
    y.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(w.grad, (w.exp() * (1 + w)).detach())


def test_labels_do_not_depend_on_what_trains() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).to("meta")
    x = torch.zeros(7, 5, device="meta")

    def labels() -> set[tuple[str, int]]:
        saved, storages = SavedStorages(model), StorageLabels(model)
        with saved, storages:
            y = model(x)
        found = set(storages.of(saved.sizes()))
        del y
        return found

    everything = labels()
    model[0].requires_grad_(False)
    only_last = labels()
    model[0].requires_grad_(True)
    model[2].requires_grad_(False)
    only_first = labels()
    assert everything == {INPUT, ("1", 0)}
    assert only_last == {("1", 0)}
    assert only_last | only_first == everything


def test_addresses_of_storages_made_elsewhere_are_not_taken_over() -> None:
    model = nn.Linear(3, 3, device="meta")
    with StorageLabels(model) as storages, torch.no_grad():
        for _ in range(50):
            with _disable_current_modes():
                foreign = torch.zeros(3, 3, device="meta")
            made = foreign + 1.0
            address = made.untyped_storage()._cdata
            assert storages.of({address: 36}) != {INPUT: 36}
            del foreign, made


def test_labelling_leaves_no_hook_behind() -> None:
    model = nn.Linear(2, 2, device="meta")
    with StorageLabels(model):
        model(torch.zeros(1, 2, device="meta"))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_peak_of_a_chain_is_two_neighbours(device: str) -> None:
    x = torch.zeros(100, device=device)
    with torch.no_grad(), LiveBytes() as live:
        y = x + 1.0
        for _ in range(3):
            y = y + 1.0
    assert live.peak == 2 * 100 * FLOAT32
    assert live.now == 100 * FLOAT32
    del y
    assert live.now == 0


def test_live_bytes_leave_out_parameters_and_views(device: str) -> None:
    model = nn.Linear(10, 10, bias=False, device=device)
    with torch.no_grad(), LiveBytes().leave_out(model) as live:
        kept = [model.weight.t(), model.weight.view(-1)]
        y = torch.zeros(10, device=device)
        kept.append(y[:5])
    assert live.now == live.peak == 10 * FLOAT32
    del kept, y
