"""Hidden units of a network in the order of those of another: `align`, the rules that find them, and the units."""

from curves.alignment.align import align

__all__ = ["align"]
