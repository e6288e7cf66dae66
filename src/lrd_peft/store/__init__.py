"""The store of hidden states on disk.

`StoreWriter` writes it and resumes after a crash, `Store` reads it, `StoreSpec` describes what it holds.
"""

from lrd_peft.store.disk import estimate_bytes, require_space
from lrd_peft.store.format import StoreSpec
from lrd_peft.store.reader import Store
from lrd_peft.store.writer import StoreWriter

__all__ = ["Store", "StoreSpec", "StoreWriter", "estimate_bytes", "require_space"]
