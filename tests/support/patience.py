"""Time-outs for a machine that others keep busy: in the tests' process, and in tasks, which have to ask for it first."""

from __future__ import annotations

import inspect
import sys

PATIENCE_S = 60.0
START_PATIENCE_S = 300.0


def be_patient() -> None:
    """Give operations a minute where a test names no time-out, and stores five to start.

    The defaults suit users. Here other processes may keep the machine busy for longer.
    """
    import raykv
    from raykv.actors import lifecycle
    from raykv.cli.main import cli
    from raykv.client import exchange

    lifecycle.START_TIMEOUT_S = lifecycle.ANSWER_TIMEOUT_S = START_PATIENCE_S
    given_s = exchange.DEFAULT_TIMEOUT_S
    for module in [module for name, module in sys.modules.items() if name.startswith("raykv.client.")]:
        if hasattr(module, "DEFAULT_TIMEOUT_S"):
            module.DEFAULT_TIMEOUT_S = PATIENCE_S
        for kind in filter(inspect.isclass, vars(module).values()):
            for function in filter(inspect.isfunction, vars(kind).values()):
                for name, value in (function.__kwdefaults__ or {}).items():
                    if name in {"timeout", "timeout_s"} and value == given_s:
                        function.__kwdefaults__ = (function.__kwdefaults__ or {}) | {name: PATIENCE_S}
    for option in [option for command in cli.commands.values() for option in command.params]:
        if option.name == "timeout" and option.default == given_s:
            option.default = PATIENCE_S
    assert inspect.signature(raykv.Store.get).parameters["timeout"].default == PATIENCE_S
