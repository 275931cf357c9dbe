"""The operating system behind the ports: files, clocks, threads, counters, and which process holds a directory."""
