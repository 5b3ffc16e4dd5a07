"""Chooses which implementation of an operator runs."""

IMPLEMENTATIONS = ("auto", "ref")


def check_impl(operator: str, impl: str) -> None:
    """Raises ValueError unless `impl` is an implementation that `operator` has.

    Every operator has its plain-PyTorch reference ('ref'), which 'auto' takes.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{operator}: impl={impl!r} does not exist; choose one of {', '.join(IMPLEMENTATIONS)}")
