"""What the lab's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report of a complete run; do not change it or what lies beside it."""
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")
    from portask_lab import report, results
    from tests.lab.report_runs import full_run

    directory = tmp_path_factory.mktemp("run")
    results.save(full_run(), directory)
    return report.write(directory)
