"""Records with drawn outcomes: real in form, synthetic in content, for the tests' own folders only."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrd_peft.config import RunConfig
from lrd_peft.evaluation.metrics import ProblemResult, summarize
from lrd_peft.evaluation.outcomes import pack_outcomes
from lrd_peft.evaluation.records import Costs, Record, write_record

DATASETS = ("gsm-mini", "math-mini", "aqua-mini")
SUBJECTS = {"gsm-mini": ("boxes", "events"), "math-mini": ("algebra", "counting", "fractions"), "aqua-mini": ()}
# method -> share right, (training seconds, trained parameters, all parameters), whether it writes steps
METHODS: dict[str, tuple[float, tuple[float, int, int], bool]] = {
    "base": (0.50, (0, 0, 424_008), True),
    "base-latent": (0.12, (0, 0, 424_008), False),
    "direct": (0.30, (300, 424_008, 424_008), False),
    "teacher-cot": (0.62, (900, 986_640, 986_640), True),
    "teacher-latent": (0.52, (1500, 986_640, 986_640), False),
    "full-finetune": (0.58, (700, 424_008, 424_008), True),
    "standard-distill": (0.60, (800, 424_008, 424_008), True),
    "distill-lora": (0.57, (650, 160_528, 424_008), True),
    "icot": (0.33, (690, 424_008, 424_008), False),
    "coconut": (0.53, (1050, 424_008, 424_008), False),
    "coconut-lora": (0.47, (1050, 160_528, 424_008), False),
    "pause": (0.36, (480, 160_528, 424_008), False),
    "codi": (0.41, (1100, 160_528, 424_008), False),
    "codi-full": (0.43, (1100, 424_008, 424_008), False),
    "pccot": (0.39, (1000, 160_528, 424_008), False),
    "pccot-full": (0.40, (1000, 424_008, 424_008), False),
    "latent-full": (0.59, (560, 424_008, 424_008), False),
    "latent-lora": (0.66, (500, 160_528, 424_008), False),
}


def results(dataset: str, share: float, *, seed: int, n: int = 120, writes: bool = False) -> list[ProblemResult]:
    """Return drawn results; longer problems are harder."""
    draw = random.Random(f"{dataset} {share} {seed} {writes}")
    rows = []
    for index in range(n):
        steps = 1 + index % 4
        right = draw.random() < share * (1.3 - 0.15 * steps)
        parsed = right or draw.random() < 0.95
        subjects = SUBJECTS[dataset]
        rows.append(
            ProblemResult(
                problem_id=f"{dataset}/test/0/{index}",
                subject=subjects[index % len(subjects)] if subjects else "",
                num_steps=steps,
                predicted="7" if parsed else None,
                gold="7" if right else "8",
                right=right,
                parsed=parsed,
                num_tokens=24 if writes else 2,
                num_thoughts=0 if writes else 4,
                num_passes=24 if writes else 6,
                confidence=min(1.0, 0.2 + 0.6 * draw.random() + 0.2 * right),
                seconds=0.004 if writes else 0.0015,
                strict=parsed and draw.random() < 0.9,
            )
        )
    return rows


def entry(
    dataset: str, share: float, *, seed: int, parameters: int, writes: bool = False, n: int = 120
) -> dict[str, Any]:
    """Return what a record holds for one method on one data set."""
    rows = results(dataset, share, seed=seed, writes=writes, n=n)
    return {
        "summary": summarize(rows).to_json(),
        "outcomes": pack_outcomes({row.problem_id: row.right for row in rows}),
        "total_parameters": parameters,
    }


def record(
    method: str = "latent-lora",
    *,
    seed: int = 0,
    share: float | None = None,
    beside: Mapping[str, float] | None = None,
    datasets: tuple[str, ...] = DATASETS,
    parameters: int | None = None,
    n: int = 120,
    **config: Any,
) -> Record:
    """Return a record of one run; `beside` are methods that it measured besides its own, with their shares."""
    default_share, (seconds, trained, total), writes = METHODS[method]
    share = default_share if share is None else share
    total = total if parameters is None else parameters
    metrics = {}
    for dataset in datasets:
        metrics[dataset] = {method: entry(dataset, share, seed=seed, parameters=total, writes=writes, n=n)}
        for other, value in (beside or {}).items():
            _, (_, _, size), other_writes = METHODS[other]
            metrics[dataset][other] = entry(dataset, value, seed=0, parameters=size, writes=other_writes, n=n)
    draw = random.Random(f"costs {method} {seed}")
    phase = "teacher" if method.startswith("teacher") else "student"
    return Record(
        method=method,
        datasets=datasets,
        seed=seed,
        config=RunConfig.from_flat(seed=seed, **config).flat(),
        environment={"python": "3.11.7", "packages": {"torch": "2.13.0"}, "commit": "0" * 40, "num_cores": 2},
        metrics=metrics,
        costs=Costs(
            wall_seconds={phase: seconds * (1 + 0.05 * draw.random()), "evaluation": 12.5},
            peak_memory_bytes=int(1e9 * (1 + 0.1 * draw.random()) + 20 * trained),
            trainable_parameters=trained,
            total_parameters=total,
        ),
        curves=tuple(
            {
                "phase": "student",
                "step": float(step),
                "loss": 1 + 2 / step,
                "task": 2 - 2 * share + 2 / step + 0.1 * draw.random(),
            }
            | ({"distill": 0.1 + 1 / step} if method == "latent-lora" else {})
            for step in (range(1, 200, 10) if phase == "student" and seconds else ())
        ),
        finished_at="2026-01-01T00:00:00+00:00",
    )


def save(folder: Path, *records: Record, about: Mapping[str, Any] | None = None) -> Path:
    """Write records, and study.json if there is something to say, into a study's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, each in enumerate(records):
        write_record(folder / f"{index:03d}-{each.method}-seed{each.seed}.json", each)
    if about is not None:
        (folder / "study.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def all_studies(folder: Path, *, seeds: int = 3) -> Path:
    """Write every study of SPEC.md's figures, synthetic, with a similarity and answers."""
    every = range(seeds)
    save(
        folder / "methods",
        *(record(name, seed=seed) for name in METHODS for seed in every),
        *(record(seed=seed, share=0.55, distill_alpha=0.0) for seed in every),
    )
    save(
        folder / "alpha",
        *(
            record(seed=seed, share=0.5 + 0.2 * alpha * (1 - alpha) * 4 * 0.5, distill_alpha=alpha)
            for alpha in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
            for seed in every
        ),
    )
    save(
        folder / "rank",
        *(record(seed=s, share=0.4 + 0.03 * r**0.5, lora_r=r) for r in (1, 2, 4, 8, 16, 32, 64) for s in every),
    )
    layers = [(1,), (4,), (8,), (12,), (1, 2, 3, 4, 5), (4, 5, 6, 7, 8), (8, 9, 10, 11, 12), tuple(range(1, 13))]
    save(
        folder / "layers",
        *(record(seed=s, share=0.4 + 0.02 * layer[-1], distill_layers=layer) for layer in layers for s in every),
    )
    sizes = {"teacher:3": 250_000, "teacher:5": 420_000, "teacher:8": 670_000, "teacher:10": 830_000}
    save(
        folder / "size",
        *(
            record(name, seed=s, student=student, parameters=size, share=METHODS[name][0] - 0.1 + size / 5e6)
            for student, size in sizes.items()
            for name in ("full-finetune", "distill-lora", "latent-lora")
            for s in every
        ),
    )
    save(
        folder / "positions",
        *(record(seed=s, positions=p) for p in ("thoughts", "thoughts+answer", "all") for s in every),
    )
    (folder / "methods" / "similarity.json").write_text(json.dumps(similarity_row()), encoding="utf-8")
    (folder / "methods" / "probe.json").write_text(json.dumps(probes()), encoding="utf-8")
    (folder / "methods" / "answers.json").write_text(json.dumps(answers()), encoding="utf-8")
    return folder


def similarity_row() -> dict[str, Any]:
    """Return a similarity.json, synthetic."""
    teacher, student = list(range(13)), list(range(7))
    cka = [[max(0.05, 0.95 - 0.09 * abs(t - 2 * s)) for s in student] for t in teacher]
    cosine = [[value - 0.4 if t else None for value in line] for t, line in enumerate(cka)]
    return {
        "source": "latent-lora, seed 0, 300 test problems of gsm-mini, math-mini, aqua-mini",
        "teacher_layers": teacher,
        "student_layers": student,
        "cka": cka,
        "cosine": cosine,
        "cka_untrained": [[value / 2 for value in line] for line in cka],
        "cosine_untrained": [[None if value is None else value - 0.3 for value in line] for line in cosine],
        "num_positions": 1500,
    }


def probes() -> dict[str, Any]:
    """Return a probe.json, synthetic."""
    layers, positions = list(range(5)), ["question", "thought 1", "thought 2", "answer"]
    accuracy = [[0.2 + 0.1 * layer + 0.1 * place for place in range(4)] for layer in layers]
    target = {
        **{"name": "step 1", "num_classes": 12, "num_train": 180, "num_test": 60, "num_left_out": 7, "majority": 0.11},
        "accuracy": accuracy,
        "shuffled": [[0.08] * 4 for _ in layers],
        "lens": [[None] * 4, *([0.05 * layer] * 4 for layer in layers[1:])],
        "best": [4, 2],
        "best_question": 4,
        "gain_aside": 0.2,
    }
    found = {"model": "latent-lora", "dataset": "gsm-mini", "layers": layers, "positions": positions}
    return {"source": "latent-lora", "found": [{**found, "targets": [target], "skipped": ["step 5: 3 test problems"]}]}


def answers() -> dict[str, Any]:
    """Return an answers.json, synthetic; one problem tries to break out of the page."""
    rows = []
    for index in range(12):
        rows.append(
            {
                "dataset": DATASETS[index % 3],
                "question": f"Ann has {index} pens. She buys 4 more. How many pens does Ann have now?",
                "options": ["A) 3", "B) 7"] if index % 3 == 2 else [],
                "answer": str(index + 4),
                "teacher_steps": [f"Ann: {index} + 4 = {index + 4}"],
                "student_answer": None if index == 5 else str(index + 4 + index % 2),
                "right": index % 2 == 0,
                "thoughts": [[{"token": str(index), "probability": 0.5}, {"token": " +", "probability": 0.2}]] * 4,
            }
        )
    rows[0]["question"] = "<script>window.broken = 1</script> <img src=x onerror=alert(1)> How many?"
    rows.append(
        {
            "dataset": '"><b>6</b>',
            "question": "Who?",
            "options": ["A) <b>4</b>"],
            "answer": "<b>5</b>",
            "teacher_steps": ["<b>2</b>"],
            "student_answer": "</dd><b>5</b>",
            "right": False,
            "thoughts": [[{"token": "</code><b>3</b>", "probability": 0.5}]],
        }
    )
    return {"source": "latent-lora, seed 0, 13 test problems", "problems": rows}
