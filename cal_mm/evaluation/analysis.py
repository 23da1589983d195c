"""What each modality of a trained model is worth: probes, Shapley values, gradients, Fisher trace.

Everything works on any checkpoint of a ``MultiModalClassifier``; nothing changes the model.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.contribution.functional import coalition_plan
from cal_mm.models.modes import evaluating

__all__ = [
    'error_cosines',
    'fisher_traces',
    'gradient_facts',
    'linear_probe',
    'shapley_report',
]

#: inverse regularisation strengths that a probe chooses from
PROBE_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, seed: int = 0
) -> dict[str, float]:
    """Accuracy of a logistic regression on standardised features.

    The regularisation is chosen by 3-fold cross-validation inside ``train``.

    Args:
        train: [N, D].
        train_labels: int64 [N].
        test: [K, D].
        test_labels: int64 [K].
        seed: of the folds.

    Returns:
        ``accuracy`` and its standard error, in percent, and ``strength``, the chosen C.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = train.double().numpy(), train_labels.numpy()
    smallest = int(np.unique(y, return_counts=True)[1].min())

    def model(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))

    best = 1.0
    if smallest >= 3:
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        scores = [cross_val_score(model(c), x, y, cv=folds).mean() for c in PROBE_STRENGTHS]
        best = PROBE_STRENGTHS[int(np.argmax(scores))]
    right = model(best).fit(x, y).predict(test.double().numpy()) == test_labels.numpy()
    error = float(right.std() / np.sqrt(len(right)))
    return dict(accuracy=100 * float(right.mean()), error=100 * error, strength=best)


def shapley_report(
    coalitions: Tensor, labels: Tensor, log_prior: Tensor, modalities: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Shapley values of the modalities in accuracy and in log-likelihood.

    The empty coalition predicts the class prior. The values sum to the gain of all modalities over
    it.

    Args:
        coalitions: fused logits [S, N, C] in the coalition plan's order.
        labels: int64 [N].
        log_prior: [C].
        modalities: M names.

    Returns:
        ``{'accuracy' (points), 'log_likelihood' (nats): {m: {'value', 'error'}}}``, the error being
        the standard error over the samples. Where orders are drawn (M > 6) also
        ``'sampling_error'``, the standard error that comes of it.
    """
    plan = coalition_plan(len(modalities))
    prior = log_prior.double()
    log_p = coalitions.double().log_softmax(dim=-1)
    log_p[0] = prior
    index = labels.expand(len(log_p), -1)[..., None]
    tables = dict(
        accuracy=100 * (log_p.argmax(dim=-1) == labels).double(),
        log_likelihood=log_p.gather(-1, index)[..., 0],
    )
    report = {}
    for name, values in tables.items():
        phi = plan.shapley(values)  # [M, N]
        error = phi.std(dim=1) / max(1, phi.shape[1]) ** 0.5
        report[name] = {
            m: dict(value=float(p.mean()), error=float(e))
            for m, p, e in zip(modalities, phi, error, strict=True)
        }
        if plan.pairs is not None:
            drawn = plan.standard_error(values.mean(dim=1)).tolist()
            for m, e in zip(modalities, drawn, strict=True):
                report[name][m]['sampling_error'] = e
    return report


def error_cosines(unimodal: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    """Mean cosine between the error signals of each pair of modalities.

    The error signal of a sample is softmax(u_m) - onehot(label), the gradient of its unimodal
    cross-entropy by the logits: 1 where two modalities want the same, below 0 where they pull
    apart.

    Args:
        unimodal: u_m [N, C] by modality.
        labels: int64 [N].

    Returns:
        ``{'a, b': cosine}``.
    """
    onehot = F.one_hot(labels, next(iter(unimodal.values())).shape[1]).double()
    signal = {m: u.double().softmax(dim=-1) - onehot for m, u in unimodal.items()}
    names = sorted(signal)
    return {
        f'{a}, {b}': float(F.cosine_similarity(signal[a], signal[b], dim=1).mean())
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }


def gradient_facts(model: Any, batches: Iterable[dict]) -> dict[str, dict[str, float | None]]:
    """Size and conflict of the gradients that reach each modality's encoder and bottleneck.

    Args:
        model: in evaluation mode meanwhile, so that dropout and batch statistics do not matter.
        batches: collated; the gradient is that of the mean loss over all their samples.

    Returns:
        By modality: ``fused``, the norm of the fused cross-entropy's gradient; ``relative``, the
        same over the norm of the parameters; ``unimodal``, the norm of the unimodal cross-entropy's
        gradient and ``cosine`` between the two (None without unimodal logits, or without parameters
        that learn).
    """
    owned = model.modality_parameters()
    sums: dict[tuple[str, str], list[Tensor]] = {}
    count = 0
    with evaluating(model):
        for batch in batches:
            state = model.state(**model.data_preprocessor(batch, False))
            losses = {'fused': F.cross_entropy(state.logits.float(), state.known_labels)}
            for m in model.modalities if state.head is not None else ():
                logits = state.unimodal_logits(m).float()
                losses[m] = F.cross_entropy(logits, state.known_labels)
            for m, params in owned.items():
                for name, key in (('fused', 'fused'), ('unimodal', m)):
                    if params and key in losses:
                        grads = _gradient(losses[key], params) * state.batch_size
                        sums.setdefault((m, name), []).append(grads)
            count += state.batch_size
    found: dict[str, dict[str, float | None]] = {}
    for m, params in owned.items():
        facts: dict[str, float | None] = dict.fromkeys(('fused', 'relative', 'unimodal', 'cosine'))
        total = {n: torch.stack(v).sum(dim=0) / count for (who, n), v in sums.items() if who == m}
        if 'fused' in total:
            norm = float(total['fused'].norm())
            size = float(torch.cat([p.detach().double().flatten() for p in params]).norm())
            facts.update(fused=norm, relative=norm / size if size else None)
        if 'unimodal' in total:
            facts['unimodal'] = float(total['unimodal'].norm())
            facts['cosine'] = float(F.cosine_similarity(total['fused'], total['unimodal'], dim=0))
        found[m] = facts
    return found


def _gradient(loss: Tensor, params: list) -> Tensor:
    """Flat float64 gradient; parameters that the loss does not reach count zero."""
    grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).double().flatten()
            for p, g in zip(params, grads, strict=True)
        ]
    )


def fisher_traces(
    model: Any, samples: Iterable[dict], labels: str = 'model', seed: int = 0
) -> dict[str, dict[str, float]]:
    """Trace of the Fisher information of each modality's parameters, over single samples.

    Args:
        model: in evaluation mode meanwhile.
        samples: collated batches of one sample each.
        labels: ``model``: labels drawn from the prediction (the Fisher information); ``data``: the
            true ones (the empirical Fisher).
        seed: of the drawn labels.

    Returns:
        By modality ``trace``, the mean over samples of the squared gradient norm of log p(label),
        ``error``, its standard error, and ``per_parameter``.

    Raises:
        ValueError: unknown ``labels``.
    """
    if labels not in ('model', 'data'):
        raise ValueError(f"labels must be 'model' or 'data', got {labels!r}")
    generator = torch.Generator().manual_seed(seed)
    owned = {m: p for m, p in model.modality_parameters().items() if p}
    squares: dict[str, list[float]] = {m: [] for m in owned}
    with evaluating(model):
        for batch in samples:
            state = model.state(**model.data_preprocessor(batch, False))
            log_p = state.logits.float().log_softmax(dim=-1)
            label = state.known_labels
            if labels == 'model':
                draw = torch.multinomial(log_p[0].exp().cpu(), 1, generator=generator)
                label = draw.to(log_p.device)
            loss = F.nll_loss(log_p, label)
            for m, params in owned.items():
                squares[m].append(float(_gradient(loss, params).square().sum()))
    found = {}
    for m, values in squares.items():
        each = np.asarray(values)
        size = sum(p.numel() for p in owned[m])
        error = float(each.std() / np.sqrt(len(each)))
        mean = float(each.mean())
        found[m] = dict(trace=mean, error=error, per_parameter=mean / size)
    return found
