"""Every causal-LM architecture of the installed transformers thinks as plain recomputation does, or is refused.

Tiny random models in float32. The list that the package ships must say what is found here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lrd_peft.data.collate import Row, collate
from lrd_peft.model.fused import summed_cross_entropy
from lrd_peft.model.generation import decode_batch
from lrd_peft.model.known_architectures import is_known_good, signature
from lrd_peft.model.loop import think
from lrd_peft.model.parts import decoder_of, own_logits
from lrd_peft.model.paths import Paths, paths_of
from lrd_peft.model.self_check import check_model
from lrd_peft.runtime.errors import UserError
from tools.architectures import MODEL_TYPES, PAGE, page_with, read_list, small_model, table

QUESTIONS = [[5, 9, 2], [7, 3, 11, 4, 8, 30, 12], [21]]
SUFFIXES = [[21, 22, 23], [24], [25, 26, 27, 28]]
NUM_THOUGHTS = 3
NEVER = 10**6  # an end-of-text id that no model writes

FOUND: dict[str, dict[str, Any]] = read_list()["found"]
BUILT = [name for name in MODEL_TYPES if "not_built" not in FOUND[name]]
RIGHT = [name for name in BUILT if "refusal" not in FOUND[name]]
REFUSED = [name for name in BUILT if "refusal" in FOUND[name]]


class Plain:
    """The plain definition of one row: no cache, no batch, the whole sequence again for each thought and token."""

    def __init__(self, lm: PreTrainedModel, question: list[int], suffix: list[int]) -> None:
        self.lm, self.decoder, self.embed = lm, decoder_of(lm), lm.get_input_embeddings()
        inputs = self.embed(torch.tensor([question]))
        for _ in range(NUM_THOUGHTS):
            hidden = self.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
            inputs = torch.cat([inputs, hidden[:, -1:]], dim=1)
        self.thoughts = inputs[0, len(question) :]
        self.inputs = torch.cat([inputs, self.embed(torch.tensor([suffix]))], dim=1)
        self.start, self.suffix = len(question), suffix

    def loss(self) -> Tensor:
        logits = self.lm(inputs_embeds=self.inputs, use_cache=False).logits[0]
        start = self.start + NUM_THOUGHTS - 1
        return F.cross_entropy(logits[start : start + len(self.suffix)], torch.tensor(self.suffix), reduction="sum")

    def states(self) -> tuple[Tensor, ...]:
        output = self.decoder(inputs_embeds=self.inputs, use_cache=False, output_hidden_states=True)
        return tuple(state[0, self.start :] for state in output.hidden_states)

    def written(self, limit: int) -> tuple[int, ...]:
        inputs, tokens = self.inputs, []
        for _ in range(limit):
            tokens.append(int(self.lm(inputs_embeds=inputs, use_cache=False).logits[0, -1].argmax()))
            inputs = torch.cat([inputs, self.embed(torch.tensor([tokens[-1:]]))], dim=1)
        return tuple(tokens)


def batch_of(rows: list[int]):
    made = [
        Row(
            index=i,
            question=tuple(QUESTIONS[i]),
            num_thoughts=NUM_THOUGHTS,
            suffix=tuple(SUFFIXES[i]),
            answer_start=0,
        )
        for i in rows
    ]
    return collate(made, pad_id=0)


def run(lm: PreTrainedModel, rows: list[int], **options: Any):
    batch = batch_of(rows)
    result = think(
        lm,
        batch["question_ids"],
        batch["question_mask"],
        num_thoughts=NUM_THOUGHTS,
        suffix_ids=batch["suffix_ids"],
        **options,
    )
    if options.get("states_only"):
        return result, result.last.new_zeros(())
    labels = batch["labels"]
    predicting = result.last[:, NUM_THOUGHTS : NUM_THOUGHTS + labels.shape[1]]
    return result, summed_cross_entropy(lm, predicting[labels != -100], labels[labels != -100])


def gradients(lm: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in lm.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(parameters.items(), found, strict=True)
    }


def assert_near(ours: Tensor, expected: Tensor, message: str, scale: float | None = None) -> None:
    scale = float(expected.abs().max()) if scale is None else scale
    difference = float((ours - expected).detach().abs().max())
    assert difference <= 2e-4 * max(scale, 1e-3), f"{message} differs by {difference:.1e} at a scale of {scale:.1e}"


@pytest.mark.parametrize("model_type", RIGHT)
def test_thinking_equals_plain_recomputation(model_type):
    lm = small_model(model_type)
    slower = FOUND[model_type].get("slower")
    paths = paths_of(lm)
    assert paths.is_fast == (slower is None) == is_known_good(lm)
    with torch.no_grad():
        plain = [Plain(lm, question, suffix) for question, suffix in zip(QUESTIONS, SUFFIXES, strict=True)]
        expected_states = [row.states() for row in plain]
        layers = list(range(len(expected_states[0]))) if paths.plain_states else [len(expected_states[0]) - 1]
        for rows in ([0, 1, 2], [1]):
            result, _ = run(lm, rows, layers=layers)
            cut, _ = run(lm, rows, layers=layers[1:2], states_only=True)
            for place, row in enumerate(rows):
                assert_near(result.thoughts[place], plain[row].thoughts, f"thoughts of row {row}")
                length = NUM_THOUGHTS + len(SUFFIXES[row])
                for layer in layers:
                    message = f"layer {layer} of row {row}"
                    assert_near(result.states[layer][place, :length], expected_states[row][layer], message)
                for layer in layers[1:2]:
                    message = f"layer {layer} of row {row}, shallow"
                    assert_near(cut.states[layer][place, :length], expected_states[row][layer], message)
    plain = [Plain(lm, question, suffix) for question, suffix in zip(QUESTIONS, SUFFIXES, strict=True)]
    loss = torch.stack([row.loss() for row in plain]).sum()
    expected = gradients(lm, loss)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    start = torch.stack([row.thoughts for row in plain]).detach()[[1, 2, 0]]
    parallel = {"jacobi_passes": NUM_THOUGHTS}
    for options in ({}, parallel, {**parallel, "start": start}):
        _, ours = run(lm, [0, 1, 2], **options)
        assert ours.item() == pytest.approx(loss.item(), rel=5e-5)
        for name, grad in gradients(lm, ours).items():
            scale = max(float(expected[name].abs().max()), 1e-2 * largest)
            assert_near(grad, expected[name], f"the gradient of {name} with {list(options)}", scale=25 * scale)


@pytest.mark.parametrize("model_type", RIGHT)
def test_decoding_equals_plain_recomputation(model_type):
    lm = small_model(model_type)
    with torch.no_grad():
        suffix = [21, 22]
        plain = [Plain(lm, question, suffix).written(4) for question in QUESTIONS]
    batch = batch_of([0, 1, 2])
    # The token that the second row writes second ends that row early, so that the others go on without it.
    for eos in (NEVER, plain[1][1]):
        rows = decode_batch(
            lm,
            batch["question_ids"],
            batch["question_mask"],
            num_thoughts=NUM_THOUGHTS,
            forced=suffix,
            max_new_tokens=4,
            eos_id=eos,
        )
        for row, expected in zip(rows, plain, strict=True):
            cut = expected.index(eos) if eos in expected else len(expected)
            assert row.tokens == expected[:cut]


@pytest.mark.parametrize("model_type", REFUSED)
def test_an_architecture_that_cannot_think_is_refused_in_one_line(model_type):
    with pytest.raises(UserError) as refusal:
        paths_of(small_model(model_type))
    assert FOUND[model_type]["refusal"][:60] in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_list_covers_the_installed_transformers_and_the_page_shows_it():
    assert set(FOUND) == set(MODEL_TYPES)
    assert page_with(PAGE.read_text(), table(FOUND)) == PAGE.read_text()
    assert len(RIGHT) >= 150 and len(BUILT) >= 175


def test_a_sliding_window_is_shorter_than_the_sequences_here():
    config = small_model("mistral").config
    assert config.sliding_window < len(QUESTIONS[1])


@pytest.mark.parametrize(("name", "value"), [("lm_head_multiplier", 0.5), ("mamba_norm_before_gate", False)])
def test_a_factor_or_a_flag_makes_another_kind_of_model(name, value):
    lm = small_model("falcon_h1")
    before = signature(lm)
    setattr(lm.config, name, value)
    assert signature(lm) != before and not is_known_good(lm)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [("falcon_h1", {"lm_head_multiplier": 0.5}), ("mpt", {"logit_scale": 0.5}), ("recurrent_gemma", {})],
)
def test_a_head_of_another_kind_is_run_by_the_model_itself(model_type, changes):
    lm = small_model(model_type)
    for name, value in changes.items():
        setattr(lm.config, name, value)
    ids = torch.tensor([QUESTIONS[1]])
    with torch.no_grad():
        hidden = decoder_of(lm)(input_ids=ids, use_cache=False).last_hidden_state
        expected = lm(input_ids=ids, use_cache=False).logits
        assert paths_of(lm).own_head
        torch.testing.assert_close(own_logits(lm, hidden), expected)
    targets = torch.tensor(QUESTIONS[1])
    loss = F.cross_entropy(expected[0], targets, reduction="sum")
    assert summed_cross_entropy(lm, hidden[0], targets).item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_ways_are_found_once_for_a_kind_and_said_with_their_cost():
    paths = paths_of(small_model("mamba"))
    assert not paths.is_fast and paths is paths_of(small_model("mamba"))
    (line,) = paths.notes()
    assert "no KV cache" in line and "N thoughts cost N + 1 passes over the whole sequence" in line
    assert Paths().notes() == ()


class OneSize(LlamaForCausalLM):
    """Logits are doubled after the head, and no other size can be built, so that there is no twin."""

    def __init__(self, config: LlamaConfig) -> None:
        if config.vocab_size != 71:
            raise ValueError("one size only")
        super().__init__(config)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output: Any = super().forward(*args, **kwargs)
        return type(output)(logits=2 * output.logits, past_key_values=output.past_key_values)


def test_what_preflight_cannot_check_without_weights_is_checked_with_them() -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=71, **sizes)
    with torch.device("meta"):
        check_model(OneSize(config))
    assert check_model(OneSize(config).eval()).own_head
