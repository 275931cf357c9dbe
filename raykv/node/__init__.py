"""One storage node, put together: the handlers, the engine, and the shell around them.

``node`` takes frames, lets answers out, and runs the disk's work; ``group_commit`` holds answers until the log is durable.
"""
