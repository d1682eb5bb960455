"""GhostFS: a real directory for every agent session, hashed as it is written, mirrored live to other machines.

The map, lowest first. A part imports only parts below it, and never the part beside it; import-linter
holds that in CI (the rules, each with its reason, are in `pyproject.toml`).

    model, errors      the words as types; every exception a person can cause or mend
    names              which file, session and node names may exist
    private            state that only its user may read
    config             settings: flags, then environment, then one file, then defaults
    logs, metrics      structured events; counters, and the endpoint that shows them
    content            blocks and hashing; pure
    index              SQLite: cells, deltas, the running fingerprint, the dirty log; the only SQL
    mirror             one tree and its index: capture, recover, plan, publish; the only writer of a tree
    fs                 the mount: pyfuse3 and trio live here and nowhere else
    mesh               deltas and blocks between machines: grpc and asyncio live here (and in daemon)
    daemon             the hub and node processes
    cli                the command; the only reader of argv, the only printer
    v1                 code generated from `proto/ghostfs/v1/` by `sh proto/generate.sh`

A mount is one process a session, and loads no gRPC. A hub reads what mounts have committed; a node
owns its copies itself, and mounts nothing. `docs/architecture.md` says how they work together.
"""

__version__ = "0.1.0"
