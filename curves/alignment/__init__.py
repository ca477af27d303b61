"""Hidden units of networks in one order: `align`, `align_all`, the rules that find them, and the units."""

from curves.alignment.align import align
from curves.alignment.together import align_all

__all__ = ["align", "align_all"]
