"""What the workloads consist of: events, their schema, the model, and how Headrace is told of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.workloads import graphs

ID_FIELD = "event_id"
ID_EXAMPLE = "e0000000017"
ID_SCHEMA = {"type": "string", "minLength": len(ID_EXAMPLE), "maxLength": len(ID_EXAMPLE)}
CITIES = ("lisbon", "turin", "ghent", "malmo", "porto", "graz", "brno", "split", "bergen", "lyon", "leeds", "essen")
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Events without their id, the tensors that they mean to the model, and the entries of schema and manifest."""

    rows: Sequence[Mapping[str, Any]]
    tensors: Tensors
    model: ModelProto
    properties: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    key: str | None = None
    output: str = "score"
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric field: how it is drawn, how many digits it has (0: an integer), and its bounds."""

    draw: Callable[[np.random.Generator, int], NDArray[np.float64]]
    digits: int
    maximum: float

    def column(self, rng: np.random.Generator, count: int) -> list[Any]:
        """``count`` values as they stand in the events."""
        drawn = np.clip(self.draw(rng, count), 0, self.maximum)
        return [int(value) for value in drawn] if self.digits == 0 else np.round(drawn, self.digits).tolist()

    def schema(self) -> dict[str, Any]:
        """The field's JSON Schema."""
        return {"type": "number" if self.digits else "integer", "minimum": 0, "maximum": self.maximum}


def _amount(mean: float, *, digits: int = 2) -> Number:
    return Number(lambda rng, count: rng.gamma(2.0, mean / 2, count), digits, 1_000_000)


def _count(mean: float) -> Number:
    return Number(lambda rng, count: rng.poisson(mean, count).astype(np.float64), 0, 1_000_000)


def _share() -> Number:
    return Number(lambda rng, count: rng.beta(1.0, 8.0, count), 4, 1)


CARD = {
    "amount": _amount(60.0),
    "hour": Number(lambda rng, count: rng.uniform(0, 24, count), 2, 24),
    "distance_km": _amount(12.0),
    "merchant_risk": _share(),
    "device_age_days": _count(400.0),
    "since_last_s": _count(4_000.0),
    "customer_count_1d": _count(2.0),
    "customer_mean_1d": _amount(55.0),
    "customer_count_7d": _count(14.0),
    "customer_mean_7d": _amount(55.0),
    "customer_count_30d": _count(60.0),
    "customer_mean_30d": _amount(55.0),
    "terminal_count_1d": _count(5.0),
    "terminal_risk_1d": _share(),
    "terminal_count_7d": _count(35.0),
    "terminal_risk_7d": _share(),
    "terminal_count_30d": _count(150.0),
    "terminal_risk_30d": _share(),
    "issuer_risk": _share(),
    "address_risk": _share(),
}
MEASURES = {f"measure_{number}": _amount(10.0 * number) for number in range(1, 11)}
CATEGORIES = {
    f"category_{number}": tuple(f"{city}-{number}" for city in CITIES[: number + 2]) for number in range(1, 11)
}


def fraud(rng: np.random.Generator, count: int) -> Recipe:
    """A card transaction of 23 fields and about 540 bytes; 20 numbers feed a perceptron 20-64-32-1."""
    rows, features = _card_events(rng, count)
    model = graphs.perceptron((len(CARD), 64, 32, 1), rng, sample=features)
    return _card_recipe(rows, features, model)


def trees(rng: np.random.Generator, count: int) -> Recipe:
    """The same transactions, scored by 100 gradient-boosted trees of 31 leaves."""
    rows, features = _card_events(rng, count)
    return _card_recipe(rows, features, graphs.boosted_trees(features, rng))


def crayfish(rng: np.random.Generator, count: int) -> Recipe:
    """An image of 784 numbers as one comma-separated text of 8.4 KB; the output is the vector of ten classes."""
    pixels = rng.uniform(size=(count, 784)).astype(np.float32)
    rows = [
        {
            "created_ms": 1_700_000_000_000 + number,
            "height": 28,
            "width": 28,
            "data": "".join(f"{value!s}," for value in row),
            "prediction": None,
        }
        for number, row in enumerate(pixels)
    ]
    size = {"type": "integer", "minimum": 1, "maximum": 10_000}
    entry = {"name": "features", "dtype": "float32", "shape": ["batch", 784], "fields": ["data"], "encoding": "csv"}
    return Recipe(
        rows=rows,
        tensors={"features": pixels},
        model=graphs.perceptron((784, 32, 32, 32, 32, 10), rng, output="prediction"),
        properties={"created_ms": {"type": "integer"}, "height": size, "width": size, "data": {"type": "string"}},
        inputs=[entry],
        output="prediction",
    )


def crayfish_whole(rng: np.random.Generator, count: int) -> Recipe:
    """As crayfish, but the output repeats the whole event, as the published systems do."""
    recipe = crayfish(rng, count)
    return Recipe(
        recipe.rows,
        recipe.tensors,
        recipe.model,
        recipe.properties,
        recipe.inputs,
        output=recipe.output,
        include=tuple(recipe.properties),
    )


def strings(rng: np.random.Generator, count: int) -> Recipe:
    """Ten texts and ten numbers; one-hot encoding and scaling are part of the graph."""
    texts = {name: rng.choice(values, count) for name, values in CATEGORIES.items()}
    numbers = {name: number.column(rng, count) for name, number in MEASURES.items()}
    columns = {name: column.tolist() for name, column in texts.items()} | numbers
    features = _matrix(numbers)
    model = graphs.encoding_perceptron(
        list(CATEGORIES.values()), features.mean(axis=0), features.std(axis=0), (64, 32), rng
    )
    text_schema = {name: {"type": "string", "enum": list(values)} for name, values in CATEGORIES.items()}
    return Recipe(
        rows=_rows(columns),
        tensors={"categories": np.stack(list(texts.values()), axis=1).astype(object), "features": features},
        model=model,
        properties=text_schema | {name: number.schema() for name, number in MEASURES.items()},
        inputs=[
            {"name": "categories", "dtype": "string", "shape": ["batch", 10], "fields": list(CATEGORIES)},
            {"name": "features", "dtype": "float32", "shape": ["batch", 10], "fields": list(MEASURES)},
        ],
    )


def tiny(rng: np.random.Generator, count: int) -> Recipe:
    """One number and a model of one weight: what is left is the cost of moving records."""
    columns = {"x": np.round(rng.normal(size=count), 4).tolist()}
    return Recipe(
        rows=_rows(columns),
        tensors={"features": _matrix(columns)},
        model=graphs.perceptron((1, 1), rng),
        properties={"x": {"type": "number", "minimum": -100, "maximum": 100}},
        inputs=[{"name": "features", "dtype": "float32", "shape": ["batch", 1], "fields": ["x"]}],
    )


def _card_events(rng: np.random.Generator, count: int) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    numbers = {name: number.column(rng, count) for name, number in CARD.items()}
    customers = [f"customer-{number:05d}" for number in rng.integers(0, 5000, count)]
    seconds = np.sort(rng.integers(0, 86_400, count)).tolist()
    times = [f"2026-03-14T{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}Z" for s in seconds]
    return _rows({"customer_id": customers, "event_time": times} | numbers), _matrix(numbers)


def _card_recipe(rows: list[dict[str, Any]], features: NDArray[np.float32], model: ModelProto) -> Recipe:
    text = {
        "customer_id": {"type": "string", "minLength": 1, "maxLength": 32},
        "event_time": {"type": "string", "minLength": 20, "maxLength": 35},
    }
    return Recipe(
        rows=rows,
        tensors={"features": features},
        model=model,
        properties=text | {name: number.schema() for name, number in CARD.items()},
        inputs=[{"name": "features", "dtype": "float32", "shape": ["batch", len(CARD)], "fields": list(CARD)}],
        key="customer_id",
    )


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _matrix(columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float32]:
    return np.stack([np.array(column, np.float32) for column in columns.values()], axis=1)
