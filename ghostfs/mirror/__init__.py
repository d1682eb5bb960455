"""One mirror: a tree and its index. Nothing else writes a tree.

    live        a tree in use: operations, capture, recovery, verification; what a mount owns
    replica     a tree that follows another one: planning, staging, publishing; what a node owns

The two know nothing of each other. What both stand on:

    layout      where everything lies
    owner       the lock that makes one process the owner
    syscalls    what Python's `os` lacks
    control     talking to the owner of a mirror
    privileges  what this process may do
    xattrs      user attributes: read, and as a value
"""
