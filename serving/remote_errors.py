"""Gives back errors that come out of a replica, as the replica raised them."""

from __future__ import annotations

from cluster.contracts.errors import InputError


def without_trace(error: Exception) -> Exception:
    """The error itself. Ray wraps it in one of its own whose text ends with the replica's stack trace."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def as_input_error(error: InputError) -> InputError:
    """An `InputError` with the replica's message alone."""
    return InputError(str(without_trace(error)))
