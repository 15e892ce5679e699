from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autopeft.workers.seeds import derive_seed


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**9))
def test_derived_seeds_fit_torch_and_differ_by_purpose(seed: int, step: int) -> None:
    derived = derive_seed(seed, "dropout", step)

    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, "dropout", step)
    assert derived != derive_seed(seed, "dropout", step + 1)
    assert derived != derive_seed(seed, "head", step)
