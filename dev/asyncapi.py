"""The queues and what lies on them as an AsyncAPI document, made from the bundle of schemas and the catalogue.

Source: AsyncAPI 3.0.0, https://www.asyncapi.com/docs/reference/specification/v3.0.0. It has no binding for Azure
Storage queues, so what a message's text is stands under `x-azure-storage-queue`.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import yaml

from dev.azurite import node
from shared.values.resources import CATALOGUE, UNRECOGNIZED, UNRECOGNIZED_QUEUE

JSON = dict[str, Any]

_PROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"
_PUBLISHED: Final = _PROJECT.parent / "docs" / "asyncapi.yaml"
_PARSER: Final = Path(__file__).parent / "node" / "check_asyncapi.js"
_TEXT: Final = {
    "encoding": {"appSetting": "EVENT_ENCODING", "values": ["base64", "none"], "default": "base64"},
    "format": {"appSetting": "EVENT_FORMAT", "values": ["single", "batch"], "default": "single"},
}


def document(bundle: JSON) -> str:
    """The document, in YAML.

    Args:
        bundle: the JSON Schema of `schemas.bundle`.
    """
    definitions = _moved(bundle["$defs"])
    queues = {kind.events_queue: [each.name for each in kind.event_types.values()] for kind in CATALOGUE.values()}
    queues[UNRECOGNIZED_QUEUE] = []
    names = {
        queue: [_name(found) for found in dict.fromkeys((*event_types, UNRECOGNIZED))]
        for queue, event_types in queues.items()
    }
    found = {
        "asyncapi": "3.0.0",
        "info": _info(),
        "defaultContentType": "application/cloudevents+json",
        "servers": {
            "storage": {
                "host": "{account}.queue.core.windows.net",
                "protocol": "https",
                "description": "The storage account for events. A further consumer, by the setting CONSUMERS, has "
                "queues of its own: the address of a channel, a hyphen, the consumer's name.",
                "variables": {"account": {"description": "Name of the storage account."}},
            }
        },
        "channels": {queue: _channel(queue, events) for queue, events in names.items()},
        "operations": {
            f"send-{queue}": {"action": "send", "channel": {"$ref": f"#/channels/{queue}"}} for queue in names
        },
        "components": {
            "messages": {
                event: _message(event, definitions[f"{event}Event"])
                for event in dict.fromkeys(event for events in names.values() for event in events)
            },
            "schemas": definitions,
        },
    }
    return yaml.dump(found, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True, width=120)


def check(text: str) -> list[JSON]:
    """What the AsyncAPI project's parser minds in a document, each with `code`, `message` and `path`.

    Raises:
        subprocess.CalledProcessError: the parser did not run.
    """
    done = subprocess.run(
        [node(), str(_PARSER)], input=text, capture_output=True, encoding="utf-8", timeout=120, check=True
    )
    found: list[JSON] = json.loads(done.stdout)
    return found


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _info() -> JSON:
    project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
    return {
        "title": "Switchboard",
        "version": project["version"],
        "description": f"{project['description']}. docs/events.md tells the rest.",
        "license": {"name": project["license"]},
    }


def _channel(queue: str, events: list[str]) -> JSON:
    return {
        "address": queue,
        "messages": {event: {"$ref": f"#/components/messages/{event}"} for event in events},
        "x-azure-storage-queue": _TEXT,
    }


def _message(event: str, schema: JSON) -> JSON:
    return {
        "name": schema["properties"]["type"]["const"],
        "summary": schema["description"],
        "payload": {"$ref": f"#/components/schemas/{event}Event"},
    }


def _name(event_type: str) -> str:
    return event_type.removeprefix("Microsoft.Graph.")


def _moved(found: Any) -> Any:
    """The same with its references to where an AsyncAPI document keeps schemas."""
    if isinstance(found, list):
        return [_moved(member) for member in found]
    if isinstance(found, dict):
        return {key: _moved(value) for key, value in found.items()}
    return found.replace("#/$defs/", "#/components/schemas/") if isinstance(found, str) else found


def main() -> int:
    """Print what the parser minds in the published document; 1 where that is anything."""
    found = check(_PUBLISHED.read_text("utf-8"))
    for one in found:
        print(f"docs/asyncapi.yaml: {one['code']} at {'/'.join(map(str, one['path']))}: {one['message']}")
    if not found:
        print("docs/asyncapi.yaml: no issues found by the AsyncAPI project's parser")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
