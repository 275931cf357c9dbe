"""What is made of the figures: words for a terminal, tables for the README, plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.viz import bars_svg, lines_svg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BEGIN = "<!-- figures of scripts/bench: begin -->"
END = "<!-- figures of scripts/bench: end -->"
SIDES = ("raykv", "raykv, lww", "Redis", "dict actor", "internal_kv", "etcd", "a bare async actor call")
HEADS = {"raykv, lww": "raykv, `lww`", "internal_kv": "`internal_kv`", "a bare async actor call": "bare actor call"}


def number(value: float) -> str:
    """Return a number with three figures that count."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def figure(value: float, unit: str) -> str:
    """Return a value with its unit, in the size that suits it."""
    if unit == "B":
        return f"{number(value / 2**20)} MiB"
    if unit == "us":
        return f"{number(value / 1000)} ms" if value >= 1000 else f"{number(value)} us"
    return f"{number(value)}/s"


def _range(ratio: dict[str, Any]) -> str:
    return f"{ratio['min']:.2f}-{ratio['max']:.2f}"


# ---- for a terminal ----


def text(found: dict[str, Any]) -> str:
    """Return everything that was measured, to be read at a terminal."""
    lines = [setting(found)]
    for who, why in {**found.get("skipped", {}), **found.get("engine", {}).get("skipped", {})}.items():
        lines.append(f"left out: {who}: {why}")
    if floors := found.get("floors"):
        lines += ["", *_columns([_HEAD, *map(_terminal_row, floors["rows"])])]
        for row in floors["rows"]:
            seen = {key: row[key] for key in ("behind", "outcomes", "longest_silence_s") if key in row}
            if row.get("amiss") or seen:
                lines.append(
                    f"  {row['what']}: amiss {row.get('amiss', 0)}" + "".join(f", {k} {v}" for k, v in seen.items())
                )
        lines += ["", *_columns(_beside(floors))]
        lines += [f"  many at once, the fastest way found: {who}: {way}" for who, way in floors["chosen"].items()]
        if floors["refused"]:
            lines.append(
                f"  of the concurrent operations, {floors['refused']:,} were refused with Overloaded and retried"
            )
    if ycsb := found.get("ycsb"):
        lines += ["", *_columns(_ycsb(ycsb))]
    if growth := found.get("growth"):
        for what, figures in growth.items():
            lines += ["", *_columns(_growth(what, figures))]
    if linearizable := found.get("linearizable"):
        lines += ["", *_columns(_linearizable(linearizable["rows"])), "", *_columns(_gaps(linearizable["gaps"]))]
        lines += [f"  many at once, the fastest way found: {who}: {way}" for who, way in linearizable["chosen"].items()]
    if queue := found.get("queue"):
        lines += ["", *_columns(_queue(queue["rows"])), *_queue_consumers(queue["killed"], queue["idle"])]
    if scans := found.get("scans"):
        lines += ["", *_columns(_scans(scans))]
    if commands := found.get("commands"):
        lines += ["", *_columns(_commands(commands))]
    if values := found.get("values"):
        lines += ["", *_columns(_by_pickle(values)), "", *_columns(_pairs(values["pairs"]))]
    if data := found.get("data"):
        lines += ["", *_columns(_data(data)), *_killed(data)]
    if engine := found.get("engine"):
        lines += ["", *_columns(_engine(engine))]
        lines.append(f"  {engine['records']:,} records, {number(engine['bytes'] / 2**20)} MiB of keys and records")
    return "\n".join(lines)


def setting(found: dict[str, Any]) -> str:
    """Return where, when and how it was measured."""
    machine, settings, versions = found["machine"], found["settings"], found["machine"]["versions"]
    peers = f", redis-py {versions['redis']}" if versions["redis"] else ""
    hiredis = " with hiredis" if versions["hiredis"] else ""
    quick = "; a quick run, its figures say nothing" if settings["quick"] else ""
    rounds = f"{settings['rounds']} alternating round{'s' if settings['rounds'] != 1 else ''}"
    return (
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, load {machine['load_at_start'][0]:g} at the start, "
        f"Python {machine['python']}, Ray {versions['ray']}{peers}{hiredis}, "
        f"raykv {machine['commit'] or versions['raykv']}; "
        f"{rounds}, durability {settings['durability']}{quick}"
    )


_HEAD = ["measure", "raykv", "beside it", "", "ratio", "min-max", "floor", "aim", ""]


def _terminal_row(row: dict[str, Any]) -> list[str]:
    bounds = ["", ""] if row["floor"] is None else [f"{row['floor']:g}", f"{row['aim']:g}"]
    return [
        row["what"], figure(row["ours"]["median"], row["unit"]), row["beside"], figure(row["theirs"]["median"], row["unit"]),
        f"{row['ratio']['median']:.2f}", _range(row["ratio"]), *bounds, row["verdict"],
    ]  # fmt: skip


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# ---- rows that both have ----


def _beside(floors: dict[str, Any]) -> list[list[str]]:
    sides = [side for side in SIDES if any(side in figures for figures in floors["beside"].values())]
    rows = [["", *sides]]
    for what, figures in floors["beside"].items():
        cells = [figure(figures[side]["median"], figures["unit"]) if side in figures else "" for side in sides]
        rows.append([f"{what}, p50" if figures["unit"] == "us" else what, *cells])
    return rows


def _ycsb(ycsb: dict[str, Any]) -> list[list[str]]:
    rows = [["YCSB", "", "raykv", "Redis", "ratio", "min-max"]]
    for name, figures in ycsb["workloads"].items():
        rates = [figure(figures[s]["ops_per_s"]["median"], "1/s") if s in figures else "" for s in ("raykv", "Redis")]
        ratio = figures.get("ratio")
        rows.append(
            [name, figures["what"], *rates, *([f"{ratio['median']:.2f}", _range(ratio)] if ratio else ["", ""])]
        )
    return rows


def _growth(what: str, figures: dict[str, Any]) -> list[list[str]]:
    kinds = [kind for kind in next(iter(figures.values())) if kind != "chosen"]
    names = {kind: list(next(iter(figures.values()))[kind]) for kind in kinds}
    rows = [[what.replace("_", " "), *(f"{kind}: {side}" for kind in kinds for side in names[kind])]]
    for at, seen in figures.items():
        rows.append([at, *(number(seen[kind][side]["median"]) for kind in kinds for side in names[kind])])
    return rows


def _linearizable(measured: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [["linearizable bucket", "", "beside it", "", "ratio", "min-max", "target", ""]]
    for row in measured:
        least = f" and >= {row['least_rate']:,.0f}/s" if row["least_rate"] else ""
        rows.append(
            [row["what"], figure(row["ours"]["median"], row["unit"]), row["beside"],
             figure(row["theirs"]["median"], row["unit"]), f"{row['ratio']['median']:.2f}", _range(row["ratio"]),
             f"{'<=' if row['bound'] == 'most' else '>='} {row['target']:g}{least}",
             row["verdict"] + (f" ({row['amiss']} amiss)" if row.get("amiss") else "")]
        )  # fmt: skip
    return rows


def _queue(measured: Sequence[dict[str, Any]]) -> list[list[str]]:
    head = ["work queue, 8 consumers", "", "beside it", "", "ratio", "min-max", "target", ""]
    return [head, *map(_queue_row, measured)]


def _queue_row(row: dict[str, Any]) -> list[str]:
    return [
        row["what"], figure(row["ours"]["median"], row["unit"]), row["beside"],
        figure(row["theirs"]["median"], row["unit"]), f"{row['ratio']['median']:.2f}", _range(row["ratio"]),
        f">= {row['target']:g}", row["verdict"],
    ]  # fmt: skip


def _queue_consumers(killed: dict[str, Any], idle: dict[str, float]) -> list[str]:
    return [
        f"  {killed['jobs']:,} jobs, {killed['killed']} of {killed['consumers']} consumers killed: {killed['missing']} not "
        f"done, {killed['duplicates']} done twice, of {killed['jobs_under_way']} in {killed['claims_under_way']} claims "
        f"under way then; {killed['seconds']:g} s, lease {killed['lease_s']:g} s: {killed['verdict']}",
        f"  a consumer that waits for nothing: {number(idle['requests_per_s'])} requests/s at all nodes together, which "
        f"take them {1000 * idle['node_s_per_s']:.2g} ms a second",
    ]


def _gaps(measured: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [["longest gap in service", "median", "min-max", "before", "target", ""]]
    for row in measured:
        failed = f" ({row['amiss']} failed)" if row["amiss"] else ""
        rows.append(
            [row["what"], f"{row['gap_s']['median']:.2f} s", _range(row["gap_s"]), f"{row['calm_s']['median']:.2f} s",
             f"<= {row['target_s']:g} s", row["verdict"] + failed]
        )  # fmt: skip
    return rows


def _commands(commands: dict[str, Any]) -> list[list[str]]:
    rows = [["at the shell", "straight", "min-max", "by Ray", "min-max", "target"]]
    for row in commands["rows"]:
        cells = []
        for side in ("straight", "by Ray"):
            took = row[side]
            cells += [f"{took['median']:.2f} s", f"{took['min']:.2f}-{took['max']:.2f}"]
        verdict = "met" if row["straight"]["median"] <= commands["target_s"] else "missed"
        fell_back = f" ({row['fell_back']} of them by Ray)" if row["fell_back"] else ""
        rows.append([row["what"], *cells, f"<= {commands['target_s']:g} s: {verdict}{fell_back}"])
    return rows


def _scans(scans: dict[str, Any]) -> list[list[str]]:
    rows = [[f"scans, {scans['records']:,} records of {scans['record_bytes']} bytes", "median", "p99", "target"]]
    for row in scans["rows"]:
        if "per_s" in row:
            rows.append([row["what"], f"{number(row['per_s'])}/s", "", row["target"]])
        else:
            rows.append([row["what"], f"{row['p50_ms']:.2f} ms", f"{row['p99_ms']:.2f} ms", row["target"]])
    e = scans["ycsb_e"]
    rows.append(["YCSB E in a grouped bucket", f"{number(e['raykv']['median'])}/s", "", ""])
    if "ratio" in e:
        rows.append(["the same, Redis", f"{number(e['Redis']['median'])}/s", "", ""])
        rows.append(["ratio", f"{e['ratio']['median']:.2f}", _range(e["ratio"]), e["target"]])
    return rows


def _by_pickle(values: dict[str, Any]) -> list[list[str]]:
    rows = [["values", "", "raykv", "by pickle", "ratio", "min-max", "bytes", "by pickle"]]
    for codec, stored in zip(values["codec"], values["stored"], strict=True):
        size = [f"{codec['raykv_bytes']:,}", f"{codec['pickle_bytes']:,}"]
        for kind, row in (
            *((kind, codec[kind]) for kind in ("encode", "decode")),
            *((kind, stored[kind]) for kind in ("put", "get")),
        ):
            times = [f"{row[f'{side}_us']['median']:.1f} us" for side in ("raykv", "pickle")]
            rows.append([codec["what"], kind, *times, f"{row['ratio']['median']:.2f}", _range(row["ratio"]), *size])
    return rows


def _pairs(pairs: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["pairs of", "put p50", "p99", "get p50", "p99", "written", "a node's memory before", "after"]]
    for pair in pairs:
        times = [f"{pair[kind][share]:.2f} ms" for kind in ("put", "get") for share in ("p50_ms", "p99_ms")]
        memory = [f"{pair['node_mib'][when]:.0f} MiB" for when in ("before", "after")]
        rows.append([f"{pair['pair_bytes']:,} bytes", *times, f"{pair['written_bytes'] / 2**20:.0f} MiB", *memory])
    return rows


def _data(data: dict[str, Any]) -> list[list[str]]:
    rows = [
        [f"ray.data, {data['records']:,} records of GeoNames", "median", "beside", "", "ratio", "min-max", "target", ""]
    ]
    for row in data["rows"]:
        ratio = row["ratio"]["median"]
        rows.append([
            row["what"], f"{number(row['rate']['median'])}/s", row["beside"], f"{number(row['its']['median'])}/s",
            f"{ratio:.2f}", _range(row["ratio"]), f">= {row['target']:g}", "met" if ratio >= row["target"] else "MISSED",
        ])  # fmt: skip
    return rows


def _killed(data: dict[str, Any]) -> list[str]:
    killed = data["killed"]
    return [
        f"  while storage processes were killed: {killed['written']:,} written at {number(killed['write_per_s'])}/s "
        f"({killed['kills_while_written']} kills, {killed['retries']:,} puts sent again), all read at "
        f"{number(killed['read_per_s'])}/s ({killed['kills_while_read']} kills): equal, each exactly once",
        f"  the first job of a cold Ray took {data['cold_s']:.1f} s: its workers import Ray Data and pandas",
    ]


def _engine(engine: dict[str, Any]) -> list[list[str]]:
    peers = [side for side in engine["sides"] if not side.startswith("raykv")]
    rows = [["one storage engine", "", "", *peers, "to RocksDB", "min-max", "floor", "aim", ""]]
    for row in engine["rows"]:
        beside = [figure(engine["sides"][peer][row["name"]]["median"], row["unit"]) for peer in peers]
        ratio = [f"{row['ratio']['median']:.2f}", _range(row["ratio"])] if row["ratio"] else ["", ""]
        sign = "<=" if row["bound"] == "most" else ">="
        bounds = ["", ""] if row["floor"] is None else [f"{sign} {row['floor']:g}", f"{sign} {row['aim']:g}"]
        ours = figure(row["ours"]["median"], row["unit"])
        rows.append([row["what"], row["side"], ours, *beside, *ratio, *bounds, row["verdict"]])
    return rows


# ---- for the README ----


def readme(page: str, found: dict[str, Any]) -> str:
    """Return the page with the tables between its two marks made anew."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"README.md needs the lines {BEGIN} and {END}, once each")
    before, rest = page.split(BEGIN)
    return before + "\n".join([BEGIN, *_tables(found), END]) + rest.split(END)[1]


def _tables(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if floors := found.get("floors"):
        (_, *sides), *rows = _beside(floors)
        lines += _table([["median", *(HEADS.get(side, side) for side in sides)], *rows])
        lines += [
            "",
            "Ratios, from sides measured in turn: of the rounds the median, and the least and the greatest.",
            "",
        ]
        lines += _table([["raykv", "to", "ratio", "min-max", "better"], *map(_readme_row, floors["rows"])])
    if ycsb := found.get("ycsb"):
        lines += ["", f"YCSB, {ycsb['records']:,} records of {ycsb['record_bytes']:,} bytes, one client:", ""]
        lines += _table([["workload", "", "raykv", "Redis", "ratio", "min-max"], *_ycsb(ycsb)[1:]])
    left_out = "".join(f" Not measured here: {who}." for who in found.get("skipped", {}))
    return [*lines, "", f"({setting(found)}.{left_out})"]


def _readme_row(row: dict[str, Any]) -> list[str]:
    seen = f" ({row['amiss']:,} failed)" if "amiss" in row else ""
    if row.get("behind"):
        seen += f" (it piled up in {row['behind']} of {len(row['ratio']['rounds'])} rounds)"
    better = "less" if row["bound"] == "most" else "more"
    return [row["what"] + seen, row["beside"], f"{row['ratio']['median']:.2f}", _range(row["ratio"]), better]


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    head, *rest = rows
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rest:
        yield "| " + " | ".join(row) + " |"


# ---- plots ----


def plots(found: dict[str, Any]) -> dict[str, str]:
    """Return the plots, name -> SVG."""
    drawn: dict[str, str] = {}
    if floors := found.get("floors"):
        drawn["one_client"] = bars_svg(
            _by_side(floors, ("get", "put")), x="one client", y="microseconds, p50", title="One operation after another"
        )
        many = [what for what, figures in floors["beside"].items() if figures["unit"] == "1/s"]
        drawn["many"] = bars_svg(
            _by_side(floors, many), x="", y="thousand keys a second", title="Many at once, and many in a call"
        )
    if ycsb := found.get("ycsb"):
        bars = {
            side: {name: f[side]["ops_per_s"]["median"] for name, f in ycsb["workloads"].items() if side in f}
            for side in ("raykv", "Redis")
        }
        drawn["ycsb"] = bars_svg(
            {side: series for side, series in bars.items() if series},
            x="YCSB workload", y="operations a second", title="YCSB, zipfian, one client",
        )  # fmt: skip
    if growth := found.get("growth"):
        drawn |= _growth_plots(growth)
    return drawn


def _by_side(floors: dict[str, Any], operations: Sequence[str]) -> dict[str, dict[str, float]]:
    bars: dict[str, dict[str, float]] = {}
    for side in SIDES:
        for what in operations:
            figures = floors["beside"][what]
            if side in figures:
                scale = 1000 if figures["unit"] == "1/s" else 1
                bars.setdefault(side, {})[what] = figures[side]["median"] / scale
    return bars


def _growth_plots(growth: dict[str, Any]) -> dict[str, str]:
    wanted = (
        ("value_bytes", "get_p50_us", "get, one client", "bytes of a value", "microseconds, p50", "xy"),
        ("value_bytes", "put_p50_us", "put, one client", "bytes of a value", "microseconds, p50", "xy"),
        ("clients", "ops_per_s", "Throughput by clients at once", "tasks of one process", "gets a second", "xy"),
        ("clients", "p99_us", "Latency by clients at once", "tasks of one process", "microseconds, p99", "xy"),
        ("nodes", "get_p50_us", "get, one client", "nodes, on one machine", "microseconds, p50", ""),
        ("nodes", "ops_per_s", "256 clients at once", "nodes, on one machine", "gets a second", ""),
    )
    drawn = {}
    for over, kind, title, x, y, log in wanted:
        lines: dict[str, list[tuple[float, float]]] = {}
        for at, figures in growth[over].items():
            for side, seen in figures[kind].items():
                lines.setdefault(side, []).append((float(at), seen["median"]))
        drawn[f"{over}_{kind}"] = lines_svg(lines, x=x, y=y, log=log, title=title)
    return drawn
