"""Keep linear algebra to one thread, so that results do not depend on how many there are."""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which NumPy and SciPy use one thread.

    Sums are then added in one order whatever the machine's core count, so a seed gives the
    same proposals with 1 and with 64 threads; and the driver does not compete with its own
    workers, which hold the other cores. The limit is the process's while the context lasts.
    """
    limit: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limit
