"""Versions of installed packages, for results files and cache keys."""

import importlib.metadata
from collections.abc import Iterable

__all__ = ['installed_versions']


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Version of every package by its name; ``'not installed'`` where there is none."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = 'not installed'
    return found
