"""Simulated users as servers: the user seat as a model behind the chat completions protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports

if TYPE_CHECKING:
    from simgym.serving.openai_app import create_openai_app
    from simgym.serving.openai_requests import Rejection, UserRequest, read_request
    from simgym.serving.running import ListenSettings, serve
    from simgym.serving.seats import Seat, SeatSettings

__all__ = ["create_openai_app", "read_request", "UserRequest", "Rejection", "Seat", "SeatSettings", "serve",
           "ListenSettings"]  # fmt: skip

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "openai_app": ("create_openai_app",),
        "openai_requests": ("Rejection", "UserRequest", "read_request"),
        "running": ("ListenSettings", "serve"),
        "seats": ("Seat", "SeatSettings"),
    },
)
