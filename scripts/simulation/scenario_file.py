"""Scenarios as JSON files: a failing run, shrunk, for a rerun by the file's recipient.

The file has all that a run is made of; with the same file and the same code the same happens. A damaged file, or one
that names what is not in its cluster, is refused at the door (``CorruptData``), not found out in the middle of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from raykv.errors import CorruptData, RaykvError
from raykv.sim.cluster import DIRECT, SUPERVISOR
from raykv.sim.faults import CENTRAL, ELASTIC, LEADERS
from simulation.blocking_link import BLOCKING
from simulation.scenario import Scenario

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2
MAX_FILE_BYTES = 64 << 20


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    raykv_scenario: int
    """The format of the file, which distinguishes it from other JSON."""
    scenario: Scenario


def save(scenario: Scenario, path: Path) -> None:
    """Write a scenario to a file."""
    data = msgspec.json.encode(_File(raykv_scenario=FORMAT, scenario=scenario))
    path.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def load(path: Path) -> Scenario:
    """Read a scenario. Raises ``OSError``, and ``CorruptData`` if the file does not hold one that can be run."""
    data = path.read_bytes()
    if len(data) > MAX_FILE_BYTES:
        raise CorruptData(f"{path} is not a scenario file: it has {len(data)} bytes")
    try:
        form: Any = msgspec.json.decode(data)
        if not isinstance(form, dict) or "raykv_scenario" not in form:
            raise CorruptData("it does not say raykv_scenario")
        if form["raykv_scenario"] != FORMAT:
            raise CorruptData(f"it has format {form['raykv_scenario']!r:.20}; this raykv reads {FORMAT}")
        scenario = msgspec.json.decode(data, type=_File).scenario
        _check(scenario)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RaykvError) as error:
        raise CorruptData(f"{path} is not a scenario file: {error}") from None
    return scenario


def _check(scenario: Scenario) -> None:
    """Raise ``CorruptData`` if the parts do not fit together."""
    spec = scenario.cluster
    copies = spec.store.copies
    if copies > spec.nodes or spec.coordinators < 1:
        raise CorruptData(f"{copies} copies, {spec.nodes} nodes and {spec.coordinators} coordinators make no cluster")
    if not (1 <= scenario.r <= copies and 1 <= scenario.w <= copies):
        raise CorruptData(f"r={scenario.r} and w={scenario.w} do not fit {copies} copies")
    nodes, coordinators = {*spec.node_ids}, {*spec.coordinator_names}
    clients = {program.client for program in scenario.programs if program.coordinator in {DIRECT, BLOCKING}}
    for fault in scenario.faults:
        if fault.kind in LEADERS:
            continue  # its target is a key
        central = {SUPERVISOR, *coordinators} | (nodes if fault.kind == "clock jump" else set())
        if fault.kind == "freeze coordinator" or fault.kind.startswith("clock"):
            central |= clients
        if fault.target not in (central if fault.kind in (*CENTRAL, *ELASTIC, "kill all") else nodes):
            raise CorruptData(f"there is no {fault.target!r} for {fault.kind!r}")
    for rig_fault in scenario.rig_faults:
        if rig_fault.target not in (coordinators | clients if rig_fault.kind == "stop while it sends" else nodes):
            raise CorruptData(f"there is no {rig_fault.target!r} for {rig_fault.kind!r}")
    for program in scenario.programs:
        if program.coordinator not in coordinators | {DIRECT, BLOCKING}:
            raise CorruptData(f"{program.client} asks {program.coordinator!r}, which is not there")
        if any(not step.keys for step in program.steps):
            raise CorruptData(f"a step of {program.client} has no key")
