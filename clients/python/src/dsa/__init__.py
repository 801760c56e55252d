"""Ask a dsad for cited answers, from Python.

    with dsa.Client(store="~/dsa-store") as client:
        for event in client.ask("Which tokens does the indexer keep?"):
            if isinstance(event, dsa.Tokens):
                print(event.text, end="")

    async with dsa.AsyncClient(store="~/dsa-store") as client:
        async for event in client.ask("…"):
            ...

Streams resume by themselves when the connection or the daemon goes away. A generator that is closed before its end, or
whose task is cancelled, cancels its job unless it was asked with detach=True. An ERROR is raised as dsa.Error.
"""

from .aio import AsyncClient
from .client import Client
from .events import Accepted, Citation, Error, Event, Evidence, Final, Progress, Rect, Reset, Tokens

__all__ = ["AsyncClient", "Client", "Accepted", "Citation", "Error", "Event", "Evidence", "Final", "Progress", "Rect",
           "Reset", "Tokens"]
__version__ = "0.1.0"
