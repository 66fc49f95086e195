"""HTTP triggers, as a caller and as the function see them."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
import requests

from dev.azurite import Azurite
from dev.host import HostProcess
from dev.host.process import FUNCTIONS_HOST, KEY
from tests.integration.host.apps import App

type Serve = Callable[..., HostProcess]

SOURCE = """
import logging
import threading

meeting = threading.Barrier(4)


def answer(value, **options):
    return func.HttpResponse(json.dumps(value), mimetype="application/json", **options)


@app.route("echo/{first}/between/{second}", methods=["GET", "POST"])
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    return answer({
        "method": req.method,
        "url": req.url,
        "headers": dict(req.headers),
        "query": dict(req.params),
        "route": dict(req.route_params),
        "body": req.get_body().decode(),
    })


@app.route("echo/literal/between/loses", methods=["GET"])
async def loser(req: func.HttpRequest) -> str:
    return "lost"


@app.route("race/{any}", methods=["GET"])
async def zebra(req: func.HttpRequest) -> str:
    return "zebra"


@app.route("race/literal", methods=["GET"])
async def ant(req: func.HttpRequest) -> str:
    return "ant"


@app.route("anything")
async def anything(req: func.HttpRequest) -> func.HttpResponse:
    return answer(req.method)


@app.route("size", methods=["POST"])
async def size(req: func.HttpRequest) -> func.HttpResponse:
    return answer(len(req.get_body()))


@app.route("raw", methods=["POST"])
async def raw(req: func.HttpRequest) -> func.HttpResponse:
    return answer(req.get_body().hex())


@app.route("patient")
async def patient(req: func.HttpRequest) -> func.HttpResponse:
    note(event="begun")
    await asyncio.sleep(0.5)
    note(event="ended")
    return answer("nobody reads it")


@app.route("teapot")
def teapot(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b"\\x00\\xff", status_code=418, headers={"X-Kind": "short and stout"})


@app.route("keyed", auth_level=func.AuthLevel.FUNCTION)
async def keyed(req: func.HttpRequest) -> str:
    return "opened"


@app.timer_trigger("timer", schedule="0 0 0 1 1 *")
async def keyed_timer(timer: func.TimerRequest) -> None: ...


@app.route("text")
async def text(req: func.HttpRequest) -> str:
    return "plain"


@app.route("cookies")
async def cookies(req: func.HttpRequest) -> func.HttpResponse:
    response = func.HttpResponse("x")
    response.headers.add("Set-Cookie", "one=1; Path=/; HttpOnly; Max-Age=60; SameSite=Strict")
    response.headers.add("Set-Cookie", "two=2; Expires=Sat, 20 Nov 2027 01:02:03 GMT; Secure")
    return response


@app.route("fail")
async def fail(req: func.HttpRequest) -> func.HttpResponse:
    raise RuntimeError("as it was told")


@app.route("meet")
def meet(req: func.HttpRequest) -> func.HttpResponse:
    meeting.wait(60)
    return answer("met")


@app.route("context")
async def context(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    logging.getLogger("mine").info("in the %s function", "async")
    return answer([context.function_name, context.invocation_id, context.trace_context.trace_parent])


@app.route("loop")
async def loop(req: func.HttpRequest) -> func.HttpResponse:
    own = await asyncio.to_thread(asyncio.new_event_loop)
    own.close()
    return answer([type(each).__module__ for each in (asyncio.get_running_loop(), own)])


@app.route("tasks")
async def tasks(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    async def look():
        return getattr(asyncio.current_task(), "__azure_function_invocation_id__", None)

    async def look_deeper():
        await asyncio.sleep(0.05)
        async with asyncio.TaskGroup() as group:
            return await group.create_task(look())

    return answer([context.invocation_id, await look(), await asyncio.create_task(look_deeper())])


@app.route("log")
def log(req: func.HttpRequest) -> func.HttpResponse:
    logging.warning("in the thread of a function")
    return answer("logged")
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[HostProcess]:
    app = App(tmp_path_factory.mktemp("http"))
    app.write(SOURCE)
    settings = {"PYTHON_THREADPOOL_THREAD_COUNT": "8", "AzureWebJobsStorage": azurite.connection_string}
    with HostProcess(app.folder, app.environment | settings) as running:
        yield running


class TestRequest:
    def test_reaches_the_function_as_the_real_host_passes_it(self, host: HostProcess) -> None:
        response = requests.post(
            f"{host.url}/api/echo/a%20b/between/c?x=1&x=2&empty=&y=%C3%A9",
            data="grüezi".encode(),
            headers={"X-Mixed-Case": "Kept", "Content-Type": "text/plain"},
            timeout=90,
        )

        seen = response.json()
        assert seen["method"] == "POST"
        assert seen["route"] == {"first": "a b", "second": "c"}
        assert seen["query"] == {"x": "1,2", "y": "é"}
        assert seen["body"] == "grüezi"
        assert seen["headers"]["x-mixed-case"] == "Kept"
        assert seen["url"].startswith(f"{host.url}/api/echo/")

    def test_of_a_get_has_no_body(self, host: HostProcess) -> None:
        assert requests.get(f"{host.url}/api/echo/a/between/b", timeout=90).json()["body"] == ""

    def test_paths_ignore_case_and_a_slash_at_the_end(self, host: HostProcess) -> None:
        assert requests.get(f"{host.url}/API/Anything/", timeout=90).json() == "GET"

    def test_goes_to_the_first_function_by_name_whose_route_fits(self, host: HostProcess) -> None:
        assert requests.get(f"{host.url}/api/race/literal", timeout=90).text == "ant"
        assert requests.get(f"{host.url}/api/echo/literal/between/loses", timeout=90).json()["method"] == "GET"

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    def test_without_methods_all_are_taken(self, host: HostProcess, method: str) -> None:
        assert requests.request(method, f"{host.url}/api/anything", timeout=90).json() == method

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/api/nothing"),
            ("GET", "/anything"),
            ("DELETE", "/api/echo/a/between/b"),
            ("HEAD", "/api/echo/a/between/b"),
        ],
    )
    def test_without_a_function_gets_404(self, host: HostProcess, method: str, path: str) -> None:
        response = requests.request(method, host.url + path, timeout=90)

        assert response.status_code == HTTPStatus.NOT_FOUND
        assert response.content == b""

    def test_may_be_large(self, host: HostProcess) -> None:
        assert requests.post(f"{host.url}/api/size", data=bytes(8_000_000), timeout=90).json() == 8_000_000

    @pytest.mark.parametrize(("limit", "size"), [("", 104_857_601), ("1000", 1001)])
    def test_over_the_limit_gets_500_and_no_further_request(
        self, app: App, serve: Serve, limit: str, size: int
    ) -> None:
        app.write(SOURCE)
        host = serve(FUNCTIONS_REQUEST_BODY_SIZE_LIMIT=limit)
        connection = HTTPConnection(urlsplit(host.url).netloc, timeout=90)
        connection.putrequest("POST", "/api/size")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()

        response = connection.getresponse()

        assert response.status == HTTPStatus.INTERNAL_SERVER_ERROR
        assert response.headers["Connection"] == "close"
        connection.close()

    def test_in_chunks_arrives_without_its_body(self, host: HostProcess) -> None:
        response = requests.post(f"{host.url}/api/size", data=iter([b"some", b"more"]), timeout=90)

        assert response.request.headers["Transfer-Encoding"] == "chunked"
        assert response.json() == 0

    def test_that_is_compressed_arrives_so(self, host: HostProcess) -> None:
        body = gzip.compress(b"content")

        response = requests.post(f"{host.url}/api/raw", data=body, headers={"Content-Encoding": "gzip"}, timeout=90)

        assert bytes.fromhex(response.json()) == body

    @pytest.mark.parametrize(
        ("query", "seen"),
        [
            ("x=%FF", {"x": "%FF"}),
            ("x=%C3%A9%ff%E2%82%AC", {"x": "é%ff€"}),
            ("Token=1&token=2", {"token": "1,2"}),
            ("x=a+b%2Bc", {"x": "a b+c"}),
            ("x=&y&z=1=2", {"z": "1=2"}),
        ],
    )
    def test_has_a_query_as_the_real_host_reads_it(self, host: HostProcess, query: str, seen: dict[str, str]) -> None:
        connection = HTTPConnection(urlsplit(host.url).netloc, timeout=90)
        connection.request("GET", f"/api/echo/a%2fb/between/c%FF?{query}")

        found = json.loads(connection.getresponse().read())

        assert found["query"] == seen
        assert found["route"] == {"first": "a%2fb", "second": "c%FF"}
        connection.close()

    def test_whose_client_goes_away_runs_on_to_its_end(self, app: App, serve: Serve) -> None:
        app.write(SOURCE)
        host = serve()
        connection = HTTPConnection(urlsplit(host.url).netloc, timeout=90)
        connection.request("GET", "/api/patient")
        app.await_notes(1)

        connection.close()

        assert app.await_notes(2)[1]["event"] == "ended"


class TestResponse:
    def test_carries_status_headers_and_bytes(self, host: HostProcess) -> None:
        response = requests.get(f"{host.url}/api/teapot", timeout=90)

        assert response.status_code == HTTPStatus.IM_A_TEAPOT
        assert response.headers["X-Kind"] == "short and stout"
        assert response.content == b"\x00\xff"

    def test_may_be_a_plain_string(self, host: HostProcess) -> None:
        assert requests.get(f"{host.url}/api/text", timeout=90).text == "plain"

    def test_keeps_each_cookie(self, host: HostProcess) -> None:
        cookies = requests.get(f"{host.url}/api/cookies", timeout=90).raw.headers.getlist("Set-Cookie")

        one, two = sorted(cookies)
        assert one.startswith("one=1;")
        assert {"httponly", "max-age=60", "path=/", "samesite=strict"} <= set(one.lower().split("; "))
        assert two.startswith("two=2;")
        assert {"secure", "expires=sat, 20 nov 2027 01:02:03 gmt"} <= set(two.lower().split("; "))

    def test_of_a_failed_function_is_an_empty_500(self, host: HostProcess) -> None:
        response = requests.get(f"{host.url}/api/fail", timeout=90)

        assert response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
        assert response.content == b""
        host.wait_for_log("RuntimeError: as it was told")
        assert 'raise RuntimeError("as it was told")' in host.logs


class TestInvocation:
    def test_several_run_at_a_time(self, host: HostProcess) -> None:
        with ThreadPoolExecutor(4) as callers:
            answers = list(callers.map(lambda _: requests.get(f"{host.url}/api/meet", timeout=90).json(), range(4)))

        assert answers == ["met"] * 4

    def test_has_a_context_of_the_callers_trace(self, host: HostProcess) -> None:
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}

        name, invocation_id, trace_parent = requests.get(f"{host.url}/api/context", headers=headers, timeout=90).json()

        assert name == "context"
        assert len(invocation_id) == 36
        if os.environ.get(FUNCTIONS_HOST) and not trace_parent:
            return  # the real host has a trace only with its telemetry on, as our app has it
        version, seen_trace_id, span_id, flags = trace_parent.split("-")
        assert (version, seen_trace_id, flags) == ("00", trace_id, "01")
        assert span_id != "b7ad6b7169203331"

    def test_runs_on_the_event_loop_of_azures_worker(self, host: HostProcess) -> None:
        pytest.importorskip("uvloop", reason="neither for Windows nor for Python 3.14")

        assert requests.get(f"{host.url}/api/loop", timeout=90).json()[0] == "uvloop"

    @pytest.mark.own_host("the worker that the real host is tried with is no worker of Azure's")
    def test_has_such_a_loop_where_the_app_makes_one_itself_too(self, host: HostProcess) -> None:
        pytest.importorskip("uvloop", reason="neither for Windows nor for Python 3.14")

        assert requests.get(f"{host.url}/api/loop", timeout=90).json()[1] == "uvloop"

    @pytest.mark.own_host("the worker that the real host is tried with is no worker of Azure's")
    def test_is_what_all_tasks_that_it_makes_belong_to(self, host: HostProcess) -> None:
        with ThreadPoolExecutor(4) as callers:
            seen = list(callers.map(lambda _: requests.get(f"{host.url}/api/tasks", timeout=90).json(), range(4)))

        assert [len(set(ids)) for ids in seen] == [1] * 4
        assert len({ids[0] for ids in seen}) == 4

    @pytest.mark.own_host("each host's log has a form of its own")
    def test_logs_under_its_functions_name(self, host: HostProcess) -> None:
        requests.get(f"{host.url}/api/context", timeout=90)
        requests.get(f"{host.url}/api/log", timeout=90)

        host.wait_for_log("INFO    context: in the async function")
        host.wait_for_log("WARNING log: in the thread of a function")


class TestAdmin:
    def test_does_not_start_what_it_does_not_know(self, host: HostProcess) -> None:
        assert admin(host, "nothing").status_code == HTTPStatus.NOT_FOUND

    def test_asks_for_the_key(self, host: HostProcess) -> None:
        assert admin(host, "echo", headers={}).status_code == HTTPStatus.UNAUTHORIZED
        assert admin(host, "echo", headers={"x-functions-key": "another"}).status_code == HTTPStatus.UNAUTHORIZED

    def test_asks_for_json(self, host: HostProcess) -> None:
        as_text = host.key_header | {"Content-Type": "text/plain"}

        assert admin(host, "keyed_timer", headers=as_text).status_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        assert admin(host, "keyed_timer", body="").status_code == HTTPStatus.BAD_REQUEST
        assert admin(host, "keyed_timer", body="{").status_code == HTTPStatus.BAD_REQUEST
        assert admin(host, "keyed_timer").status_code == HTTPStatus.ACCEPTED


def admin(
    host: HostProcess, function: str, *, headers: dict[str, str] | None = None, body: str = "{}"
) -> requests.Response:
    as_json = host.key_header if headers is None else headers
    return requests.post(
        f"{host.url}/admin/functions/{function}",
        data=body,
        headers={"Content-Type": "application/json"} | as_json,
        timeout=90,
    )


class TestKey:
    def test_is_asked_for_by_a_route_of_level_function(self, host: HostProcess) -> None:
        url = f"{host.url}/api/keyed"

        assert requests.get(url, timeout=90).status_code == HTTPStatus.UNAUTHORIZED
        assert requests.get(url, headers=host.key_header, timeout=90).text == "opened"
        assert requests.get(f"{url}?code={KEY}", timeout=90).text == "opened"
