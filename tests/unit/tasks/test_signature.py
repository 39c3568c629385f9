"""Arguments against a function's signature, at both ends."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import msgspec
import pytest

from leveret.errors import ArgumentsError, ConfigurationError, EncodingError
from leveret.tasks.serializers import decode_json
from leveret.tasks.signature import TaskSignature

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # names a type that exists for the type checker only

MOMENT = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)


class Colour(enum.Enum):
    """An enum."""

    RED = "red"


@dataclass
class Order:
    """A dataclass with a date."""

    number: int
    due: datetime


class Item(msgspec.Struct):
    """A struct with a dataclass."""

    price: Decimal
    order: Order


class Opaque:
    """A class that JSON values cannot become."""


def signature_of(function: Callable[..., object], *, bound: bool = False) -> TaskSignature:
    """Return the signature as a task's."""
    return TaskSignature(f"shop.{function.__name__}", function, bound=bound)


def arrive(function: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Send arguments through JSON and call the function with what arrives."""
    signature = signature_of(function)
    sent_args, sent_kwargs = map(decode_json, signature.encode(args, kwargs))
    assert isinstance(sent_args, list)
    assert isinstance(sent_kwargs, dict)
    new_args, new_kwargs = signature.convert(sent_args, sent_kwargs)
    return function(*new_args, **new_kwargs)


def test_annotated_arguments_arrive_as_what_they_were() -> None:
    """Standard types, enums, dataclasses, structs and containers of them survive the way through JSON."""

    def take(
        when: datetime,
        day: date,
        key: uuid.UUID,
        price: Decimal,
        raw: bytes,
        colour: Colour,
        item: Item,
        table: dict[int, list[Order]],
        maybe: Colour | None = None,
        *rest: tuple[int, ...],
        flag: bool = False,
        **others: date,
    ) -> object:
        return when, day, key, price, raw, colour, item, table, maybe, rest, flag, others

    order = Order(7, MOMENT)
    args = (MOMENT, MOMENT.date(), uuid.UUID(int=5), Decimal("1.10"), b"\xff", Colour.RED, Item(Decimal(2), order))
    table = {3: [order]}
    assert arrive(take, *args, table, Colour.RED, (1, 2), (3,), flag=True, first=MOMENT.date()) == (
        *args,
        table,
        Colour.RED,
        ((1, 2), (3,)),
        True,
        {"first": MOMENT.date()},
    )


def test_arguments_without_annotation_arrive_as_json_has_them() -> None:
    """Nothing is guessed: a tuple comes as a list, a dataclass as a dict."""

    def take(x, **others):  # type: ignore[no-untyped-def]  # the point of the test
        return x, others

    assert arrive(take, (1, 2), order=Order(1, MOMENT)) == ([1, 2], {"order": {"number": 1, "due": MOMENT}})


def test_conversion_is_lax_where_nothing_is_lost() -> None:
    """Text of a number fits a number, a whole number a float, a bool an int, a datetime a date, None a default of None."""

    def take(a: int, b: float, c: int, d: date, e: int = None, f: int | str = 0) -> object:  # type: ignore[assignment]  # noqa: RUF013 - old code
        return a, b, c, d, e, f

    assert arrive(take, "3", 2, True, MOMENT, None, "3") == (3, 2.0, True, MOMENT, None, "3")


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"z": 1}, "got an unexpected keyword argument 'z'"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
        (("many",), {}, "'x': Expected `int`, got `str`"),
        ((1,), {"items": [{"price": "a"}]}, "'items': "),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(
    args: tuple[object, ...], kwargs: dict[str, object], words: str
) -> None:
    """The error names the task, its signature and what is wrong; it is a TypeError too."""

    def pay(x: int, items: list[Item] = []) -> None:  # noqa: B006 - never called
        """Do nothing."""

    with pytest.raises(ArgumentsError) as caught:
        signature_of(pay).encode(args, kwargs)
    assert "shop.pay(x: " in str(caught.value)
    assert words in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_what_arrives_and_does_not_fit_is_refused_with_the_same_words() -> None:
    """A message of an older or a foreign producer is checked like a call."""

    def pay(x: int) -> None:
        """Do nothing."""

    with pytest.raises(ArgumentsError, match="missing a required argument"):
        signature_of(pay).convert([], {})
    with pytest.raises(ArgumentsError, match="Expected `int`"):
        signature_of(pay).convert(["many"], {})


def test_an_argument_without_json_form_is_named() -> None:
    """The error says which argument of which task it is, by position or by keyword."""

    def pay(x, *rest, **others):  # type: ignore[no-untyped-def]  # the point of the test
        """Do nothing."""

    with pytest.raises(EncodingError, match=r"argument 'x' of shop\.pay.*Opaque has no JSON form"):
        signature_of(pay).encode((Opaque(),), {})
    with pytest.raises(EncodingError, match="argument 'rest' of"):
        signature_of(pay).encode((1, 2, [Opaque()]), {})
    with pytest.raises(EncodingError, match="argument 'when' of"):
        signature_of(pay).encode((1,), {"when": Opaque()})


def test_annotations_that_json_cannot_become_are_left_alone() -> None:
    """Foreign classes, callables, and names that exist for type checkers only do not stop a task from getting its values."""

    def take(a: Opaque, b: Callable[[], int], c: list[Opaque], d: int | Opaque) -> object:
        return a, b, c, d

    def take_unknown(a: Unknown, b: datetime) -> object:
        return a, b

    assert arrive(take, {"x": 1}, 2, [3], 4) == ({"x": 1}, 2, [3], 4)
    assert arrive(take_unknown, [1], MOMENT) == ([1], MOMENT)


def test_constraints_in_annotations_hold() -> None:
    """``Annotated[int, msgspec.Meta(ge=1)]`` is checked at the call."""

    def take(n: Annotated[int, msgspec.Meta(ge=1)]) -> int:
        return n

    assert arrive(take, 1) == 1
    with pytest.raises(ArgumentsError, match=">= 1"):
        arrive(take, 0)


def test_types_may_be_defined_after_the_task() -> None:
    """Annotations are looked at when the first call is made, not when the task is defined."""
    namespace: dict[str, object] = {"__name__": "later"}
    exec("from __future__ import annotations\ndef take(x: Later): return x\n", namespace)
    take = namespace["take"]
    assert callable(take)
    signature = TaskSignature("later.take", take, bound=False)
    exec("import enum\nclass Later(enum.Enum):\n    THREE = 3\n", namespace)
    (later,), _ = signature.convert([3], {})
    assert type(later).__name__ == "Later"


def test_a_bound_task_does_not_show_its_context() -> None:
    """The first parameter of a bound function is the worker's to fill, and callers' errors do not mention it."""

    def retry_me(self: object, x: int) -> int:
        return x

    signature = signature_of(retry_me, bound=True)
    assert "self" not in str(signature)
    signature.bind((1,), {})
    with pytest.raises(ArgumentsError, match="too many positional"):
        signature.bind((None, 1), {})


def test_a_bound_task_needs_a_place_for_its_context() -> None:
    """bind=True on a function without positional parameters is refused when the task is defined."""
    with pytest.raises(ConfigurationError, match="takes no argument"):
        signature_of(lambda: None, bound=True)


def test_results_become_what_the_return_annotation_says() -> None:
    """A dataclass comes back as one; a value that does not fit is left as it came, for Python does not check either."""

    def order() -> Order:
        raise AssertionError

    signature = signature_of(order)
    assert signature.convert_result({"number": 1, "due": MOMENT}) == Order(1, MOMENT)
    assert signature.convert_result("sold out") == "sold out"
    assert signature_of(lambda: None).convert_result([1]) == [1]
