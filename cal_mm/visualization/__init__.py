"""Figures: contributions over the epochs, accuracy and W against severity."""

from .contribution import plot_contribution
from .history import load_history, plot_contribution_history
from .robustness import plot_robustness

__all__ = ['load_history', 'plot_contribution', 'plot_contribution_history', 'plot_robustness']
