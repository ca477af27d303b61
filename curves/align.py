"""`align`: brings the hidden units of a network into the order of those of another; its function stays the same."""

from typing import Any

import keras
import numpy as np

from curves.symmetry import Symmetry, is_graph, walk
from curves.units import Group, Places
from keras_fge.core.keras_internals import all_layers
from keras_fge.core.networks import check_same_architecture, clone, distance, locked, read, set_weights

TOLERANCE = 1e-4  # Of the outputs before and after, relative to the largest one.
HALF_TOLERANCE = 2e-2  # In float16 and bfloat16. Of a wrong network, the error is around 1.
BATCH = 128


def align(
    network: keras.Model,
    reference: keras.Model,
    data: Any = None,
    method: str = "weights",
    seed: int = 0,
    verbose: bool = True,
) -> keras.Model:
    """Permutes the hidden units of `network` so that they match those of `reference`.

    Hidden units can change places without changing what a network computes. So two networks that were trained apart
    may be near to each other but for the order of their units. Which units may move is read off the graph: Dense, Conv,
    depthwise and separable convolution, normalization, PReLU, Embedding, sums and concatenations of branches, Flatten,
    pooling and activations; heads of MultiHeadAttention, and the parts inside each. A layer of another kind keeps its
    inputs and outputs as they are, and frozen weights never change.

    "weights" maximizes sum_w <w_reference, P w_network> over all permutations P, which makes ||w_reference - P
    w_network|| the least: one group of units after the other, in random order, by the Hungarian method, until nothing
    gets better (Git Re-Basin, algorithm 1). "activations" maximizes the sum of the correlations of matched units on
    `data`, over the outputs of all layers with weights that show them; groups inside an attention layer are matched by
    weights.

    Args:
        network, reference: Built functional or Sequential networks of one architecture. They do not change.
        data: Inputs, as arrays that `predict` takes. Needed for "activations"; a few thousand samples are enough. If
            given, the check of the outputs is done on them. Default: none.
        method: "weights" or "activations". Default: "weights".
        seed: Seed of the order of groups, and of the inputs of the check. Default: 0.
        verbose: Whether to print which part of the weights could be matched, and the distance before and after.

    Returns:
        A `keras.Model` of its own, not compiled, that computes what `network` does. This is checked, on `data` or
        random inputs, to 1e-4 of the largest output (2e-2 in half precision).

    Raises:
        ValueError: if the architectures differ, a network is not built or is of a class of its own, `data` do not fit
            or are too few, or the network takes no random inputs and there are no `data`.
        RuntimeError: if the check fails: the order of units means something to a layer that `align` does not know.

    Example:
        aligned = curves.align(net_b, net_a, verbose=False)
        curves.connect(net_a, aligned)

    References:
        Ainsworth et al., Git Re-Basin, ICLR 2023, https://arxiv.org/abs/2209.04836; Li et al., Convergent Learning,
        ICLR 2016, https://arxiv.org/abs/1511.07543 (activations)
    """
    if method not in ("weights", "activations"):
        raise ValueError(f"`method` must be 'weights' or 'activations'. Received: method={method!r}")
    for name, each in (("network", network), ("reference", reference)):
        if not isinstance(each, keras.Model):
            raise ValueError(f"`{name}` must be a keras.Model. Received: {name}={each!r}")
    check_same_architecture(network, reference, "`network`", "`reference`")
    for name, each in (("network", network), ("reference", reference)):
        if not is_graph(each):
            raise ValueError(
                f"`{name}` must be a functional or Sequential network, whose graph shows which units may move. "
                f"Received: {type(each).__name__}, a class of its own."
            )
    if method == "activations" and data is None:
        raise ValueError("`data` is needed for method='activations': inputs as `predict` takes them.")
    with locked(network, reference):
        matching = _Matching(network, reference)
        groups = matching.groups
        if method == "activations":
            groups = matching.match_activations(network, reference, data)
        matching.match_weights(groups, np.random.default_rng(seed))
        aligned = clone(network)
        set_weights(aligned, matching.moved_weights(network))
        _check_same_function(network, aligned, data, seed)
    if verbose:
        print(matching.report(network, reference, aligned))
    return aligned


class _Matching:
    """The units of `network`, where they are to go, and how well they then match `reference`.

    Attributes:
        moves: Unit `u` gets what belongs to unit `moves[u]`.
    """

    def __init__(self, network, reference):
        self.symmetry = symmetry = Symmetry(network)
        self.moves = np.arange(len(symmetry.units))
        axes = [axis for weight in symmetry.weights for axis in weight.axes if axis is not None]
        self.groups: list[Group] = symmetry.units.groups(axes)
        index_of = {id(variable): index for index, variable in enumerate(network.weights)}
        self._places = {}
        self._placed = []  # (index in `network.weights`, shape, places along its axes) of each weight with units.
        self._views = []  # (places, value in the network, in the reference) of what is trained.
        for weight in symmetry.weights:
            index = index_of[id(weight.variable)]
            places = [None if axis is None else self._places_of(axis) for axis in weight.axes]
            self._placed.append((index, weight.shape, places))
            if weight.variable.trainable:
                values = [read(each.weights[index]) for each in (network, reference)]
                self._views.append((places, *(value.reshape(weight.shape) for value in values)))

    def _places_of(self, axis):
        key = axis.tobytes()
        if key not in self._places:
            self._places[key] = Places(axis, len(self.moves))
        return self._places[key]

    def match_weights(self, groups, rng):
        """Moves the units of one group after the other, until none gets better."""
        self._start_from_the_inputs(groups)
        changed = True
        while changed:
            changed = False
            for index in rng.permutation(len(groups)):
                changed |= self._improve(groups[index])

    def _start_from_the_inputs(self, groups):
        """Matches each group by the weights whose other units are matched already, if that is a better start.

        So a network whose units were only permuted comes back at once.
        """
        before, score = self.moves, self._score()
        is_open = np.zeros(len(self.moves), dtype=bool)
        for group in groups:
            is_open[group.units] = True
        for group in sorted(groups, key=lambda group: group.units.min()):  # In the order of the graph.
            self._move(group, [self._similarity(family.ravel(), is_open) for family in group.families])
            is_open[group.units] = False
        if self._score() <= score:
            self.moves = before

    def _improve(self, group):
        """Moves the units of one group; returns False, and leaves them, if that is no gain."""
        similarities = [self._similarity(family.ravel()) for family in group.families]
        before = self.moves
        if any(self._stands_twice(family.ravel()) for family in group.families):
            value = lambda moves: self._score(group.units, moves)  # noqa: E731 - The similarity depends on where the group is.
        else:
            value = lambda moves: _total(group, similarities, moves)  # noqa: E731
        self._move(group, similarities)
        old, new = value(before), value(self.moves)
        if new > old + 1e-6 * abs(old):  # Weights are float32.
            return True
        self.moves = before
        return False

    def _stands_twice(self, units):
        """Whether these units stand along two axes of one weight."""
        return any(
            sum(place is not None and bool(np.isin(units, place.axis).any()) for place in places) > 1
            for places, _, _ in self._views
        )

    def _views_with(self, units):
        for places, ours, theirs in self._views:
            if any(place is not None and np.isin(units, place.axis).any() for place in places):
                yield places, ours, theirs

    def _score(self, units=slice(None), moves=None):
        """sum_w <w_reference, P w_network> over the weights in which units stand."""
        units, moves = np.arange(len(self.moves))[units], self.moves if moves is None else moves
        return sum(
            float(np.vdot(theirs, _moved(ours, places, moves))) for places, ours, theirs in self._views_with(units)
        )

    def _similarity(self, units, is_open=None):
        """S[u, v] = sum_w <entries of unit u in the reference, entries of unit v in the network, other units moved>.

        Only over weights without other units that are `is_open`, if given.
        """
        total = np.zeros((len(units), len(units)), "float64")
        for places, ours, theirs in self._views_with(units):
            for dimension, place in enumerate(places):
                if place is None or not np.isin(units[0], place.axis):
                    continue
                others = [None if d == dimension else p for d, p in enumerate(places)]
                if is_open is not None and any(p is not None and is_open[p.axis].any() for p in others):
                    continue
                positions = place.of(units)
                rows = [
                    np.moveaxis(array, dimension, 0)[positions].reshape(len(units), -1)
                    for array in (theirs, _moved(ours, others, self.moves))
                ]
                total += rows[0] @ rows[1].T
        return total

    def _move(self, group, similarities):
        """The best permutation of a group: inside each pair of blocks, and, given these, of the blocks."""
        sizes = [family.shape[1] for family in group.families]
        inside, totals = {}, np.zeros((group.blocks, group.blocks))
        for a, b in np.ndindex(totals.shape):
            for index, (matrix, size) in enumerate(zip(similarities, sizes)):
                part = matrix[a * size : (a + 1) * size, b * size : (b + 1) * size]
                inside[a, b, index] = _best(part)
                totals[a, b] += part[np.arange(size), inside[a, b, index]].sum()
        moves = self.moves.copy()
        for a, b in enumerate(_best(totals)):
            for index, family in enumerate(group.families):
                moves[family[a]] = family[b][inside[a, b, index]]
        self.moves = moves

    def match_activations(self, network, reference, data):
        """Moves the units that the outputs of layers show; returns the groups that none of them shows."""
        families = [family.ravel() for group in self.groups for family in group.families]
        correlations = _correlations(network, reference, data, self.symmetry, families, self._places_of)
        hidden = []
        for group in self.groups:
            if all(family.tobytes() in correlations for family in group.families):
                self._move(group, [correlations[family.tobytes()] for family in group.families])
            else:
                hidden.append(group)
        return hidden

    def moved_weights(self, network):
        """All weights of `network`, in the order of `get_weights`, with their units moved."""
        weights = network.get_weights()
        for index, shape, places in self._placed:
            value = weights[index]
            weights[index] = _moved(value.reshape(shape), places, self.moves).reshape(value.shape)
        return weights

    def report(self, network, reference, aligned):
        movable = {unit for group in self.groups for unit in group.units.tolist()}
        matched = sum(
            int(np.prod(weight.shape))
            for weight in self.symmetry.weights
            if any(axis is not None and movable.intersection(axis.tolist()) for axis in weight.axes)
        )
        lengths = [distance(reference, reference.get_weights(), each.get_weights()) for each in (network, aligned)]
        pinned = sorted(set(self.symmetry.pinned))
        kept = f"; without a rule: {', '.join(pinned)}" if pinned else ""
        share = 100 * matched / max(network.count_params(), 1)
        return (
            f"align: {share:.1f} % of the weights belong to {len(self.groups)} groups of units that can move{kept}. "
            f"Distance to the reference: {lengths[0]:.4g}, then {lengths[1]:.4g}."
        )


def _total(group, similarities, moves):
    """The sum of the similarities of all units of a group with what they get."""
    total = 0.0
    for family, similarity in zip(group.families, similarities):
        units = family.ravel()
        column = np.argsort(units)[np.searchsorted(np.sort(units), moves[units])]
        total += float(similarity[np.arange(len(units)), column].sum())
    return total


def _moved(value, places, moves):
    for dimension, place in enumerate(places):
        if place is not None:
            value = np.take(value, place.sources(moves), axis=dimension)
    return value


def _best(similarity):
    """For each row the column, so that the sum of the entries is the largest."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(similarity, maximize=True)[1]


def _correlations(network, reference, data, symmetry, families, places_of):
    """{family: sum over the layers with weights that show it of the correlations of its units in both networks}."""
    arrays = _checked(data, network)
    samples = len(arrays[0])
    sums: dict[tuple[int, bytes], list[np.ndarray]] = {}
    counts: dict[tuple[int, bytes], int] = {}
    for begin in range(0, samples, BATCH):
        batch = [
            keras.ops.convert_to_tensor(array[begin : begin + BATCH], dtype=tensor.dtype)
            for array, tensor in zip(arrays, network.inputs)
        ]
        shown = [_outputs_of_calls(each, batch) for each in (network, reference)]
        for index, (channels, *outputs) in enumerate(zip(symmetry.calls, *shown)):
            if outputs[0] is None:
                continue
            for units in families:
                if not np.isin(units, channels.axis).all():
                    continue
                positions = places_of(channels.axis).of(units)
                x, y = (np.moveaxis(o, channels.dimension, 0)[positions].reshape(len(units), -1) for o in outputs)
                parts = [x.sum(1), y.sum(1), (x**2).sum(1), (y**2).sum(1), y @ x.T]
                key = (index, units.tobytes())
                counts[key] = counts.get(key, 0) + x.shape[1]
                sums[key] = [a + b for a, b in zip(sums[key], parts)] if key in sums else parts
    totals: dict[bytes, np.ndarray] = {}
    for (index, family), (x, y, xx, yy, products) in sums.items():
        count = counts[index, family]
        if count < len(x):
            raise ValueError(
                f"`data` must show each layer at least as often as it has units, {len(x)}. Received: {count}"
            )
        deviations = [np.sqrt(np.maximum(square / count - (s / count) ** 2, 0)) for s, square in ((x, xx), (y, yy))]
        scale = np.outer(deviations[1], deviations[0])
        matrix = np.divide(
            products / count - np.outer(y, x) / count**2, scale, out=np.zeros_like(scale), where=scale > 1e-12
        )
        totals[family] = totals.get(family, 0) + matrix
    return totals


def _outputs_of_calls(network, inputs):
    """The output of each call in the graph, in the order of `Symmetry.calls`; None for an operation without weights."""
    shown = []

    def call(operation, tensors, args, kwargs, outputs):
        results = keras.tree.flatten(operation(*args, **kwargs))
        has_weights = bool(getattr(operation, "weights", None))
        shown.extend(keras.ops.convert_to_numpy(r).astype("float64") if has_weights else None for r in results)
        return results

    walk(network, inputs, call)
    return shown


def _checked(data, network):
    """The arrays of `data`, one for each input of `network`."""
    arrays = [np.asarray(array) for array in keras.tree.flatten(data)]
    expected = [tuple(tensor.shape[1:]) for tensor in network.inputs]
    received = [array.shape[1:] for array in arrays]
    fits = len(arrays) == len(expected) and all(
        len(a) == len(b) and all(n in (None, m) for n, m in zip(a, b)) for a, b in zip(expected, received)
    )
    if not fits or not len(arrays[0]):
        raise ValueError(f"`data` must hold inputs of shapes {expected} per sample. Received: {received}")
    return arrays


def _check_same_function(network, aligned, data, seed):
    """Raises a RuntimeError unless both compute the same: then a layer is not what its rule takes it for."""
    if data is None:
        rng, arrays = np.random.default_rng(seed), []
        for tensor in network.inputs:
            shape = (16, *(size or 32 for size in tensor.shape[1:]))
            is_float = "float" in str(tensor.dtype)
            arrays.append(rng.standard_normal(shape).astype("float32") if is_float else rng.integers(0, 2, shape))
    else:
        arrays = [array[:BATCH] for array in _checked(data, network)]
    inputs = arrays[0] if len(arrays) == 1 else keras.tree.pack_sequence_as(network.input, arrays)
    try:
        outputs = [keras.tree.flatten(each.predict(inputs, verbose=0)) for each in (network, aligned)]
    except Exception as error:
        if data is not None:
            raise
        raise ValueError(
            f"`network` does not take random inputs: give `data`, for the check. It says: {error}"
        ) from error
    if not all(np.isfinite(array).all() for array in outputs[0]):
        raise ValueError("The outputs of `network` are not finite" + ("." if data is not None else ": give `data`."))
    is_half = any("16" in str(getattr(layer, "compute_dtype", "")) for layer in all_layers(network))
    tolerance = HALF_TOLERANCE if is_half else TOLERANCE
    for before, after in zip(*outputs):
        change = np.max(np.abs(np.asarray(after) - before)) / max(np.max(np.abs(before)), 1e-30)
        if not change <= tolerance:
            raise RuntimeError(
                f"The aligned network would compute something else ({change:.2g} of the largest output): to a layer of "
                f"'{network.name}' the order of units means something that `align` does not know. Please report it."
            )
