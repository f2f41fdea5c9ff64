"""The page over https, with a certificate that vouches for this machine alone."""

import datetime
import hashlib
import os
import socket
import ssl
import stat
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from cryptography import x509

from app.config import PageConfig
from app.page import certificate as certificate_module
from app.page import server
from app.page.certificate import LIFE, PART, addresses, names_of, own_certificate
from app.page.guard import ANY_ADDRESS
from app.page.server import address, elsewhere
from core.errors import InputError
from tests.app.page.browser import browser, running_page, wait_until

EVERYWHERE = ANY_ADDRESS[0]
SHOWN = "return document.body ? document.body.innerText : ''"
"""In one go: a page that changes meanwhile leaves its elements behind."""


def leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(PART.findall(path.read_text())[0].encode())


def test_it_is_kept_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    first = own_certificate(EVERYWHERE, tmp_path / "new" / "folder")
    content = first.path.read_bytes()
    if os.name == "posix":
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    first.path.chmod(0o644)
    again = own_certificate(EVERYWHERE, tmp_path / "new" / "folder")
    assert (again, again.path.read_bytes()) == (first, content)
    if os.name == "posix":
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert content.count(b"PRIVATE KEY-----") == 2, "the key that signed is nowhere"
    assert list(first.path.parent.iterdir()) == [first.path]
    assert first.authority.count(b"BEGIN CERTIFICATE") == 1 and b"PRIVATE" not in first.authority
    assert first.fingerprint.replace(":", "").lower() == hashlib.sha256(ssl.PEM_cert_to_DER_cert(first.authority.decode())).hexdigest()


def test_phones_take_it(tmp_path: Path) -> None:
    own = leaf(own_certificate(EVERYWHERE, tmp_path).path)
    assert own.not_valid_after_utc - own.not_valid_before_utc <= datetime.timedelta(days=398)
    assert own.not_valid_before_utc < datetime.datetime.now(datetime.timezone.utc)
    usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.SERVER_AUTH in usage


def test_another_one_for_new_addresses_an_old_one_and_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "addresses", lambda host: ["192.0.2.7"])
    home = own_certificate(EVERYWHERE, tmp_path)
    held = leaf(home.path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.7" in {str(name.value) for name in held}
    monkeypatch.setattr(certificate_module, "addresses", lambda host: ["192.0.2.8"])
    work = own_certificate(EVERYWHERE, tmp_path)
    assert work.path != home.path and work.authority != home.authority
    monkeypatch.setattr(certificate_module, "addresses", lambda host: ["192.0.2.7"])
    assert own_certificate(EVERYWHERE, tmp_path) == home, "a phone trusts it still"
    authorities = [home.authority]
    content = home.path.read_bytes()
    for prepare in (lambda: home.path.write_bytes(content[:300]), lambda: home.path.write_bytes(b"x"), home.path.unlink):
        prepare()
        authorities.append(own_certificate(EVERYWHERE, tmp_path).authority)
    assert len(set(authorities)) == len(authorities)
    monkeypatch.setattr(certificate_module, "RENEWED_BEFORE", LIFE)
    assert own_certificate(EVERYWHERE, tmp_path).authority not in authorities


def test_names_are_what_certificates_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "addresses", lambda host: ["192.0.2.7", "2001:db8::7"])
    monkeypatch.setattr(socket, "gethostname", lambda: "My_Laptop.home")
    assert names_of(EVERYWHERE) == ["localhost", "127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"]
    monkeypatch.setattr(socket, "gethostname", lambda: "Laptop.home")
    assert names_of("[2001:db8::9]")[3:] == ["2001:db8::9", "192.0.2.7", "2001:db8::7", "laptop.home", "laptop", "laptop.local"]
    monkeypatch.setattr(socket, "gethostname", lambda: "pc--01")
    for odd in ("a..b", "x" * 70, "ab--cd.lan", "-a", "a-", "", "*.lan"):
        assert odd not in names_of(odd)
        own_certificate(odd, tmp_path)


def test_addresses_are_those_at_which_the_page_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    v4, v6 = socket.AF_INET, socket.AF_INET6
    cards = {"lo": [(v4, "127.0.0.1"), (v6, "::1")], "docker0": [(v4, "172.17.0.1")], "wlan0": [(v4, "192.168.1.5"), (v6, "2001:db8::5")]}
    cards["wlan0"] += [(v6, "fe80::1%wlan0"), (v4, "169.254.3.4"), (17, "00:11:22:33:44:55")]
    found = {name: [SimpleNamespace(family=kind, address=place) for kind, place in items] for name, items in cards.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(certificate_module, "way_outside", lambda: "192.168.1.5")
    assert addresses(EVERYWHERE) == ["192.168.1.5", "172.17.0.1"]
    assert addresses("::") == addresses("[::]") == ["192.168.1.5", "172.17.0.1", "2001:db8::5"]
    assert addresses("127.0.0.1") == addresses("192.168.1.5") == addresses("laptop") == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--https: the certificate cannot be written to"):
        own_certificate("127.0.0.1", tmp_path / "file")


def test_where_the_page_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "addresses", lambda host: ["192.0.2.7", "2001:db8::7"])
    plain, safe = PageConfig(host=EVERYWHERE), PageConfig(host=EVERYWHERE, https=True)
    assert (address(plain, "::", 80), address(safe, "::1", 80)) == ("http://127.0.0.1:80", "https://[::1]:80")
    certificate = own_certificate(EVERYWHERE, tmp_path)
    line = elsewhere(safe, 7860, certificate)
    assert "https://192.0.2.7:7860, https://[2001:db8::7]:7860" in line and certificate.fingerprint in line
    assert "for their cameras add --https" in elsewhere(plain, 7860)
    monkeypatch.setattr(server, "addresses", lambda host: [])
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
        for place in ("127.0.0.1", *addresses(EVERYWHERE)[:1]):
            answer = httpx.get(f"https://{place}:{port}", verify=trusting, auth=("anna", "secret"), timeout=30)
            assert answer.status_code == 200 and "FastMETRO" in answer.text
            assert answer.headers["set-cookie"].startswith("__Host-") and "; Secure" in answer.headers["set-cookie"]
        if addresses(EVERYWHERE):
            assert f"https://{addresses(EVERYWHERE)[0]}:{port}" in page.log


def test_without_https_there_is_nothing_to_trust(tmp_path: Path) -> None:
    with running_page(tmp_path / "page") as page:
        answer = httpx.get(page.url)
        assert answer.status_code == 200 and "Secure" not in answer.headers["set-cookie"]
        assert httpx.get(f"{page.url}/page/fastmetro-live.crt").status_code == 404


@pytest.mark.parametrize("flags", [(), ("--https",)])
def test_a_browser_logs_in(flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with (
        running_page(tmp_path / "page", *flags, "--host", EVERYWHERE, "--auth", "anna:secret") as page,
        browser(page.url, tmp_path / "profile", webgl=False, trusts=True) as window,
    ):
        window.driver.get(page.url)
        for password, next_one in (("wrong", "That name and password do not fit."), ("secret", "Make meshes")):
            window.find("[name=username]").clear()
            window.find("[name=username]").send_keys("anna")
            window.find("[name=password]").send_keys(password)
            window.find("button").click()
            wait_until(lambda text=next_one: text in window.js(SHOWN), 30, next_one)
