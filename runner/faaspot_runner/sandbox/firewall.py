"""The host's packet filter: what may pass between the link of a spot's sandboxes and the rest of the world.

Two tools for one set of `Rules`. iptables comes first where both are there: a firewall or a Docker that drops forwarded
packets by iptables would drop ours, too, if we accepted them elsewhere.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

LINK_PREFIX = "faas"
"""Every spot's link on the host begins so: the guard lets packets to them pass."""
GUARD = "faaspot-guard"
SECONDS = 30
"""How long the tool may take."""


class FirewallError(Exception):
    """The tool refused; the text has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`link`: the host's end of the way to the sandboxes, also the name of the rules. `sandboxes`: their addresses.

    From a sandbox: port 53 of the resolvers, then nothing to `denied` and nothing to the host itself, then all else.
    To a sandbox: answers only.
    """

    link: str
    sandboxes: IPv4Network
    resolvers: tuple[IPv4Address, ...]
    denied: tuple[IPv4Network, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A network that may be reached at the ports from `first` to `last`, by TCP and UDP."""

    network: IPv4Network
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What may leave a namespace: nothing to `denied`, then what belongs to a connection that stands or to `passages`.

    Its own loopback stays as it is.
    """

    denied: tuple[IPv4Network, ...]
    passages: tuple[Passage, ...]


class Firewall(Protocol):
    """All methods raise FirewallError."""

    def confine(self, confinement: Confinement) -> None:
        """Put this, whole and at once, in place of all rules of the thread's network namespace."""

    def install(self, rules: Rules) -> None:
        """Put the rules in, all at once."""

    def remove(self, link: str) -> None:
        """Take the rules of that name out, as far as they are there."""

    def guard(self, uplink: str) -> None:
        """Drop what came in by `uplink` and would be forwarded to anything but a spot's link.

        For a host that forwarded nothing before us: it shall not become a router for its neighbours.
        """

    def guarded(self) -> str | None:
        """The uplink that is guarded, None if none is."""

    def unguard(self) -> None:
        """Take the guard away."""


def find() -> Firewall | None:
    """The tool of this host, None if it has none."""
    if shutil.which("iptables-restore") and shutil.which("iptables-save"):
        return Iptables()
    if shutil.which("nft"):
        return Nft()
    return None


def _run(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise FirewallError(f"{command[0]}: no answer within {SECONDS} s") from error
    if done.returncode:
        raise FirewallError(f"{command[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


class Iptables:
    """Chains of our own in the tables `filter` and `nat`, reached by one rule each from the built-in chains."""

    def confine(self, confinement: Confinement) -> None:
        refuse = "-j REJECT --reject-with icmp-admin-prohibited"
        lines = ["*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT DROP [0:0]"]
        lines += ["-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
        lines += ["-A OUTPUT -o lo -j ACCEPT"]
        lines += [f"-A OUTPUT -d {network} {refuse}" for network in confinement.denied]
        lines += ["-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"]
        lines += [
            f"-A OUTPUT -d {each.network} -p {protocol} --dport {each.first}:{each.last} -j ACCEPT"
            for each in confinement.passages
            for protocol in ("tcp", "udp")
        ]
        _run(["iptables-restore", "--wait"], "\n".join([*lines, f"-A OUTPUT {refuse}", "COMMIT"]) + "\n")

    def install(self, rules: Rules) -> None:
        link = rules.link
        resolvers = [
            f"-d {resolver} -p {protocol} --dport 53 -j ACCEPT"
            for resolver in rules.resolvers
            for protocol in ("udp", "tcp")
        ]
        lines = ["*filter", *(f":{link}-{chain} - [0:0]" for chain in ("in", "out", "back"))]
        lines += [f"-A {link}-in {rule}" for rule in (*resolvers, "-j DROP")]
        denied = [f"-d {network} -j REJECT --reject-with icmp-admin-prohibited" for network in rules.denied]
        lines += [f"-A {link}-out {rule}" for rule in (*resolvers, *denied, "-j ACCEPT")]
        answers = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
        lines += [f"-A {link}-back {rule}" for rule in (answers, "-j DROP")]
        lines += [f"-I INPUT 1 -i {link} -j {link}-in", f"-I FORWARD 1 -i {link} -j {link}-out"]
        lines += [f"-I FORWARD 1 -o {link} -j {link}-back", "COMMIT", "*nat", f":{link}-nat - [0:0]"]
        lines += [f"-A {link}-nat -j MASQUERADE"]
        lines += [f"-I POSTROUTING 1 -s {rules.sandboxes} ! -o {link} -j {link}-nat", "COMMIT"]
        self._restore(lines)

    def remove(self, link: str) -> None:
        self._remove([f"{link}-{chain}" for chain in ("in", "out", "back", "nat")])

    def guard(self, uplink: str) -> None:
        self.unguard()
        lines = ["*filter", f":{GUARD} - [0:0]", f"-A {GUARD} -o {LINK_PREFIX}+ -j RETURN", f"-A {GUARD} -j DROP"]
        self._restore([*lines, f"-I FORWARD 1 -i {uplink} -j {GUARD}", "COMMIT"])

    def guarded(self) -> str | None:
        for line in _run(["iptables-save"]).splitlines():
            words = line.split()
            if words[:2] == ["-A", "FORWARD"] and words[-2:] == ["-j", GUARD] and "-i" in words:
                return words[words.index("-i") + 1]
        return None

    def unguard(self) -> None:
        self._remove([GUARD])

    def _remove(self, chains: list[str]) -> None:
        """Take chains out with every rule that leads to them, in one step for each table."""
        lines: list[str] = []
        for line in _run(["iptables-save"]).splitlines():
            words = line.split()
            if line.startswith("*"):
                table, rules, found = line, [], []
            elif line.startswith(":") and words[0][1:] in chains:
                found.append(words[0][1:])
            elif words[:1] == ["-A"] and words[1] not in chains and words[-2] == "-j" and words[-1] in chains:
                rules.append("-D" + line[2:])
            elif line == "COMMIT" and found:
                lines += [table, *rules, *(f"-F {chain}" for chain in found), *(f"-X {chain}" for chain in found), line]
        if lines:
            self._restore(lines)

    def _restore(self, lines: list[str]) -> None:
        _run(["iptables-restore", "--wait", "--noflush"], "\n".join(lines) + "\n")


class Nft:
    """A table of our own for each link. What another table drops stays dropped."""

    def confine(self, confinement: Confinement) -> None:
        denied = ", ".join(map(str, confinement.denied))
        lines = "\n".join(
            f"ip daddr {each.network} meta l4proto {{ tcp, udp }} th dport {each.first}-{each.last} accept"
            for each in confinement.passages
        )
        refuse = "reject with icmp type admin-prohibited"
        self._replace(
            "gate",
            f"""
            chain in {{ type filter hook input priority filter; policy drop;
                iifname "lo" accept
                ct state established,related accept; }}
            chain out {{ type filter hook output priority filter; policy drop;
                oifname "lo" accept
                ip daddr {{ {denied} }} {refuse}
                ct state established accept
                {lines}
                {refuse}; }}
            """,
        )

    def install(self, rules: Rules) -> None:
        dns = ""
        if rules.resolvers:
            resolvers = ", ".join(map(str, rules.resolvers))
            dns = f"ip daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept"
        link, denied = rules.link, ", ".join(map(str, rules.denied))
        self._replace(
            link,
            f"""
            chain in {{ type filter hook input priority filter - 5; iifname "{link}" jump from_sandbox; }}
            chain from_sandbox {{ {dns}
                drop; }}
            chain pass {{ type filter hook forward priority filter - 5;
                iifname "{link}" jump out
                oifname "{link}" jump back; }}
            chain out {{ {dns}
                ip daddr {{ {denied} }} reject with icmp type admin-prohibited
                accept; }}
            chain back {{ ct state established,related accept
                drop; }}
            chain leave {{ type nat hook postrouting priority srcnat;
                ip saddr {rules.sandboxes} oifname != "{link}" masquerade; }}
            """,
        )

    def remove(self, link: str) -> None:
        if f"table ip {link}" in _run(["nft", "list", "tables"]).splitlines():
            _run(["nft", "-f", "-"], f"delete table ip {link}\n")

    def guard(self, uplink: str) -> None:
        rule = f'iifname "{uplink}" oifname != "{LINK_PREFIX}*" drop'
        self._replace(GUARD, f"chain pass {{ type filter hook forward priority filter - 5; {rule}; }}")

    def guarded(self) -> str | None:
        if f"table ip {GUARD}" not in _run(["nft", "list", "tables"]).splitlines():
            return None
        words = _run(["nft", "list", "table", "ip", GUARD]).split()
        return words[words.index("iifname") + 1].strip('"')

    def unguard(self) -> None:
        self.remove(GUARD)

    def _replace(self, table: str, chains: str) -> None:
        _run(["nft", "-f", "-"], f"table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n{chains}\n}}\n")
