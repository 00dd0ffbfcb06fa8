"""Lint, test and validate the chart: ``make helm-test``. Needs helm, helm-unittest and kubeconform.

``HELM``, ``HELM_UNITTEST`` and ``KUBECONFORM`` say how they are called, where the path does not. ``KUBERNETES_SCHEMAS``
names a folder with the schemas of Kubernetes, for machines without internet.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CHART = Path(__file__).resolve().parents[2] / "helm"
# The oldest that Chart.yaml admits, and a recent one.
KUBERNETES = ("1.27.0", "1.36.0")
LAYOUT = "{{.NormalizedKubernetesVersion}}-standalone{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json"
MISSING_TOOL = 3


def main() -> int:
    """0 when everything holds; the output of the tools is on the terminal."""
    helm, unittest, kubeconform = (
        shlex.split(os.environ.get(name, usual))
        for name, usual in (("HELM", "helm"), ("HELM_UNITTEST", "helm unittest"), ("KUBECONFORM", "kubeconform"))
    )
    missing = {command[0] for command in (helm, unittest, kubeconform) if shutil.which(command[0]) is None}
    if missing:
        say(f"not found: {', '.join(sorted(missing))}; docs/deployment.md says how to get them")
        return MISSING_TOOL
    examples = sorted((CHART / "ci").glob("*-values.yaml"))
    passed = run([*helm, "lint", "--strict", "--quiet", str(CHART)])
    passed &= run([*unittest, str(CHART)])
    for example in examples:
        values = ["--values", str(example)]
        passed &= run([*helm, "lint", "--strict", "--quiet", str(CHART), *values])
        rendered = subprocess.run([*helm, "template", "check", str(CHART), *values], check=True, capture_output=True)
        passed &= all(validate(kubeconform, version, example.name, rendered.stdout) for version in KUBERNETES)
    return 0 if passed else 1


def say(text: str) -> None:
    """Tell what comes next, or what is wrong."""
    sys.stderr.write(f"helm-test: {text}\n")


def run(command: list[str]) -> bool:
    """True when the command succeeds."""
    say(shlex.join(command))
    return subprocess.run(command, check=False).returncode == 0


def validate(kubeconform: list[str], version: str, name: str, manifests: bytes) -> bool:
    """True when the objects fit the schemas of this version of Kubernetes."""
    say(f"{name} on Kubernetes {version}")
    folder = os.environ.get("KUBERNETES_SCHEMAS")
    where = [] if folder is None else ["-schema-location", f"{folder}/{LAYOUT}"]
    command = [*kubeconform, "-strict", "-summary", "-kubernetes-version", version, *where, "-"]
    return subprocess.run(command, input=manifests, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
