"""The store of hidden states on disk. Knows files, shapes and fingerprints, not models.

`StoreWriter` writes it (and continues after a crash), `Store` reads it, `StoreSpec` says what is in it.
"""

from lrd_peft.store.disk import estimate_bytes, require_space
from lrd_peft.store.format import ALIGN_TO, StoreSpec
from lrd_peft.store.reader import Store
from lrd_peft.store.writer import StoreWriter

__all__ = ["ALIGN_TO", "Store", "StoreSpec", "StoreWriter", "estimate_bytes", "require_space"]
