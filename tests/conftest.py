"""Fixtures for tests of several folders."""

import pytest

from cal_mm.engine.feature_memo import FeatureMemo


@pytest.fixture
def memos(monkeypatch):
    """Every feature memo that is made during the test, in order."""
    made = []
    init = FeatureMemo.__init__
    monkeypatch.setattr(
        FeatureMemo, '__init__', lambda self, *a, **k: (made.append(self), init(self, *a, **k))[1]
    )
    return made
