"""Training targets that mix the label with what a held-out prediction says."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ['HeldOutPosteriors', 'check_soft_targets', 'label_targets', 'mixed_targets']


def check_soft_targets(share: float) -> None:
    """Refuse a share of the held-out prediction that is not in [0, 1).

    Raises:
        ValueError: out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f'contribution.soft_targets is a share in [0, 1), got {share}')


def label_targets(labels: Tensor, like: Tensor) -> Tensor:
    """[c = label] as numbers like ``like`` [..., C]; int64 [...] -> [..., C].

    ``torch.nn.functional.one_hot`` makes a GPU wait to look for labels that are out of range.
    """
    return torch.zeros_like(like).scatter_(-1, labels.unsqueeze(-1), 1)


def mixed_targets(posterior: Tensor, labels: Tensor, share: float) -> Tensor:
    """(1 - share) [c = label] + share p_c: the label, mixed with a prediction that never saw it.

    Args:
        posterior: p [..., C], rows sum to one.
        labels: int64 [...].
        share: in [0, 1); 0 gives the labels.

    Returns:
        [..., C], rows sum to one.

    Raises:
        ValueError: ``share`` out of range.

    Source: soft bootstrapping, Reed et al., ICLR workshop 2015 (arXiv 1412.6596), here with
    predictions that never saw the label, as in confident learning (Northcutt et al., JAIR 2021).
    """
    check_soft_targets(share)
    return (1 - share) * label_targets(labels, posterior) + share * posterior


class HeldOutPosteriors:
    """Calibrated class probabilities of training samples, each by a predictor that never saw it.

    Args:
        sample_ids: N names; of a name that comes more than once the last row counts.
        probabilities: [N, C].

    Raises:
        ValueError: another number of rows than of names.
    """

    def __init__(self, sample_ids: Sequence[str], probabilities: Tensor) -> None:
        if len(sample_ids) != len(probabilities):
            raise ValueError(
                f'{len(sample_ids)} sample ids for {len(probabilities)} rows of probabilities'
            )
        last = {str(name): i for i, name in enumerate(sample_ids)}
        self.rows = {name: i for i, name in enumerate(last)}
        self.probabilities = probabilities[list(last.values())]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, sample_ids: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Probabilities [B, C], zeros where they are not known, and whether they are, bool [B];
        None if all are.
        """
        rows = [self.rows.get(name, -1) for name in sample_ids]
        device = self.probabilities.device
        index = torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)
        if min(rows, default=0) >= 0:
            return self.probabilities[index], None
        known = index >= 0
        found = self.probabilities[index.clamp_min(0)]
        return torch.where(known.unsqueeze(-1), found, torch.zeros_like(found)), known

    def to(self, device: torch.device) -> 'HeldOutPosteriors':
        """The same on another device."""
        self.probabilities = self.probabilities.to(device)
        return self
