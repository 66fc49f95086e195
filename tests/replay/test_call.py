"""How the host repeats its calls to storage, in virtual time."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from azure.core.exceptions import AzureError, HttpResponseError

from dev.host.storage import blob_service, call
from dev.host.surroundings import Surroundings
from dev.simulation.virtual_time import VirtualLoop
from tests.replay.stub_storage import Answer, Request, transport

WELL = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}


class Even(Random):
    """Chance without surprises."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Service:
    """Answers with what it was given, the last of it for ever; None is a reset, and a number a delay in seconds."""

    def __init__(self, *answers: Answer | float | None) -> None:
        self._answers = list(answers)
        self.times: list[float] = []

    async def answer(self, _: Request) -> Answer:
        self.times.append(round(asyncio.get_running_loop().time(), 1))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Answer):
            return answer
        if answer is None:
            raise ConnectionResetError
        await asyncio.sleep(answer)
        return Answer(status=201, headers=WELL)


def run[T](main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def create_container(service: Service) -> None:
    surroundings = Surroundings(random=Even(), transport=lambda _: transport(service.answer))

    async def main() -> None:
        settings = {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}
        async with blob_service("AzureWebJobsStorage", settings, surroundings) as blobs:
            await call(lambda: blobs.create_container("c"), surroundings)

    run(main())


class TestCall:
    @pytest.mark.parametrize("answer", [None, *(Answer(status=status) for status in (408, 429, 500, 502, 503, 504))])
    def test_is_repeated_with_growing_pauses_where_it_may_help(self, answer: Answer | None) -> None:
        service = Service(answer)

        with pytest.raises(AzureError):
            create_container(service)

        assert service.times == [0.0, 0.8, 2.4, 5.6, 12.0, 24.8]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412])
    def test_is_not_repeated_where_it_cannot_help(self, status: int) -> None:
        service = Service(Answer(status=status, code="SomeCode"))

        with pytest.raises(HttpResponseError) as refused:
            create_container(service)

        assert service.times == [0.0]
        assert refused.value.status_code == status

    def test_ends_with_the_first_answer(self) -> None:
        service = Service(Answer(status=503), None, Answer(status=201, headers=WELL))

        create_container(service)

        assert service.times == [0.0, 0.8, 2.4]

    def test_waits_as_long_as_it_is_told(self) -> None:
        service = Service(Answer(status=503, headers={"Retry-After": "7"}), Answer(status=201, headers=WELL))

        create_container(service)

        assert service.times == [0.0, 7.0]

    def test_is_given_up_after_a_hundred_seconds_without_an_answer(self) -> None:
        service = Service(99.0)
        create_container(service)
        assert service.times == [0.0]

        service = Service(101.0, 1.0)
        create_container(service)
        assert service.times == [0.0, 100.8]
