"""--https: a certificate of this machine's own, kept in the user's data folder, so that browsers that came to trust it need not be asked
again.

Browsers give cameras to pages over https alone, and nobody certifies addresses of a home network. So the page vouches for itself:
browsers warn once, and phones that want more can install what vouches for it. The key that signed is thrown away: nothing else can
ever be vouched for with it.
"""

import datetime
import ipaddress
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError

FILE = "https.pem"
LIFE = datetime.timedelta(days=397)
"""Apple's systems trust no certificate that lasts longer than 398 days."""
RENEWED_BEFORE = datetime.timedelta(days=30)
PART = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)
LABEL, MAX_NAME, MAX_NAMES = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"), 253, 50


@dataclass(frozen=True)
class Certificate:
    """path: PEM file with key, certificate and what vouches for it; for its owner's eyes only"""

    path: Path

    @property
    def authority(self) -> bytes:
        """What vouches for the certificate, PEM, for browsers to be told to trust it."""
        return PART.findall(self.path.read_text(encoding="ascii"))[-1].encode()

    def is_good_for(self, names: Sequence[str]) -> bool:
        """Whether it can be read, holds all these names and lasts for some time yet."""
        from cryptography import x509

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.path)
            own = x509.load_pem_x509_certificate(PART.findall(self.path.read_text(encoding="ascii"))[0].encode())
            held = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, IndexError, x509.ExtensionNotFound):
            return False
        known = {str(name.value) for name in held}
        return known.issuperset(names) and own.not_valid_after_utc - RENEWED_BEFORE > datetime.datetime.now(datetime.timezone.utc)


def own_certificate(host: str, folder: Path | None = None) -> Certificate:
    """The one kept for this machine, or a new one where it has other addresses by now. host: where the page listens.

    folder: where it is kept. Raises InputError.
    """
    try:
        import trustme
    except ImportError as error:
        raise InputError("--https: the package trustme is not installed; pip install trustme") from error
    import platformdirs

    folder = folder or Path(platformdirs.user_data_dir("fastmetro-live", appauthor=False))
    names, certificate = names_of(host), Certificate(folder / FILE)
    if certificate.is_good_for(names):
        return certificate
    authority = trustme.CA(organization_name="FastMETRO Live", organization_unit_name=f"on {socket.gethostname()}"[:64])
    begins = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)  # clocks of phones differ
    issued = authority.issue_cert(*names, common_name="FastMETRO Live", not_before=begins, not_after=begins + LIFE)
    parts = [issued.private_key_pem, *issued.cert_chain_pems, authority.cert_pem]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_secret(certificate.path, b"".join(part.bytes() for part in parts))
    except OSError as error:
        raise InputError(f"--https: the certificate cannot be written to {certificate.path} ({error.strerror})") from error
    return certificate


def write_secret(path: Path, content: bytes) -> None:
    """Whole or not at all, for its owner's eyes only. Raises OSError."""
    number, draft = tempfile.mkstemp(dir=path.parent)  # readable for its owner alone
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def names_of(host: str) -> list[str]:
    """What browsers may call this machine: its names, addresses and what the page was told to listen at."""
    own = socket.gethostname().lower()
    wanted = ["localhost", "127.0.0.1", "::1", host.strip("[]").lower(), *addresses(), own, f"{own.partition('.')[0]}.local"]
    return [name for name in dict.fromkeys(map(_plain, wanted)) if name][:MAX_NAMES]


def addresses() -> list[str]:
    """Of this machine in its networks, IPv4 first; without those of loopback and of one cable alone."""
    import psutil

    found = [ipaddress.ip_address(item.address) for items in psutil.net_if_addrs().values() for item in items
             if item.family in (socket.AF_INET, socket.AF_INET6) and "%" not in item.address]  # fmt: skip
    shown = {place for place in found if not (place.is_loopback or place.is_link_local or place.is_unspecified)}
    return [str(place) for place in sorted(shown, key=lambda place: (place.version, int(place)))]


def _plain(name: str) -> str:
    """A name as certificates hold it; empty for one that they cannot hold."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name if len(name) <= MAX_NAME and all(LABEL.fullmatch(label) for label in name.split(".")) else ""
    return "" if address.is_unspecified else str(address)
