"""A task's parameters: does a call fit them, and what do arriving JSON values become.

Annotations decide the second. Those that msgspec can convert to (datetimes, UUIDs, Decimals, bytes, enums, dataclasses,
structs, and lists, dicts and unions of them) are converted to; for any other class, and without an annotation, the value is
taken as it comes. Conversion is lax where nothing is lost: the string "3" fits an ``int``, the number 3 a ``float``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

import msgspec

from leveret.errors import ArgumentsError, ConfigurationError, EncodingError
from leveret.tasks.serializers import decode_json, encode_json

__all__ = ["TaskSignature"]

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_EMPTY: Final = inspect.Parameter.empty

_SCALARS: Final = frozenset({str, int, float, bool, bytes, date, datetime})

# Subclasses among the types JSON values arrive as: msgspec wants the very class, Python does not.
_ALSO_FITS: Final[Mapping[type, tuple[type, ...]]] = {bool: (int, float), datetime: (date,)}


class TaskSignature:
    """The parameters and the return value of one task's function."""

    __slots__ = ("_function", "_names", "_signature", "_text", "_types")

    def __init__(self, task: str, function: Callable[..., object], *, bound: bool) -> None:
        """Read the function's signature; ``bound`` leaves out its first parameter, which the worker supplies.

        Raises:
            ConfigurationError: something without a signature, or a bound function without a parameter to bind.

        """
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"task {task}: {function!r} has no signature that can be read: {error}") from error
        parameters = list(signature.parameters.values())
        if bound:
            if not parameters or parameters[0].kind not in _POSITIONAL:
                raise ConfigurationError(
                    f"task {task}: bind=True passes a context first, but {task}{signature} takes no argument"
                )
            parameters = parameters[1:]
            signature = signature.replace(parameters=parameters)
        self._function = function
        self._signature = signature
        self._text = f"{task}{_unquoted(signature)}"
        # The parameters by position, if that is all there is; else None, and a call needs a closer look.
        self._names = tuple(signature.parameters) if all(p.kind in _POSITIONAL for p in parameters) else None
        self._types: _Types | None = None

    def __str__(self) -> str:
        """Return it as the user wrote it: ``shop.tasks.add(x: int, y: int = 0) -> int``."""
        return self._text

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Check that a call has the arguments the function takes.

        Raises:
            ArgumentsError: it names the task, its signature and what is wrong.

        """
        if self._names is not None and not kwargs and len(args) == len(self._names):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentsError(f"arguments do not fit {self._text}: {error}") from None

    def encode(self, args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[bytes, bytes]:
        """Bind a call and encode its arguments, as a JSON array and a JSON object; what would not fit on arrival is refused here.

        Raises:
            ArgumentsError: as ``bind``, or a value that does not fit its annotation.
            EncodingError: a value without a JSON form; it names the argument.

        """
        self.bind(args, kwargs)
        try:
            encoded = encode_json(list(args)), encode_json(dict(kwargs))
        except EncodingError:
            raise self._which_argument(args, kwargs) from None
        if self._resolve().parameters and not self._fits_as_it_is(args, kwargs):
            sent_args, sent_kwargs = decode_json(encoded[0]), decode_json(encoded[1])
            assert isinstance(sent_args, list)
            assert isinstance(sent_kwargs, dict)
            self.convert(sent_args, sent_kwargs)
        return encoded

    def convert(self, args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[Sequence[object], Mapping[str, object]]:
        """Turn arrived JSON values into what the annotations say; the call must fit.

        Raises:
            ArgumentsError: it does not, or a value cannot be converted.

        """
        self.bind(args, kwargs)
        annotations = self._resolve().parameters
        if not annotations or self._fits_as_it_is(args, kwargs):
            return args, kwargs
        by_position = self._positions(len(args))
        new_args = [
            value if name not in annotations else self._convert_one(annotations[name], name, value)
            for name, value in zip(by_position, args, strict=True)
        ]
        rest = self._keyword_rest()
        new_kwargs = {
            name: value
            if (key := name if name in self._signature.parameters else rest) not in annotations
            else self._convert_one(annotations[key], name, value)
            for name, value in kwargs.items()
        }
        return new_args, new_kwargs

    def convert_result(self, value: object) -> object:
        """Turn an arrived result into what the return annotation says; a value that does not fit is left as it came."""
        returns = self._resolve().returns
        if returns is None:
            return value
        try:
            return msgspec.convert(value, returns)
        except msgspec.ValidationError:
            return value

    def _resolve(self) -> _Types:
        """Return what the annotations mean: looked at when first needed, when all that they name is defined."""
        if self._types is None:
            hints = _hints(self._function)
            parameters = {
                parameter.name: annotation
                for parameter in self._signature.parameters.values()
                if (annotation := _convertible(_hint(parameter, hints))) is not None
            }
            self._types = _Types(parameters, _convertible(hints.get("return", _EMPTY)))
        return self._types

    def _fits_as_it_is(self, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Tell, cheaply, whether every value is of just the plain type its parameter asks for."""
        annotations = self._resolve().parameters
        return self._names is not None and all(
            name not in annotations or (type(value) is annotations[name] and type(value) in _SCALARS)
            for name, value in [*zip(self._names, args, strict=False), *kwargs.items()]
        )

    def _convert_one(self, annotation: object, name: str, value: object) -> object:
        if type(value) is annotation or annotation in _ALSO_FITS.get(type(value), ()):
            return value
        try:
            return msgspec.convert(value, annotation, strict=False)
        except msgspec.ValidationError as error:
            raise ArgumentsError(f"arguments do not fit {self._text}: {name!r}: {error}") from None

    def _positions(self, count: int) -> list[str]:
        """Return the parameters' names that ``count`` positional arguments go to; those of ``*args`` repeat its name."""
        if self._names is not None:
            return list(self._names[:count])
        names: list[str] = []
        for parameter in self._signature.parameters.values():
            if parameter.kind in _POSITIONAL:
                names.append(parameter.name)
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                names.extend([parameter.name] * (count - len(names)))
        return names[:count]

    def _keyword_rest(self) -> str:
        """Return the name of ``**kwargs``, or nothing."""
        for parameter in self._signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                return parameter.name
        return ""

    def _which_argument(self, args: Sequence[object], kwargs: Mapping[str, object]) -> EncodingError:
        """Find the argument that has no JSON form."""
        named = [*zip(self._positions(len(args)), args, strict=True), *kwargs.items()]
        for name, value in named:
            try:
                encode_json(value)
            except EncodingError as error:
                return EncodingError(f"argument {name!r} of {self._text} cannot be sent: {error}")
        return EncodingError(f"the arguments of {self._text} cannot be sent")


class _Bare(str):
    """An annotation that is still text, shown without the quotes that ``inspect`` would put around it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _unquoted(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature that is shown as it was written, ``from __future__ import annotations`` or not."""

    def bare(annotation: object) -> object:
        return _Bare(annotation) if isinstance(annotation, str) else annotation

    parameters = [each.replace(annotation=bare(each.annotation)) for each in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=bare(signature.return_annotation))


class _Types(NamedTuple):
    """The annotations that values are converted to: of the parameters that have one, and of the result."""

    parameters: Mapping[str, object]
    returns: object | None


def _hint(parameter: inspect.Parameter, hints: Mapping[str, object]) -> object:
    """Return a parameter's annotation; ``x: int = None`` has always meant that None fits too."""
    hint = hints.get(parameter.name, _EMPTY)
    return hint | None if parameter.default is None and isinstance(hint, type) else hint


def _hints(function: Callable[..., object]) -> Mapping[str, object]:
    """Return the annotations as objects; none of them if one names something that does not exist when the program runs."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}


def _convertible(annotation: object) -> object | None:
    """Return the annotation if msgspec can convert to it, else None: the value is then taken as it comes."""
    if annotation is _EMPTY or isinstance(annotation, str) or annotation in (typing.Any, object):
        return None
    try:
        information = msgspec.inspect.type_info(annotation)
    except (TypeError, NameError):
        return None
    return None if _has_foreign_class(information) else annotation


def _has_foreign_class(information: object) -> bool:
    """Tell whether msgspec's description of a type has, anywhere near its top, a class that it cannot build."""
    if isinstance(information, msgspec.inspect.CustomType):
        return True
    parts: list[object] = []
    match information:
        case msgspec.inspect.UnionType():
            parts = list(information.types)
        case msgspec.inspect.DictType():
            parts = [information.key_type, information.value_type]
        case msgspec.inspect.TupleType():
            parts = list(information.item_types)
        case msgspec.inspect.CollectionType():
            parts = [information.item_type]
        case msgspec.inspect.Metadata():
            parts = [information.type]
        case _:
            pass
    return any(map(_has_foreign_class, parts))
