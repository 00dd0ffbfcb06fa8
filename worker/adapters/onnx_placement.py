"""Which provider runs which node of a graph, and what that means on a device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

PROVIDERS: Final = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
SHORT_NAMES: Final = {name: short for short, name in PROVIDERS.items()}
NAMED_NODES: Final = 10
"""So many nodes are named in a sentence; a large graph has thousands."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A graph's nodes by the provider that runs them, after optimisation.

    ``counts`` are by short provider name. ``on_cpu`` names each node that runs on the CPU as ``Operator 'name'``; the
    operator of another domain than ONNX's own comes with it, such as ``ai.onnx.ml:TreeEnsembleRegressor``.
    """

    counts: dict[str, int]
    on_cpu: tuple[str, ...]

    def left_behind(self, provider: str) -> str | None:
        """A sentence that names nodes which ``provider`` leaves to the CPU; None where there are none."""
        if provider == "cpu" or not self.on_cpu:
            return None
        named = ", ".join(self.on_cpu[:NAMED_NODES])
        more = f" and {len(self.on_cpu) - NAMED_NODES} more" if len(self.on_cpu) > NAMED_NODES else ""
        total = sum(self.counts.values())
        return f"{len(self.on_cpu)} of {total} nodes run on the cpu, not on {provider}: {named}{more}"


def read_placement(session: Any) -> Placement:
    """What the session noted when it divided the graph; it must have been asked to note it."""
    counts: Counter[str] = Counter()
    on_cpu: list[str] = []
    for part in session.get_provider_graph_assignment_info():
        nodes = part.get_nodes()
        counts[SHORT_NAMES.get(part.ep_name, part.ep_name)] += len(nodes)
        if part.ep_name == PROVIDERS["cpu"]:
            on_cpu.extend(_named(node) for node in nodes)
    return Placement(dict(counts), tuple(on_cpu))


def _named(node: Any) -> str:
    domain = "" if node.domain in {"", "ai.onnx"} else f"{node.domain}:"
    return f"{domain}{node.op_type} '{node.name}'"
