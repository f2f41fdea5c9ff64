"""The page over https, with a certificate that vouches for this machine alone."""

import datetime
import os
import socket
import ssl
import stat
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from app.config import PageConfig
from app.page import certificate as certificate_module
from app.page import server
from app.page.certificate import LIFE, PART, addresses, names_of, own_certificate
from app.page.guard import ANY_ADDRESS
from app.page.server import address, elsewhere
from core.errors import InputError
from tests.app.page.browser import running_page

EVERYWHERE = ANY_ADDRESS[0]


def leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(PART.findall(path.read_text())[0].encode())


def test_it_is_kept_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    first = own_certificate(EVERYWHERE, tmp_path / "new" / "folder")
    content = first.path.read_bytes()
    if os.name == "posix":
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert own_certificate(EVERYWHERE, tmp_path / "new" / "folder").path.read_bytes() == content
    assert content.count(b"PRIVATE KEY-----") == 2, "the key that signed is nowhere"
    assert list(first.path.parent.iterdir()) == [first.path]
    assert first.authority.count(b"BEGIN CERTIFICATE") == 1 and b"PRIVATE" not in first.authority


def test_phones_take_it(tmp_path: Path) -> None:
    own = leaf(own_certificate(EVERYWHERE, tmp_path).path)
    assert own.not_valid_after_utc - own.not_valid_before_utc <= datetime.timedelta(days=398)
    assert own.not_valid_before_utc < datetime.datetime.now(datetime.timezone.utc)
    usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.SERVER_AUTH in usage


def test_another_one_for_new_addresses_an_old_one_and_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_certificate(EVERYWHERE, tmp_path).path
    contents = [path.read_bytes()]
    monkeypatch.setattr(certificate_module, "addresses", lambda: ["192.0.2.7"])
    for prepare in (lambda: None, lambda: path.write_bytes(contents[-1][:300]), lambda: path.write_bytes(b"x"), path.unlink):
        prepare()
        own_certificate(EVERYWHERE, tmp_path)
        contents.append(path.read_bytes())
    assert len(set(contents)) == len(contents)
    held = leaf(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.7" in {str(name.value) for name in held}
    own_certificate(EVERYWHERE, tmp_path)
    assert path.read_bytes() == contents[-1]
    monkeypatch.setattr(certificate_module, "RENEWED_BEFORE", LIFE)
    own_certificate(EVERYWHERE, tmp_path)
    assert path.read_bytes() != contents[-1]


def test_names_are_what_certificates_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "addresses", lambda: ["192.0.2.7", "2001:db8::7"])
    monkeypatch.setattr(socket, "gethostname", lambda: "My_Laptop.home")
    names = names_of(EVERYWHERE)
    assert names == ["localhost", "127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"]
    monkeypatch.setattr(socket, "gethostname", lambda: "Laptop.home")
    assert names_of("[2001:db8::9]")[3:] == ["2001:db8::9", "192.0.2.7", "2001:db8::7", "laptop.home", "laptop.local"]
    assert "a..b" not in names_of("a..b") and "x" * 70 not in names_of("x" * 70)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--https: the certificate cannot be written to"):
        own_certificate("127.0.0.1", tmp_path / "file")


def test_where_the_page_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "addresses", lambda: ["192.0.2.7", "2001:db8::7"])
    plain, safe = PageConfig(host=EVERYWHERE), PageConfig(host=EVERYWHERE, https=True)
    assert (address(plain, "::", 80), address(safe, "::1", 80)) == ("http://127.0.0.1:80", "https://[::1]:80")
    line = elsewhere(safe, 7860)
    assert "https://192.0.2.7:7860, https://[2001:db8::7]:7860" in line
    assert "for their cameras add --https" in elsewhere(plain, 7860)
    monkeypatch.setattr(server, "addresses", list)
    assert "in no network" in elsewhere(plain, 7860)


def test_the_whole_page_over_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with running_page(tmp_path / "page", "--https", "--host", EVERYWHERE, "--auth", "anna:secret") as page:
        assert page.url.startswith("https://127.0.0.1:")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(page.url)
        with pytest.raises(httpx.HTTPError):
            httpx.get(page.url.replace("https", "http"))
        told = httpx.get(f"{page.url}/page/fastmetro-live.crt", verify=False)  # noqa: S501  that is what it is for
        assert (told.status_code, told.headers["content-type"]) == (200, "application/x-x509-ca-cert")
        trusting = ssl.create_default_context(cadata=told.text)
        port = page.url.rsplit(":", 1)[1]
        for place in ("127.0.0.1", *addresses()[:1]):
            answer = httpx.get(f"https://{place}:{port}", verify=trusting, auth=("anna", "secret"), timeout=30)
            assert answer.status_code == 200 and "FastMETRO" in answer.text
            assert "; Secure" in answer.headers["set-cookie"]
        if addresses():
            assert f"https://{addresses()[0]}:{port}" in page.log


def test_without_https_there_is_nothing_to_trust(tmp_path: Path) -> None:
    with running_page(tmp_path / "page") as page:
        answer = httpx.get(page.url)
        assert answer.status_code == 200 and "Secure" not in answer.headers["set-cookie"]
        assert httpx.get(f"{page.url}/page/fastmetro-live.crt").status_code == 404
