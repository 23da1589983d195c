"""Subjective logic over class evidence, as pure functions.

A source with evidence e [C] >= 0 has the Dirichlet concentration alpha = e + 1 of strength S =
sum(alpha), the belief masses b = e / S and the uncertainty mass u = C / S; sum(b) + u = 1. Source:
evidential deep learning (Sensoy et al. 2018, arXiv 1806.01768) and trusted multi-view
classification (TMC, Han et al. 2021, arXiv 2102.02051). The fold over more than two sources is the
rule applied again; it does not depend on the order.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    'combined_evidence',
    'dempster_fold',
    'dempster_pair',
    'dirichlet_kl',
    'dirichlet_log_mean',
    'evidence_from_logits',
    'evidence_from_opinion',
    'evidential_loss',
    'expected_log_probs',
    'opinion',
]


def evidence_from_logits(logits: Tensor) -> Tensor:
    """e = softplus(logits) >= 0, same shape."""
    return functional.softplus(logits)


def opinion(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence [..., C] to belief masses b [..., C] and uncertainty mass u [...]."""
    classes = evidence.shape[-1]
    strength = evidence.sum(dim=-1) + classes
    return evidence / strength.unsqueeze(-1), classes / strength


def evidence_from_opinion(beliefs: Tensor, uncertainty: Tensor) -> Tensor:
    """The inverse of :func:`opinion`: e = b S with S = C / u; u must be positive."""
    return beliefs * (beliefs.shape[-1] / uncertainty).unsqueeze(-1)


def dempster_pair(
    beliefs: Tensor, uncertainty: Tensor, other_beliefs: Tensor, other_uncertainty: Tensor
) -> tuple[Tensor, Tensor]:
    """Dempster's rule for two sources whose masses lie on single classes and on all of them.

    b = (b1 b2 + b1 u2 + b2 u1) / (1 - K), u = u1 u2 / (1 - K), where K is the mass in conflict.

    Args:
        beliefs: b1 [..., C].
        uncertainty: u1 [...].
        other_beliefs: b2 [..., C].
        other_uncertainty: u2 [...].

    Returns:
        b [..., C] and u [...]; sum(b) + u = 1. Where both are certain and disagree in full, all
        masses are 0.
    """
    first, second = uncertainty.unsqueeze(-1), other_uncertainty.unsqueeze(-1)
    b = beliefs * other_beliefs + beliefs * second + other_beliefs * first
    u = uncertainty * other_uncertainty
    # what is left, 1 - K, as a sum of positive terms: exact also where nearly all is in conflict
    agreed = (b.sum(dim=-1) + u).clamp_min(torch.finfo(b.dtype).tiny)
    return b / agreed.unsqueeze(-1), u / agreed


def dempster_fold(
    beliefs: Tensor, uncertainty: Tensor, present: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Dempster's rule over M sources.

    Args:
        beliefs: [B, M, C].
        uncertainty: [B, M].
        present: bool [B, M]; an absent source says nothing (b = 0, u = 1), which is the rule's
            neutral element. None: all are there.

    Returns:
        b [B, C] and u [B]; u = 1 where no source is present.
    """
    if present is not None:
        beliefs = torch.where(present.unsqueeze(-1), beliefs, torch.zeros_like(beliefs))
        uncertainty = torch.where(present, uncertainty, torch.ones_like(uncertainty))
    b, u = beliefs[:, 0], uncertainty[:, 0]
    for i in range(1, beliefs.shape[1]):
        b, u = dempster_pair(b, u, beliefs[:, i], uncertainty[:, i])
    return b, u


def _log_factors(evidence: Tensor) -> Tensor:
    """log(1 + e / C) of the combination: the sum of the sources', [B, M, C] to [B, C]."""
    return (evidence / evidence.shape[-1]).log1p().sum(dim=1)


def combined_evidence(evidence: Tensor) -> Tensor:
    """Evidence of Dempster's combination of M sources: [B, M, C] to [B, C].

    With b = e / S and u = C / S the rule of :func:`dempster_pair` is e = e1 + e2 + e1 e2 / C: the
    conflict cancels, and 1 + e / C of the combination is the product of the sources'. A source
    without evidence changes nothing. The same numbers as :func:`dempster_fold`, without its
    divisions.
    """
    return _log_factors(evidence).expm1() * evidence.shape[-1]


def dirichlet_log_mean(evidence: Tensor) -> Tensor:
    """log(alpha / S) of the combination of M sources, alpha = e + 1: [B, M, C] to [B, C].

    Finite also where the combined evidence itself overflows: log alpha = log C + s + log(1 - (1 - 1
    / C) exp(-s)) with s = log(1 + e / C).
    """
    classes = evidence.shape[-1]
    s = _log_factors(evidence)
    return (s + (-(1 - 1 / classes) * (-s).exp()).log1p()).log_softmax(dim=-1)


def expected_log_probs(beliefs: Tensor, uncertainty: Tensor) -> Tensor:
    """Log of the Dirichlet's mean, log(b + u / C): [..., C] and [...] to [..., C]."""
    p = beliefs + (uncertainty / beliefs.shape[-1]).unsqueeze(-1)
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def dirichlet_kl(alpha: Tensor) -> Tensor:
    """KL(Dir(alpha) || Dir(1, ..., 1)) in nats: [..., C] > 0 to [...] >= 0."""
    strength = alpha.sum(dim=-1)
    classes = torch.tensor(float(alpha.shape[-1]), dtype=alpha.dtype, device=alpha.device)
    normaliser = strength.lgamma() - classes.lgamma() - alpha.lgamma().sum(dim=-1)
    slope = alpha.digamma() - strength.digamma().unsqueeze(-1)
    return normaliser + ((alpha - 1) * slope).sum(dim=-1)


def evidential_loss(evidence: Tensor, labels: Tensor, kl_weight: float) -> Tensor:
    """TMC's loss per sample: psi(S) - psi(alpha_y) + kl_weight * KL(Dir(e (1 - y) + 1) || Dir(1)).

    The first term is the expected cross-entropy under Dir(e + 1); the second takes away evidence
    for wrong classes. TMC anneals: kl_weight = min(1, epoch / epochs of annealing).

    Args:
        evidence: e [B, C] >= 0; float32 or wider.
        labels: int64 [B].
        kl_weight: >= 0.

    Returns:
        nats [B].
    """
    alpha = evidence + 1
    own = alpha.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    expected = alpha.sum(dim=-1).digamma() - own.digamma()
    wrong = evidence.scatter(-1, labels.unsqueeze(-1), 0.0) + 1
    return expected + kl_weight * dirichlet_kl(wrong)
