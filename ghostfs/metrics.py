"""The counters and gauges of GhostFS, and the loopback endpoint that shows them to Prometheus.

Counting on a hot path is done on plain integers by whoever owns them; `watch` has them read when somebody
looks. All names begin with `ghostfs_`; the table in `docs/operating.md` explains them.
"""

from __future__ import annotations

__all__ = [
    "BATCHES_APPLIED",
    "BLOCKS_SENT",
    "BLOCKS_SUPERSEDED",
    "BYTES_FETCHED",
    "BYTES_SENT",
    "CELLS_APPLIED",
    "CELLS_REFUSED",
    "CONFLICTS",
    "CONNECTED",
    "DRIFT",
    "FOLLOWERS",
    "HANDLER_ERRORS",
    "RECONNECTS",
    "REGISTRY",
    "Endpoint",
    "render",
    "serve",
    "watch",
]

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ghostfs.errors import ConfigError

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(f"ghostfs_{name}", what, labels, registry=REGISTRY)


HANDLER_ERRORS = _counter("fuse_handler_errors", "Requests that a bug turned into EIO", "operation")

FOLLOWERS = Gauge(
    "ghostfs_hub_followers", "Nodes that follow a session now", ["session"], registry=REGISTRY
)
BYTES_SENT = _counter("hub_bytes_sent", "Bytes of content that the hub sent", "session")
BLOCKS_SENT = _counter("hub_blocks_sent", "Blocks that the hub sent", "session")
BLOCKS_SUPERSEDED = _counter(
    "hub_blocks_superseded", "Blocks that had changed when they were asked for", "session"
)
CELLS_REFUSED = _counter("cells_refused", "Cells from the wire that broke a rule", "session")

CONNECTED = Gauge(
    "ghostfs_node_connected", "1 while a node follows its hub", ["session"], registry=REGISTRY
)
RECONNECTS = _counter("node_reconnects", "Times that a node lost its hub", "session")
BATCHES_APPLIED = _counter("node_batches_applied", "Deltas and snapshot chunks made durable", "session")
CELLS_APPLIED = _counter("node_cells_applied", "Cells made durable", "session")
BYTES_FETCHED = _counter("node_bytes_fetched", "Bytes of blocks that came from the hub", "session")
CONFLICTS = _counter("conflicts", "Conflict copies that were made", "session")
DRIFT = _counter("drift", "Fingerprints that should have been equal and were not", "session")


class _Watched(Collector):
    def __init__(
        self, name: str, what: str, kind: type[Metric], read: Callable[[], dict[str, float]], label: str
    ):
        self._name, self._what, self._kind, self._read, self._label = name, what, kind, read, label

    def describe(self) -> Iterator[Metric]:
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family

    def _family(self) -> Any:
        return self._kind(self._name, self._what, labels=[self._label])  # type: ignore[call-arg]


def watch(
    name: str,
    what: str,
    kind: Literal["counter", "gauge"],
    read: Callable[[], dict[str, float]],
    *,
    label: str = "session",
) -> Callable[[], None]:
    """Show `ghostfs_<name>` by calling `read` (label value → number) whenever somebody looks.

    `read` is called in the endpoint's thread, so it must be safe there. Returns what undoes it.
    """
    family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    collector = _Watched(f"ghostfs_{name}", what, family, read, label)
    REGISTRY.register(collector)
    return lambda: REGISTRY.unregister(collector)


def render() -> bytes:
    """All metrics now, in the Prometheus text format."""
    return generate_latest(REGISTRY)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running endpoint. `close` may be called twice."""

    host: str
    port: int
    _server: Any
    _thread: Thread

    def close(self) -> None:
        """Stop serving; returns when the thread has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(address: str) -> Endpoint:
    """Serve the metrics at `http://HOST:PORT/metrics` from a thread; port 0 takes any free one.

    Raises:
        ConfigError: the host is not loopback (there is no access control), or the port is taken.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"metrics_listen={address}: metrics are served on loopback only, such as 127.0.0.1:9447"
        )
    try:
        server, thread = start_http_server(int(port), host, REGISTRY)
    except OSError as error:
        raise ConfigError(f"metrics_listen={address}: {error.strerror}") from None
    return Endpoint(host, server.server_port, server, thread)
