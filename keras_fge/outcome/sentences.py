"""What a run with cyclical rates has made, in sentences, and what to distrust in it.

Each function looks at the snapshots of a run, the number of validation samples (None: not known), and how often two
members disagree (None: not known), and returns a sentence, or None if there is nothing to say.
"""

from collections.abc import Sequence

import numpy as np

from keras_fge.core.metrics import standard_error_of_error
from keras_fge.run import Snapshot

# Members hardly differ below these shares. Networks whose errors had nothing in common would disagree on more samples
# than one of them errs on; and the mean squared error of members is that of their mean plus their variance.
ALIKE, ALIKE_VALUES = 0.1, 0.02


def of_run(snapshots: Sequence[Snapshot], samples: int | None, disagreement: float | None = None) -> list[str]:
    """The sentences about a run; none, if nothing was measured on validation data, or not one error or mse."""
    for name, scale, unit in (("error", 100, " %"), ("mse", 1, "")):
        if all({f"member_{name}", f"ensemble_{name}"} <= snapshot.metrics.keys() for snapshot in snapshots):
            members, ensembles = (
                scale * np.array([snapshot.metrics[f"{kind}_{name}"] for snapshot in snapshots])
                for kind in ("member", "ensemble")
            )
            uncertain = None
            if name == "error" and samples:
                uncertain = 100 * standard_error_of_error(float(members.mean()) / 100, samples)
            said = [_gain(members, ensembles, name, unit)]
            if len(snapshots) > 1:
                said.append(_alike(members, disagreement) if name == "error" else _alike_values(members, ensembles))
                said.append(_worse(members, uncertain))
                said.append(_few_samples(members, ensembles, samples, uncertain))
            return [sentence for sentence in said if sentence]
    return []


def _gain(members, ensembles, name, unit):
    return (
        f"The ensemble of {len(members)} has a validation {name} of {ensembles[-1]:.3g}{unit}, its members "
        f"{members.mean():.3g}{unit} on average ({members.min():.3g} to {members.max():.3g})."
    )


def _alike(members, disagreement):
    if disagreement is not None and 100 * disagreement <= ALIKE * members.mean():
        return (
            f"The members hardly differ: two of them disagree on {100 * disagreement:.2g} % of the predictions. "
            "Larger rates or longer cycles take them further apart."
        )


def _alike_values(members, ensembles):
    variance = members.mean() - ensembles[-1]
    if variance <= ALIKE_VALUES * members.mean():
        return (
            f"The members hardly differ: the variance of what they predict is {max(variance, 0):.2g}. Larger rates or "
            "longer cycles take them further apart."
        )


def _worse(members, uncertain):
    """Whether the second half of the members is worse than the first one."""
    half = len(members) // 2
    first, second = members[:half].mean(), members[half:].mean()
    if second - first > max(0.05 * first, 0.0 if uncertain is None else 2 * uncertain):
        return (
            f"The members get worse, from {first:.3g} to {second:.3g} on average in the second half: they are not at a "
            "minimum. Smaller rates, longer cycles or a later start would keep them there."
        )


def _few_samples(members, ensembles, samples, uncertain):
    if uncertain and abs(members.mean() - ensembles[-1]) < 2 * uncertain:
        return (
            f"On {samples} validation samples an error has a standard error of {uncertain:.2g} points: the gain is "
            "within twice that."
        )
