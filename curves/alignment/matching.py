"""`Matching`: where the units of a network are to go so that they match those of another."""

import numpy as np

from curves.alignment.activations import correlations_of
from curves.alignment.symmetry import Symmetry
from curves.alignment.units import Group, Places
from keras_fge.core.networks import distance, read


class Matching:
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
        self._places_along = {}  # Of each weight with units, by its index in `network.weights`: along its axes.
        self._values = {}  # The same for its value in the network, with what has been turned.
        self._theirs = {}  # The same for its value in the reference, if it is trained.
        for weight in symmetry.weights:
            index = index_of[id(weight.variable)]
            places = [None if axis is None else self._places_of(axis) for axis in weight.axes]
            self._places_along[index] = places
            self._values[index] = read(network.weights[index]).reshape(weight.shape)
            if weight.variable.trainable:
                self._theirs[index] = read(reference.weights[index]).reshape(weight.shape)

    def _places_of(self, axis):
        key = axis.tobytes()
        if key not in self._places:
            self._places[key] = Places(axis, len(self.moves))
        return self._places[key]

    def match_weights(self, groups, rng, rotate=False):
        """Moves the units of one group after the other, until none gets better; `rotate` turns those that can."""
        self._start_from_the_inputs(groups, rotate)
        changed = True
        while changed:
            changed = False
            for index in rng.permutation(len(groups)):
                changed |= self._improve(groups[index], rotate)

    def _start_from_the_inputs(self, groups, rotate):
        """Matches each group by the weights whose other units are matched already, if that is a better start.

        So a network whose units were only permuted comes back at once.
        """
        before, score = (self.moves, self._values), self._score()
        is_open = np.zeros(len(self.moves), dtype=bool)
        for group in groups:
            is_open[group.units] = True
        for group in sorted(groups, key=lambda group: group.units.min()):  # In the order of the graph.
            self._move(group, [self._similarity(family.ravel(), is_open) for family in group.families], rotate)
            is_open[group.units] = False
        if self._score() <= score:
            self.moves, self._values = before

    def _improve(self, group, rotate):
        """Moves the units of one group; returns False, and leaves them, if that is no gain."""
        similarities = [self._similarity(family.ravel()) for family in group.families]
        before = self.moves, self._values
        # The similarities depend on where the group is, if it stands twice, and on how it is turned.
        is_turned = group.can_turn and rotate
        is_simple = not any(self._stands_twice(family.ravel()) for family in group.families) and not is_turned
        value = (lambda: _total(group, similarities, self.moves)) if is_simple else (lambda: self._score(group.units))
        old = value()
        self._move(group, similarities, rotate)
        if value() > old + 1e-6 * abs(old):  # Weights are float32.
            return True
        self.moves, self._values = before
        return False

    def _stands_twice(self, units):
        """Whether these units stand along two axes of one weight."""
        return any(
            sum(place is not None and bool(np.isin(units, place.axis).any()) for place in places) > 1
            for places, _, _ in self._views_with(units)
        )

    def _views_with(self, units):
        """(places, value in the network, in the reference) of the trained weights in which units stand."""
        for index, theirs in self._theirs.items():
            places = self._places_along[index]
            if any(place is not None and np.isin(units, place.axis).any() for place in places):
                yield places, self._values[index], theirs

    def _score(self, units=slice(None)):
        """sum_w <w_reference, P w_network> over the weights in which units stand."""
        views = self._views_with(np.arange(len(self.moves))[units])
        return sum(float(np.vdot(theirs, _moved(ours, places, self.moves))) for places, ours, theirs in views)

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

    def _move(self, group, similarities, rotate=False):
        """The best permutation of a group: inside each pair of blocks, and, given these, of the blocks.

        Units that can turn are then turned by the orthogonal map with the largest sum, U V^T of the similarities
        U s V^T (Procrustes); that sum, of all s, is what a pair of such blocks is worth.
        """
        turns = group.can_turn and rotate
        sizes = [family.shape[1] for family in group.families]
        inside, totals = {}, np.zeros((group.blocks, group.blocks))
        for a, b in np.ndindex(totals.shape):
            for index, (matrix, size) in enumerate(zip(similarities, sizes)):
                part = matrix[a * size : (a + 1) * size, b * size : (b + 1) * size]
                inside[a, b, index] = _best(part)
                straight = part[np.arange(size), inside[a, b, index]].sum()
                totals[a, b] += np.linalg.svd(part, compute_uv=False).sum() if turns else straight
        moves = self.moves.copy()
        for a, b in enumerate(_best(totals)):
            for index, family in enumerate(group.families):
                order = inside[a, b, index]
                moves[family[a]] = family[b][order]
                if turns:
                    size = sizes[index]
                    part = similarities[index][a * size : (a + 1) * size, b * size : (b + 1) * size]
                    self._turn(family[b][order], part[:, order])
        self.moves = moves

    def _turn(self, units, similarity):
        """Turns units of the network, given their similarities with the units of the reference in whose places they go.

        Not for a gain within rounding, so that a network that was only permuted comes back exactly.
        """
        u, sizes, v = np.linalg.svd(similarity)
        if sizes.sum() - np.trace(similarity) <= 1e-5 * sizes.sum():
            return
        turned = dict(self._values)
        for index, places in self._places_along.items():
            for dimension, place in enumerate(places):
                if place is not None and np.isin(units[0], place.axis):
                    rows = np.moveaxis(turned[index].copy(), dimension, 0)
                    for positions in place.of(units).T:
                        rows[positions] = np.tensordot(u @ v, rows[positions].astype("float64"), 1)
                    turned[index] = np.moveaxis(rows, 0, dimension)
        self._values = turned

    def match_activations(self, network, reference, data):
        """Moves the units that the outputs of layers show; returns the groups that none of them shows."""
        families = [family.ravel() for group in self.groups for family in group.families]
        correlations = correlations_of(network, reference, data, self.symmetry, families, self._places_of)
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
        for index, places in self._places_along.items():
            weights[index] = _moved(self._values[index], places, self.moves).reshape(weights[index].shape)
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
