"""The command line: ``raykv start``, ``put``, ``get``, ``status``, ``demo`` and the rest.

``main`` has the entry point and turns every error into one line and an exit code. It imports a command's module when that is
asked for. A command looks for its store after it has checked its arguments, so that ``--help`` and typing errors answer at
once. On a host with a coordinator of the store it then goes straight to that (``reading.link_to``); only where that is not
possible it imports Ray, and joins it: that takes seconds.
"""
