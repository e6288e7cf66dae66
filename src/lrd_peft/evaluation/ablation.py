"""Do the thoughts matter? A trained model answers again with thoughts that are not its own.

Every intervention is compared with the untouched model on the same held-out problems: accuracy with a paired test, how
many answers change, and the Kullback-Leibler divergence of the distribution of the first answer token,

    KL = sum over tokens v of p(v) (log p(v) - log q(v)),    p: untouched, q: after the intervention, in nats,

averaged over the problems. The first answer token is the one that follows thoughts and marker. A model that writes the
marker itself is compared at the first token that it writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.ablation_results import Ablated, Ablation
from lrd_peft.evaluation.answers import grade, kind_of
from lrd_peft.evaluation.interventions import Intervention, interventions
from lrd_peft.evaluation.metrics import Accuracy, mcnemar
from lrd_peft.evaluation.thought_answers import ThoughtAnswer, ThoughtAnswers, problems_that_fit
from lrd_peft.model.loop import head_logits, unwrap
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.progress import Progress

# Text of the filler token, which has no content (Pfau et al., arXiv 2404.15758).
FILLER = "."
# Thoughts more than trained that are tried.
_NUM_MORE = 2


def ablate(
    model: ThinkingModel,
    problems: Sequence[Problem],
    *,
    name: str,
    dataset: str,
    batch_size: int = 64,
    max_new_tokens: int = 32,
    seed: int = 0,
) -> Ablation:
    """Answer problems with the model's own thoughts and with every intervention on them.

    Args:
        model: A model that thinks, in evaluation mode.
        problems: Held-out problems.
        name: What the model is called in the result.
        dataset: Name of the data set.
        batch_size: Problems per batch; results do not depend on it.
        max_new_tokens: Maximum number of tokens per answer.
        seed: Seed of noise and donors.

    Raises:
        UserError: If the model has no thoughts, or fewer than two problems fit into its context.

    Example:
        >>> from lrd_peft import TeacherModel, load_problems
        >>> from lrd_peft.evaluation.ablation import ablate
        >>> teacher = TeacherModel.from_pretrained("tiny-latent-teacher")
        >>> problems = load_problems("gsm-mini", split="test", limit=8)
        >>> ablate(teacher, problems, name="teacher", dataset="gsm-mini").row("zeros").num_thoughts
        4
    """
    count = model.options.num_thoughts
    if count == 0:
        raise UserError(f"{name} has no thoughts to replace: it was trained with 0")
    num_given = len(problems)
    problems = problems_that_fit(model, problems, num_thoughts=count + _NUM_MORE, max_new_tokens=max_new_tokens)
    if len(problems) < 2:
        raise UserError(
            f"an ablation needs at least two problems that fit into the model's context; {len(problems)} do"
        )
    answers = ThoughtAnswers(model, problems, batch_size=batch_size, max_new_tokens=max_new_tokens)
    with torch.no_grad(), Progress(f"{name} on {dataset}", total=len(problems) * 2, unit="problems") as progress:
        untouched: dict[int, ThoughtAnswer] = {}
        thoughts = torch.empty(len(problems), count, model.hidden_size)
        # The state that predicts the answer's first token; its distribution would take a vocabulary for each problem.
        states = torch.empty(len(problems), model.hidden_size, dtype=unwrap(model.lm).dtype)
        for rows in answers.batches():
            given, thinking = answers.given(rows, num_thoughts=count)
            untouched |= given
            thoughts[rows], states[rows] = thinking.thoughts.float().cpu(), thinking.last[:, -1].cpu()
            progress.update(len(untouched))
        filler_id = model.tokenizer.encode(FILLER, add_special_tokens=False)[-1]
        table = unwrap(model.lm).get_input_embeddings()
        filler = table(torch.tensor(filler_id, device=model.device)).float().cpu()
        planned = interventions(
            thoughts, filler=filler, golds=[each.answer for each in problems], seed=seed, num_more=_NUM_MORE
        )
        changed: list[dict[int, ThoughtAnswer]] = [{} for _ in planned]
        divergence: list[dict[int, float]] = [{} for _ in planned]
        done = len(problems)
        for rows in answers.batches():
            expected = first_tokens(model, states[rows])
            for plan, given, distances in zip(planned, changed, divergence, strict=True):
                places = [place for place, row in enumerate(rows) if plan.possible(row)]
                chosen = [rows[place] for place in places]
                if not chosen:
                    continue
                new = None if plan.replace is None else plan.replace(chosen)
                answered, thinking = answers.given(chosen, thoughts=new, num_thoughts=plan.num_thoughts)
                given |= answered
                before, after = expected[places], first_tokens(model, thinking.last[:, -1])
                kl = (before.exp() * (before - after)).sum(dim=-1)
                distances |= dict(zip(chosen, kl.tolist(), strict=True))
            done += len(rows)
            progress.update(done)
    return Ablation(
        model=name,
        dataset=dataset,
        num_thoughts=count,
        untouched=Accuracy.of([untouched[i].right for i in range(len(problems))]),
        rows=tuple(
            _row(plan, problems, untouched, given, distances)
            for plan, given, distances in zip(planned, changed, divergence, strict=True)
            if given
        ),
        num_too_long=num_given - len(problems),
        impossible=tuple(plan.title for plan, given in zip(planned, changed, strict=True) if not given),
    )


def first_tokens(model: ThinkingModel, states: Float[Tensor, "problem hidden"]) -> Float[Tensor, "problem vocabulary"]:
    """Return the log-probabilities of the first answer token from the states that predict it."""
    return head_logits(model.lm, states.to(model.device)).float().log_softmax(dim=-1)


def _row(
    plan: Intervention,
    problems: Sequence[Problem],
    untouched: dict[int, ThoughtAnswer],
    given: dict[int, ThoughtAnswer],
    distances: dict[int, float],
) -> Ablated:
    places = sorted(given)
    before, after = [untouched[i] for i in places], [given[i] for i in places]
    compared = of_donor = 0
    for i in places if plan.donors else ():
        donor = plan.donors[i]
        assert donor is not None
        wanted = untouched[donor].predicted
        if wanted is None or wanted == untouched[i].predicted:
            continue
        compared += 1
        of_donor += grade(kind_of(problems[i]), given[i].text, wanted).right
    return Ablated(
        name=plan.name,
        title=plan.title,
        num_thoughts=plan.num_thoughts,
        accuracy=Accuracy.of([each.right for each in after]),
        untouched=Accuracy.of([each.right for each in before]),
        p_value=mcnemar([each.right for each in after], [each.right for each in before]).p_value,
        num_changed=sum(a.predicted != b.predicted for a, b in zip(after, before, strict=True)),
        divergence=round(sum(distances[i] for i in places) / len(places), 6),
        num_left_out=len(problems) - len(places),
        num_compared=compared,
        num_of_donor=of_donor,
    )
