"""XML as a stream of events, by a parser that knows no entities beyond the five of XML: nothing can blow up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NoReturn, Protocol
from xml.parsers import expat

_CHUNK_BYTES = 1 << 16


class Readable(Protocol):
    """What `read` gives the next bytes of."""

    def read(self, size: int, /) -> bytes: ...


class XmlEvent(NamedTuple):
    """`kind` is "start", "end" or "text"; `name` an element's name without its namespace, or the text."""

    kind: str
    name: str
    attributes: dict[str, str]


def xml_events(stream: Readable) -> Iterator[XmlEvent]:
    """Elements and text in order; memory does not grow with the document. Names come without namespaces.

    Raises `expat.ExpatError` for what is not well formed and `ValueError` for a document that declares entities.
    """
    events: list[XmlEvent] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, attributes: events.append(
        XmlEvent("start", _local(name), {_local(key): value for key, value in attributes.items()})
    )
    parser.EndElementHandler = lambda name: events.append(XmlEvent("end", _local(name), {}))
    parser.CharacterDataHandler = lambda text: events.append(XmlEvent("text", text, {}))
    parser.EntityDeclHandler = _refuse
    while chunk := stream.read(_CHUNK_BYTES):
        parser.Parse(chunk, False)
        yield from events
        events.clear()
    parser.Parse(b"", True)
    yield from events


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _refuse(*_declaration: object) -> NoReturn:
    raise ValueError("the document declares entities")
