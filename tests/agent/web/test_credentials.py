"""HTTP answers whom the web configuration file names, over TLS where it says so."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bcrypt
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from rankscope.agent.web.credentials import BasicAuth, load


@pytest.fixture
def hashed() -> str:
    return bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()


def test_only_the_right_password_of_a_known_user_is_let_in(hashed: str) -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("in"))])
    client = TestClient(BasicAuth(app, {"kim": hashed}))
    assert client.get("/").status_code == 401
    assert client.get("/").headers["www-authenticate"].startswith("Basic")
    for user, password in (("kim", "wrong"), ("kim", ""), ("lee", "right"), ("kim", "x" * 100)):
        assert client.get("/", auth=(user, password)).status_code == 401
    assert client.get("/", auth=("kim", "right")).text == "in"
    assert client.get("/", auth=("kim", "right")).text == "in"
    assert client.get("/", headers={"authorization": "Basic %%%"}).status_code == 401
    assert client.get("/", headers={"authorization": "Bearer right"}).status_code == 401


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tls: {}", "tls: unknown"),
        ("basic_auth_users: {kim: plain}", "no bcrypt hash"),
        ("tls_server_config: {cert_file: a}", "both cert_file and key_file"),
        ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: Maybe}", "is none of"),
        ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}", "needs client_ca_file"),
        ("{}", "neither TLS nor users"),
        ("[]", "neither TLS nor users"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_clear_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "web.yml").write_text(text)
    with pytest.raises(ValueError, match=complaint) as caught:
        load(tmp_path / "web.yml")
    assert "\n" not in str(caught.value)
    assert "plain" not in str(caught.value)


@pytest.mark.e2e
def test_an_agent_answers_over_tls_to_who_knows_the_password(
    tmp_path: Path, hashed: str, require: Callable[..., str]
) -> None:
    openssl = require("openssl")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files]
    subprocess.run(make, check=True, capture_output=True)
    (tmp_path / "web.yml").write_text(
        "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n" + f"basic_auth_users: {{kim: '{hashed}'}}\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "rankscope.yaml").write_text(
        f"http: {{listen: '{url.removeprefix('https://')}', web_config_file: {tmp_path}/web.yml}}\n"
        f"grpc: {{listen: 'unix://{tmp_path}/agent.sock'}}\nruns: {{dir: {tmp_path}/runs}}\n"
    )
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    command = [sys.executable, "-m", "rankscope.agent", "agent", "--config", str(tmp_path / "rankscope.yaml")]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "agent.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with httpx.Client(verify=trust, transport=httpx.HTTPTransport(verify=trust, retries=5)) as client:
            assert client.get(f"{url}/metrics").status_code == 401
            page = client.get(f"{url}/metrics", auth=("kim", "right"))
            assert "rankscope_agent_start_time_seconds" in page.text
    finally:
        process.terminate()
        process.wait(60)
