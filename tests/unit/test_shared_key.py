"""The signature and the connection string, held against the storage SDK."""

from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.rest import HttpRequest
from azure.storage.blob import BlobServiceClient
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy
from azure.storage.queue import QueueServiceClient
from hypothesis import given
from hypothesis import strategies as st

from shared.http_client import HttpClient
from shared.settings import StorageSettings
from shared.storage.account import SharedKey, StorageAccount
from shared.storage.connection_string import parse_connection_string
from shared.values.errors import SettingsError

KEY = "a2V5IG9mIGEgc3RvcmFnZSBhY2NvdW50"
DATE = "Sun, 29 Nov 2026 20:00:00 GMT"
WORDS = st.text("abcXYZ019-._~", min_size=1, max_size=8)
# As we send them: names in lower case, values of one line.
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "if-match", "if-none-match", "content-length", "x-ms-lease-id", "x-ms-meta-reason",
                     "x-ms-meta-a-b", "x-ms-blob-type", "x-ms-version"]),
    WORDS | st.just("0"),
)  # fmt: skip
QUERY = st.dictionaries(
    st.sampled_from(["comp", "restype", "popreceipt", "messagettl", "marker"]), WORDS | st.just("a%2Fb%3D")
)


@given(st.sampled_from(["GET", "PUT", "POST", "DELETE"]), st.lists(WORDS, min_size=1, max_size=3), QUERY, HEADERS)
def test_the_signature_is_the_sdks(
    method: str, path: list[str], query: dict[str, str], headers: dict[str, str]
) -> None:
    headers["x-ms-date"] = DATE
    target = "/account/" + "/".join(path)
    text = "&".join(f"{name}={value}" for name, value in query.items())
    request = HttpRequest(method, f"http://127.0.0.1:10001{target}?{text}", headers=dict(headers))
    context: Any = PipelineContext(SimpleNamespace())
    SharedKeyCredentialPolicy("account", KEY).on_request(PipelineRequest(request, context))
    assert SharedKey("account", KEY).authorization(method, target, text, headers) == request.headers["Authorization"]


@pytest.mark.parametrize(
    "text",
    [
        f"DefaultEndpointsProtocol=https;AccountName=st1;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
        f"AccountName=st1;AccountKey={KEY}",
        f"AccountName=st1;AccountKey={KEY};QueueEndpoint=http://h:1/st1/;BlobEndpoint=https://b.example;",
        "QueueEndpoint=https://q.example;BlobEndpoint=https://b.example;SharedAccessSignature=sv=2024&sig=a%3D",
        "UseDevelopmentStorage=true",
    ],
)
def test_a_connection_string_says_what_the_sdk_reads(text: str) -> None:
    found = parse_connection_string(text)
    queues, blobs = QueueServiceClient.from_connection_string(text), BlobServiceClient.from_connection_string(text)
    assert [found.queues, found.blobs] == [client.url.partition("?")[0].rstrip("/") for client in (queues, blobs)]
    assert found.sas == queues.url.partition("?")[2]
    key = queues.credential
    if found.key is None:
        assert not hasattr(key, "account_key")
    else:
        assert (found.account, found.key) == (key.account_name, key.account_key)


def test_the_emulators_short_form_may_be_written_otherwise() -> None:
    usual = parse_connection_string("UseDevelopmentStorage=true")
    assert parse_connection_string("usedevelopmentstorage = TRUE ;") == usual


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "AccountName=st1",
        "AccountKey=k",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=none",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=htps://h",  # a slip, and all would go in the clear
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=//h",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=https://h:abc",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=https://h:99999",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=https://[h",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=https://a b",
        "AccountName=st1;AccountKey=a2V5;QueueEndpoint=https://h/?sv=1",
        "AccountName=st1;AccountKey=a2V5;DefaultEndpointsProtocol=ftp",
        "AccountName=st1;AccountKey=???",
    ],
)
def test_what_is_none_is_a_matter_of_settings(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_connection_string(text)


@pytest.mark.parametrize("url", ["http://st1.queue.example", "htps://h", "https://h:abc", "https://h?x=1", "st1"])
def test_a_token_goes_to_no_address_that_is_none_or_in_the_clear(url: str) -> None:
    with pytest.raises(SettingsError, match="ServiceUri"):
        StorageAccount(StorageSettings(None, url, "https://st1.blob.example", None), HttpClient())
