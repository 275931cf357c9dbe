"""The operating system behind the ports: files, clocks, threads, and which process holds a directory.

**The idea.** The core reaches the world through ``ports`` only. Here are the real ones for a process on Linux or
macOS; ``sim`` has the others. What they promise stands in ``ports``; what the operating system does instead is dealt
with here.

* ``files``: ``FileSystem`` over real files: what is durable, and in which order (``F_FULLFSYNC`` on macOS).
* ``process``: clocks, randomness, the executor's threads, counters.
* ``helper``: a process that does a node's flushes and compactions, and ends with it.
* ``descriptors``: how many files and sockets a process may have open, and what is kept back for the files.
* ``directories``: where this user's data and caches are.
* ``holder``: which process holds a node's directory, and how one that was given up is ended: only where the kernel
  proves that it is the one.

**Left out.** Windows: locks, ``fsync`` and signals differ enough that raykv refuses to start there.
"""
