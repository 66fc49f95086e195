"""The program of `azure_cli`: started for every call, so it imports next to nothing."""

import json
import sys


def words_of(arguments: list[str]) -> list[str]:
    """A command without its options."""
    options = [number for number, argument in enumerate(arguments) if argument.startswith("-")]
    return arguments[: options[0]] if options else arguments


def answer(state: dict, words: list[str], options: dict[str, str]) -> object:  # noqa: PLR0911, PLR0912 - a table
    """What the command answers; changes the state."""
    vault = f"https://{options.get('--vault-name', 'kv-1')}.vault.azure.net"
    match words:
        case ["version"]:
            return {"azure-cli": state["version"], "azure-cli-core": state["version"], "extensions": {}}
        case ["account", "show"]:
            return {
                "id": options.get("--subscription", state["subscription"]),
                "tenantId": state["tenant"],
                "state": "Enabled",
            }
        case ["login"]:
            return [{"tenantId": state["tenant"]}]
        case ["provider", "show"]:
            return {"registrationState": state["providers"][options["--namespace"]]}
        case ["provider", "register"]:
            state["providers"][options["--namespace"]] = "Registered"
        case ["functionapp", "list-flexconsumption-locations"]:
            return [{"name": name} for name in state["regions"]]
        case ["functionapp", "config", "appsettings", "list"]:
            found = state["appsettings"][options["--name"]]
            return [{"name": name, "value": value, "slotSetting": False} for name, value in found.items()]
        case ["keyvault", "list-deleted"]:
            return state["deleted"]
        case ["keyvault", "recover"]:
            assert options["--resource-group"] in state["groups"]
            state["deleted"] = [one for one in state["deleted"] if one["name"] != options["--name"]]
        case ["group", "exists"]:
            return options["--name"] in state["groups"]
        case ["group", "create"]:
            state["groups"].append(options["--name"])
        case ["keyvault", "certificate", "list"]:
            return [{"id": f"{vault}/certificates/{name}"} for name in state["certificates"]]
        case ["keyvault", "certificate", "create"]:
            state["certificates"][options["--name"]] = json.loads(read(options["--policy"].removeprefix("@")))
            return {"status": "completed"}
        case ["keyvault", "secret", "list"]:
            return [{"id": f"{vault}/secrets/{name}"} for name in state["secrets"]]
        case ["keyvault", "secret", "set"]:
            state["secrets"][options["--name"]] = read(options["--file"])
            return {"id": f"{vault}/secrets/{options['--name']}/0", "value": state["secrets"][options["--name"]]}
        case ["keyvault", "secret", "show"]:
            return {"id": options["--id"], "value": state["secrets"][options["--id"].rpartition("/")[2]]}
        case ["storage", "blob", "exists"]:
            return {"exists": options["--name"] in state["blobs"]}
        case ["storage", "blob", "download"]:
            write(options["--file"], state["blobs"][options["--name"]])
            return {"name": options["--name"]}
        case ["storage", "blob", "upload"]:
            assert "--overwrite" in options or options["--name"] not in state["blobs"]
            state["blobs"][options["--name"]] = read(options["--file"])
        case ["rest"] if options["--method"] == "get":
            return {"value": [{"name": "CLIENT_STATE", "properties": {"status": state["references"]}}]}
        case ["rest"]:
            state["references"] = "Resolved"
        case _:
            sys.exit(f"ERROR: '{' '.join(words)}' is misspelled or not recognized by the system.")
    return None


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()


def write(path: str, text: str, mode: str = "w") -> None:
    with open(path, mode, encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)


def main(home: str, arguments: list[str]) -> None:
    write(f"{home}/calls", json.dumps(arguments) + "\n", "a")
    words = words_of(arguments)
    rest = arguments[len(words) :]
    options = {name: value for name, value in zip(rest, [*rest, ""][1:], strict=True) if name.startswith("--")}
    state = json.loads(read(f"{home}/state.json"))
    for refusal in state["refusals"]:
        if " ".join(words).startswith(refusal["command"]) and refusal["times"]:
            refusal["times"] -= 1
            write(f"{home}/state.json", json.dumps(state))
            sys.exit(refusal["message"])
    found = answer(state, words, options)
    write(f"{home}/state.json", json.dumps(state))
    if options.get("--output") == "tsv":
        print("\n".join(queried(found, options["--query"])))
    elif found is not None:
        print(json.dumps(found))


def queried(found: object, query: str) -> list[str]:
    """The part of JMESPath that documents use: `name`, or `[].name`."""
    ones = found if query.startswith("[].") else [found]
    return [str(one[query.removeprefix("[].")]) for one in ones]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
