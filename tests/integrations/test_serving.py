"""OpenAI's own client against a real server process: right answers under load, and errors that say what is wrong."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from lrd_peft import StudentModel, load_problems
from lrd_peft.cli.app import main
from tests.integrations.served import served

openai = pytest.importorskip("openai", reason="openai is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

NAME = "tiny-latent-student"
QUESTION = "Ann has 3 pens. She buys 4 more. How many pens does Ann have?"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("serve", NAME, "--port", "0") as found:
        yield found


def client(address: str) -> Any:
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)


def test_the_openai_client_gets_what_the_model_says(address: str) -> None:
    model = StudentModel.from_pretrained(NAME)
    (wanted,) = model.solve([QUESTION])
    asked = client(address)
    assert [row.id for row in asked.models.list()] == [NAME]
    found = asked.completions.create(model=NAME, prompt=QUESTION, max_tokens=16)
    assert found.choices[0].text == wanted.text == "### 7"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.prompt_tokens == len(model.encoder.prompt(QUESTION))
    assert found.usage.completion_tokens == wanted.num_tokens
    chat = asked.chat.completions.create(model=NAME, messages=[{"role": "user", "content": QUESTION}])
    assert chat.choices[0].message.content == "### 7"
    several = asked.completions.create(model=NAME, prompt=[QUESTION, "What is 2 + 3?"], max_tokens=8)
    assert [row.text for row in several.choices] == model.generate([QUESTION, "What is 2 + 3?"], max_new_tokens=8)
    cut = asked.completions.create(model=NAME, prompt=QUESTION, stop="7")
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("### ", "stop")
    short = asked.completions.create(model=NAME, prompt=QUESTION, max_tokens=1)
    assert short.choices[0].finish_reason == "length"
    without = asked.completions.create(model=NAME, prompt=QUESTION, extra_body={"num_thoughts": 0}, max_tokens=24)
    assert without.choices[0].text == model.generate([QUESTION], num_thoughts=0, max_new_tokens=24)[0]


def test_64_clients_get_their_own_answers_and_five_times_the_throughput(address: str) -> None:
    questions = [problem.question_text for problem in load_problems("gsm-mini", split="test", limit=640)]
    model = StudentModel.from_pretrained(NAME)
    # Every other client wants one token, in the same batches.
    limits = [16 if i % 2 else 1 for i in range(64)]
    texts = {limit: model.generate(questions, max_new_tokens=limit) for limit in (1, 16)}

    def ask(part: list[str], limit: int) -> list[str]:
        body = {"model": NAME, "max_tokens": limit}
        with httpx.Client(timeout=120) as one:
            return [
                one.post(f"{address}/completions", json={**body, "prompt": text}).json()["choices"][0]["text"]
                for text in part
            ]

    ask(questions[:8], 16)
    start = time.perf_counter()
    assert ask(questions[:64], 16) == texts[16][:64]
    alone = 64 / (time.perf_counter() - start)
    with ThreadPoolExecutor(64) as pool:
        start = time.perf_counter()
        found = list(pool.map(ask, (questions[i::64] for i in range(64)), limits))
        together = len(questions) / (time.perf_counter() - start)
    assert found == [texts[limit][i::64] for i, limit in enumerate(limits)]
    print(f"one client {alone:.0f} answers a second, 64 clients {together:.0f}: {together / alone:.1f}x")
    assert together > 2 * alone  # 5 on a quiet machine; tests share theirs


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "gpt-4"}, 404, 'no model "gpt-4" here, only "tiny-latent-student"'),
        ({"stream": True}, 400, "stream is not supported"),
        ({"temperature": 0.7}, 400, "greedy"),
        ({"n": 2}, 400, "one answer only"),
        ({"logprobs": 3}, 400, "logprobs"),
        ({"max_tokens": 0}, 400, "max_tokens: Input should be greater than or equal to 1"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": "1 " * 600}, 400, "the prompt has 1201 tokens; with 4 thoughts the model takes"),
        ({"prompt": "x" * 2_000_000}, 413, "at most 1048576 bytes"),
        ({"echo": True}, 400, "echo"),
        ({"num_thoughts": 1000}, 400, "less than or equal to 64"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    change: dict[str, Any], status: int, says: str, address: str
) -> None:
    body = {"model": NAME, "prompt": QUESTION, **change}
    answer = httpx.post(f"{address}/completions", json=body, timeout=60)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_only_single_questions_are_chatted_about(address: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    with pytest.raises(openai.BadRequestError, match="one message of the role user"):
        client(address).chat.completions.create(model=NAME, messages=messages)
    broken = httpx.post(f"{address}/completions", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 400


def test_a_full_queue_refuses_and_goes_on() -> None:
    with served("serve", NAME, "--port", "0", "--max_waiting", "4", "--max_batch_size", "1") as address:
        with pytest.raises(openai.RateLimitError, match="at most 4 may"):
            client(address).completions.create(model=NAME, prompt=[QUESTION] * 5)
        found = client(address).completions.create(model=NAME, prompt=[QUESTION] * 4)
        assert [row.text for row in found.choices] == ["### 7"] * 4


def test_addresses_and_models_that_cannot_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", NAME, "--port", port]) == 2
        assert f"cannot listen on 127.0.0.1 port {port} (Address already in use)" in capsys.readouterr().err
    assert main(["serve", NAME, "--port", "70000"]) == 2
    assert "cannot listen on 127.0.0.1 port 70000" in capsys.readouterr().err
    assert main(["serve", "tiny-student", "--port", "0"]) == 2
    assert "a plain language model" in capsys.readouterr().err
    assert main(["serve", NAME, "--max_batch_size", "0"]) == 2
    assert "max_batch_size is 0" in capsys.readouterr().err
