"""Units of a network: which positions along the axes of tensors and weights are one, and which may change places."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

Axis = np.ndarray  # The unit at each position: integers of shape `(size,)`. A unit may stand at several positions.


@dataclasses.dataclass(frozen=True)
class Group:
    """Units that may change places: whole blocks with each other, and inside a block the units of a family.

    Attributes:
        families: Arrays of units, shape `(blocks, size)`. The filters of a layer are one block of one family; the heads
            of an attention layer are blocks with two families, of queries and keys, and of values.
        can_turn: Whether an orthogonal map of the units of a block and a family is a symmetry, too.
    """

    families: tuple[np.ndarray, ...]
    can_turn: bool = False

    @property
    def blocks(self) -> int:
        return len(self.families[0])

    @property
    def units(self) -> np.ndarray:
        """All units of the group."""
        return np.concatenate([family.ravel() for family in self.families])


class Units:
    """All units of a network, as they are found. Two that turn out to be the same are tied."""

    def __init__(self):
        self._parents: list[int] = []
        self._pinned: list[Axis] = []
        self._divisions: list[tuple[int, tuple[Axis, ...], bool]] = []

    def __len__(self) -> int:
        return len(self._parents)

    def new(self, size: int) -> Axis:
        """An axis with `size` units of its own."""
        axis = np.arange(len(self), len(self) + size)
        self._parents.extend(axis.tolist())
        return axis

    def tie(self, first: Axis, *others: Axis) -> None:
        """Makes the units at the same positions of axes of one size the same."""
        for other in others:
            for a, b in zip(first.tolist(), other.tolist()):
                a, b = self._root(a), self._root(b)
                self._parents[max(a, b)] = min(a, b)

    def pin(self, axis: Axis) -> None:
        """Keeps units where they are."""
        self._pinned.append(axis)

    def divide(self, blocks: int, *axes: Axis, can_turn: bool = False) -> None:
        """Cuts axes into `blocks` equal parts. No unit leaves its part alone; the i-th parts of all move together."""
        self._divisions.append((blocks, axes, can_turn))

    def roots(self, axis: Axis) -> Axis:
        """The axis with one number for all units that are tied."""
        return np.array([self._root(unit) for unit in axis.tolist()], dtype=int)

    def groups(self, axes: Iterable[Axis]) -> list[Group]:
        """The units that may change places, given the axes of all weights, in the form that `roots` returns.

        Units can take each other's place if they stand equally often in each axis.
        """
        seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for index, axis in enumerate(axes):
            for unit, count in zip(*np.unique(axis, return_counts=True)):
                seen[int(unit)].append((index, int(count)))
        for unit in {int(unit) for axis in self._pinned for unit in self.roots(axis)}:
            seen.pop(unit, None)
        classes: dict[tuple, list[int]] = defaultdict(list)
        for unit in sorted(seen):
            classes[tuple(seen[unit])].append(unit)
        divisions = {}
        for blocks, parts, can_turn in self._divisions:
            roots = [self.roots(axis) for axis in parts]
            divisions[(blocks, *(tuple(axis.tolist()) for axis in roots))] = (blocks, roots, can_turn)
        return _without_divisions(classes, divisions) + _with_divisions(classes, divisions)

    def _root(self, unit):
        while self._parents[unit] != unit:
            self._parents[unit] = self._parents[self._parents[unit]]
            unit = self._parents[unit]
        return unit


def _without_divisions(classes, divisions):
    divided = {unit for _, axes, _ in divisions.values() for axis in axes for unit in axis.tolist()}
    free = [units for units in classes.values() if len(units) > 1 and not divided.intersection(units)]
    return [Group((np.array([units]),)) for units in free]


def _with_divisions(classes: dict[tuple, list[int]], divisions: dict) -> list[Group]:
    """One group for each division whose units are in no other one, and may all move."""
    all_units = [np.concatenate(axes) for _, axes, _ in divisions.values()]
    groups = []
    for index, (blocks, axes, can_turn) in enumerate(divisions.values()):
        others = {unit for k, units in enumerate(all_units) if k != index for unit in units.tolist()}
        families = [np.array(units) for units in classes.values() if np.isin(units, all_units[index]).any()]
        block_of = {u: p for axis in axes for u, p in zip(axis.tolist(), np.repeat(range(blocks), len(axis) // blocks))}
        complete = sorted(unit for family in families for unit in family.tolist()) == sorted(block_of)
        if not complete or others.intersection(block_of):
            continue
        parts = [[family[[block_of[u] == b for u in family.tolist()]] for b in range(blocks)] for family in families]
        if all(len({len(part) for part in family}) == 1 for family in parts):
            groups.append(Group(tuple(np.stack(family) for family in parts), can_turn))
    return groups


class Places:
    """Where each unit stands along one axis of a weight, to move it.

    Args:
        axis: The units, as `Units.roots` returns them.
        count: Number of all units.
    """

    def __init__(self, axis: Axis, count: int):
        self.axis = axis
        self._order = np.argsort(axis, kind="stable")  # Positions, unit by unit.
        self._starts = np.searchsorted(axis[self._order], np.arange(count))
        self._copies = np.empty(len(axis), dtype=int)  # Which of the positions of its unit each one is.
        self._copies[self._order] = np.arange(len(axis)) - self._starts[axis[self._order]]

    def sources(self, moves: np.ndarray) -> np.ndarray:
        """The positions from which to take the entries, if unit `u` gets what belongs to unit `moves[u]`."""
        return self._order[self._starts[moves[self.axis]] + self._copies]

    def of(self, units: Sequence[int] | np.ndarray) -> np.ndarray:
        """The positions of units that stand equally often, shape `(units, copies)`; none, if they are not here."""
        copies = int(np.sum(self.axis == units[0]))
        return self._order[self._starts[units][:, None] + np.arange(copies)]
