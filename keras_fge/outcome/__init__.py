"""What a run with cyclical rates brought: sentences, a figure, a table and a page, made of its snapshots."""

from keras_fge.outcome.comparison import Comparison, compare
from keras_fge.outcome.outcome import Outcome

__all__ = ["Comparison", "Outcome", "compare"]
