"""A table of what was tried, printed at the end of a run."""

import pytest

_TRIED: list[tuple[str, int, str]] = []


@pytest.fixture
def tried():
    """Notes an attack: its name, how many inputs or faults there were, and what came of them."""
    return lambda name, number, outcome: _TRIED.append((name, number, outcome))


def pytest_terminal_summary(terminalreporter):
    if _TRIED:
        width = max(len(name) for name, *_ in _TRIED)
        terminalreporter.section("attacks")
        for name, number, outcome in _TRIED:
            terminalreporter.write_line(f"{name:<{width}}  {number:>7,}  {outcome}")
