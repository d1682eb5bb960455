"""The live side of a mirror: the tree is used here, and every change of it is captured.

    session     owning a mirror from start to end: make, open, recover, close
    settings    how it is to work
    mirror      the operations of a filesystem, over files and inodes
    files       open files: every write goes into the file's block map as it happens
    changed     changed inodes, as the capture thread reads them until the index has them
    closed      descriptors of files that were closed and are not settled yet: only so many
    nameless    descriptors of what lost its last name before the kernel forgot it: only so many
    inodes      who is who, where each is now, what it looks like
    listings    the names in directories in use, as the index has them
    records     what is remembered of an inode in use
    cells       from what lstat says to the values of a cell
    working     what the tree has and the index has not, logged before it happens
    settle      when a changed file settles; pure
    settling    how it does: its content as of one moment, read while it goes on changing
    gather      from the working set to cells
    gathered    one commit in the making
    capture     the thread that commits, a group at a time
    spool       blocks of files that never rest, and which of them to keep: spooling
    reconcile   going through a tree that nobody watched, whole or by names; what is gone
    recognition which inode each thing found in such a tree is
    comparison  what has changed of an inode: attributes, and content where that must be read
    findings    what an index must learn, and the transaction in which it does
    rights      reading what modes forbid an owner who is not root
    verify      the whole tree against the index
    retention   how long deleted names are remembered
    hashing     files read and hashed by a pool of threads
    directories descriptors of directories, by inode id
    identities  a stock of inode ids

An operation holds the working set's lock while it logs, makes its system call and notes what changed; the
capture thread holds it only to take what is ready and to seal it. Nothing slow happens under it.
"""
