"""Write ``docs/protocol.md``: the legality tables as pictures. Run it after a change to either table."""

from __future__ import annotations

from pathlib import Path

from leveret.amqp import channel, handshake

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"


def page() -> str:
    """Return the page's text."""
    return f"""# The protocol's states

Printed from the tables in `amqp/channel.py` and `amqp/handshake.py` by `tools/write_protocol_page.py`. Client and broker
share them; what has no arrow here is the protocol error.

## A channel

```mermaid
{channel.diagram().strip()}
```

## A connection

```mermaid
{handshake.diagram().strip()}
```
"""


if __name__ == "__main__":
    PAGE.write_text(page())
