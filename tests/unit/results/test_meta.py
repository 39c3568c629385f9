"""Results as JSON: Celery's backends read ours, we read theirs, and exceptions come back to life."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from celery import Celery
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import TaskRevokedError

from leveret.errors import EncodingError, MessageError, TaskFailed, TaskRevoked
from leveret.results.meta import ResultMeta, decode_meta, encode_failure, encode_success, rebuild_exception, task_id_and_state
from leveret.tasks.signals import Reject
from leveret.tasks.states import State

NOW_S = 1_000_000_000.0
MOMENT = datetime.fromtimestamp(NOW_S, UTC)


class OutOfStock(Exception):
    """A user's exception that takes what it is given."""


class Picky(Exception):
    """A user's exception whose arguments are not those of its constructor."""

    def __init__(self, item: str, count: int) -> None:
        super().__init__(f"{count} of {item}")


class Unspeakable(Exception):
    """A user's exception that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.fixture(scope="module")
def backend() -> Iterator[KeyValueStoreBackend]:
    """Make one of Celery's key-value result backends; it is asked to encode and decode only."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app.backend
    app.close()


def test_a_success_has_just_celerys_keys() -> None:
    """The object is that of Celery's key-value backends, group and parent only where there are some."""
    meta = json.loads(encode_success("id", {"a": [1]}, now_s=NOW_S))
    assert meta == {
        "status": "SUCCESS",
        "result": {"a": [1]},
        "traceback": None,
        "children": [],
        "date_done": "2001-09-09T01:46:40+00:00",
        "task_id": "id",
    }
    more = json.loads(encode_success("id", 1, now_s=NOW_S, group_id="g", parent_id="p"))
    assert more == {**meta, "result": 1, "group_id": "g", "parent_id": "p"}


def test_celery_reads_our_results(backend: KeyValueStoreBackend) -> None:
    """Its backend decodes a value as the same value, and an exception as the same exception with our traceback."""
    success = backend.decode_result(encode_success("id", [MOMENT, Decimal("1.5"), b"\xff", math.inf], now_s=NOW_S))
    assert success["result"] == [MOMENT, Decimal("1.5"), b"\xff", math.inf]
    failure = backend.meta_from_decoded(
        backend.decode_result(encode_failure("id", State.FAILURE, KeyError("x", 1), now_s=NOW_S, traceback="Traceback ..."))
    )
    assert type(failure["result"]) is KeyError
    assert failure["result"].args == ("x", 1)
    assert failure["traceback"] == "Traceback ..."


def test_we_read_celerys_results(backend: KeyValueStoreBackend) -> None:
    """A meta that Celery's backend encodes is decoded field by field."""

    def theirs(result: object, state: str, traceback: str | None = None) -> ResultMeta:
        encoded = backend.encode_result(result, state)
        meta = backend._get_result_meta(encoded, state, traceback, None)
        return decode_meta(backend.encode({**meta, "task_id": "id"}).encode())

    success = theirs({"when": MOMENT}, "SUCCESS")
    assert (success.task_id, success.state, success.result) == ("id", State.SUCCESS, {"when": MOMENT})
    assert success.is_final
    failure = theirs(ZeroDivisionError("by nothing"), "FAILURE", "Traceback ...")
    error = rebuild_exception(failure)
    assert type(error) is ZeroDivisionError
    assert error.args == ("by nothing",)
    assert "Traceback ..." in error.__notes__[0]
    assert not theirs(ValueError("again"), "RETRY").is_final
    assert type(rebuild_exception(theirs(TaskRevokedError("expired"), "REVOKED"))) is TaskRevokedError


def rebuilt(error: BaseException, state: State = State.FAILURE, traceback: str | None = None) -> Exception:
    """Return what the caller gets of an exception."""
    return rebuild_exception(decode_meta(encode_failure("id", state, error, now_s=NOW_S, traceback=traceback)))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        OutOfStock("apples", 3, MOMENT),
        KeyError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        TaskRevoked("expired"),
        FileNotFoundError(2, "No such file or directory", "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_come_back_as_themselves(error: Exception) -> None:
    """Class and arguments are those of the worker's exception."""
    again = rebuilt(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)


def test_a_syntax_error_comes_back_with_its_place() -> None:
    """Its details travel as an array and are taken back all the same."""
    with pytest.raises(SyntaxError) as caught:
        compile("x = (", "broken.py", "exec")
    again = rebuilt(caught.value)
    assert isinstance(again, SyntaxError)
    assert (again.filename, again.lineno, again.msg) == ("broken.py", 1, caught.value.msg)


@pytest.mark.parametrize("error", [Picky("apples", 3), SystemExit(3), KeyboardInterrupt(), Reject("no")])
def test_other_exceptions_come_back_as_task_failed(error: BaseException) -> None:
    """What cannot be rebuilt, or would end the caller's program, has a stand-in that names it."""
    again = rebuilt(error, traceback="Traceback ...")
    assert type(again) is TaskFailed
    assert again.exc_type == type(error).__qualname__
    assert again.exc_message == ", ".join(map(str, error.args))
    assert again.traceback == "Traceback ..."


def test_nothing_is_imported_because_a_result_names_it() -> None:
    """A module that is not loaded stays so; what is no exception is never called."""
    module = "antigravity"
    assert module not in sys.modules
    description = {"exc_type": "Joke", "exc_module": module, "exc_message": ["x"]}
    assert type(rebuild_exception(ResultMeta("id", State.FAILURE, description))) is TaskFailed
    assert module not in sys.modules
    system = {"exc_type": "system", "exc_module": "os", "exc_message": ["exit 1"]}
    assert type(rebuild_exception(ResultMeta("id", State.FAILURE, system))) is TaskFailed


def test_the_workers_traceback_is_a_note() -> None:
    """Whoever prints the exception sees where it came from."""
    notes = rebuilt(ValueError("no"), traceback="Traceback (most recent call last): ...").__notes__
    assert notes == ["task id: FAILURE; in the worker:\nTraceback (most recent call last): ..."]


@pytest.mark.parametrize("result", [None, "text", {"exc_type": None}, {"exc_type": "", "exc_message": None}, [1]])
def test_a_failure_without_description_is_a_failure_still(result: object) -> None:
    """Whatever a peer stored, the caller gets an exception."""
    assert isinstance(rebuild_exception(ResultMeta("id", State.FAILURE, result)), TaskFailed)


def test_every_exception_can_be_stored() -> None:
    """Arguments without a JSON form, or of many bytes, become a short repr; what cannot be shown does not stop the storing."""
    odd = ValueError(object(), {1, 2}, "\ud800", *range(200))
    description = decode_meta(encode_failure("id", State.FAILURE, odd, now_s=NOW_S, traceback="\ud800")).result
    assert isinstance(description, dict)
    assert description["exc_message"][0].startswith("<object object at")
    assert description["exc_message"][2] == r"\ud800"
    long = decode_meta(encode_failure("id", State.FAILURE, ValueError("x" * 2_000_000), now_s=NOW_S)).result
    assert isinstance(long, dict)
    assert len(long["exc_message"][0]) <= 1024
    assert len(description["exc_message"]) == 100
    assert encode_failure("id", State.FAILURE, ValueError(Unspeakable()), now_s=NOW_S)


def test_a_long_traceback_loses_its_middle() -> None:
    """The beginning and the end, where the causes stand, are kept."""
    meta = decode_meta(encode_failure("id", State.FAILURE, ValueError(), now_s=NOW_S, traceback="a" * 90_000 + "b" * 90_000))
    assert meta.traceback is not None
    assert len(meta.traceback) < 101_000
    assert meta.traceback.startswith("aaa")
    assert "80000 characters left out" in meta.traceback
    assert meta.traceback.endswith("bbb")


def test_a_value_without_json_form_is_refused() -> None:
    """The place in the error is that in the value, not in the meta around it."""
    with pytest.raises(EncodingError, match=r"object has no JSON form \(at \['a'\]\)"):
        encode_success("id", {"a": object()}, now_s=NOW_S)


@pytest.mark.parametrize("value", [1, math.nan, {"task_id": "other", "status": "FAILURE"}])
def test_a_store_learns_id_and_state_only(value: object) -> None:
    """Whatever the value is, the keys of the meta itself count."""
    assert task_id_and_state(encode_success("id", value, now_s=NOW_S)) == ("id", "SUCCESS")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"task_id": 1, "status": "SUCCESS"}', b'{"task_id": "a", "status": "FINE"}']
)
def test_what_is_not_a_result_is_refused(data: bytes) -> None:
    """Other JSON, missing keys and unknown states are errors of one kind."""
    with pytest.raises(MessageError):
        decode_meta(data)


def test_states_before_the_end_have_no_date() -> None:
    """As in Celery, date_done is the time of a final state only."""
    assert decode_meta(encode_failure("id", State.RETRY, ValueError(), now_s=NOW_S)).date_done is None
    assert decode_meta(encode_failure("id", State.REVOKED, TaskRevoked("x"), now_s=NOW_S)).date_done is not None
