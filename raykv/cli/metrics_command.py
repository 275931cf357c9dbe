"""The command metrics."""

from __future__ import annotations

import json

import click

from raykv import metrics as metrics_of
from raykv.cli import output, reading
from raykv.cli.options import examples, json_option, store_option, timeout_option
from raykv.client import administration
from raykv.client.driver import run

RAYS_PREFIX = "ray_"


@click.command(
    epilog=examples(
        "raykv metrics --store shop",
        "raykv metrics --grafana > raykv-dashboard.json",
        "raykv metrics --alerts > raykv-alerts.yml",
    )
)
@click.option("--grafana", is_flag=True, help="Print a dashboard for Grafana instead; needs no store.")
@click.option("--alerts", is_flag=True, help="Print alert rules for Prometheus instead, as YAML; needs no store.")
@click.option(
    "--own-names", is_flag=True, help=f"With these: names as this command prints them, without Ray's {RAYS_PREFIX!r}."
)
@store_option
@timeout_option
@json_option
def metrics(grafana: bool, alerts: bool, own_names: bool, store: str, timeout: float, as_json: bool) -> None:
    """Print the store's metrics in Prometheus's text format: one look at all nodes.

    Ray's own Prometheus endpoint exports the same metrics every ten seconds, as 'ray_raykv_...'.
    """
    if alerts and (grafana or as_json):
        raise click.UsageError("--alerts prints YAML: it goes with neither --grafana nor --json")
    prefix = "" if own_names else RAYS_PREFIX
    if grafana:
        click.echo(json.dumps(metrics_of.dashboard(prefix), indent=2))
        return
    if alerts:
        click.echo(metrics_of.alert_rules(prefix), nl=False)
        return
    found = metrics_of.samples(run(administration.status(timeout=timeout), reading.link_to(store)))
    if as_json:
        rows = [
            {"name": f"raykv_{each.name}{each.suffix}", "labels": each.labels, "value": each.value} for each in found
        ]
        click.echo(output.as_json(rows))
        return
    click.echo(metrics_of.exposition(found), nl=False)


COMMANDS = (metrics,)
