"""`lrd serve`: a model that thinks behind OpenAI's completion endpoints.

Requests wait in one bounded queue. While a batch is answered the next one gathers, so nobody waits for a timer and a
busy server answers in large batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from lrd_peft.integrations.listening import listen_errors
from lrd_peft.model.generation import Generated, answer_batch, until_stop
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import unwrap
from lrd_peft.model.memory import rows_that_fit
from lrd_peft.model.student import StudentModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError

_MAX_BODY_BYTES = 1 << 20
_MAX_PROMPTS = 256
_MAX_THOUGHTS = 64
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Asked(BaseModel):
    """What both endpoints take. Settings that would change nothing are refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: float | None = None
    top_p: float | None = None
    n: int = 1
    stop: str | list[str] | None = None
    stream: bool = False
    seed: int | None = None
    user: str | None = None
    num_thoughts: Annotated[int, Field(ge=0, le=_MAX_THOUGHTS)] | None = None

    def stops(self) -> list[str]:
        """Return the stop texts."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class CompletionRequest(_Asked):
    """Body of /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=_MAX_PROMPTS)]
    echo: bool = False


class ChatMessage(BaseModel):
    """One message."""

    role: str
    content: str


class ChatRequest(_Asked):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        message: What is wrong and what to do.
        parameter: Field that is wrong.
    """

    def __init__(self, status: int, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter = status, message, parameter


@dataclass(slots=True)
class _Waiting:
    question: str
    prompt_tokens: int
    max_new_tokens: int
    num_thoughts: int
    done: asyncio.Future[Generated] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Answers questions that come one by one in batches.

    Args:
        model: Thinking model in evaluation mode.
        max_batch_size: Questions at a time, at most; fewer where memory is estimated to be too small.
        max_waiting: Questions that may wait; more are refused.
    """

    def __init__(self, model: ThinkingModel, *, max_batch_size: int, max_waiting: int) -> None:
        self.model, self.max_batch_size, self.max_waiting = model, max_batch_size, max_waiting
        self._waiting: list[_Waiting] = []
        self._filled = asyncio.Event()
        # The model answers one batch at a time, beside the loop that hears requests.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def answer(
        self, questions: Sequence[str], *, max_new_tokens: int, num_thoughts: int | None = None
    ) -> list[tuple[int, Generated]]:
        """Return for each question the number of its tokens and what was generated.

        Raises:
            Refused: If a question does not fit the context, or too many wait.
        """
        slots = self.model.options.num_thoughts if num_thoughts is None else num_thoughts
        lengths = [len(self.model.encoder.prompt(question)) for question in questions]
        context = context_length(unwrap(self.model.lm).config)
        around = slots + len(self.model.encoder.marker) + 2
        if context is not None and max(lengths) + around + 1 > context:
            raise Refused(
                400,
                f"the prompt has {max(lengths)} tokens; with {slots} thoughts the model takes {context - around - 1}",
                "prompt",
            )
        if len(self._waiting) + len(questions) > self.max_waiting:
            raise Refused(
                429, f"{len(self._waiting)} questions wait already, at most {self.max_waiting} may; try later"
            )
        rows = [
            _Waiting(question, length, max_new_tokens, slots)
            for question, length in zip(questions, lengths, strict=True)
        ]
        self._waiting += rows
        self._filled.set()
        try:
            found = await asyncio.gather(*(row.done for row in rows))
        except asyncio.CancelledError:  # nobody reads the answer any more
            self._waiting = [row for row in self._waiting if row not in rows]
            raise
        return list(zip(lengths, found, strict=True))

    async def run(self) -> None:
        """Answer batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            batch = self._next_batch()
            if not batch:
                self._filled.clear()
                continue
            answer = functools.partial(self._answered, batch)
            try:
                found = await loop.run_in_executor(self._thread, answer)
            except Exception as error:  # one bad batch must not end the server
                for row in batch:
                    if not row.done.done():
                        row.done.set_exception(error)
                continue
            for row, generated in zip(batch, found, strict=True):
                if not row.done.done():
                    row.done.set_result(_limited(generated, row.max_new_tokens))

    def _next_batch(self) -> list[_Waiting]:
        """Take the first questions with equal numbers of thoughts that fit into memory together."""
        waiting = [row for row in self._waiting if not row.done.done()]
        chosen = [row for row in waiting if row.num_thoughts == waiting[0].num_thoughts][: self.max_batch_size]
        if chosen:
            question = max(row.prompt_tokens for row in chosen)
            positions = question + chosen[0].num_thoughts + max(row.max_new_tokens for row in chosen)
            chosen = chosen[: rows_that_fit(unwrap(self.model.lm), question=question, positions=positions)]
        taken = set(map(id, chosen))
        self._waiting = [row for row in waiting if id(row) not in taken]
        return chosen

    def _answered(self, batch: Sequence[_Waiting]) -> list[Generated]:
        return answer_batch(
            self.model,
            [row.question for row in batch],
            thinking=True,
            max_new_tokens=max(row.max_new_tokens for row in batch),
            num_thoughts=batch[0].num_thoughts,
        )


def _limited(row: Generated, most: int) -> Generated:
    """Cut a row that shared its batch with one that may write more."""
    if row.num_tokens <= most:
        return row
    return replace(
        row, tokens=row.tokens[:most], probabilities=row.probabilities[:most], num_tokens=most, finished=False
    )


def make_app(model: ThinkingModel, *, name: str, max_batch_size: int = 64, max_waiting: int = 1024) -> FastAPI:
    """Return the web application.

    Args:
        model: Thinking model in evaluation mode.
        name: Name of the model, as requests give it.
        max_batch_size: Questions at a time, at most.
        max_waiting: Questions that may wait.
    """
    batcher = Batcher(model, max_batch_size=max_batch_size, max_waiting=max_waiting)

    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(title="LRD-PEFT", lifespan=running, docs_url=None, redoc_url=None)
    started = int(time.time())

    @app.middleware("http")
    async def bounded(request: Request, go_on: Callable[[Request], Any]) -> Response:
        length = request.headers.get("content-length")
        if request.method == "POST" and (length is None or not length.isdecimal() or int(length) > _MAX_BODY_BYTES):
            return _error(Refused(413, f"a request needs a Content-Length of at most {_MAX_BODY_BYTES} bytes"))
        return await go_on(request)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(Refused(400, f"{place or 'the body'}: {first['msg']}", place or None))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _error(Refused(500, f"the model failed: {' '.join(str(error).split()) or type(error).__name__}"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        row = {"id": name, "object": "model", "created": started, "owned_by": "lrd-peft"}
        return {"object": "list", "data": [row]}

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest) -> dict[str, Any]:
        _check(asked, name)
        if asked.echo:
            raise Refused(400, "echo is not supported: the prompt is yours already", "echo")
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        rows = await batcher.answer(prompts, max_new_tokens=asked.max_tokens, num_thoughts=asked.num_thoughts)
        choices = []
        for index, (_, row) in enumerate(rows):
            text, reason = _written(model, row, asked)
            choices.append({"index": index, "text": text, "logprobs": None, "finish_reason": reason})
        return _response("text_completion", "cmpl", name, choices, rows)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest) -> dict[str, Any]:
        _check(asked, name)
        if [message.role for message in asked.messages] != ["user"]:
            raise Refused(400, "send one message of the role user: the model has learned single questions", "messages")
        limit = asked.max_completion_tokens or asked.max_tokens
        rows = await batcher.answer([asked.messages[0].content], max_new_tokens=limit, num_thoughts=asked.num_thoughts)
        text, reason = _written(model, rows[0][1], asked)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return _response("chat.completion", "chatcmpl", name, [choice], rows)

    return app


def _check(asked: _Asked, name: str) -> None:
    if asked.model != name:
        raise Refused(404, f'there is no model "{asked.model}" here, only "{name}"', "model")
    if asked.stream:
        raise Refused(400, "stream is not supported: an answer comes whole", "stream")
    if asked.n != 1:
        raise Refused(400, f"n is {asked.n}; greedy decoding has one answer only", "n")
    if asked.temperature or asked.top_p not in (None, 1, 1.0):
        raise Refused(400, "decoding is greedy: leave temperature (or 0) and top_p (or 1) out", "temperature")


def _written(model: ThinkingModel, row: Generated, asked: _Asked) -> tuple[str, str]:
    """Return the text after the question and why it ended."""
    whole = str(model.tokenizer.decode(list(row.tokens), skip_special_tokens=True))
    text = until_stop(whole, asked.stops())
    marker = model.encoder.answer_marker if row.num_thoughts and model.options.force_marker else ""
    return marker + text, "stop" if text != whole or row.finished else "length"


def _response(
    kind: str, prefix: str, name: str, choices: list[dict[str, Any]], rows: Sequence[tuple[int, Generated]]
) -> dict[str, Any]:
    prompt, written = sum(length for length, _ in rows), sum(row.num_tokens for _, row in rows)
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "thoughts": sum(row.num_thoughts for _, row in rows),
        },
    }


def _error(error: Refused) -> Response:
    kinds = {404: "not_found_error", 429: "rate_limit_error", 500: "server_error"}
    body = {
        "message": error.message,
        "type": kinds.get(error.status, "invalid_request_error"),
        "param": error.parameter,
        "code": None,
    }
    return JSONResponse(
        {"error": body}, status_code=error.status, headers={"Retry-After": "1"} if error.status == 429 else None
    )


def serve(
    target: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    device: str | None = None,
    max_batch_size: int = 64,
    max_waiting: int = 1024,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a model until it is interrupted.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        host: Address to listen on.
        port: Port; 0 for any that is free.
        name: Name of the model, as requests give it; by default the last part of `target`.
        device: Where to put the model; by default the GPU, if there is one.
        max_batch_size: Questions at a time, at most.
        max_waiting: Questions that may wait; more are refused.
        say: Told the address as soon as it listens.

    Raises:
        UserError: If there is no such model, or the address is taken.
    """
    if max_batch_size < 1 or max_waiting < 1:
        raise UserError(f"max_batch_size is {max_batch_size} and max_waiting {max_waiting}; both must be at least 1")
    model = StudentModel.from_pretrained(target, device=device or ("cuda" if torch.cuda.is_available() else None))
    if not model.is_saved:
        raise UserError(f"{target} is a plain language model, which other servers serve; name a model that thinks")
    shown = name or Path(target).name
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with listen_errors(host, port):
            listening.bind((host, port))
            listening.listen(2048)  # from here on, whoever connects is heard
        address = f"http://{host}:{listening.getsockname()[1]}/v1"
        say(f"serving  {shown} at {address} (Ctrl-C ends it)")
        if host not in _LOOPBACK:
            say("warning  everybody who reaches this address can use the model; there are no passwords")
        app = make_app(model, name=shown, max_batch_size=max_batch_size, max_waiting=max_waiting)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.run(sockets=[listening])
