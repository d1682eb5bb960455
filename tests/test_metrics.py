"""Metrics: served on loopback only, read when somebody looks, gone when closed."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from ghostfs import metrics
from ghostfs.errors import ConfigError


def get(endpoint: metrics.Endpoint) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=10) as response:
        return response.read().decode()


def test_the_endpoint_serves_and_ends() -> None:
    endpoint = metrics.serve("127.0.0.1:0")
    numbers = {"demo": 3.0}
    undo = metrics.watch("trial_bytes", "A trial", "counter", lambda: numbers)
    try:
        assert 'ghostfs_trial_bytes_total{session="demo"} 3.0' in get(endpoint)
        numbers["demo"] = 4.0
        assert 'ghostfs_trial_bytes_total{session="demo"} 4.0' in get(endpoint)
    finally:
        undo()
        endpoint.close()
        endpoint.close()
    assert b"trial" not in metrics.render()
    with pytest.raises(urllib.error.URLError):
        get(endpoint)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:0", "example.org:0", "[::]:0"])
def test_only_loopback(address: str) -> None:
    with pytest.raises(ConfigError, match="loopback only"):
        metrics.serve(address)


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="in use"):
        metrics.serve(f"127.0.0.1:{taken.getsockname()[1]}")


def test_every_metric_is_ours_and_described() -> None:
    for family in metrics.REGISTRY.collect():
        assert family.name.startswith(("ghostfs_", "process_")), family.name
        assert family.documentation, family.name
