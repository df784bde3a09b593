"""libvirt daemons and what they hold, as Python objects: manord, or any other daemon that speaks libvirt's protocol.

    async with connect("qemu:///system") as connection:
        for domain in await connection.domains():
            print(domain.name, (await domain.state()).state)

`manor.client.sync` has the same without `await`. The daemon's errors are `RemoteError`, with libvirt's code and domain.
"""

from manor.client.connection import Connection, connect, open_connection
from manor.client.domain import Domain
from manor.client.events import Event, Events
from manor.client.network import Network, NetworkPort
from manor.client.node import Interface, Node, NodeDevice
from manor.client.secret import Nwfilter, NwfilterBinding, Secret
from manor.client.services import EventLog, Services
from manor.client.snapshot import Checkpoint, Snapshot
from manor.client.storage import StoragePool, Volume
from manor.client.stream import Stream
from manor.rpc.caller import RemoteError
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin

__all__ = [
    "connect", "open_connection", "Connection", "Domain", "Snapshot", "Checkpoint", "Network", "NetworkPort",
    "StoragePool", "Volume", "Node", "NodeDevice", "Interface", "Secret", "Nwfilter", "NwfilterBinding", "Event",
    "Events", "Services", "EventLog", "Stream", "RemoteError", "ErrorCode", "ErrorOrigin",
]  # fmt: skip
