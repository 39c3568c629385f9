"""Settings: checked when set, refused by name, frozen by use, all of them documented."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from leveret.amqp.topology import Exchange, Queue
from leveret.app.settings import NOT_YET, Settings
from leveret.errors import ConfigurationError

ROOT = Path(__file__).parents[3]


def test_defaults_lose_no_work() -> None:
    """Late acknowledgement and re-running what died with its worker are not asked for, they are there."""
    settings = Settings()
    assert settings.task_acks_late is True
    assert settings.task_reject_on_worker_lost is True
    assert settings.broker_url == "local://"
    assert settings.values == {}


def test_settings_are_attributes_and_can_be_updated_together() -> None:
    """Both ways set the same thing; numbers become what the setting is."""
    settings = Settings({"task_crash_limit": 5})
    settings.worker_shutdown_timeout = 10
    settings.update({"task_default_queue": "tasks"}, task_default_priority=3)
    assert (settings.task_crash_limit, settings.task_default_queue, settings.task_default_priority) == (5, "tasks", 3)
    assert isinstance(settings.worker_shutdown_timeout, float)


def test_the_seeds_notation_works() -> None:
    """Queues are written as kombu's users write them, routes as Celery's users do."""
    settings = Settings()
    settings.task_queues = [Queue("tasks", Exchange("tasks"), routing_key="tasks", queue_arguments={"x-max-priority": 10})]  # type: ignore[assignment]  # a list is as good as the tuple it becomes
    settings.update(task_routes={"shop.*": {"queue": "orders"}, "mail": "post"})
    assert settings.task_queues[0].max_priority == 10
    assert settings.task_routes == {"shop.*": "orders", "mail": "post"}


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A typo is shown its correction, also one of upper case; nothing is set."""
    settings = Settings()
    with pytest.raises(ConfigurationError, match=r"no setting 'task_ack_late'; did you mean 'task_acks_late'\?"):
        settings.update(task_ack_late=True)
    with pytest.raises(ConfigurationError, match="did you mean 'broker_url'"):
        settings.BROKER_URL = "amqp://"  # type: ignore[attr-defined]  # the point of the test
    with pytest.raises(ConfigurationError, match=r"docs/settings\.md"):
        settings.update(xyz=1)
    assert settings.values == {}


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_nothing_obeys_is_refused(name: str) -> None:
    """Celery's users are told that a setting is not available yet; it is not swallowed."""
    with pytest.raises(ConfigurationError, match=f"'{name}' is not available yet"):
        Settings({name: 1})
    assert name not in Settings.known()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("task_acks_late", 1, "Expected `bool`"),
        ("broker_publish_timeout", 0, "> 0"),
        ("broker_publish_timeout", float("inf"), "<= 1000000000"),
        ("broker_heartbeat", 70_000, "from 0 to 65535"),
        ("task_default_priority", 256, "<= 255"),
        ("task_default_queue", "", "length >= 1"),
        ("task_serializer", "pickle", "pickle"),
        ("task_queues", "tasks", "a list of Queue"),
        ("task_queues", ["tasks"], r"Queue('tasks')"),
        ("task_queues", [Queue("a"), Queue("a")], "twice"),
        ("task_routes", {"a": {"queue": "b", "exchange": "c"}}, "the route of 'a'"),
        ("task_routes", {"a": ""}, "the route of 'a'"),
        ("broker_url", "redis://localhost", "local://"),
        ("broker_url", "amqp://host:port/", "port"),
        ("result_backend", "redis://", "rpc://"),
        ("result_backend", "sqlite:///", "sqlite:///path"),
        ("worker_concurrency", 0, "from 1"),
        ("worker_concurrency", 2.5, "Expected `int`"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: object, words: str) -> None:
    """The error names the setting and says what would do."""
    with pytest.raises(ConfigurationError) as caught:
        Settings({name: value})
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_a_url_with_a_password_is_not_shown() -> None:
    """Neither the repr nor the error of a wrong URL tells secrets."""
    settings = Settings({"broker_url": "amqp://me:secret@host//"})
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigurationError) as caught:
        settings.broker_url = "amqp://me:secret@host:x/"
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        settings.broker_url = "redis://me:secret@host/"
    assert "secret" not in str(caught.value)


def test_an_update_sets_all_or_nothing() -> None:
    """One wrong value leaves the others unset."""
    settings = Settings()
    with pytest.raises(ConfigurationError):
        settings.update(task_crash_limit=5, task_acks_late="yes")
    assert settings.values == {}


def test_settings_freeze_at_first_use() -> None:
    """From then on a change is an error that says since when; only the first moment counts."""
    settings = Settings()
    assert not settings.is_frozen
    settings.freeze("shop.add was sent")
    settings.freeze("a worker was started")
    assert settings.is_frozen
    with pytest.raises(ConfigurationError, match=r"task_acks_late .* frozen since shop\.add was sent"):
        settings.task_acks_late = False
    assert settings.task_acks_late is True


def test_every_setting_has_a_line() -> None:
    """A setting without documentation does not exist: its default is one it would take, its line is one line."""
    for name, setting in Settings.known().items():
        assert setting.doc.endswith("."), name
        assert "\n" not in setting.doc, name
        assert setting.checked(setting.default) == setting.default, name


def test_the_page_is_up_to_date() -> None:
    """docs/settings.md is what tools/write_settings_page.py writes."""
    specification = importlib.util.spec_from_file_location("write_settings_page", ROOT / "tools" / "write_settings_page.py")
    assert specification is not None
    assert specification.loader is not None
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    assert (ROOT / "docs" / "settings.md").read_text() == tool.page()
