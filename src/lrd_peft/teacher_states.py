"""What the teacher holds at the positions of a batch: from a store, or from the teacher run beside the student.

Both give the same numbers. Knows stores, models and batches; no losses and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrd_peft.curriculum import Item
from lrd_peft.data.collate import IGNORED, to_device
from lrd_peft.data.problem import Problem
from lrd_peft.distillation import map_layers
from lrd_peft.model.models import StudentModel, TeacherModel
from lrd_peft.model.thinking_model import ThinkingOutput
from lrd_peft.pairing import check_pair, check_same_problems, fitting, last_stage
from lrd_peft.processes import is_main
from lrd_peft.progress import Progress
from lrd_peft.store import Store


class TeacherStates:
    """The teacher's states and thoughts for the student's batches.

    Args:
        student: gets its projectors here, where the widths differ.
        teacher, store: one of the two.
        problems: those of the batches, in the order of the store; a batch names them by their place.
        distill_layers, student_layers, positions, align_to, thoughts_from: as LRDPEFTTrainer's.

    Attributes:
        layer_map: teacher layer -> student layer.

    Raises:
        UserError: if teacher, store, student and problems do not fit together.
    """

    def __init__(
        self,
        student: StudentModel,
        *,
        teacher: TeacherModel | None,
        store: Store | None,
        problems: Sequence[Problem],
        distill_layers: Sequence[int],
        student_layers: Sequence[int] | None,
        positions: str,
        align_to: str,
        thoughts_from: str,
    ) -> None:
        width, blocks = check_pair(
            student,
            teacher,
            store,
            layers=distill_layers,
            positions=positions,
            align_to=align_to,
            thoughts_from=thoughts_from,
        )
        self.layer_map = map_layers(
            distill_layers,
            teacher_blocks=blocks,
            student_blocks=student.num_blocks,
            student_layers=student_layers,
        )
        with_thoughts = thoughts_from != "student"
        student.attach_projectors(distill_layers, teacher_hidden_size=width, thoughts=with_thoughts)
        self.teacher, self.store = teacher, store
        self._positions, self._with_thoughts = positions, with_thoughts
        self._num_thoughts = student.options.num_thoughts
        self._targets: Tensor | None = None  # bool [problems, P], where not all positions count
        self._teacher_items: list[Item] = []
        if store is not None:
            check_same_problems(store, problems)
            if align_to == "steps":
                self._targets = store.target_mask(with_answer=positions == "thoughts+answer")
        if teacher is not None:
            teacher.requires_grad_(False).eval()
            self._teacher_items = fitting(last_stage(teacher), problems, whose="teacher")

    def count(self, batch: Any) -> int:
        """Return how many positions of a batch the loss is over."""
        num_rows, slots = len(batch["index"]), batch["num_thoughts"]
        if self._targets is not None:
            return int(self._targets[batch["index"].cpu()][:, self._columns(slots)].sum())
        if self._positions == "all":
            question = int(batch["question_mask"].sum()) - num_rows
            return question + num_rows * slots + int(batch["labels"].ne(IGNORED).sum())
        return num_rows * (slots + (self._positions == "thoughts+answer"))

    def read(self, inputs: dict[str, Any]) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return a batch's states and, if they are fed in, thoughts [B, slots, H_T].

        States: layer -> [B, P, H_T]; all positions from a store follow one another, [sum of P, H_T] (see `match`).
        """
        index, slots, device = inputs["index"].tolist(), inputs["num_thoughts"], inputs["index"].device
        if self.store is None:
            output = self._run_teacher(index)
            if self._positions == "all":
                return output.states, output.thoughts
            columns = self._columns(slots)
            return {layer: state[:, columns] for layer, state in output.states.items()}, output.thoughts[:, :slots]
        rows, place = self.store.batch(index), self.store.spec.layers.index
        thoughts = None
        if self._with_thoughts:
            # With all positions the slots stand after the question.
            first = inputs["question_mask"].sum(dim=1).tolist() if self._positions == "all" else [0] * len(index)
            own = [row[place(0), start : start + slots] for start, row in zip(first, rows, strict=True)]
            thoughts = torch.stack(own).to(device).float()
        if self._positions == "all":
            joined = torch.cat(rows, dim=1)
        else:
            columns = self._columns(slots)
            joined = torch.stack([row[:, columns] for row in rows], dim=1)
        joined = joined.to(device).float()
        return {layer: joined[place(layer)] for layer in self.layer_map}, thoughts

    def match(
        self, states: dict[int, Tensor], inputs: dict[str, Any], output: ThinkingOutput
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return the states where the student's output has its own, layer -> [B, P, H_T], and the mask of those that
        count, bool [B, P]."""
        if self._targets is not None:
            mask = self._targets[inputs["index"].cpu()][:, self._columns(inputs["num_thoughts"])]
            return states, mask.to(output.mask.device)
        if self._positions == "all" and self.store is not None:
            states = {layer: _place(state, output.valid) for layer, state in states.items()}
        return states, output.mask

    def variance(self, *, measure: bool) -> dict[int, float] | None:
        """Return the teacher's variance at each layer over the training problems, as a store's manifest has it.

        Where no manifest has it at these positions it is measured, in a pass over the problems, if asked to.
        """
        if self.store is not None and self.store.spec.positions == self._positions:
            return {layer: self.store.variance[layer] for layer in self.layer_map}
        if not measure:
            return None
        count, sums, squares = 0, dict.fromkeys(self.layer_map, 0.0), dict.fromkeys(self.layer_map, 0.0)
        num_problems = len(self._teacher_items) if self.store is None else len(self.store)
        with Progress("teacher's variance", total=num_problems, unit="problems", quiet=not is_main()) as progress:
            for start in range(0, num_problems, 32):
                index = range(start, min(start + 32, num_problems))
                states = self._chosen(index)
                for layer, state in states.items():
                    chosen = state.double()
                    sums[layer] += chosen.sum().item()
                    squares[layer] += chosen.square().sum().item()
                count += next(iter(states.values())).numel()
                progress.update(index.stop)
        return {layer: squares[layer] / count - (sums[layer] / count) ** 2 for layer in self.layer_map}

    def _columns(self, slots: int) -> slice | list[int]:
        """Return which of the teacher's positions a batch with so many slots has: these, then the answer position."""
        with_answer = self._positions == "thoughts+answer"
        if slots == self._num_thoughts:
            return slice(slots + with_answer)
        return [*range(slots), *([self._num_thoughts] if with_answer else [])]

    @torch.no_grad()
    def _run_teacher(self, index: Sequence[int]) -> ThinkingOutput:
        """Run the online teacher over the problems with these indices, in its own tokens."""
        assert self.teacher is not None
        rows = last_stage(self.teacher)([self._teacher_items[i] for i in index])
        batch = to_device(rows, self.teacher.device)
        return self.teacher(**batch, layers=sorted(self.layer_map), positions=self._positions, with_loss=False)

    def _chosen(self, index: range) -> dict[int, Tensor]:
        """Return the teacher's states of some problems at the positions that the loss uses: layer -> [positions, H]."""
        if self.store is None:
            output = self._run_teacher(index)
            return {layer: output.states[layer][output.mask] for layer in self.layer_map}
        slots = self.store.spec.num_thoughts  # asked for `thoughts` alone: the manifest counts the answer too
        chosen = [slice(slots)] * len(index) if self._targets is None else [self._targets[i, :slots] for i in index]
        rows = self.store.batch(index)
        joined = torch.cat([row[:, :slots][:, own] for own, row in zip(chosen, rows, strict=True)], dim=1)
        return {layer: joined[self.store.spec.layers.index(layer)] for layer in self.layer_map}


def _place(states: Tensor, valid: Tensor) -> Tensor:
    """Put concatenated rows [sum of P_i, H] at the valid positions of a padded batch: bool [B, P] -> [B, P, H]."""
    placed = states.new_zeros((*valid.shape, states.shape[-1]))
    placed[valid] = states
    return placed
