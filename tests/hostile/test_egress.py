"""E17: a function with `network: internet` that comes to inner addresses by a detour.

An ordinary user's spot cannot wall a network off, so there is none: a deployment that asks for it is refused.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.e2e.test_egress import offers_internet
from tests.hostile.conftest import Arena

DETOURS = '''
import concurrent.futures, http.server, socket, threading, urllib.request

def attempt(act):
    try:
        act()
    except OSError:
        return "refused"
    return "got through"

def tcp(host, port, family=socket.AF_INET):
    with socket.socket(family) as it:
        it.settimeout(2)
        it.connect((host, port))

def redirected(target):
    """What an obedient HTTP client does with a redirect; the server that sends it is the function's own."""
    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
        def log_message(self, *words):
            pass
    with http.server.HTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=2).close()

def rebound(host, port):
    """A name whose first answer is a public address, and whose second, when it is connected to, is an inner one."""
    answers, real = ["192.0.2.80", host], socket.getaddrinfo
    socket.getaddrinfo = lambda name, *more, **other: real(answers.pop(0), *more, **other)
    try:
        assert socket.getaddrinfo("rebinding.example.com", port)[0][4][0] == "192.0.2.80"
        socket.create_connection(("rebinding.example.com", port), 2).close()
    finally:
        socket.getaddrinfo = real

def main(args, context):
    port, acts = args["ports"][0], {}
    for host, at in ((host, at) for host in args["hosts"] for at in args["ports"]):
        where = f"{host}:{at}"
        acts["plain " + where] = lambda host=host, at=at: tcp(host, at)
        acts["mapped " + where] = lambda host=host, at=at: tcp("::ffff:" + host, at, socket.AF_INET6)
        acts["nat64 " + where] = lambda host=host, at=at: tcp("64:ff9b::" + host, at, socket.AF_INET6)
        acts["redirect " + where] = lambda where=where: redirected(f"http://{where}/")
    for name in args["names"]:
        acts["name " + name] = lambda name=name: socket.create_connection((name, port), 2).close()
    with concurrent.futures.ThreadPoolExecutor(48) as threads:
        found = dict(zip(acts, threads.map(attempt, acts.values())))
    for host in args["hosts"]:
        found["rebinding " + host] = attempt(lambda: rebound(host, port))
    return [len(found), [way for way, how in found.items() if how != "refused"]]
'''
SPELLINGS = ("2130706433", "0x7f.1", "127.1", "0", "0177.0.0.1", "localhost", "[::]", "2852039166")
"""Of loopback and of the metadata service, as clients understand them and checks of text do not."""


@pytest.fixture
def everywhere() -> Any:
    """A listener on each address of this machine, with its port, and whoever has reached it."""
    with socket.create_server(("", 0)) as listener:
        listener.settimeout(0)
        yield listener


def own_addresses() -> list[str]:
    """Addresses of this machine that are not loopback's; asks the kernel, sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


@pytest.mark.parametrize("listed", [False, True], ids=["free", "listed"])
def test_e17_no_detour_leads_to_an_inner_address(arena: Arena, everywhere: socket.socket, listed: bool) -> None:
    """Also where the deployment's own list names what it shall never reach, and a name that stands for it."""
    port = everywhere.getsockname()[1]
    hosts = ["127.0.0.1", "169.254.169.254", "10.0.0.1", *own_addresses()]
    settings: dict[str, Any] = {"network": "internet"}
    if listed:
        settings["egress"] = [f"{host}:{port}" for host in hosts] + [f"localhost.localdomain:{port}"]
    if not offers_internet(arena.platform):
        body = {"name": "detour", "code": DETOURS, "runtime": arena.runtime, **settings}
        answer = arena.platform.call("PUT", "deployments/", body)
        assert (answer.status, answer.json["error_code"]) == (400, "network_unavailable"), answer
        return
    args = {"hosts": hosts, "ports": [port, arena.platform.port], "names": [*SPELLINGS, "localhost.localdomain"]}
    outcome = arena.attack(DETOURS, args, timeout=60, pids=128, **settings)
    assert outcome.status == "Success", outcome
    assert outcome.output == [len(hosts) * 9 + len(args["names"]), []]
    with pytest.raises(BlockingIOError):
        everywhere.accept()
    with socket.create_connection((hosts[-1] if len(hosts) > 3 else "127.0.0.1", port)):
        everywhere.settimeout(5)
        everywhere.accept()[0].close()
