"""Deltas and blocks between machines, over gRPC on asyncio. `docs/wire-protocol.md` has the rules of the wire.

Both sides:
    codec          cells between protobuf and the model, validated on receipt
    compression    zstd per message, where it pays
    blockmessage   blocks to and from the wire's bytes, with fewer copies than protobuf
    transport      gRPC's options; which addresses; status codes and errors
    workers        threads for what blocks
    heap           memory of large messages, used again
    status, client what a hub says of itself, for the command line

The hub:
    hubservice     the gRPC servicer over one data directory
    calls          those under way: their errors, their end
    follow         one node's stream: delta or snapshot, acknowledged one by one
    outgoing       one batch, spooled, sent at the node's pace
    firstsync      the snapshot of one node: chosen, leased
    snapshots      frozen indexes, shared and resumed, few
    fetchserver    one Fetch
    blocks         blocks out of a tree, by inode, verified
    whereabouts    where the index has an inode, and whether the tree bears that out
    unreadable     what the hub may not or cannot read, said once
    sources        the sessions that are watched, until they are removed
    heads, owner   who has committed what, pushed or polled
    indexpool      read-only connections to an index
    roster, statusreport  who follows, how fast, how far behind

A node:
    link           the connection to the hub, and enrolment
    follower       the loop of one session
    incoming       events into batches
    fetcher        blocks, under a window of bytes
    backoff, identity

Imports mirror, index, content and below; never fs. All state of an event loop stays in that loop; whatever
touches a disk runs in `workers`.
"""
