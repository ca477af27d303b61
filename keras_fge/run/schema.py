"""What the files of a run say, as types, by which all that is read is checked."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]


class Content(TypedDict):
    """What a file holds."""

    sha256: str
    size: Count


class Untold(TypedDict):
    """What Keras does not write of a network: see `networks.untold`."""

    frozen: NotRequired[list[Count]]
    int8: NotRequired[list[Count]]
    lora: NotRequired[list[tuple[Count, Annotated[int, Meta(gt=0)], Positive]]]


class NetworkEntry(Content):
    """The file of the network, in the manifest."""

    untold: NotRequired[Untold]


class FileEntry(Content):
    """A file with weights."""

    file: str


class MemberEntry(FileEntry):
    """A member; of weights that it shares, the indices, and the file that has them."""

    shapes: list[list[Count]]
    step: Count
    learning_rate: float | None
    metrics: dict[str, float]
    shared: NotRequired[list[Count]]
    base: NotRequired[FileEntry]


class ConformalEntry(TypedDict):
    """Sets or intervals that `Conformal.save` wrote."""

    kind: Literal["Sets", "Intervals"]
    rule: dict[str, Any]
    alpha: Positive
    threshold: float | list[Any]
    samples: Count


class Manifest(TypedDict):
    """manifest.json, less its checksum; "run" is there if a callback wrote it."""

    from_logits: Any
    task: Any
    network: NetworkEntry | None
    weights: list[Positive] | None
    members: list[MemberEntry]
    temperature: NotRequired[Positive | dict[str, Positive] | None]
    compiled: NotRequired[dict[str, Any] | None]
    conformal: NotRequired[ConformalEntry]
    run: NotRequired[str]


class History(TypedDict):
    """The epochs that are done, and the logs of each, by name."""

    epoch: list[Count]
    history: dict[str, list[Any]]


# What is kept, and the names of what is lost, of a callback that is not ours.
OtherCallback = TypedDict("OtherCallback", {"class": str, "kept": dict[str, Any], "lost": list[str]})


class Counters(TypedDict):
    """The counters in state.npz that every callback writes."""

    epoch: Count
    batch: Count
    settings: dict[str, Any]
    learning_rate: float | None
    batches: dict[str, Any] | None
    history: History
    random: dict[str, Any]
    callbacks: list[OtherCallback]
    ended: bool


class CyclicCounters(Counters):
    """Those of `FGE` and `SnapshotEnsemble`."""

    run: str
    members: list[str]
    last_snapshot_step: Count
    start_snapshot: MemberEntry | None
    start: int | None
    rate_before: float | None
    rate: float | None
    largest_rate: float | None


class EMACounters(Counters):
    """Those of `EMA`."""

    step: Count
    step_of_sample: Count
    sums: list[float]


def check(content: Any, kind: type) -> None:
    """Raises a ValueError that names the first entry of `content`, read from JSON, that is not of the type `kind`."""
    msgspec.convert(content, kind)  # Its ValidationError is a ValueError.
