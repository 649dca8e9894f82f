"""The credential: where it is read from, when it changes, and that no text shows it."""

import traceback
from pathlib import Path

import pytest

from exporter.errors import ConfigError
from exporter.phonic.credentials import ApiKey, Credentials, SessionToken, load, redact


def loaded(
    *, key_file: Path | None = None, token_file: Path | None = None, variable: str | None = None
) -> Credentials:
    environ = {} if variable is None else {"PHONIC_API_KEY": variable}
    return load(api_key_file=key_file, session_token_file=token_file, environ=environ)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "credential"
    file.write_text("ph_secret\n")
    return file


def test_api_key_is_a_header_and_session_token_a_parameter_never_both(secret_file: Path) -> None:
    key = loaded(key_file=secret_file).current()
    assert (key.headers, key.query) == ({"Authorization": "Bearer ph_secret"}, {})
    token = loaded(token_file=secret_file).current()
    assert (token.headers, token.query) == ({}, {"session_token": "ph_secret"})


@pytest.mark.parametrize("content", [b"ph_secret", b"ph_secret\r\n", b"\xef\xbb\xbfph_secret\r\n"])
def test_a_file_may_have_a_byte_order_mark_and_windows_line_ends(secret_file: Path, content: bytes) -> None:
    secret_file.write_bytes(content)
    assert loaded(key_file=secret_file).current() == ApiKey("ph_secret")


def test_the_file_comes_before_the_variable(secret_file: Path) -> None:
    assert loaded(variable="ph_variable").current() == ApiKey("ph_variable")
    assert loaded(key_file=secret_file, variable="ph_variable").current() == ApiKey("ph_secret")


@pytest.mark.parametrize("credential", [ApiKey("ph_secret"), SessionToken("ph_secret")])
def test_no_text_form_shows_the_value(credential: ApiKey | SessionToken) -> None:
    assert "secret" not in f"{credential!r} {credential} {Credentials(credential)!r}"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"ph_secret\nmore", b"ph_secret secret", b"ph_secr\xc3\xa9t", b"\x00secret", b"s" * 9000],
)
def test_unusable_file_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        loaded(key_file=file)
    assert refused.value.flag == "--phonic.api-key-file"
    assert "secr" not in "".join(traceback.format_exception(refused.value))


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--phonic\.api-key-file: cannot read .*No such file"):
        loaded(key_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"^--phonic\.session-token-file: cannot read .*Is a directory"):
        loaded(token_file=tmp_path)


def test_unusable_variable_is_refused_without_quoting_it() -> None:
    with pytest.raises(ConfigError, match=r"^PHONIC_API_KEY: ") as refused:
        loaded(variable="ph_secret\n")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("variable", [None, ""])
def test_no_credential_says_how_to_give_one(variable: str | None) -> None:
    with pytest.raises(ConfigError, match=r"PHONIC_API_KEY.*--phonic\.session-token-file"):
        loaded(variable=variable)


def test_two_kinds_of_credential_are_refused(secret_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--phonic\.session-token-file: .*--phonic\.api-key-file"):
        loaded(key_file=secret_file, token_file=secret_file)
    with pytest.raises(ConfigError, match=r"^--phonic\.session-token-file: .*PHONIC_API_KEY"):
        loaded(token_file=secret_file, variable="ph_secret")


def test_reload_returns_whether_the_credential_has_changed(secret_file: Path) -> None:
    credentials = loaded(key_file=secret_file)
    assert not credentials.reload()
    secret_file.write_text("ph_rotated")
    assert credentials.reload()
    assert credentials.current() == ApiKey("ph_rotated")
    assert not loaded(variable="ph_variable").reload()


@pytest.mark.parametrize("content", [b"", b"two\nlines"])
def test_reload_in_the_middle_of_a_rotation_keeps_the_old_credential(secret_file: Path, content: bytes) -> None:
    credentials = loaded(token_file=secret_file)
    secret_file.write_bytes(content)
    assert not credentials.reload()
    secret_file.unlink()
    assert not credentials.reload()
    assert credentials.current() == SessionToken("ph_secret")


def test_redaction_masks_every_form_of_a_credential() -> None:
    text = 'Bearer abc, wss://h/x?session_token=tok-en&y=1 "ph_live-key" kept'
    assert redact(text) == 'Bearer *** wss://h/x?session_token=***&y=1 "ph_***" kept'
