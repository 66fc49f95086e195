"""A queue service in this process, by the loop's clock, with the faults of a network and of storage before it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from dev.simulation.virtual_time import START
from tests.replay.stub_storage import Answer, Request

_XML = {"Content-Type": "application/xml"}
_WEEK = 7 * 24 * 3600.0


@dataclass
class Message:
    """A message on a queue; moments are the loop's.

    Attributes:
        receipts: the pop receipts that it has had, the newest last.
    """

    id: str
    text: str
    put_at: float
    ends: float
    visible_from: float = 0.0
    dequeue_count: int = 0
    receipts: list[str] = field(default_factory=list)

    @property
    def lifetime(self) -> float:
        """How long it lives in all, in seconds."""
        return self.ends - self.put_at


@dataclass
class Fault:
    """What meets calls instead of storage's own answer, in the vectors' words."""

    op: str
    queue: str | None = None
    status: int = 0
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    delay: float = 0.0
    skip: int = 0
    times: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Fault":
        return cls(**{**given, "delay": given.get("delay", 0) / 1000})

    def meets(self, op: str, queue: str) -> bool:
        """Whether it meets this call; counts the call."""
        if self.op not in {"any", op} or self.queue not in {None, queue} or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class StubQueues:
    """A queue service: what a listener does with queues, and no more.

    Source: "Queue Storage REST API" (Get Queue Metadata, Create Queue, Put, Get, Update and Delete Message).
    """

    def __init__(self, record: Callable[..., None]) -> None:
        """Begin without queues; `record` is told of each call as the vectors tell of it."""
        self.queues: dict[str, list[Message]] = {}
        self.faults: list[Fault] = []
        self.is_reachable = True
        self._record = record
        self._given: list[Message] = []
        self._numbers = count(1)
        self._copies = count(1)

    def put(self, queue: str, text: str, *, id: str = "", dequeue_count: int = 0) -> Message:  # noqa: A002
        message = Message(id or f"p{next(self._copies)}", text, _now(), _now() + _WEEK, _now(), dequeue_count)
        self.queues[queue].append(message)
        return message

    def end_leases(self) -> None:
        for messages in self.queues.values():
            for message in messages:
                message.visible_from = 0.0

    async def answer(self, request: Request) -> Answer:
        queue, _, rest = request.path.partition("/")
        op, done = self._operation(request, queue, rest)
        if not self.is_reachable:
            raise ConnectionResetError
        fault = next((fault for fault in self.faults if fault.meets(op, queue)), Fault("none"))
        if fault.action == "refuse":
            raise ConnectionResetError  # calls without a connection are not recorded
        step: dict[str, Any] = {"call": op, "queue": queue}
        if fault.action == "reset":
            self._record(**step, **self._words(request, queue, rest), injected="reset")
            raise ConnectionResetError
        if fault.action == "hang":
            self._record(**step, injected="no answer")
            await asyncio.sleep(_WEEK)
        if fault.status:
            words = self._words(request, queue, rest)
            self._record(**step, **words, status=fault.status, code=fault.code, injected="answer")
            return Answer(status=fault.status, code=fault.code, headers=fault.headers)
        if fault.delay:
            # The request has left: it arrives even if its sender has gone meanwhile.
            step["t"] = _now()
            return await asyncio.shield(asyncio.ensure_future(self._later(fault.delay, done, step, request)))
        return self._do(done, step, request, lost=fault.action == "lose")

    async def _later(self, delay: float, done: Callable[[], Answer], step: dict[str, Any], request: Request) -> Answer:
        await asyncio.sleep(delay)
        return self._do(done, step, request, lost=False)

    def _do(self, done: Callable[[], Answer], step: dict[str, Any], request: Request, *, lost: bool) -> Answer:
        queue, _, rest = request.path.partition("/")
        step |= self._words(request, queue, rest)
        answer = done()
        step["status"] = answer.status
        if answer.code:
            step["code"] = answer.code
        if step["call"] == "get" and answer.status == 200:
            step["got"] = [[message.id, message.dequeue_count] for message in self._given]
        if lost:
            step["injected"] = "answer lost"
        self._record(**step)
        if lost:
            raise ConnectionResetError
        return answer

    def _operation(self, request: Request, queue: str, rest: str) -> tuple[str, Callable[[], Answer]]:
        match request.method, rest:
            case "GET" | "HEAD", "":
                return "exists", lambda: self._exists(queue)
            case "PUT", "":
                return "create", lambda: self._create(queue)
            case "GET", "messages":
                return "get", lambda: self._get(queue, request)
            case "POST", "messages":
                return "put", lambda: self._put(queue, request)
            case "PUT", _:
                return "update", lambda: self._update(queue, rest, request)
            case "DELETE", _:
                return "delete", lambda: self._delete(queue, rest, request)
        raise NotImplementedError(f"{request.method} {request.path}")

    def _words(self, request: Request, queue: str, rest: str) -> dict[str, Any]:
        """What the vectors say of a request."""
        words: dict[str, Any] = {}
        if request.method == "POST":
            words["text"] = _text(request)
        if request.method == "GET" and rest == "messages":
            words |= {"n": int(request.query["numofmessages"]), "lease": int(request.query["visibilitytimeout"])}
        if rest.startswith("messages/"):
            words["message"] = rest.removeprefix("messages/")
            message = self._find(queue, rest)
            if message is not None and request.query["popreceipt"] != message.receipts[-1]:
                words["receipt"] = "older"
        if request.method == "PUT" and rest:
            words["seconds"] = int(request.query["visibilitytimeout"])
            assert not request.body, "the text stays"
        return words

    def _exists(self, queue: str) -> Answer:
        if queue not in self.queues:
            return _NO_QUEUE
        return Answer(status=200, headers={"x-ms-approximate-messages-count": str(len(self.queues[queue]))})

    def _create(self, queue: str) -> Answer:
        self.queues.setdefault(queue, [])
        return Answer(status=201)

    def _get(self, queue: str, request: Request) -> Answer:
        if queue not in self.queues:
            return _NO_QUEUE
        visible = [message for message in self.queues[queue] if message.visible_from <= _now()]
        self._given = visible[: int(request.query["numofmessages"])]
        for message in self._given:
            message.dequeue_count += 1
            self._hide(message, float(request.query["visibilitytimeout"]))
        return Answer(status=200, headers=_XML, body=_list(self._given))

    def _put(self, queue: str, request: Request) -> Answer:
        if queue not in self.queues:
            return _NO_QUEUE
        assert set(request.query) <= {"comp"}, "neither a time to live nor a delay is ever sent"
        message = self.put(queue, _text(request))
        message.receipts.append(self._receipt())
        return Answer(status=201, headers=_XML, body=_list([message]))

    def _update(self, queue: str, rest: str, request: Request) -> Answer:
        refusal = self._refusal(queue, rest, request)
        if refusal is not None:
            return refusal
        seconds = float(request.query["visibilitytimeout"])
        if not 0 <= seconds <= _WEEK:
            return Answer(status=400, code="OutOfRangeQueryParameterValue")
        message = self._find(queue, rest)
        assert message is not None
        self._hide(message, seconds)
        headers = {"x-ms-popreceipt": message.receipts[-1], "x-ms-time-next-visible": _date(message.visible_from)}
        return Answer(status=204, headers=headers)

    def _delete(self, queue: str, rest: str, request: Request) -> Answer:
        refusal = self._refusal(queue, rest, request)
        if refusal is not None:
            return refusal
        message = self._find(queue, rest)
        assert message is not None
        self.queues[queue].remove(message)
        return Answer(status=204)

    def _refusal(self, queue: str, rest: str, request: Request) -> Answer | None:
        if queue not in self.queues:
            return _NO_QUEUE
        message = self._find(queue, rest)
        if message is None:
            return Answer(status=404, code="MessageNotFound")
        if request.query["popreceipt"] != message.receipts[-1]:
            return Answer(status=400, code="PopReceiptMismatch")
        return None

    def _find(self, queue: str, rest: str) -> Message | None:
        wanted = rest.removeprefix("messages/")
        return next((message for message in self.queues.get(queue, []) if message.id == wanted), None)

    def _hide(self, message: Message, seconds: float) -> None:
        message.visible_from = _now() + seconds
        message.receipts.append(self._receipt())

    def _receipt(self) -> str:
        return f"receipt-{next(self._numbers)}"


_NO_QUEUE = Answer(status=404, code="QueueNotFound")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _date(moment: float) -> str:
    return format_datetime(START + timedelta(seconds=moment), usegmt=True)


def _text(request: Request) -> str:
    return ET.fromstring(request.body).findtext("MessageText") or ""


def _list(messages: list[Message]) -> bytes:
    entries = "".join(
        f"<QueueMessage><MessageId>{m.id}</MessageId><InsertionTime>{_date(m.put_at)}</InsertionTime>"
        f"<ExpirationTime>{_date(m.ends)}</ExpirationTime><PopReceipt>{m.receipts[-1]}</PopReceipt>"
        f"<TimeNextVisible>{_date(m.visible_from)}</TimeNextVisible><DequeueCount>{m.dequeue_count}</DequeueCount>"
        f"<MessageText>{escape(m.text, {chr(13): '&#13;'})}</MessageText></QueueMessage>"
        for m in messages
    )
    return f'<?xml version="1.0" encoding="utf-8"?><QueueMessagesList>{entries}</QueueMessagesList>'.encode()
