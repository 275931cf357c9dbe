"""The command line: ``raykv start``, ``put``, ``get``, ``status``, ``demo`` and the rest.

``main`` has the entry point and turns every error into one line and an exit code. Ray is imported only by a command
that has checked its arguments and is about to do something, so that ``--help`` and a typing error answer at once.
"""
