"""The processes that move changes between machines, and own no mount.

    hub            serves the sessions of a data directory
    node           keeps copies of a hub's sessions below a directory
    preflight      what must hold before either is started
    lifecycle      signals, readiness, metrics, leaving in time

Started by `ghostfs hub` and `ghostfs node`; asyncio and gRPC, through `ghostfs.mesh`.
"""
