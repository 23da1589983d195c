"""How typical an encoder's features are of clean data.

A corrupted input often leaves the confidence as it was or even raises it; what it changes is where
the features lie. Three numbers per sample describe that: the Mahalanobis distance to the nearest
class within the principal subspace of clean features, the length there, and the norm of the
residual outside it. All are z-scored on clean validation data and count on both sides. Using it
needs no label, fitting it does.

Source: ours (not in the paper); a prototype found that W falls under corruption only with such a
measure. The distance to the nearest class is the detector of Lee et al. 2018.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ['Typicality', 'heavy_tail']

TAILS = ('logistic', 'heavy')


def heavy_tail(t: Tensor) -> Tensor:
    """1 / (1 + softplus(-t)^2): near 1 for t >> 0, like 1 / t^2 for t << 0; any shape."""
    return 1 / (1 + softplus(-t).square())


class Typicality(nn.Module):
    """Typicality a(h) in (0, 1) of one modality's features.

    With s = -max over the three numbers of abs(z) and t = (s + offset) / slope, a = sigmoid(t), or
    with a heavy tail a = 1 / (1 + softplus(-t)^2): very atypical modalities then still differ by
    the square of their ratio instead of exponentially, so that no one is trusted alone merely for
    being the least atypical.

    Args:
        in_channels: H.
        num_classes: C.
        max_rank: upper bound of the principal subspace's dimension.
        offset: z-scores that still pass, default 3.
        slope: how sharply it falls, default 0.5.
        tail: ``logistic`` or ``heavy``.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    class_means: Tensor
    whitening: Tensor
    centre: Tensor
    spread: Tensor
    fitted: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        max_rank: int = 32,
        offset: float = 3.0,
        slope: float = 0.5,
        tail: str = 'logistic',
    ) -> None:
        super().__init__()
        if tail not in TAILS:
            raise ValueError(f'Typicality: tail must be one of {TAILS}, got {tail!r}')
        self.tail = tail
        rank = max(1, min(max_rank, in_channels // 2))
        self.offset = offset
        self.slope = slope
        self.register_buffer('mean', torch.zeros(in_channels))
        self.register_buffer('components', torch.zeros(in_channels, rank))
        self.register_buffer('scale', torch.ones(rank))
        self.register_buffer('class_means', torch.zeros(num_classes, rank))
        self.register_buffer('whitening', torch.eye(rank))
        self.register_buffer('centre', torch.zeros(3))
        self.register_buffer('spread', torch.ones(3))
        self.register_buffer('fitted', torch.tensor(False))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit on clean features that the encoder was not trained on, such as the validation set's.

        The z-scores come from a two-fold cross-fit (subspace from one half, numbers of the other),
        so that they describe features outside the fit; the subspace itself then uses everything.

        Args:
            features: [N, H], N >= 8.
            labels: int64 [N].
        """
        if len(features) < 8:
            raise ValueError(f'typicality needs at least 8 samples, got {len(features)}')
        order = labels.argsort(stable=True)  # both halves get every class
        halves = order[0::2], order[1::2]
        numbers = []
        for own, other in (halves, halves[::-1]):
            self._fit_subspace(features[own], labels[own])
            numbers.append(self._numbers(features[other].to(self.mean)))
        both = torch.cat(numbers)
        self._fit_subspace(features, labels)
        self.centre.copy_(both.mean(dim=0))
        self.spread.copy_(both.std(dim=0).clamp_min(1e-6 + 1e-3 * both.mean(dim=0).abs()))
        self.fitted.fill_(True)

    def _fit_subspace(self, features: Tensor, labels: Tensor) -> None:
        features = features.double()
        self.mean.copy_(features.mean(dim=0))
        centred = features - features.mean(dim=0)
        _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
        rank = min(self.components.shape[1], max(1, len(features) // 4), len(singular))
        std = singular / (len(features) - 1) ** 0.5
        # Directions that clean data hardly uses must not dominate the length.
        floor = float((0.03 * std[0]).clamp_min(1e-6))
        self.components.zero_()
        self.scale.fill_(1)
        self.components[:, :rank] = vectors[:rank].T.to(self.components)
        self.scale[:rank] = std[:rank].clamp_min(floor).to(self.scale)
        inside = centred @ self.components.double()
        self._fit_classes(inside, labels, floor)

    def _fit_classes(self, inside: Tensor, labels: Tensor, floor: float) -> None:
        """Class means and the whitening of the shared within-class covariance (shrunk by a
        tenth).
        """
        within = inside.clone()
        self.class_means.fill_(float('inf'))  # a class that is not there is no one's nearest
        for c in labels.unique().tolist():
            mean = inside[labels == c].mean(dim=0)
            self.class_means[c] = mean.to(self.class_means)
            within[labels == c] -= mean
        covariance = within.T @ within / max(1, len(within) - len(labels.unique()))
        diagonal = covariance.diagonal().clamp_min(floor**2)
        values, vectors = torch.linalg.eigh(0.9 * covariance + 0.1 * diagonal.diag())
        root = values.clamp_min(floor**2).rsqrt()
        self.whitening.copy_((vectors * root).to(self.whitening))

    def _numbers(self, h: Tensor) -> Tensor:
        """Distance to the nearest class, length inside and norm outside the subspace: [B, H] -> [B,
        3].
        """
        centred = h - self.mean
        inside = centred @ self.components
        known = self.class_means[self.class_means[:, 0].isfinite()]
        nearest = torch.cdist(inside @ self.whitening, known @ self.whitening).min(dim=1).values
        length = (inside / self.scale).norm(dim=-1)
        residual = (centred - inside @ self.components.T).norm(dim=-1)
        return torch.stack([nearest, length, residual], dim=-1)

    def forward(self, h: Tensor) -> Tensor:
        """[B, H] -> a [B] in (0, 1); ones before ``fit``."""
        if not self.fitted:
            return torch.ones(h.shape[0], device=h.device)
        z = (self._numbers(h.float()) - self.centre) / self.spread
        s = -z.abs().max(dim=-1).values
        t = (s + self.offset) / self.slope
        return torch.sigmoid(t) if self.tail == 'logistic' else heavy_tail(t)
