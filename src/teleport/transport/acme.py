"""A client of ACME directories (RFC 8555), for certificates of one name by TLS-ALPN-01 (RFC 8737).

Everything that the directory names is asked by HTTPS only, at no other host than it names itself, without following
redirections; answers are bounded. A nonce that is refused is replaced and the request signed again (section 6.5); how
long a directory asks to wait (Retry-After) comes out with the error.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from teleport import __version__
from teleport.errors import ConnectionProblem, TeleportError
from teleport.pki.acme import CHALLENGE, AccountKey, b64url
from teleport.transport.problems import said
from teleport.transport.site_proxy import for_aiohttp
from teleport.transport.tls import public_client_context

NONCES: Final = 12  # tries of one request whose nonce is refused
SECONDS: Final = 30.0  # for one request
MAX_BYTES: Final = 256 * 1024  # of one answer
POLLS: Final = 60  # looks at what the directory works at
WAIT: Final = 1.0  # seconds between them, unless it says otherwise
LONGEST_POLL: Final = 30.0
LONGEST_WAIT: Final = 24 * 3600.0  # seconds; a directory that asks for more is asked again after that
_PROBLEM: Final = "urn:ietf:params:acme:error:"

T = TypeVar("T")


class AcmeRefused(TeleportError):
    """The directory refused. `kind` is its word for it (RFC 8555 section 6.7), `wait` the seconds that it asks for."""

    def __init__(self, message: str, *, kind: str = "", wait: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.wait = wait


class _Directory(msgspec.Struct, frozen=True, rename="camel"):
    new_nonce: str
    new_account: str
    new_order: str


class _Identifier(msgspec.Struct, frozen=True):
    type: str
    value: str


class _Problem(msgspec.Struct, frozen=True):
    type: str = ""
    detail: str = ""
    subproblems: list[_Problem] = []


class _Challenge(msgspec.Struct, frozen=True):
    type: str
    url: str
    token: str = ""
    status: str = "pending"
    error: _Problem | None = None


class _Authorization(msgspec.Struct, frozen=True):
    status: str
    identifier: _Identifier
    challenges: list[_Challenge] = []


class _Order(msgspec.Struct, frozen=True):
    status: str
    identifiers: list[_Identifier] = []
    authorizations: list[str] = []
    finalize: str = ""
    certificate: str = ""
    error: _Problem | None = None


class _Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, url: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.url = url

    def read(self, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.MsgspecError:
            raise AcmeRefused(f"the directory's answer at {self.url} is none of RFC 8555") from None

    @property
    def wait(self) -> float:
        """Seconds of Retry-After, a number or a date; 0 without."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isdecimal():
            return min(float(text), LONGEST_WAIT)
        try:
            until = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return 0.0
        until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
        return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)


class AcmeClient:
    """One account at one directory; `async with`. `account` is its URL, empty until `register`."""

    def __init__(
        self,
        uri: str,
        key: AccountKey,
        account: str = "",
        *,
        context: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`context`: whose certificates are believed, the host's roots when None."""
        self.uri = uri
        self.account = account
        self._key = key
        self._context = context or public_client_context()
        self._sleep = sleep
        self._nonces: list[str] = []
        self._directory: _Directory | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> AcmeClient:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"teleport/{__version__}", "Accept-Language": "en"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    # requests

    async def _once(self, method: str, url: str, data: bytes | None) -> _Answer:
        assert self._session is not None, "entered"
        try:
            parsed = URL(url)
        except ValueError:
            parsed = URL()
        if parsed.scheme != "https" or not parsed.host or parsed.user is not None:
            raise AcmeRefused(f"{url[:200]!r} is no https address to ask an ACME directory at")
        try:
            async with self._session.request(
                method,
                parsed,
                data=data,
                headers={"Content-Type": "application/jose+json"} if data is not None else None,
                ssl=self._context,
                allow_redirects=False,
                **for_aiohttp(parsed.host, parsed.port or 443),
            ) as answer:
                body = await answer.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                    body += more
                if len(body) > MAX_BYTES:
                    raise AcmeRefused(f"the directory's answer at {url} is larger than any that is right")
                if nonce := answer.headers.get("Replay-Nonce", ""):
                    self._nonces[:] = [*self._nonces[-3:], nonce]
                return _Answer(answer.status, answer.headers, body, url)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ConnectionProblem(
                f"the ACME directory {self.uri} cannot be reached: {said(error)}",
                hint="check proxy_service.acme.uri, and that this host may connect there",
            ) from None

    async def _nonce(self, directory: _Directory) -> str:
        if not self._nonces:
            await self._once("HEAD", directory.new_nonce, None)
        if not self._nonces:
            raise AcmeRefused(f"the directory {self.uri} gives no nonce")
        return self._nonces.pop()

    async def directory(self) -> _Directory:
        if self._directory is None:
            answer = await self._once("GET", self.uri, None)
            if answer.status != 200:
                raise _refusal(f"there is no ACME directory at {self.uri}", answer)
            self._directory = answer.read(_Directory)
        return self._directory

    async def _post(self, url: str, payload: Mapping[str, Any] | None, what: str, *, by_key: bool = False) -> _Answer:
        directory = await self.directory()
        for _ in range(NONCES):
            nonce = await self._nonce(directory)
            body = self._key.signed(url, nonce, payload, "" if by_key else self.account)
            answer = await self._once("POST", url, body)
            if 200 <= answer.status < 300:
                return answer
            refusal = _refusal(what, answer)
            if refusal.kind != "badNonce":
                raise refusal
        raise AcmeRefused(f"{what}: the directory refuses every nonce that it gave")

    # what is asked

    async def register(self, email: str = "") -> str:
        """Makes the account, or finds that of the key; its URL."""
        asked: dict[str, Any] = {"termsOfServiceAgreed": True}
        if email:
            asked["contact"] = [f"mailto:{email}"]
        directory = await self.directory()
        answer = await self._post(
            directory.new_account, asked, f"the directory {self.uri} makes no account", by_key=True
        )
        self.account = answer.headers.get("Location", "")
        if not self.account:
            raise AcmeRefused(f"the directory {self.uri} does not say which account it made")
        return self.account

    async def obtain(self, name: str, request: bytes, answer: Callable[[bytes], Awaitable[None]]) -> bytes:
        """A certificate chain (PEM) for `name` by a signing request (DER). `answer` is called with the digest that
        answers the challenge, and returns when the name's hosts show it. Raises `TeleportError`."""
        directory = await self.directory()
        asked = {"identifiers": [{"type": "dns", "value": name}]}
        made = await self._post(directory.new_order, asked, f"the directory takes no order for {name}")
        order_url, order = made.headers.get("Location", ""), made.read(_Order)
        for url in order.authorizations:
            await self._authorize(url, name, answer)
        what = f"the order for {name}"
        order = await self._until(order_url, _Order, {"pending"}, what)
        if order.status == "ready":
            csr = {"csr": b64url(request)}
            await self._post(order.finalize, csr, f"the directory does not sign the certificate of {name}")
            order = await self._until(order_url, _Order, {"pending", "ready", "processing"}, what)
        if order.status != "valid" or not order.certificate:
            raise AcmeRefused(f"the order for {name} failed: {_words(order.error) or order.status}")
        chain = await self._post(order.certificate, None, f"the directory does not hand over the certificate of {name}")
        return chain.body

    async def _authorize(self, url: str, name: str, answer: Callable[[bytes], Awaitable[None]]) -> None:
        found = (await self._post(url, None, f"the directory says nothing of {name}")).read(_Authorization)
        if found.identifier.value != name:
            raise AcmeRefused(f"the directory asks about {found.identifier.value!r}, and {name} was ordered")
        if found.status == "valid":
            return
        challenge = next((one for one in found.challenges if one.type == CHALLENGE), None)
        if challenge is None:
            raise AcmeRefused(f"the directory offers no {CHALLENGE} challenge for {name}, the only one answered here")
        await answer(self._key.challenge_digest(challenge.token))
        await self._post(challenge.url, {}, f"the directory does not look at {name}")
        found = await self._until(url, _Authorization, {"pending"}, f"the proof of {name}")
        if found.status != "valid":
            failed = next((one.error for one in found.challenges if one.error is not None), None)
            raise AcmeRefused(
                f"the directory does not believe that {name} is this proxy: {_words(failed) or found.status}",
                kind=(failed.type if failed is not None else "").removeprefix(_PROBLEM),
                hint=f"port 443 of every address of {name} in DNS must lead, TLS unopened, to proxies of this cluster",
            )

    async def _until(self, url: str, kind: type[T], working: set[str], what: str) -> T:
        """What `url` says once its status is none of `working`."""
        for _ in range(POLLS):
            answer = await self._post(url, None, f"the directory says nothing of {what}")
            found = answer.read(kind)
            if getattr(found, "status", "") not in working:
                return found
            await self._sleep(min(answer.wait or WAIT, LONGEST_POLL))
        raise AcmeRefused(f"the directory does not come to an end with {what}")


def _words(problem: _Problem | None) -> str:
    if problem is None:
        return ""
    details = [problem.detail, *(one.detail for one in problem.subproblems)]
    text = "; ".join(one for one in details if one) or problem.type.removeprefix(_PROBLEM)
    return "".join(one if one.isprintable() else " " for one in text)[:500]


def _refusal(what: str, answer: _Answer) -> AcmeRefused:
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    words = _words(problem) or f"status {answer.status}"
    hints = {
        "rateLimited": "it is asked again later by itself; for trials acme.uri may name its staging service",
        "externalAccountRequired": "this directory needs an account made elsewhere, which is not supported",
    }
    kind = problem.type.removeprefix(_PROBLEM)
    return AcmeRefused(f"{what}: {words}", kind=kind, wait=answer.wait, hint=hints.get(kind, ""))


__all__ = ["AcmeClient", "AcmeRefused"]
