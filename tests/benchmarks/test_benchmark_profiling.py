"""What a picture shows besides its frames."""

from __future__ import annotations

import sys

from benchmarks.harness.places import PROJECT
from benchmarks.profiling.__main__ import _shown


def test_a_picture_has_our_title_and_no_path_of_this_machine() -> None:
    """Neither in the title, which py-spy fills with its command, nor in a frame's file."""
    command = f"{sys.prefix}/bin/py-spy record --pid 7 --output {PROJECT}/docs/profiles/a.svg"
    files = [f"{PROJECT}/worker/app.py", f"{sys.prefix}/lib/x.py", f"{sys.base_prefix}/lib/y.py"]
    titles = "".join(f"<title>run ({file}:7)</title>" for file in files)
    shown = _shown(f'<svg><text id="title" x="1">{command}</text>{titles}</svg>', "headrace at 2,000 events/s")
    assert '<text id="title" x="1">headrace at 2,000 events/s</text>' in shown
    assert all(f"<title>run ({file}:7)</title>" in shown for file in ("worker/app.py", "lib/x.py", "lib/y.py"))
