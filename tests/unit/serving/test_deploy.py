"""What a person is told of a server that does not come up."""

from serving.deploy import last_error

TRACE = """The deployment failed to start 2 times in a row.
ray::ServeReplica:policy (pid=1)
  File "policy.py", line 56, in __init__
    raise RuntimeError("outer")
ValueError: an error on the way

RuntimeError: Traceback (most recent call last):
  File "models.py", line 115, in _load
    raise InputError("no model") from error
cluster.contracts.errors.InputError: /m holds no model that can be loaded: of two
lines"""


def test_of_a_trace_only_the_last_error_is_told() -> None:
    assert last_error(TRACE) == "/m holds no model that can be loaded: of two\nlines"
    foreign = TRACE.replace("cluster.contracts.errors.InputError", "torch.OutOfMemoryError")
    assert last_error(foreign).startswith("OutOfMemoryError: /m holds")


def test_a_message_without_a_trace_is_told_whole() -> None:
    assert last_error("no node has 3 GPUs: wait") == "no node has 3 GPUs: wait"
