"""The script of docs/local-host.md that puts Core Tools in the local host's place; a stand-in plays `func`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from dev.ports import HOST, held_port

DOCUMENT = Path(__file__).parents[2] / "docs/local-host.md"
FUNC = f"""#!{sys.executable}
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        python = os.environ["languageWorkers__python__defaultExecutablePath"]
        self.wfile.write(json.dumps([sys.argv[1:], os.getcwd(), python]).encode())
    def log_message(self, *_): ...
http.server.ThreadingHTTPServer(("{HOST}", int(sys.argv[3])), Handler).serve_forever()
"""


@pytest.mark.skipif(os.name != "posix" or shutil.which("curl") is None, reason="the script needs bash and curl")
def test_func_serves_the_app_where_it_is_told_until_standard_input_ends(tmp_path: Path) -> None:
    found = re.search(r"```sh\n(#!/usr/bin/env bash\n.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    script, func, app = tmp_path / "functions-host", tmp_path / "bin" / "func", tmp_path / "app"
    func.parent.mkdir()
    app.mkdir()
    for path, text in ((script, found[1]), (func, FUNC)):
        path.write_text(text)
        path.chmod(0o755)
    path = os.pathsep.join([str(func.parent), os.environ["PATH"]])
    with held_port() as port:
        # As dev/host/process.py starts it.
        command = [str(script), "--python", sys.executable, "--app", str(app), "--port", str(port), "--key", "local"]
        command += ["--stop-with-stdin", "--lease-seconds", "600"]
        with subprocess.Popen(
            command, env={"PATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as host:
            assert host.stdout is not None
            assert host.stdout.readline() == f"Listening on http://{HOST}:{port}\n"
            told = requests.get(f"http://{HOST}:{port}/", timeout=90).json()
            assert host.stdin is not None
            host.stdin.close()
            host.wait(90)

    assert told == [["start", "--port", str(port)], str(app), str(Path(sys.executable).parent / "python")]
