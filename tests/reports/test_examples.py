"""The examples in the docstrings of the reports are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "reports.peers.compare",
        "reports.peers.tables",
        "reports.ingest_speed.measure",
        "reports.cohorts.linear_features",
    ],
    ids=str,
)
def test_the_examples_of_a_report_are_true(module: str) -> None:
    done = doctest.testmod(importlib.import_module(module))
    assert done.attempted > 0
    assert done.failed == 0
