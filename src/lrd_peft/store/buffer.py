"""The shard that is being filled: states, rows, offsets and sums in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrd_peft.runtime.errors import UserError
from lrd_peft.store.format import StoreSpec

TORCH_DTYPE = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SAFETENSORS_DTYPE = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
SCRATCH_VALUES = 1 << 18  # float64 values summed at a time: few calls, and they stay in the cache
HEADER_ALIGNMENT = 64


class ShardBuffer:
    """Problems of one shard, laid out as the file will hold them.

    The states are one flat tensor [rows, H]: problem after problem, each a contiguous [L, P, H]. One named tensor per
    problem would cost a header entry of about 100 bytes and an opening time that grows with their number; offsets cost
    16 bytes per problem, and a problem is still one contiguous view.

    Args:
        spec: what the store holds.
        capacity_rows: initial size; it grows if needed.
    """

    def __init__(self, spec: StoreSpec, *, capacity_rows: int) -> None:
        self._spec = spec
        self._dtype = TORCH_DTYPE[spec.dtype]
        self._states = torch.empty(max(1, capacity_rows), spec.hidden_size, dtype=self._dtype)
        self._block = max(1, SCRATCH_VALUES // spec.hidden_size)
        self._scratch = torch.empty(self._block, spec.hidden_size, dtype=torch.float64)
        self.clear()

    def clear(self) -> None:
        """Remove all problems."""
        self.num_positions = 0
        self.count = 0  # values per layer in the sums
        self.sums = torch.zeros(2, len(self._spec.layers), dtype=torch.float64)  # of values, of squares
        self.rows: list[bytes] = []
        self._offsets = [0]
        self._row_offsets = [0]

    def add(self, index: int, states: Tensor, row: Mapping[str, Any]) -> None:
        """Add one problem; on an error the buffer stays unchanged.

        Args:
            index: of the problem, for messages.
            states: [L, P, H], in any float dtype.
            row: JSON values.

        Raises:
            UserError: if the shape is wrong, a value is not finite, or the row is not JSON.
        """
        num_layers, hidden_size = len(self._spec.layers), self._spec.hidden_size
        if states.dim() != 3 or states.shape[0] != num_layers or states.shape[2] != hidden_size:
            raise UserError(
                f"problem {index}: states have shape {list(states.shape)}, "
                f"the store holds [{num_layers} layers, positions, {hidden_size} hidden]"
            )
        try:
            text = (json.dumps(dict(row)) + "\n").encode()
        except (TypeError, ValueError) as error:
            raise UserError(f"problem {index}: its row cannot be written as JSON: {error}") from error
        num_positions = states.shape[1]
        # The first token is an attention sink, and filler does not come from the teacher.
        counted: slice | list[int] = slice(1 if self._spec.positions == "all" else 0, None)
        if self._spec.align_to == "steps":
            if not isinstance(row.get("steps"), list | tuple):
                raise UserError(f"problem {index}: its row has no steps, which say where its states are aligned")
            counted = list(self._spec.targets(len(row["steps"])))
        start = self.num_positions * num_layers
        stop = start + num_positions * num_layers
        self._reserve(stop)
        target = self._states[start:stop]
        target.view(num_layers, num_positions, hidden_size).copy_(states.detach())
        sums = self._row_sums(target).view(2, num_layers, num_positions)
        if not math.isfinite(float(sums[1].sum())):
            self._raise_not_finite(index, states, sums[1], row)
        chosen = sums[:, :, counted]
        self.sums += chosen.sum(dim=2)
        self.count += chosen.shape[2] * hidden_size
        self.num_positions += num_positions
        self.rows.append(text)
        self._offsets.append(self.num_positions)
        self._row_offsets.append(self._row_offsets[-1] + len(text))

    def _reserve(self, num_rows: int) -> None:
        if num_rows > self._states.shape[0]:
            larger = torch.empty(max(num_rows, 2 * self._states.shape[0]), self._spec.hidden_size, dtype=self._dtype)
            used = self.num_positions * len(self._spec.layers)
            larger[:used] = self._states[:used]
            self._states = larger

    def _row_sums(self, values: Float[Tensor, "row hidden"]) -> Float[Tensor, "2 row"]:
        """Return sum and sum of squares of each row in float64, independent of the number of threads."""
        num_rows = values.shape[0]
        result = torch.empty(2, num_rows, dtype=torch.float64)
        for start in range(0, num_rows, self._block):
            stop = min(start + self._block, num_rows)
            scratch = self._scratch[: stop - start].copy_(values[start:stop])
            torch.sum(scratch, dim=1, out=result[0, start:stop])
            torch.sum(scratch.square_(), dim=1, out=result[1, start:stop])
        return result

    def _raise_not_finite(self, index: int, states: Tensor, squares: Tensor, row: Mapping[str, Any]) -> None:
        place = int((~torch.isfinite(squares)).any(dim=1).nonzero()[0])
        problem = f"problem {index}" + (f' ("{row["id"]}")' if row.get("id") else "")
        cause = "the model produced it: run it in float32 or bfloat16, or leave the problem out"
        if bool(torch.isfinite(states[place]).all()):
            cause = f"the model's values are finite, {self._spec.dtype} is too narrow: store bfloat16 or float32"
        raise UserError(f"{problem}: NaN or Inf in the states of layer {self._spec.layers[place]}; {cause}")

    def file_parts(self, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of the safetensors file, without copying the states."""
        offsets = torch.tensor(self._offsets, dtype=torch.int64)
        row_offsets = torch.tensor(self._row_offsets, dtype=torch.int64)
        states = self._states[: self.num_positions * len(self._spec.layers)]
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        position = 0
        views: list[memoryview] = []
        for name, dtype, tensor in (
            ("offsets", "I64", offsets),
            ("row_offsets", "I64", row_offsets),
            ("states", SAFETENSORS_DTYPE[self._spec.dtype], states),
        ):
            view = tensor.view(-1).view(torch.uint8).numpy().data
            header[name] = {
                "dtype": dtype,
                "shape": list(tensor.shape),
                "data_offsets": [position, position + len(view)],
            }
            position += len(view)
            views.append(view)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % HEADER_ALIGNMENT)
        yield len(text).to_bytes(8, "little") + text
        yield from views
