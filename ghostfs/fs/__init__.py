"""The mount: a live mirror as a filesystem of the kernel. pyfuse3 and trio are used here and nowhere else.

    operations    one handler a request, each as thin as can be
    boundary      exceptions in, errno out
    attributes    stat results as the kernel wants them
    handles       the numbers of open files and directories
    shortwrites   what the disk took only a part of, and is still to be said
    overlay       `.skills`, the read-only registry at a session's root
    polling       not sleeping between the requests of a busy client
    wakefulness   keeping processors awake meanwhile
    handshake     what kernel and libfuse agree on as a mount begins
    outside       what is asked of the kernel about our own mount, by a process of its own,
    outsider      which is this program
    libfuse       what libfuse itself has to say, in our log
    control       the owner's socket: status, settle, unmount, new heads
    preflight     what must hold before a mount is tried, each failure with its remedy
    mounts        the kernel's mount table
    serve         the life of a mount process, from taking the mirror to the last commit
    lifecycle     `mount` and `unmount`, as the command line calls them
    starting      the start of a mount in the background, as its starter sees it
    process       and as the process of the mount does

A mount is one process: pyfuse3 keeps its state in module globals.
"""
