"""Write ``src/leveret/amqp/methods/`` from the table of methods in ``amqp_methods.toml``.

Run it after a change of the table or of this file: ``python tools/generate_methods.py``. A test compares what it makes with
what is committed. The code it writes is straight: one statement per field, runs of numbers and bits in one ``struct``.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["generate", "main"]

TABLE: Final = Path(__file__).with_name("amqp_methods.toml")
TARGET: Final = Path(__file__).parent.parent / "src" / "leveret" / "amqp" / "methods"
LINE_LENGTH: Final = 130

NUMBERS: Final = {"octet": ("B", 1), "short": ("H", 2), "long": ("L", 4), "longlong": ("Q", 8)}
PYTHON_TYPES: Final = {
    "bit": "bool",
    "octet": "int",
    "short": "int",
    "long": "int",
    "longlong": "int",
    "shortstr": "str",
    "longstr": "bytes",
    "table": "Table",
}
ZEROS: Final = {"bool": "False", "int": "0", "str": '""', "bytes": 'b""', "Table": "field(default_factory=dict)"}


@dataclass(frozen=True, slots=True)
class Field:
    """One argument of a method, as the wire has it."""

    name: str
    type: str
    default: str | None
    secret: bool

    @property
    def reserved(self) -> bool:
        """Whether it is only a gap in the wire's form."""
        return self.name == "reserved"

    @property
    def python_type(self) -> str:
        """The annotation of its attribute."""
        return PYTHON_TYPES[self.type]

    @property
    def python_default(self) -> str:
        """The source text of its default; a secret stays out of the repr."""
        if self.default is None:
            zero = ZEROS[self.python_type]
            return f"field(default={zero}, repr=False)" if self.secret else zero
        return {
            "bool": self.default.capitalize(),
            "int": self.default,
            "str": f'"{self.default}"',
            "bytes": f'b"{self.default}"',
        }[self.python_type]


@dataclass(frozen=True, slots=True)
class Bits:
    """Up to eight consecutive bits, which share one octet; the first is the lowest."""

    fields: tuple[Field, ...]

    @property
    def reserved(self) -> bool:
        """Whether none of them is an attribute."""
        return all(field.reserved for field in self.fields)

    @property
    def packed(self) -> str:
        """The expression of the octet."""
        shifted = [
            f"self.{field.name}" + (f" << {position}" if position else "")
            for position, field in enumerate(self.fields)
            if not field.reserved
        ]
        return " | ".join(shifted)


Part = Field | Bits
"""What is written or read by itself in a method's payload."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive parts of fixed size with at least one attribute among them: one ``struct`` packs them all."""

    parts: tuple[Part, ...]

    @property
    def format(self) -> str:
        """The ``struct`` format; reserved parts are padding, which is written as zeros."""
        return ">" + "".join(f"{_size(part)}x" if part.reserved else _code(part) for part in self.parts)

    @property
    def name(self) -> str:
        """The name of the module's ``struct.Struct``, from its types."""
        return "_" + "_".join(
            ("RESERVED_" if part.reserved else "") + ("BITS" if isinstance(part, Bits) else part.type.upper())
            for part in self.parts
        )


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method of the table."""

    class_name: str
    class_id: int
    name: str
    id: int
    sender: str
    replies: tuple[str, ...]
    has_content: bool
    doc: str
    notes: str
    fields: tuple[Field, ...]

    @property
    def python_name(self) -> str:
        """The name of its class."""
        return _camel_case(self.name)

    @property
    def attributes(self) -> tuple[Field, ...]:
        """The fields that are not reserved."""
        return tuple(field for field in self.fields if not field.reserved)


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class of the table with its methods."""

    name: str
    id: int
    title: str
    methods: tuple[MethodSpec, ...]


def read_table(path: Path) -> tuple[ClassSpec, ...]:
    """Read the table of methods."""
    return tuple(_read_class(name, entry) for name, entry in tomllib.loads(path.read_text()).items())


def generate(classes: Sequence[ClassSpec]) -> dict[str, str]:
    """Return the generated modules: source text by file name."""
    modules = {f"{spec.name}.py": "".join(f"{line}\n" for line in _module(spec)) for spec in classes}
    modules["__init__.py"] = "".join(f"{line}\n" for line in _package(classes))
    return modules


def main() -> int:
    """Write the modules."""
    for name, text in generate(read_table(TABLE)).items():
        (TARGET / name).write_text(text)
    return 0


# ----------------------------------------------------------------------------------------- the table


def _read_class(name: str, entry: Mapping[str, object]) -> ClassSpec:
    class_id, title = entry["id"], entry["title"]
    assert isinstance(class_id, int)
    assert isinstance(title, str)
    methods = tuple(_read_method(name, class_id, key, value) for key, value in entry.items() if isinstance(value, dict))
    return ClassSpec(name, class_id, title, methods)


def _read_method(class_name: str, class_id: int, name: str, entry: Mapping[str, object]) -> MethodSpec:
    unknown = entry.keys() - {"id", "from", "replies", "content", "doc", "notes", "fields"}
    if unknown:
        raise ValueError(f"{class_name}.{name}: unknown keys {sorted(unknown)}")
    method_id = entry["id"]
    assert isinstance(method_id, int)
    return MethodSpec(
        class_name=class_name,
        class_id=class_id,
        name=name,
        id=method_id,
        sender=str(entry["from"]),
        replies=tuple(f"{class_name}.{reply}" for reply in _strings(entry, "replies")),
        has_content=bool(entry.get("content", False)),
        doc=str(entry["doc"]),
        notes=str(entry.get("notes", "")),
        fields=tuple(_read_field(text) for text in _strings(entry, "fields")),
    )


def _read_field(text: str) -> Field:
    declaration, _, default = text.partition(" = ")
    name, _, type_ = declaration.partition(": ")
    secret = type_.startswith("secret ")
    type_ = type_.removeprefix("secret ")
    if type_ not in PYTHON_TYPES:
        raise ValueError(f"unknown type in field {text!r}")
    return Field(name, type_, default or None, secret)


def _strings(entry: Mapping[str, object], key: str) -> list[str]:
    value = entry.get(key, [])
    assert isinstance(value, list)
    return [str(item) for item in value]


# ------------------------------------------------------------------------------------------ the modules


def _package(classes: Sequence[ClassSpec]) -> Iterator[str]:
    names = sorted(spec.name for spec in classes)
    yield '"""The methods of AMQP 0-9-1 and of RabbitMQ\'s extensions: one module per class of the protocol.'
    yield ""
    yield "Generated by tools/generate_methods.py from tools/amqp_methods.toml; edit those."
    yield '"""'
    yield ""
    yield "from __future__ import annotations"
    yield ""
    yield "from collections.abc import Mapping"
    yield "from typing import Final"
    yield ""
    yield f"from leveret.amqp.methods import {', '.join(names)}"
    yield "from leveret.amqp.methods.base import Method"
    yield ""
    yield "__all__ = ["
    for name in ("METHODS", "Method", *names):
        yield f'    "{name}",'
    yield "]"
    yield ""
    yield "METHODS: Final[Mapping[int, type[Method]]] = {"
    for spec in classes:
        for method in spec.methods:
            yield f"    {_key(method)}: {spec.name}.{method.python_name},"
    yield "}"
    yield '"""Every method by its KEY."""'


def _module(spec: ClassSpec) -> Iterator[str]:
    runs = {run.name: run.format for method in spec.methods for run in _runs(method.fields) if isinstance(run, Run)}
    types = {field.type for method in spec.methods for field in method.fields if not field.reserved}
    needs_field = any(field.python_default.startswith("field(") for method in spec.methods for field in method.attributes)
    yield f'"""Class {spec.name}: {spec.title}'
    yield ""
    yield "Generated by tools/generate_methods.py from tools/amqp_methods.toml; edit those."
    yield '"""'
    yield ""
    yield "from __future__ import annotations"
    yield ""
    if runs:
        yield "import struct"
    yield f"from dataclasses import dataclass{', field' if needs_field else ''}"
    yield f"from typing import ClassVar, {'Final, ' if runs else ''}Self"
    yield ""
    yield "from leveret.amqp.methods.base import Method"
    failures = [
        *(["DECODE_FAILURES"] if any(method.fields for method in spec.methods) else []),
        "malformed",
        *(["out_of_range"] if runs else []),
    ]
    yield f"from leveret.amqp.methods.failures import {', '.join(failures)}"
    functions = [f"{verb}_{kind}" for verb in ("decode", "encode") for kind in ("longstr", "shortstr", "table") if kind in types]
    if functions:
        names = [*(["Table"] if "table" in types else []), *functions]
        line = f"from leveret.amqp.tables import {', '.join(names)}"
        if len(line) <= LINE_LENGTH:
            yield line
        else:
            yield "from leveret.amqp.tables import ("
            yield from _indent(1, [f"{name}," for name in names])
            yield ")"
    yield ""
    yield "__all__ = ["
    for name in sorted(method.python_name for method in spec.methods):
        yield f'    "{name}",'
    yield "]"
    if runs:
        yield ""
        for name, format_ in sorted(runs.items()):
            yield f'{name}: Final = struct.Struct("{format_}")'
    for method in spec.methods:
        yield ""
        yield ""
        yield from _class(method)


def _class(method: MethodSpec) -> Iterator[str]:
    name = f"{method.class_name}.{method.name}"
    yield "@dataclass(slots=True)"
    yield f"class {method.python_name}(Method):"
    summary = f'    """{name} ({method.class_id}, {method.id}): {method.doc[0].lower()}{method.doc[1:]}'
    if method.notes:
        yield summary
        yield ""
        yield f"    {method.notes}"
        yield '    """'
    else:
        yield f'{summary}"""'
    yield ""
    yield f"    INDEX: ClassVar[tuple[int, int]] = ({method.class_id}, {method.id})"
    yield f"    KEY: ClassVar[int] = {_key(method)}"
    yield f'    NAME: ClassVar[str] = "{name}"'
    yield f"    REPLIES: ClassVar[tuple[str, ...]] = {_tuple(method.replies)}"
    yield f"    HAS_CONTENT: ClassVar[bool] = {method.has_content}"
    yield f"    FROM_CLIENT: ClassVar[bool] = {method.sender in ('client', 'both')}"
    yield f"    FROM_SERVER: ClassVar[bool] = {method.sender in ('server', 'both')}"
    if method.attributes:
        yield ""
        for field in method.attributes:
            yield f"    {field.name}: {field.python_type} = {field.python_default}"
    yield ""
    yield "    def encode(self) -> bytes:"
    yield '        """Return the payload of its frame."""'
    yield from _indent(2, _encode(method))
    yield ""
    yield "    @classmethod"
    yield "    def decode(cls, buffer: bytes, offset: int) -> Self:"
    yield '        """Decode the arguments from ``offset`` to the end of the buffer."""'
    yield from _indent(2, _decode(method))


def _encode(method: MethodSpec) -> Iterator[str]:
    literal = method.class_id.to_bytes(2) + method.id.to_bytes(2)
    terms: list[str] = []
    for part in _runs(method.fields):
        if not isinstance(part, Run) and part.reserved:
            literal += bytes(_size(part))
            continue
        if literal:
            terms.append(_literal(literal))
            literal = b""
        terms.append(_encoded(method, part))
    if literal:
        terms.append(_literal(literal))
    statement = f"return {' + '.join(terms)}"
    guarded = _has_numbers(method)
    indent = 12 if guarded else 8
    lines = [statement]
    if len(statement) + indent > LINE_LENGTH:
        lines = ["return (", f"    {terms[0]}", *(f"    + {term}" for term in terms[1:]), ")"]
    if not guarded:
        yield from lines
        return
    yield "try:"
    yield from _indent(1, lines)
    yield "except struct.error as error:"
    yield "    raise out_of_range(self) from error"


def _encoded(method: MethodSpec, part: Part | Run) -> str:
    match part:
        case Run(parts):
            values = [p.packed if isinstance(p, Bits) else f"self.{p.name}" for p in parts if not p.reserved]
            return f"{part.name}.pack({', '.join(values)})"
        case Bits(fields):
            attributes = [field for field in fields if not field.reserved]
            if len(fields) == 1:
                return f'(b"\\x01" if self.{attributes[0].name} else b"\\x00")'
            return f"({part.packed}).to_bytes()"
        case Field(name, "shortstr"):
            return f'encode_shortstr(self.{name}, "{name} of {method.class_name}.{method.name}")'
        case Field(name, "longstr"):
            return f"encode_longstr(self.{name})"
        case Field(name, "table"):
            return f"encode_table(self.{name})"
        case _:
            raise AssertionError(part)


def _decode(method: MethodSpec) -> Iterator[str]:
    if not method.fields:
        yield "if offset != len(buffer):"
        yield "    raise malformed(cls, buffer, offset)"
        yield "return cls()"
        return
    yield "at = offset"
    yield "try:"
    for part in _runs(method.fields):
        yield from _indent(1, _decoded(part))
    yield "except DECODE_FAILURES as error:"
    yield "    raise malformed(cls, buffer, offset, error) from error"
    yield "if at != len(buffer):"
    yield "    raise malformed(cls, buffer, offset)"
    arguments = [
        field.name if isinstance(part, Field) else f"bits & {1 << part.fields.index(field)} != 0"
        for part, field in _attributes(method.fields)
    ]
    yield f"return cls({', '.join(arguments)})"


def _decoded(part: Part | Run) -> Iterator[str]:
    match part:
        case Run(parts):
            names = ["bits" if isinstance(p, Bits) else p.name for p in parts if not p.reserved]
            target = f"({names[0]},)" if len(names) == 1 else ", ".join(names)
            yield f"{target} = {part.name}.unpack_from(buffer, at)"
            yield f"at += {sum(_size(p) for p in parts)}"
        case Bits() if not part.reserved:
            yield "bits = buffer[at]"
            yield "at += 1"
        case Field(_, "shortstr") if part.reserved:
            yield "at += 1 + buffer[at]"
        case Field(_, "longstr") if part.reserved:
            yield "at += 4 + int.from_bytes(buffer[at : at + 4])"
        case Bits() | Field() if part.reserved:
            yield f"at += {_size(part)}"
        case Field(name, type_):
            yield f"{name}, at = decode_{type_}(buffer, at)"


# -------------------------------------------------------------------------------------------- pieces


def _parts(fields: Sequence[Field]) -> Iterator[Part]:
    """Gather consecutive bits into octets."""
    bits: list[Field] = []
    for field in fields:
        if bits and (field.type != "bit" or len(bits) == 8):
            yield Bits(tuple(bits))
            bits = []
        if field.type == "bit":
            bits.append(field)
        else:
            yield field
    if bits:
        yield Bits(tuple(bits))


def _runs(fields: Sequence[Field]) -> Iterator[Part | Run]:
    """Gather consecutive parts of fixed size into runs; a run of bits alone, or of reserved parts alone, stays as it is."""
    pending: list[Part] = []

    def flush() -> Iterator[Part | Run]:
        if any(isinstance(part, Field) and not part.reserved for part in pending):
            yield Run(tuple(pending))
        else:
            yield from pending
        pending.clear()

    for part in _parts(fields):
        if isinstance(part, Bits) or part.type in NUMBERS:
            pending.append(part)
        else:
            yield from flush()
            yield part
    yield from flush()


def _attributes(fields: Sequence[Field]) -> Iterator[tuple[Part, Field]]:
    for part in _parts(fields):
        for field in part.fields if isinstance(part, Bits) else (part,):
            if not field.reserved:
                yield part, field


def _has_numbers(method: MethodSpec) -> bool:
    return any(isinstance(run, Run) for run in _runs(method.fields))


def _size(part: Part) -> int:
    """Bytes on the wire: of a number or an octet of bits, or of a reserved string, which is written empty."""
    if isinstance(part, Bits):
        return 1
    return {"shortstr": 1, "longstr": 4}[part.type] if part.type not in NUMBERS else NUMBERS[part.type][1]


def _code(part: Part) -> str:
    return "B" if isinstance(part, Bits) else NUMBERS[part.type][0]


def _key(method: MethodSpec) -> str:
    return f"0x{method.class_id << 16 | method.id:08X}"


def _literal(data: bytes) -> str:
    return 'b"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def _tuple(names: Sequence[str]) -> str:
    return f"({', '.join(f'{name!r}' for name in names)}{',' if len(names) == 1 else ''})".replace("'", '"')


def _camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _indent(levels: int, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    return ("    " * levels + line for line in lines)


if __name__ == "__main__":
    sys.exit(main())
