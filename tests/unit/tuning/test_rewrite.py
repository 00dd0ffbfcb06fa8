"""A rewritten configuration differs in the changed keys alone and keeps its comments."""

from __future__ import annotations

import pytest
import yaml

from worker.errors import ConfigError
from worker.tuning.rewrite import assignments, rewrite
from worker.tuning.space import Value

CHANGES: dict[str, Value] = {"batching.buckets": (1, 64), "batching.max_batch_size": 64, "kafka.compression": "lz4"}
FILES = {
    "nothing set": "kafka:\n  group_id: g  # ours\n",
    "block": "# head\nbatching:\n  # why\n  max_batch_size: 8  # small\n  buckets:\n    - 1\n    - 8  # last\n"
    "  # tail\n\n# the brokers\nkafka:\n    group_id: g\n",
    "list at the key's column": "batching:\n  buckets:\n  - 1\n  - 8\n  max_batch_size: 8\nkafka: {group_id: g}\n",
    "flow": "kafka: {group_id: g}\nbatching: {max_batch_size: 8, buckets: [1, 8]}  # end\n",
    "empty sections": "batching:  # later\nkafka:\n",
    "no newline at the end": "kafka:\n  group_id: g\nbatching:",
    "quoted keys": '"batching":\n  "max_batch_size": 8\n',
    "null value": "batching:\n  buckets: null\nkafka: {}\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_only_the_changed_keys_differ(text: str) -> None:
    """The other values stay, and so does every comment but those inside a replaced list."""
    changed = rewrite(text, CHANGES, "by a test")
    expected = yaml.safe_load(text)
    expected["batching"] = (expected.get("batching") or {}) | {"max_batch_size": 64, "buckets": [1, 64]}
    expected["kafka"] = (expected.get("kafka") or {}) | {"compression": "lz4"}
    assert yaml.safe_load(changed) == expected
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line and "last" not in line]
    assert [comment for comment in comments if comment not in changed] == []


def test_result_reads_well() -> None:
    """New keys stand at the head of their section, or in a section of their own at the end."""
    text = "kafka:\n  group_id: g  # ours\n"
    assert rewrite(text, CHANGES, "by a test") == (
        "kafka:\n  compression: lz4  # by a test\n  group_id: g  # ours\n"
        "\n# by a test\nbatching:\n  buckets: [1, 64]\n  max_batch_size: 64\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "batching: &all\n  max_batch_size: 8\nkafka: *all\n",
        "batching: {max_batch_size: &size 8}\nflow: {max_in_flight_records: *size}\n",
        "{kafka: {group_id: g}}\n",
    ],
)
def test_what_cannot_be_changed_alone_is_refused(text: str) -> None:
    """Where another value would change too, the error names the keys to set by hand."""
    with pytest.raises(ConfigError) as caught:
        rewrite(text, CHANGES, "by a test")
    assert "kafka.compression: lz4" in caught.value.problems[0].remedy


def test_assignments_are_shown_as_yaml() -> None:
    """One line for each change."""
    assert assignments(CHANGES) == [
        "batching.buckets: [1, 64]",
        "batching.max_batch_size: 64",
        "kafka.compression: lz4",
    ]
