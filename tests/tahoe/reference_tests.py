"""The tests of Tahoe-LAFS 1.20.0 for storage clients and servers, against a server in another process.

Environment:
    RAIC_NURL            the server under test (required)
    RAIC_CONTROL         host:port of a test control (see ../tests/tahoe.rs); without it the tests that look at
                         leases, advisories or move the server's clock are skipped
    RAIC_MAX_EXAMPLES    hypothesis examples a property (20)
    RAIC_TIMEOUT         seconds one request may take (90)

No test body is copied: the reference's test classes are imported and subclassed, and what they build their
in-memory server from (HttpTestFixture, StubTreq, RequestTraversalAgent, the seeded random generator) is replaced
in their module by something that talks to RAIC_NURL over real TLS with the reference's real client.
"""
import json
import os
import socket
from functools import partial
from random import SystemRandom
from unittest import SkipTest

from hypothesis import HealthCheck, settings

settings.register_profile(
    "external",
    deadline=None,
    max_examples=int(os.environ.get("RAIC_MAX_EXAMPLES", "20")),
    suppress_health_check=list(HealthCheck),
    database=None,
)
settings.load_profile("external")

from fixtures import Fixture
from hyperlink import DecodedURL
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from werkzeug.exceptions import NotFound
from zope.interface import implementer

import allmydata.test.test_istorageserver as ti
import allmydata.test.test_storage_http as th
from allmydata.storage.common import si_a2b, si_b2a
from allmydata.storage.http_client import (
    StorageClientFactory,
    StorageClientGeneral,
    _StorageClientHTTPSPolicy,
)
from allmydata.storage_client import HTTPNativeStorageServer, _HTTPStorageServer
from allmydata.test.common import AsyncTestCase, SyncTestCase
from allmydata.test.common_system import spin_until_cleanup_done

NURL = DecodedURL.from_text(os.environ["RAIC_NURL"])
TIMEOUT = float(os.environ.get("RAIC_TIMEOUT", "90"))

# Unique storage indexes and secrets in every run, so that a persistent server never sees one twice.
ti._RANDOM = SystemRandom()


# ---- a look into the server, if it offers one ----


def control(*words):
    where = os.environ.get("RAIC_CONTROL")
    if not where:
        raise SkipTest("looks inside the server or moves its clock: needs RAIC_CONTROL")
    host, port = where.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as s:
        s.sendall(" ".join(str(w) for w in words).encode("ascii") + b"\n")
        with s.makefile("rb") as f:
            return json.loads(f.readline())


class ExternalLease:
    def __init__(self, expiry):
        self._expiry = expiry

    def get_expiration_time(self):
        return self._expiry


class ExternalServer:
    """What tests see in place of a StorageServer."""

    def __init__(self, without_control=None):
        self._without_control = without_control
        self._version = None
        self.advise_corrupt_share = None  # a test may put a callable here

    def get_leases(self, storage_index):
        if self._without_control is not None and "RAIC_CONTROL" not in os.environ:
            return self._without_control
        si = si_b2a(storage_index).decode("ascii")
        return [ExternalLease(e) for e in control("leases", si)]

    get_slot_leases = get_leases

    def get_version(self):
        return self._version()

    def report_advisories(self):
        for kind, si, share, reason in control("advisories"):
            self.advise_corrupt_share(
                kind.encode("ascii"), si_a2b(si.encode("ascii")), share, reason.encode("utf-8")
            )


def watch_pools(pools):
    """Have every connection pool of the client in this list, with idle connections closed early."""

    def new_pool(pool):
        pool.cachedConnectionTimeout = 0.1
        pool.retryAutomatically = False
        pools.append(pool)

    StorageClientFactory.start_test_mode(partial(new_pool))  # partial: it must not become a method


@inlineCallbacks
def close_pools(pools):
    # A connection goes back to its pool a moment after the response has been seen, if nobody reads the body.
    yield deferLater(reactor, 0.02, lambda: None)
    yield gatherResults([p.closeCachedConnections() for p in pools])
    yield spin_until_cleanup_done()


# ---- asynchronous tests: test_istorageserver.py ----


class _External:
    """Takes the place of the reference's _SharedMixin, which starts a whole grid."""

    @inlineCallbacks
    def setUp(self):
        AsyncTestCase.setUp(self)
        self._pools = []
        watch_pools(self._pools)
        self.addCleanup(StorageClientFactory.stop_test_mode)
        factory = StorageClientFactory({"tcp": "tcp"}, None)
        client = yield ensureDeferred(factory.create_storage_client(NURL, reactor))
        self.storage_client = _HTTPStorageServer.from_http_client(client)
        self.server = ExternalServer(
            # This one only asks about a storage index nobody ever used.
            [] if self._testMethodName == "test_add_lease_non_existent" else None
        )

    def fake_time(self):
        return control("now")

    def fake_sleep(self, seconds):
        control("advance", seconds)

    @inlineCallbacks
    def tearDown(self):
        AsyncTestCase.tearDown(self)
        yield close_pools(self._pools)


class ExternalSharedAPIsTests(_External, ti.IStorageServerSharedAPIsTestsMixin, AsyncTestCase):
    pass


class ExternalImmutableAPIsTests(_External, ti.IStorageServerImmutableAPIsTestsMixin, AsyncTestCase):
    pass


class ExternalMutableAPIsTests(_External, ti.IStorageServerMutableAPIsTestsMixin, AsyncTestCase):
    pass


# ---- synchronous tests: test_storage_http.py ----


def run_reactor_until(d):
    """Run the real reactor until the Deferred or coroutine has a result; these tests are synchronous."""
    d = ensureDeferred(d)
    result, error = [], []
    d.addCallbacks(result.append, error.append)
    if not result and not error:
        d.addBoth(lambda _: reactor.crash())
        timeout = reactor.callLater(TIMEOUT, reactor.crash)
        reactor.run(installSignalHandlers=False)
        if timeout.active():
            timeout.cancel()
    if error:
        error[0].raiseException()
    if not result:
        raise RuntimeError("no answer in {} s".format(TIMEOUT))
    return result[0]


@implementer(IAgent)
class RewritingAgent:
    """Send what is addressed to http://127.0.0.1/ to the server under test."""

    def __init__(self, pool):
        policy = _StorageClientHTTPSPolicy(expected_spki_hash=NURL.user.encode("ascii"))
        self._agent = Agent(reactor, policy, pool=pool)

    def request(self, method, uri, headers=None, bodyProducer=None):
        url = DecodedURL.from_text(uri.decode("ascii"))
        url = url.replace(scheme="https", host=NURL.host, port=NURL.port)
        return self._agent.request(method, url.to_uri().to_text().encode("ascii"), headers, bodyProducer)


def external_agent(_resource=None):
    return RewritingAgent(HTTPConnectionPool(reactor, persistent=False))


class ExternalClock:
    def advance(self, seconds):
        control("advance", seconds)

    def __getattr__(self, name):  # everything else is real time
        return getattr(reactor, name)


class NoResource:
    def get_resource(self):
        return None


class ExternalFixture(Fixture):
    """Takes the place of HttpTestFixture, which builds an in-memory server."""

    def _setUp(self):
        self._pools = []
        watch_pools(self._pools)
        self.addCleanup(StorageClientFactory.stop_test_mode)
        self.addCleanup(self._close)
        self._watching = False
        self.clock = ExternalClock()
        self.http_server = NoResource()
        self.storage_server = ExternalServer()
        self.storage_server._version = self._own_version
        factory = StorageClientFactory({"tcp": "tcp"}, None)
        self.client = run_reactor_until(factory.create_storage_client(NURL, reactor))
        self.treq = self.client._treq

    def _own_version(self):
        # test_version compares with its server object; compare two answers of the external server instead.
        return self.result_of_with_flush(StorageClientGeneral(self.client).get_version())

    def _close(self):
        run_reactor_until(close_pools(self._pools))

    def result_of_with_flush(self, d):
        watched = self.storage_server.advise_corrupt_share
        if watched is not None and not self._watching:
            control("advisories")  # forget those of other tests; skip here if there is no control
            self._watching = True
        result = run_reactor_until(d)
        if watched is not None:
            self.storage_server.report_advisories()
        return result


th.HttpTestFixture = ExternalFixture
th.RequestTraversalAgent = external_agent
th.StubTreq = lambda resource: HTTPClient(external_agent())


class ExternalGenericHTTPAPITests(th.GenericHTTPAPITests):
    pass


class ExternalImmutableHTTPAPITests(th.ImmutableHTTPAPITests):
    pass


class ExternalMutableHTTPAPIsTests(th.MutableHTTPAPIsTests):
    pass


class ExternalImmutableSharedTests(th.ImmutableSharedTests):
    pass


class ExternalMutableSharedTests(th.MutableSharedTests):
    pass


class _RoutesOfServer:
    """Answers adapter.match() by asking the external server for the shares of that storage index."""

    def match(self, path, method):
        segment = path.strip("/")
        factory = StorageClientFactory({"tcp": "tcp"}, None)
        pool = HTTPConnectionPool(reactor, persistent=False)
        client = run_reactor_until(factory.create_storage_client(NURL, reactor, pool))
        url = client.relative_url("/storage/v1/immutable/{}/shares".format(segment))
        response = run_reactor_until(client.request(method, url))
        run_reactor_until(response.content())
        if response.code == 404:
            raise NotFound()
        if response.code != 200:
            raise RuntimeError("unexpected code {}".format(response.code))
        return "si", {"storage_index": si_a2b(segment.encode("ascii"))}


class ExternalRouteConverterTests(th.RouteConverterTests):
    adapter = _RoutesOfServer()


def _secrets_by_http(header_values, required_secrets):
    """Stands for _extract_secrets(): 400 from the server is its exception. An endpoint with just these secrets is
    asked where there is one, else one which needs no secret or more."""
    required = {s.value for s in required_secrets}
    si = si_b2a(os.urandom(16)).decode("ascii")
    if required == {"upload-secret"}:
        method, path, good = "PUT", "/storage/v1/immutable/{}/0/abort".format(si), 404
    elif required:
        method, path, good = "PUT", "/storage/v1/lease/{}".format(si), 404
    else:
        method, path, good = "GET", "/storage/v1/version", 200
    pool = HTTPConnectionPool(reactor, persistent=False)
    factory = StorageClientFactory({"tcp": "tcp"}, None)
    client = run_reactor_until(factory.create_storage_client(NURL, reactor, pool))
    headers = Headers({"X-Tahoe-Authorization": list(header_values)})
    response = run_reactor_until(client.request(method, client.relative_url(path), headers=headers))
    run_reactor_until(response.content())
    if response.code == 400:
        raise th.ClientSecretsException(str(response.code))
    if response.code != good:
        raise RuntimeError("unexpected code {}".format(response.code))
    return {}


class ExternalExtractSecretsTests(th.ExtractSecretsTests):
    # These two require arbitrary sets of secrets, for which there is no endpoint.
    def test_extract_secrets(self):
        raise SkipTest("requires arbitrary sets of secrets: no such endpoints")

    test_wrong_number_of_secrets = test_extract_secrets

    def setUp(self):
        super().setUp()
        th.disable_thread_pool_for_test(self)
        self.patch(th, "_extract_secrets", _secrets_by_http)


# ---- not from the reference's tests: does its node's server object connect at all? ----


class ExternalNativeServerTests(AsyncTestCase):
    @inlineCallbacks
    def test_connects(self):
        pools = []
        watch_pools(pools)
        self.addCleanup(StorageClientFactory.stop_test_mode)
        announcement = {
            "anonymous-storage-FURL": "pb://{}@tcp:127.0.0.1:1/unused".format("a" * 32),
            "anonymous-storage-NURLs": [NURL.to_text()],
            "nickname": "external",
        }
        server = HTTPNativeStorageServer(b"v0-" + b"a" * 52, announcement, {"tcp": "tcp"})
        connected = Deferred()
        server.on_status_changed(lambda s: None if connected.called else connected.callback(s))
        server.startService()
        server.start_connecting(None)
        yield connected
        self.assertTrue(server.is_connected(), server.get_connection_status().summary)
        self.assertIsInstance(server.get_available_space(), int)
        yield server.stopService()
        yield close_pools(pools)


del SyncTestCase
