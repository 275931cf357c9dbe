"""The command line: ``raykv start``, ``put``, ``get``, ``status``, ``demo`` and the rest.

``main`` has the entry point and turns every error into one line and an exit code. A command imports Ray only after it has
checked its arguments, so that ``--help`` and typing errors answer at once.
"""
