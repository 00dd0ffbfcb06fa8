"""The contracts in ``schemas/`` are valid, and their samples and broken variants are judged as they say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from worker import resources

CONTRACTS = ("transaction", "scored", "dead-letter-headers")

# What the worker's own compiler enforces or accepts as an annotation.
KEYWORDS = {
    *("$schema", "$id", "title", "description", "examples", "format", "default"),
    *("type", "properties", "required", "enum", "anyOf", "pattern"),
    *("minimum", "maximum", "minLength", "maxLength"),
}


def schema_of(name: str) -> dict[str, Any]:
    """The contract called ``name``."""
    document: dict[str, Any] = json.loads(resources.path(f"schemas/{name}.schema.json").read_text(encoding="utf-8"))
    return document


def sample_of(name: str) -> dict[str, Any]:
    """The sample beside the contract called ``name``."""
    document: dict[str, Any] = json.loads(resources.path(f"schemas/samples/{name}.json").read_text(encoding="utf-8"))
    return document


def judge(name: str, value: object) -> bool:
    """Whether ``value`` satisfies the contract, formats included."""
    validator = jsonschema.Draft202012Validator(schema_of(name), format_checker=jsonschema.FormatChecker())
    return validator.is_valid(value)


def keywords_in(schema: dict[str, Any]) -> set[str]:
    """All keywords of a schema and of the schemas inside it."""
    found = set(schema)
    for child in [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]:
        found |= keywords_in(child)
    return found


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract_is_valid_json_schema(name: str) -> None:
    """Each contract is itself valid JSON Schema 2020-12 and uses only keywords that the worker understands."""
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert keywords_in(schema) <= KEYWORDS


@pytest.mark.parametrize("name", CONTRACTS)
def test_sample_satisfies_contract(name: str) -> None:
    """Each sample satisfies its contract and fills every declared field that has no condition."""
    assert judge(name, sample_of(name))
    assert set(schema_of(name)["required"]) <= set(sample_of(name))


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_required_field_is_required(name: str) -> None:
    """Leaving out any required field breaks the contract."""
    for field in schema_of(name)["required"]:
        broken = {key: value for key, value in sample_of(name).items() if key != field}
        assert not judge(name, broken), field


@pytest.mark.parametrize("name", CONTRACTS)
def test_examples_satisfy_their_field(name: str) -> None:
    """Each example, put into the sample, leaves it valid."""
    examples = [
        (field, example)
        for field, schema in schema_of(name)["properties"].items()
        for example in schema.get("examples", [])
    ]
    assert [pair for pair in examples if not judge(name, sample_of(name) | {pair[0]: pair[1]})] == []


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("transaction", "amount", -1),
        ("transaction", "amount", "41.27"),
        ("transaction", "is_night", 1),
        ("transaction", "customer_count_1d", 0),
        ("transaction", "customer_count_1d", 1.5),
        ("transaction", "terminal_fraud_share_30d", 1.01),
        ("transaction", "currency", "euro"),
        ("transaction", "channel", "fax"),
        ("transaction", "merchant_category", "54"),
        ("transaction", "transaction_id", ""),
        ("scored", "score", 1.2),
        ("scored", "flag", "yes"),
        ("scored", "model", "fraud"),
        ("dead-letter-headers", "headrace-dlq-reason", "bad"),
        ("dead-letter-headers", "headrace-dlq-stage", "poll"),
        ("dead-letter-headers", "headrace-dlq-offset", "-1"),
        ("dead-letter-headers", "headrace-dlq-sha256", "abc"),
    ],
)
def test_value_outside_contract_is_refused(name: str, field: str, value: object) -> None:
    """A value of the wrong type or outside its range breaks the contract."""
    assert not judge(name, sample_of(name) | {field: value})


def test_transaction_has_the_fields_of_the_demo() -> None:
    """The demo transaction has 23 fields; an unknown one is ignored and the merchant may be null or absent."""
    sample = sample_of("transaction")
    assert len(schema_of("transaction")["properties"]) == 23
    assert judge("transaction", sample | {"loyalty": 1, "merchant_category": None})
    assert judge("transaction", {key: value for key, value in sample.items() if key != "merchant_category"})
