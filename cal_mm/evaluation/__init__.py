"""Metrics, results files, their summary and comparison; importing this registers the metrics."""

from .checkpoint import CheckpointMismatchError, load_weights
from .comparison import comparison_table, standard_error
from .metrics import UNITS, MultiModalMetric
from .paired import compare_pairs
from .pairs import load_run, pair_conditions
from .results import (
    SCHEMA_VERSION,
    ResultsError,
    load_predictions,
    load_results,
    save_predictions,
    save_results,
)
from .summary import summarise
from .table import results_table

__all__ = [
    'SCHEMA_VERSION',
    'UNITS',
    'CheckpointMismatchError',
    'MultiModalMetric',
    'ResultsError',
    'compare_pairs',
    'comparison_table',
    'load_predictions',
    'load_results',
    'load_run',
    'load_weights',
    'pair_conditions',
    'results_table',
    'save_predictions',
    'save_results',
    'standard_error',
    'summarise',
]
