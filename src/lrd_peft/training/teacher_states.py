"""The teacher's hidden states and thoughts for the student's batches, read from a store or computed by the teacher.

Both sources give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lrd_peft.data.collate import suffix_mask, to_device
from lrd_peft.data.problem import Problem
from lrd_peft.model.core import ThinkingOutput
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thought_distance import relative_distance
from lrd_peft.runtime.processes import is_main
from lrd_peft.runtime.progress import Progress
from lrd_peft.store import Store
from lrd_peft.training.alignment import AlignmentPlan
from lrd_peft.training.curriculum import Item, StageCollator, encode_items, last_stage

# Problems in one batch of the pass that measures the variance.
_VARIANCE_BATCH = 32


class TeacherStates:
    """Reads the teacher's states for batches of problems.

    Args:
        plan: What is compared. See `plan_alignment`, which checks that everything fits.
        teacher: Teacher that runs during training, or
        store: its hidden states on disk.
        problems: Training problems, in the order of the store. A batch names them by their index.

    Raises:
        UserError: If a problem exceeds the teacher's context, or no stored problem has a state to align to.
    """

    def __init__(
        self,
        plan: AlignmentPlan,
        *,
        teacher: TeacherModel | None = None,
        store: Store | None = None,
        problems: Sequence[Problem],
    ) -> None:
        self.plan, self.teacher, self.store = plan, teacher, store
        # bool [problem, position]; None where all positions count.
        self._targets: Tensor | None = None
        self._teacher_items: list[Item] = []
        if store is not None and plan.align_to == "steps":
            self._targets = store.target_mask(with_answer=plan.positions == "thoughts+answer")
        if teacher is not None:
            self._teacher_items = encode_items(last_stage(teacher), problems, whose="teacher")

    def freeze_teacher(self, device: torch.device) -> None:
        """Freeze an online teacher and move it to the device of the training."""
        if self.teacher is not None:
            self.teacher.requires_grad_(False).eval()
            self.teacher.to(device)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Count the positions of a batch that the loss is averaged over."""
        num_rows, slots = len(batch["index"]), batch["num_thoughts"]
        if self._targets is not None:
            return int(self._targets[batch["index"].cpu()][:, self._columns(slots)].sum())
        if self.plan.positions == "all":
            question = int(batch["question_mask"].sum()) - num_rows
            return question + num_rows * slots + int(suffix_mask(batch["labels"], batch["answer_start"]).sum())
        return num_rows * (slots + (self.plan.positions == "thoughts+answer"))

    def read(self, inputs: Mapping[str, Any]) -> tuple[dict[int, Tensor], Tensor | None]:
        """Read the states and thoughts of a batch.

        Args:
            inputs: Batch of the student (see `lrd_peft.data.collate.Batch`).

        Returns:
            The states, teacher layer -> [batch, position, hidden]; from a store with `positions="all"` the positions of
            all problems are concatenated, [total, hidden], until `match` places them. And the teacher's thoughts,
            [batch, slot, hidden], or None if training does not feed them to the student.
        """
        index, slots, device = inputs["index"].tolist(), inputs["num_thoughts"], inputs["index"].device
        if self.store is None:
            output = self._run_teacher(index)
            if self.plan.positions == "all":
                return output.states, output.thoughts
            columns = self._columns(slots)
            return {layer: state[:, columns] for layer, state in output.states.items()}, output.thoughts[:, :slots]
        rows, place = self.store.batch(index), self.store.spec.layers.index
        thoughts = None
        if self.plan.reads_thoughts:
            # With positions="all" the slots follow the question.
            first = [0] * len(index)
            if self.plan.positions == "all":
                first = inputs["question_mask"].sum(dim=1).tolist()
            own = [row[place(0), start : start + slots] for start, row in zip(first, rows, strict=True)]
            thoughts = torch.stack(own).to(device).float()
        if self.plan.positions == "all":
            joined = torch.cat(rows, dim=1)
        else:
            columns = self._columns(slots)
            joined = torch.stack([row[:, columns] for row in rows], dim=1)
        joined = joined.to(device).float()
        return {layer: joined[place(layer)] for layer in self.plan.layer_map}, thoughts

    def match(
        self, states: Mapping[int, Float[Tensor, "... hidden"]], inputs: Mapping[str, Any], output: ThinkingOutput
    ) -> tuple[Mapping[int, Float[Tensor, "batch position hidden"]], Bool[Tensor, "batch position"]]:
        """Place the states of `read` at the positions of the student's output.

        Args:
            states: States of `read`.
            inputs: Batch that they were read for.
            output: The student's output for this batch.

        Returns:
            The states by teacher layer, and the mask of the positions that count.
        """
        if self._targets is not None:
            mask = self._targets[inputs["index"].cpu()][:, self._columns(inputs["num_thoughts"])]
            return states, mask.to(output.mask.device)
        if self.plan.positions == "all" and self.store is not None:
            states = {layer: _place(state, output.valid) for layer, state in states.items()}
        return states, output.mask

    @torch.no_grad()
    def distance_of_refined(
        self, student: StudentModel, items: Sequence[Item], collator: StageCollator, *, batch_size: int
    ) -> float:
        """Return how far a student's refined thoughts are from its sequential ones (see `relative_distance`).

        Args:
            student: A student whose thoughts are refined from the teacher's in training.
            items: Some of the training problems.
            collator: Collator of the last stage.
            batch_size: Problems per batch.
        """
        found: dict[int, list[Tensor]] = {0: [], self.plan.refine_passes: []}
        for start in range(0, len(items), batch_size):
            batch = to_device(collator(items[start : start + batch_size]), student.device)
            _, thoughts = self.read(batch)
            for passes, parts in found.items():
                given = {"teacher_thoughts": thoughts, "refine_passes": passes} if passes else {}
                output = student(**batch, layer_map=self.plan.layer_map, with_loss=False, **given)
                parts.append(output.thoughts.float().cpu())
        sequential, refined = (torch.cat(parts) for parts in found.values())
        return relative_distance(refined, sequential)

    def variance(self) -> dict[int, float]:
        """Return the teacher's variance at each layer over the training problems.

        It stands in the manifest of a store with these positions; otherwise it is measured, in one pass over all
        problems.
        """
        layers = self.plan.layer_map
        if self.store is not None and self.store.spec.positions == self.plan.positions:
            return {layer: self.store.variance[layer] for layer in layers}
        count, sums, squares = 0, dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
        num_problems = len(self._teacher_items) if self.store is None else len(self.store)
        with Progress("teacher's variance", total=num_problems, unit="problems", quiet=not is_main()) as progress:
            for start in range(0, num_problems, _VARIANCE_BATCH):
                index = range(start, min(start + _VARIANCE_BATCH, num_problems))
                states = self._chosen(index)
                for layer, state in states.items():
                    chosen = state.double()
                    sums[layer] += chosen.sum().item()
                    squares[layer] += chosen.square().sum().item()
                count += next(iter(states.values())).numel()
                progress.update(index.stop)
        return {layer: squares[layer] / count - (sums[layer] / count) ** 2 for layer in layers}

    def _columns(self, slots: int) -> slice | list[int]:
        """Return the teacher's positions that a batch with `slots` thoughts has: these, then the answer position."""
        with_answer = self.plan.positions == "thoughts+answer"
        if slots == self.plan.num_thoughts:
            return slice(slots + with_answer)
        return [*range(slots), *([self.plan.num_thoughts] if with_answer else [])]

    @torch.no_grad()
    def _run_teacher(self, index: Sequence[int]) -> ThinkingOutput:
        """Run the online teacher on the problems with these indices, in its own tokens."""
        assert self.teacher is not None
        rows = last_stage(self.teacher)([self._teacher_items[i] for i in index])
        batch = to_device(rows, self.teacher.device)
        layers = sorted(self.plan.layer_map)
        return self.teacher(**batch, layers=layers, positions=self.plan.positions, with_loss=False)

    def _chosen(self, index: range) -> dict[int, Float[Tensor, "total hidden"]]:
        """Return the teacher's states of some problems at the positions that the loss uses, by layer."""
        if self.store is None:
            output = self._run_teacher(index)
            return {layer: output.states[layer][output.mask] for layer in self.plan.layer_map}
        # Reached with positions="thoughts" only, where the manifest's variance includes the answer position.
        slots = self.store.spec.num_thoughts
        chosen = [slice(slots)] * len(index) if self._targets is None else [self._targets[i, :slots] for i in index]
        rows = self.store.batch(index)
        joined = torch.cat([row[:, :slots][:, own] for own, row in zip(chosen, rows, strict=True)], dim=1)
        return {layer: joined[self.store.spec.layers.index(layer)] for layer in self.plan.layer_map}


def _place(
    states: Float[Tensor, "total hidden"], valid: Bool[Tensor, "batch position"]
) -> Float[Tensor, "batch position hidden"]:
    """Put concatenated rows at the valid positions of a padded batch, zeros elsewhere."""
    placed = states.new_zeros((*valid.shape, states.shape[-1]))
    placed[valid] = states
    return placed
