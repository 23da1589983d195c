"""How typical an encoder's features are of clean data.

A corrupted input often leaves the confidence as it was or even raises it; what it changes is where
the features lie. Three numbers per sample describe that, all on standardised features: the
Mahalanobis distance to clean features, the share of the length outside their principal subspace,
and the distance to the nearest class inside it. Each is compared with what clean features outside
the fit have. Using it needs no label, fitting it does.

Source: ours (not in the paper); a prototype found that W falls under corruption only with such a
measure. The distance to the nearest class is the detector of Lee et al. 2018, the length outside
the principal subspace that of Wang et al. 2022 (ViM).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cal_mm.models.flags import SeenFlag

__all__ = ['Typicality', 'heavy_tail']

TAILS = ('logistic', 'heavy')
#: samples that a fit needs at least
LEAST = 8
#: of the cross-fit where the features that are described are also those that are compared
FOLDS = 5
#: share of the variance that the principal subspace holds, if its rank allows
VARIANCE = 0.9
#: share of the identity in the covariances
SHRINKAGE = 0.1
#: spreads below the median that are still nothing unusual
FREE_BELOW = 2.0
#: shares of the length outside the subspace below this are rounding
LEAST_SHARE = 1e-3


def heavy_tail(t: Tensor) -> Tensor:
    """1 / (1 + softplus(-t)^2): near 1 for t >> 0, like 1 / t^2 for t << 0; any shape."""
    return 1 / (1 + softplus(-t).square())


class _Subspace(NamedTuple):
    """Where clean features lie: K principal directions of H standardised features, C classes."""

    mean: Tensor  # [H]
    std: Tensor  # [H]
    components: Tensor  # [H, K]
    variances: Tensor  # [K]
    whitening: Tensor  # [K, K]
    class_means: Tensor  # [C, K], whitened; inf where a class has no sample


class Typicality(nn.Module):
    """Typicality a(h) in (0, 1) of one modality's features.

    s is the largest of the three numbers, each in spreads above the median of clean features; two
    spreads below the median are free, what is further below counts as well. With t = (offset - s) /
    slope, a = sigmoid(t), or with a heavy tail a = 1 / (1 + softplus(-t)^2): very atypical
    modalities then still differ by the square of their ratio instead of exponentially, so that no
    one is trusted alone merely for being the least atypical.

    Args:
        in_channels: H.
        num_classes: C.
        max_rank: upper bound of the principal subspace's dimension.
        offset: spreads above the median that still pass.
        slope: how sharply it falls, > 0.
        tail: ``heavy`` or ``logistic``.
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    variances: Tensor
    whitening: Tensor
    class_means: Tensor
    centre: Tensor
    above: Tensor
    below: Tensor
    fitted: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        max_rank: int = 128,
        offset: float = 1.0,
        slope: float = 1.5,
        tail: str = 'heavy',
    ) -> None:
        super().__init__()
        if tail not in TAILS:
            raise ValueError(f'Typicality: tail must be one of {TAILS}, got {tail!r}')
        if not slope > 0:
            raise ValueError(f'Typicality: slope must be greater than 0, got {slope}')
        self.tail = tail
        rank = max(1, min(max_rank, in_channels // 2))
        self.offset = offset
        self.slope = slope
        self.register_buffer('mean', torch.zeros(in_channels))
        self.register_buffer('std', torch.ones(in_channels))
        self.register_buffer('components', torch.zeros(in_channels, rank))
        self.register_buffer('variances', torch.ones(rank))
        self.register_buffer('whitening', torch.eye(rank))
        self.register_buffer('class_means', torch.zeros(num_classes, rank))
        self.register_buffer('centre', torch.zeros(3))
        self.register_buffer('above', torch.ones(3))
        self.register_buffer('below', torch.ones(3))
        self.register_buffer('fitted', torch.tensor(False))
        self._flag = SeenFlag()

    @torch.no_grad()
    def fit(
        self, features: Tensor, labels: Tensor, reference: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Fit on clean features that the encoder was not trained on, such as the validation set's.

        Args:
            features: [N, H], N >= 8.
            labels: int64 [N].
            reference: features [R, H] and labels [R] of other clean samples that tell where the
                features lie, such as a frozen encoder's training samples. None: ``features`` tell
                it themselves, and what is usual comes from a cross-fit in five folds.
        """
        if len(features) < LEAST:
            raise ValueError(f'typicality needs at least {LEAST} samples, got {len(features)}')
        if reference is not None and len(reference[0]) >= LEAST:
            space = self._subspace(*reference)
            usual = _numbers(space, features.double())
        else:
            order = labels.argsort(stable=True)  # every fold gets every class
            numbers = []
            for fold in range(FOLDS):
                inside = torch.ones_like(labels, dtype=torch.bool)
                inside[order[fold::FOLDS]] = False
                part = self._subspace(features[inside], labels[inside])
                numbers.append(_numbers(part, features[~inside].double()))
            space, usual = self._subspace(features, labels), torch.cat(numbers)
        for name, value in space._asdict().items():
            getattr(self, name).copy_(self._padded(name, value))
        levels = torch.tensor([0.16, 0.5, 0.84], dtype=usual.dtype, device=usual.device)
        low, middle, high = torch.quantile(usual, levels, dim=0)
        least = 1e-6 + 1e-3 * middle.abs()
        if middle[1] <= LEAST_SHARE:  # nothing lies outside: this too is read in float32
            least[1] = LEAST_SHARE
        self.centre.copy_(middle)
        self.above.copy_((high - middle).clamp_min(least))
        self.below.copy_((middle - low).clamp_min(least))
        self.fitted.fill_(True)

    def _subspace(self, features: Tensor, labels: Tensor) -> _Subspace:
        """Where ``features`` [N, H] of ``labels`` [N] lie, in float64; of rank N / 2 at most."""
        h = features.double()
        mean, std = h.mean(dim=0), h.std(dim=0)
        # Channels that clean data hardly uses must not dominate.
        usual = float(std.median()) or float(std.max())
        std = std.clamp_min(max(1e-9, 0.03 * usual))
        x = (h - mean) / std
        directions, variances = _principal(x)
        held = variances.cumsum(dim=0) / variances.sum().clamp_min(1e-12)
        enough = int((held < VARIANCE).sum()) + 1
        rank = min(enough, self.components.shape[1], max(1, len(h) // 2), len(variances))
        directions, variances = directions[:, :rank], variances[:rank]
        inside = x @ directions
        means = torch.full((len(self.class_means), rank), float('inf')).to(x)
        within = inside.clone()
        present = labels.unique().tolist()
        for c in present:
            means[c] = inside[labels == c].mean(dim=0)
            within[labels == c] -= means[c]
        covariance = within.T @ within / max(1, len(within) - len(present))
        diagonal = covariance.diagonal().diag()
        values, vectors = torch.linalg.eigh(covariance.lerp(diagonal, SHRINKAGE))
        whitening = vectors * values.clamp_min(1e-6).rsqrt()
        means[present] = means[present] @ whitening
        return _Subspace(mean, std, directions, variances, whitening, means)

    def _padded(self, name: str, value: Tensor) -> Tensor:
        """``value`` at the size of its buffer: directions that are not used count nothing."""
        buffer = getattr(self, name)
        out = torch.zeros_like(buffer, dtype=value.dtype)
        if name == 'class_means':
            out[value.isinf().all(dim=1)] = float('inf')
        out[tuple(slice(n) for n in value.shape)] = value
        return out

    def forward(self, h: Tensor) -> Tensor:
        """[B, H] -> a [B] in (0, 1); ones before ``fit``."""
        if not self._flag.read(self.fitted):
            return torch.ones(h.shape[0], device=h.device)
        t = (self.offset - self.atypicality(h)) / self.slope
        return torch.sigmoid(t) if self.tail == 'logistic' else heavy_tail(t)

    def atypicality(self, h: Tensor) -> Tensor:
        """[B, H] -> s [B] >= 0, in spreads of clean features."""
        space = _Subspace(*(getattr(self, name) for name in _Subspace._fields))
        off = _numbers(space, h.float()) - self.centre
        return (
            torch.where(off > 0, off / self.above, -off / self.below - FREE_BELOW)
            .clamp_min(0)
            .amax(dim=-1)
        )


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [H, K] and variances [K] of centred ``x`` [N, H], the largest first; K is the
    smaller of N and H.
    """
    n, channels = x.shape
    if n < channels:
        values, vectors = torch.linalg.eigh(x @ x.T)
        values = values.flip(0).clamp_min(0)
        directions = x.T @ vectors.flip(1) / values.clamp_min(1e-12 * values[0] + 1e-30).sqrt()
    else:
        values, vectors = torch.linalg.eigh(x.T @ x)
        values, directions = values.flip(0).clamp_min(0), vectors.flip(1)
    return directions, values / max(1, n - 1)


def _numbers(space: _Subspace, h: Tensor) -> Tensor:
    """Distance, share outside the subspace (1e-3 at least) and distance to the nearest class:
    [B, H] -> [B, 3].
    """
    x = (h - space.mean) / space.std
    inside = x @ space.components
    length = x.square().sum(dim=-1)
    outside = (length - inside.square().sum(dim=-1)).clamp_min(0)
    shrunk = (1 - SHRINKAGE) * space.variances + SHRINKAGE
    squared = (inside.square() / shrunk).sum(dim=-1) + outside / SHRINKAGE
    distance = squared.clamp_min(1e-12).sqrt()
    share = (outside / length.clamp_min(1e-12)).clamp_min(LEAST_SHARE**2).sqrt()
    known = space.class_means.isfinite()
    to_class = torch.cdist(inside @ space.whitening, space.class_means.where(known, 0))
    nearest = to_class.masked_fill(~known[:, 0], float('inf')).amin(dim=-1)
    return torch.stack([distance, share, nearest], dim=-1)
