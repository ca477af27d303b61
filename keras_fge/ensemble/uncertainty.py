"""How sure an ensemble is: predictive entropy, mutual information, and how well they tell foreign data."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_fge.core.arguments import as_number
from keras_fge.core.metrics import of_both_classes
from keras_fge.core.mixture import Mixture
from keras_fge.core.predictions import RunningMean
from keras_fge.core.reliability import entropies
from keras_fge.ensemble.members import Members


def uncertainty(
    members: Sequence[ArrayLike] | np.ndarray, weights: Sequence[float] | None = None
) -> dict[str, np.ndarray]:
    """The uncertainty of the mean prediction of K classifiers, in nats, and its part that they disagree about.

        entropy:            H[p] = -sum_c p[c] log p[c],   p = sum_k v_k p_k
        mutual_information: H[p] - sum_k v_k H[p_k]

    The first is the total uncertainty. The second is at least 0, and 0 if all members agree: what more data of that
    kind would remove, as far as the members represent what is not known.

    Args:
        members: Probabilities of each member, shape `(K, N, ..., classes)`; one column alone is the probability of
            class 1 of two. `ensemble.predict(x, members=True)` returns them.
        weights: v_k, shape `(K,)`, brought to the sum 1. Default: equal ones.

    Returns:
        `{"entropy", "mutual_information"}`: arrays of shape `(N, ...)`.

    Raises:
        ValueError: if these are no probabilities.

    Example:
        keras_fge.uncertainty([[[1.0, 0.0]], [[0.0, 1.0]]])["mutual_information"]  # [log 2]

    References:
        Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018,
        https://arxiv.org/abs/1710.07283
    """
    probabilities = np.asarray(members, dtype="float64")
    if probabilities.ndim < 3 or not np.all((probabilities >= 0) & (probabilities <= 1 + 1e-6)):
        raise ValueError(
            "`members` must hold probabilities of shape (members, samples, classes). Received: shape "
            f"{probabilities.shape}, values from {np.min(probabilities):.3g} to {np.max(probabilities):.3g}"
        )
    probabilities = of_both_classes(probabilities)
    entropy = entropies(np.average(probabilities, axis=0, weights=weights))
    return {
        "entropy": entropy,
        "mutual_information": entropy - np.average(entropies(probabilities), axis=0, weights=weights),
    }


def uncertainty_of(members: Members, x: Any, batch_size: int | None) -> dict[str, np.ndarray]:
    """See `Ensemble.uncertainty`."""
    predictions = members.all_predictions(x, batch_size)
    if isinstance(predictions[0], Mixture):
        running = RunningMean()
        for prediction, share in zip(predictions, members.shares):
            running.add(prediction, share)
        return {"noise": running.mean().noise, "disagreement": running.mean().disagreement}
    if not isinstance(predictions[0], np.ndarray) or members.outputs.each(1)[0].task != "classification":
        raise ValueError("`uncertainty` needs a classifier with one output, or one with a mean and a variance.")
    return uncertainty(predictions, members.weights)


def disagreement(predictions: Sequence[np.ndarray], classes: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The fraction of positions at which two of K members predict different `classes`: `(K, K)`.

    NaN where a member's predictions are not finite: they have no class.
    """
    chosen = [classes(array) if np.all(np.isfinite(array)) else None for array in predictions]
    return np.array([[np.nan if a is None or b is None else np.mean(a != b) for b in chosen] for a in chosen])


def ood_auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """How well a score tells foreign samples: the probability that one of them has a larger score than one of ours.

    1/2 is a guess, 1 is perfect; equal scores count half. Needs scikit-learn.

    Args:
        inside: Scores of samples of the kind that the networks were trained on, such as `uncertainty(...)["entropy"]`.
        outside: Scores of foreign samples.

    Example:
        keras_fge.ood_auroc([0.1, 0.2], [0.2, 0.9])  # 0.875

    References:
        Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
        Networks, ICLR 2017, https://arxiv.org/abs/1610.02136
    """
    from sklearn.metrics import roc_auc_score

    inside, outside = np.ravel(np.asarray(inside)), np.ravel(np.asarray(outside))
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(labels, np.concatenate([inside, outside])))


def ood_fpr(inside: ArrayLike, outside: ArrayLike, accepted: float = 0.95) -> float:
    """The fraction of foreign samples that pass as ours, where 95 % of ours do: 0 is perfect.

    Samples pass whose score is at most the smallest threshold with which so many of ours pass.

    Args:
        inside, outside: As for `ood_auroc`.
        accepted: The fraction of our samples that passes, above 0 and at most 1. Default: 0.95.

    Raises:
        ValueError: if `accepted` is no such fraction.

    Example:
        keras_fge.ood_fpr([0.1, 0.2], [0.2, 0.9])  # 0.5

    References:
        Liang et al., Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks, ICLR 2018,
        https://arxiv.org/abs/1706.02690, section 4.3
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if not np.size(scores) or np.any(np.isnan(np.asarray(scores, "float64"))):
            raise ValueError(f"`{name}` must hold scores, at least one, and no NaN.")
    if not 0 < as_number("accepted", accepted) <= 1:
        raise ValueError(f"`accepted` must be above 0 and at most 1. Received: accepted={accepted}")
    ours = np.sort(np.ravel(np.asarray(inside)))
    threshold = ours[int(np.ceil(accepted * len(ours) - 1e-9)) - 1]
    return float(np.mean(np.ravel(np.asarray(outside)) <= threshold))
