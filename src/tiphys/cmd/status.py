"""`tiphys status`: every process with its state, memory and restarts; nodes; addresses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.control import ControlClient
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.cmd.flags import FlagParser


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys status`; exit status 1 when the cluster does not run."""
    flags = FlagParser("status", "Show the processes, nodes and addresses of a cluster.")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    flags.add_argument("-o", "--output", choices=("json", "wide"), help="json for programs, wide for command lines too")
    options = flags.parse(arguments)
    layout = Layout.of(options.name, options.state_dir)
    spec = specs.load(layout.spec)
    control = ControlClient.connect(layout)
    report = control.ask("status") if control is not None else None
    document = describe(options.name, spec, layout, report)
    if options.output == "json":
        print(json.dumps(document, indent=2))
    else:
        print(render(document, wide=options.output == "wide"))
    return 0 if report is not None else 1


def describe(name: str, spec: ClusterSpec | None, layout: Layout, report: dict[str, Any] | None) -> dict[str, Any]:
    """What is known, for programs; memory in bytes (PSS)."""
    state = "running" if report is not None else "stopped" if spec is not None else "absent"
    document: dict[str, Any] = {"name": name, "state": state, "processes": [], "nodes": []}
    if spec is not None:
        document["stateDir"] = str(layout.state)
        document["logs"] = str(layout.logs)
        document["kubeconfig"] = spec.kubeconfig
        document["server"] = f"https://127.0.0.1:{spec.api_port}"
        document["nodes"] = [{"name": node.name, "address": spec.node_address(node)} for node in spec.nodes]
    if report is not None:
        document.update(report)
        running = {row["name"].partition("/")[0] for row in report["processes"] if "/" in row["name"] and row["pid"]}
        for node in document["nodes"]:
            node["state"] = "running" if node["name"] in running else "stopped"
    return document


def render(document: dict[str, Any], *, wide: bool = False) -> str:
    """The document as a person reads it."""
    lines = [f'Cluster "{document["name"]}" is {document["state"]}.']
    for label, key in (("API server", "server"), ("kubeconfig", "kubeconfig"), ("state", "stateDir"), ("logs", "logs")):
        if key in document:
            lines.append(f"  {label:<12}{document[key]}")
    if document["processes"]:
        rows = [["PROCESS", "STATE", "PID", "MEMORY", "RESTARTS", "UP"]]
        supervisor = document["supervisor"]
        rows.append(["supervisor", "ready", str(supervisor["pid"]), _mebibytes(supervisor["memory"]), "0", ""])
        rows += [_cells(row) for row in document["processes"]]
        lines += ["", *table(rows)]
        total = sum(row["memory"] or 0 for row in [supervisor, *document["processes"]])
        lines.append(f"{len(document['processes']) + 1} processes, {_mebibytes(total)} in all")
        if wide:
            lines += ["", *(row["command"] for row in document["processes"])]
    if document["nodes"]:
        rows = [["NODE", "ADDRESS", "PROCESSES"]]
        rows += [[node["name"], node["address"], node.get("state", "stopped")] for node in document["nodes"]]
        lines += ["", *table(rows)]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    memory, age = _mebibytes(row["memory"]), _seconds(row["seconds"])
    return [row["name"], row["state"], str(row["pid"] or ""), memory, str(row["restarts"]), age]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, three spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _mebibytes(size: int | None) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size is not None else ""


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"
