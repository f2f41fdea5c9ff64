"""--https: a certificate of this machine's own, kept in the user's data folder, so that browsers that came to trust it need not be asked
again.

Browsers give cameras to pages over https alone, and nobody certifies addresses of a home network. So the page vouches for itself:
browsers warn once, and phones that want more can install what vouches for it. The key that signed is thrown away: nothing else can
ever be vouched for with it.
"""

import contextlib
import datetime
import hashlib
import ipaddress
import re
import socket
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.export.sink import whole
from app.page.guard import ANY_ADDRESS
from core.errors import InputError

FILE = "https-{}.pem"
"""One for each set of names, so that who takes a laptop to and fro comes back to the one that a phone trusts."""
LIFE = datetime.timedelta(days=397)
"""Apple's systems trust no certificate that lasts longer than 398 days."""
RENEWED_BEFORE = datetime.timedelta(days=30)
OWNER_ALONE = stat.S_IRUSR | stat.S_IWUSR
PART = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)
LABEL, MAX_NAME, MAX_NAMES = re.compile(r"(?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"), 253, 50
FAR_AWAY = ("192.0.2.1", 9)
"""An address for examples; nothing is sent there."""


@dataclass(frozen=True)
class Certificate:
    """path: PEM file with key, certificate and what vouches for it; for its owner's eyes only

    authority: what vouches for the certificate, PEM, for browsers to be told to trust it
    """

    path: Path
    authority: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority, as browsers and phones show it."""
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.authority.decode())).hexdigest().upper()
        return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def kept_certificate(path: Path, names: Sequence[str]) -> Certificate | None:
    """The one in the file, if it can be read, holds all these names and lasts for some time yet."""
    from cryptography import x509

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        parts = PART.findall(path.read_text(encoding="ascii"))
        own = x509.load_pem_x509_certificate(parts[0].encode())
        held = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, IndexError, x509.ExtensionNotFound):
        return None
    known = {str(name.value) for name in held}
    if not known.issuperset(names) or own.not_valid_after_utc - RENEWED_BEFORE < datetime.datetime.now(datetime.timezone.utc):
        return None
    with contextlib.suppress(OSError):
        path.chmod(OWNER_ALONE)  # whatever a backup or a copy made of it
    return Certificate(path, parts[-1].encode())


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
    names = names_of(host)
    path = folder / FILE.format(hashlib.sha256(" ".join(names).encode()).hexdigest()[:12])
    kept = kept_certificate(path, names)
    if kept is not None:
        return kept
    unit = f"on {socket.gethostname()}"[:64]
    authority = trustme.CA(organization_name="FastMETRO Live", organization_unit_name=unit, path_length=0)
    begins = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)  # clocks of phones differ
    issued = authority.issue_cert(*names, common_name="FastMETRO Live", not_before=begins, not_after=begins + LIFE)
    parts = [issued.private_key_pem, *issued.cert_chain_pems, authority.cert_pem]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.unlink(missing_ok=True)  # what a run left that was killed may be for other eyes
            partial.touch(OWNER_ALONE, exist_ok=False)  # before there is anything in it
            partial.write_bytes(b"".join(part.bytes() for part in parts))
    except OSError as error:
        raise InputError(f"--https: the certificate cannot be written to {path} ({error.strerror})") from error
    return Certificate(path, authority.cert_pem.bytes())


def names_of(host: str) -> list[str]:
    """What browsers may call this machine: its names, addresses and what the page was told to listen at."""
    own = socket.gethostname().lower()
    short = own.partition(".")[0]
    wanted = ["localhost", "127.0.0.1", "::1", host.strip("[]").lower(), *sorted(addresses(host)), own, short, f"{short}.local"]
    return [name for name in dict.fromkeys(map(_plain, wanted)) if name][:MAX_NAMES]


def addresses(host: str) -> list[str]:
    """Of this machine in its networks, as far as a page that listens at `host` answers there; the one that leads outside first."""
    import psutil

    kinds = {ANY_ADDRESS[0]: (socket.AF_INET,), ANY_ADDRESS[1]: (socket.AF_INET, socket.AF_INET6)}.get(host.strip("[]"), ())
    found = [ipaddress.ip_address(item.address) for items in psutil.net_if_addrs().values() for item in items
             if item.family in kinds and "%" not in item.address]  # fmt: skip
    shown = {place for place in found if not (place.is_loopback or place.is_link_local or place.is_unspecified)}
    outside = way_outside()
    return [str(place) for place in sorted(shown, key=lambda place: (place.version, str(place) != outside, int(place)))]


def way_outside() -> str:
    """This machine's IPv4 address in the network that leads farther; empty where there is none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(FAR_AWAY)
            return probe.getsockname()[0]
    except OSError:
        return ""


def _plain(name: str) -> str:
    """A name as certificates hold it; empty for one that they cannot hold."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name if len(name) <= MAX_NAME and all(LABEL.fullmatch(label) for label in name.split(".")) else ""
    return "" if address.is_unspecified else str(address)
