"""Settings: the order of their sources, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostfs.config import Settings, Source, config_path, describe, unknown_environment
from ghostfs.errors import ConfigError, ExitCode


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("GHOSTFS_CONFIG", str(path))
    return path


def test_defaults_without_any_source() -> None:
    settings = Settings.load()
    assert settings.settle_quiet_ms == 1000
    assert settings.source("settle_quiet_ms") is Source.DEFAULT
    assert settings.data_dir.name == "ghostfs"


def test_flags_before_environment_before_file_before_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("poll_us = 1\nspool_mib = 2\nlisten = '127.0.0.1:3'\n")
    monkeypatch.setenv("GHOSTFS_POLL_US", "10")
    monkeypatch.setenv("GHOSTFS_SPOOL_MIB", "20")
    settings = Settings.load({"poll_us": 50, "hub": None})
    assert (settings.poll_us, settings.spool_mib, settings.listen) == (50, 20, "127.0.0.1:3")
    sources = [settings.source(name) for name in ("poll_us", "spool_mib", "listen", "hub")]
    assert sources == [Source.FLAG, Source.ENVIRONMENT, Source.FILE, Source.DEFAULT]


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTFS_POLL_US", "")
    settings = Settings.load()
    assert (settings.poll_us, settings.source("poll_us")) == (100, Source.DEFAULT)


def test_one_file_does_not_reach_the_next_load(file: Path) -> None:
    file.write_text("poll_us = 1\n")
    assert Settings.load().poll_us == 1
    file.write_text("")
    assert Settings.load().poll_us == 100


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().poll_us = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poll_us = -1", "poll_us=-1 (from {file}): input should be greater than or equal to 0"),
        ("pol_us = 1", "there is no setting pol_us (from {file}); docs/settings.md lists them all"),
        ("poll_us = ", "the config file {file} is not valid TOML: Invalid value (at "),
        (
            "listen = 'here'",
            "listen=here (from {file}): must be HOST:PORT, such as 127.0.0.1:7447 or [::1]:7447",
        ),
        ("settle_quiet_ms = 9000", "settle_max_age_ms must not be less than settle_quiet_ms"),
        ("reconnect_max_ms = 1", "reconnect_max_ms must not be less than reconnect_min_ms"),
    ],
)
def test_the_file_is_checked(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Settings.load()
    assert message.format(file=file) in str(raised.value)
    assert raised.value.exit_code is ExitCode.USAGE


def test_a_refused_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTFS_SPOOL_MIB", "lots")
    with pytest.raises(ConfigError, match=r"^spool_mib=lots \(from GHOSTFS_SPOOL_MIB\): input should be"):
        Settings.load()


def test_a_refused_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^poll_us=often: input should be"):
        Settings.load({"poll_us": "often"})


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTFS_CONFIG", str(tmp_path / "a.toml"))
    with pytest.raises(ConfigError, match=r"a\.toml does not exist"):
        Settings.load()
    with pytest.raises(ConfigError, match=r"b\.toml does not exist"):
        Settings.load(config=tmp_path / "b.toml")


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Settings.load(config=tmp_path)


def test_the_users_file_is_read_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == (tmp_path / "ghostfs/config.toml", False)
    assert Settings.load().poll_us == 100
    (tmp_path / "ghostfs").mkdir()
    (tmp_path / "ghostfs/config.toml").write_text("poll_us = 4\n")
    assert Settings.load().poll_us == 4


def test_paths_are_absolute_and_know_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere")
    settings = Settings.load({"data_dir": "data", "log_file": "~/a.log"})
    assert (settings.data_dir, settings.log_file) == (tmp_path / "data", Path("/somewhere/a.log"))


def test_misspelt_variables_are_found() -> None:
    environment = {"GHOSTFS_POLL": "1", "GHOSTFS_POLL_US": "1", "GHOSTFS_CONFIG": "x", "HOME": "/"}
    assert unknown_environment(environment) == ["GHOSTFS_POLL"]


def test_every_setting_is_described() -> None:
    for setting in describe():
        assert setting.description.endswith("."), setting.name
        assert setting.variable == f"GHOSTFS_{setting.name.upper()}"
    allowed = {setting.name: setting.allowed for setting in describe()}
    assert allowed["poll_us"] == "0 to 1000"
    assert allowed["map_uid"] == "0 to 4294967294"
    assert allowed["ownership"] == "auto | preserve | mapped | ignore"
