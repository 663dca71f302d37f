"""Fixtures of tests/system for the tests of triggers on a running system."""

from tests.system.conftest import stack

__all__ = ["stack"]
