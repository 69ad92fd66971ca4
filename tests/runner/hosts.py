"""Hosts on this machine: network namespaces with addresses of their own, on one bridge.

A namespace has a loopback, one cable and nothing else of this machine's network; the file system is
shared, as a cluster's is. Everything lies in namespaces, so that removing these leaves nothing.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CABLE = "eth0"


class Network:
    """Hosts behind a switch; `names` have the addresses 10.77.0.1, 10.77.0.2, ... in order."""

    def __init__(self, names: Sequence[str]) -> None:
        own = f"um{os.getpid() % 100000}"
        self._switch = f"{own}-switch"
        self._spaces = {name: f"{own}-{name}" for name in names}
        self.address = {name: f"10.77.0.{i}" for i, name in enumerate(names, 1)}

    def set_up(self) -> None:
        """Make the namespaces, lay a cable from each to the bridge."""
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for number, (name, space) in enumerate(self._spaces.items()):
            _ip("netns", "add", space)
            plug = f"port{number}"
            veth = ("type", "veth", "peer", "name", plug, "netns", self._switch)
            _ip("-n", space, "link", "add", CABLE, *veth)
            _ip("-n", self._switch, "link", "set", plug, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{self.address[name]}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                _ip("-n", space, "link", "set", device, "up")

    def command(self, name: str, *command: str) -> list[str]:
        """`command` as one that runs on a host."""
        return ["ip", "netns", "exec", self._spaces[name], *command]

    def kill(self, name: str) -> None:
        """SIGKILL every process of a host."""
        pids = subprocess.run(
            ["ip", "netns", "pids", self._spaces[name]], capture_output=True, text=True
        )
        for pid in pids.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def remove(self) -> None:
        """Kill what runs on the hosts and remove them, however far they were set up."""
        for name in self._spaces:
            self.kill(name)
        time.sleep(0.1)
        for space in (*self._spaces.values(), self._switch):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def why_not() -> str:
    """Why there can be no hosts here; nothing where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no `ip` (iproute2)"
    network = Network(["probe"])
    try:
        network.set_up()
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    finally:
        network.remove()
    return ""


@contextmanager
def network_of(*names: str) -> Iterator[Network]:
    """A network of these hosts, removed at the end."""
    network = Network(names)
    try:
        network.set_up()
        yield network
    finally:
        network.remove()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
