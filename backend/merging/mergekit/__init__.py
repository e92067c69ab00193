"""mergekit's YAML, read and written, for the methods that both have. No torch and no mergekit.

What mergekit can say and the studio cannot (layers of different models, some settings by tensor or depth) is refused
by name, so that no recipe means something else here than it did there.
"""

from backend.merging.mergekit.reading import from_mergekit
from backend.merging.mergekit.words import SHARED
from backend.merging.mergekit.writing import to_mergekit

__all__ = ["SHARED", "from_mergekit", "to_mergekit"]
