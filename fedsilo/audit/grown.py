"""A mapping that never changes and grows by sharing, so that what is known after each of many lines costs little."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class _Gone:
    """Stands where an entry was taken out."""


_GONE = _Gone()


class Grown(Mapping[KeyT, ValueT], Generic[KeyT, ValueT]):
    """A mapping kept in layers, the newest last; two are merged when the older is less than twice the newer.

    An entry is so copied about ``log2(n)`` times while ``n`` are added one by one, not ``n`` times as with a new dict each.

    Example:
        >>> one = Grown().put("a", 1)
        >>> dict(one.put("b", 2).take_out("a")), dict(one)
        ({'b': 2}, {'a': 1})
    """

    def __init__(self, layers: tuple[dict[KeyT, ValueT | _Gone], ...] = ()) -> None:
        """Start with layers, or empty."""
        self._layers = layers

    def put(self, key: KeyT, value: ValueT) -> "Grown[KeyT, ValueT]":
        """Give a mapping that has one entry more, or another value in its place."""
        return self._with(key, value)

    def take_out(self, key: KeyT) -> "Grown[KeyT, ValueT]":
        """Give a mapping without an entry."""
        return self._with(key, _GONE) if key in self else self

    def _with(self, key: KeyT, value: ValueT | _Gone) -> "Grown[KeyT, ValueT]":
        layers: list[dict[KeyT, ValueT | _Gone]] = list(self._layers)
        newest: dict[KeyT, ValueT | _Gone] = {key: value}
        while layers and len(layers[-1]) < 2 * len(newest):
            newest = {**layers.pop(), **newest}
        if not layers:
            newest = {known: entry for known, entry in newest.items() if not isinstance(entry, _Gone)}
        return Grown((*layers, newest))

    def __getitem__(self, key: KeyT) -> ValueT:
        for layer in reversed(self._layers):
            if key in layer:
                value = layer[key]
                if not isinstance(value, _Gone):
                    return value
                break
        raise KeyError(key)

    def __iter__(self) -> Iterator[KeyT]:
        merged: dict[KeyT, ValueT | _Gone] = {}
        for layer in self._layers:
            merged |= layer
        return (key for key, value in merged.items() if not isinstance(value, _Gone))

    def __len__(self) -> int:
        return sum(1 for _ in self)
