"""One storage node, put together: the handlers, the engine, and the shell that waits for the log."""
