"""Elections in a Redis that is more than one plain server: TLS, users with few rights, sentinels, clusters."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import redis
import trustme

from celery_leader.backends import open_backend
from celery_leader.backends.redis import RedisOnceStore
from celery_leader.election import ElectionConfig, LeaderElector
from celery_leader.exceptions import ConfigurationError, StoreUnavailable
from celery_leader.testing import FakeClock, LedgerContract, LockContract, sample_claim, sample_record
from tests.backends.made import Made
from tests.contracts.once_contract import OnceStoreContract
from tests.contracts.proxy import Proxy
from tests.servers import HOST, Certificates, RedisCluster, RedisServer, SentinelServer
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.redis

RECORD = "celery-leader:{default}:record"
TIMEOUT = 0.8
SLACK = 0.4
# The rights that docs/reference/settings.md names.
RIGHTS = (
    "-@all +get +set +hget +hset +hdel +hscan +eval +evalsha +publish +subscribe +unsubscribe "
    "resetkeys ~celery-leader:* resetchannels &celery-leader:*"
)


def in_time(call: Callable[[], Any]) -> Any:
    """What *call* returned, or the StoreUnavailable that it raised; it must not outlast its bound."""
    begun = time.monotonic()
    try:
        return call()
    except StoreUnavailable as error:
        return error
    finally:
        assert time.monotonic() - begun < TIMEOUT + SLACK


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority that no system knows."""
    home = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    paths = Certificates(*(str(home / name) for name in ("authority.pem", "certificate.pem", "key.pem")))
    authority.cert_pem.write_to_path(paths.authority)
    issued.cert_chain_pems[0].write_to_path(paths.certificate)
    issued.private_key_pem.write_to_path(paths.key)
    return paths


@pytest.fixture(scope="module")
def secure_server(certificates: Certificates) -> Iterator[RedisServer]:
    """A Redis behind TLS, with a user `leader` who may do what elections need."""
    with RedisServer(certificates=certificates) as server:
        assert server.command_line(f"ACL SETUSER leader on >s3cret/# {RIGHTS}") == b"+OK\r\n"
        yield server


class Secure(Made):
    """As that user, over TLS."""

    @pytest.fixture(autouse=True)
    def _server(self, secure_server: RedisServer, certificates: Certificates) -> Iterator[None]:
        self.server = secure_server
        self.lose_data()
        password = quote("s3cret/#", safe="")
        self.url = f"rediss://leader:{password}@{HOST}:{secure_server.port}/0?ssl_ca_certs={certificates.authority}"
        with ExitStack() as self.made:
            yield

    def lose_data(self) -> None:
        assert self.server.command_line("FLUSHALL") == b"+OK\r\n"


class TestSecureLock(Secure, LockContract):
    """RedisLock. Its user may neither ask the time nor give a key one: no clock of Redis' can decide anything."""

    made_kind = "lock"
    notifies = True
    make_lock = Secure.make


class TestSecureLedger(Secure, LedgerContract):
    """RedisLedger."""

    made_kind = "ledger"
    make_ledger = Secure.make


class TestTls:
    """rediss://"""

    def test_the_authority_may_be_an_option(self, secure_server: RedisServer, certificates: Certificates) -> None:
        """`leader_backend_options` holds what does not fit into a URL."""
        backend = open_backend(secure_server.url, options={"ssl_ca_certs": certificates.authority})
        backend.check()

    def test_an_unknown_authority_is_no_answer(self, secure_server: RedisServer) -> None:
        """A server that can't prove who it is gets no record, and the message says why."""
        backend = open_backend(secure_server.url)
        with closing(backend.lock("default")) as lock, closing(backend.ledger("default")) as ledger:
            for call in (backend.check, lock.get, partial(ledger.open, 1)):
                with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                    call()

    def test_a_wrong_password_is_no_answer(self, secure_server: RedisServer, certificates: Certificates) -> None:
        """And it is not shown."""
        options = {"ssl_ca_certs": certificates.authority, "username": "leader", "password": "guessed"}
        lock = open_backend(secure_server.url, options=options).lock("default")
        with pytest.raises(StoreUnavailable, match="(?i)refused the login: invalid username-password pair") as caught:
            lock.get()
        assert "guessed" not in str(caught.value)
        assert str(caught.value).endswith(". Correct user and password in leader_backend")
        assert ".." not in str(caught.value)
        lock.close()

    def test_a_handshake_that_hangs_is_bounded(self, secure_server: RedisServer, certificates: Certificates) -> None:
        """Whether nothing comes or too little at a time."""
        with Proxy((HOST, secure_server.port)) as proxy:
            url = f"rediss://{proxy.address[0]}:{proxy.address[1]}?ssl_ca_certs={certificates.authority}"
            lock = open_backend(url, timeout=TIMEOUT).lock("default")
            for harm in (proxy.fall_silent, partial(proxy.trickle, TIMEOUT / 8)):
                harm()
                assert isinstance(in_time(lock.get), StoreUnavailable)
                proxy.heal()
            assert lock.create(sample_record()) == lock.get()
            lock.close()


def test_forbidden_commands_are_no_answer(secure_server: RedisServer, certificates: Certificates) -> None:
    """A user who may read only learns what is missing."""
    assert secure_server.command_line("ACL SETUSER reader on >pw -@all +get ~*") == b"+OK\r\n"
    options = {"ssl_ca_certs": certificates.authority, "username": "reader", "password": "pw"}
    lock = open_backend(secure_server.url, options=options).lock("other")
    with pytest.raises(StoreUnavailable, match=r"(?i)no permissions? to (run|access).*evalsha"):
        lock.create(sample_record())
    lock.close()


class TestSentinel:
    """sentinel://"""

    @pytest.fixture
    def servers(self) -> Iterator[tuple[RedisServer, RedisServer, SentinelServer]]:
        """A master, its replica, and a sentinel that would promote it."""
        with (
            RedisServer({"repl-diskless-sync-delay": "0"}) as master,
            RedisServer({"replicaof": f"{HOST} {master.port}"}) as replica,
        ):
            eventually(lambda: b"master_link_status:up" in replica.command_line("INFO replication"), what="a replica")
            with SentinelServer(master) as sentinel:
                eventually(sentinel.knows_a_replica, 20, what="the sentinel knows the replica")
                yield master, replica, sentinel

    def test_a_failover_is_followed_and_tokens_order_its_terms(
        self, servers: tuple[RedisServer, RedisServer, SentinelServer]
    ) -> None:
        """The lock finds the new master, each call in its time.

        The last term was never replicated; the next one's token is greater all the same.
        """
        master, replica, sentinel = servers
        clock = FakeClock()
        backend = open_backend(sentinel.url, timeout=TIMEOUT, options={"master_name": sentinel.master_name})
        backend.check()
        locks = [backend.lock("default") for _ in range(3)]
        first, second, third = (
            LeaderElector(ElectionConfig("default", name), lock, clock=clock)
            for name, lock in zip("abc", locks, strict=True)
        )
        ledger = backend.ledger("default")
        tokens = [self._lead(first)]
        ledger.open(tokens[0])
        assert list(ledger.claim(tokens[0], [sample_claim(second=1)])) == [True]
        assert not second.try_acquire_or_renew()
        kept = locks[2].get()
        with redis.Redis(port=replica.port) as client:
            eventually(lambda: client.get(RECORD) == kept.version, what="the first term is replicated")
        self._cut_replication(master)
        clock.advance(16)
        tokens.append(self._lead(second))

        master.kill()

        eventually(lambda: in_time(locks[2].get) == kept, 30, interval=0.2, what="the replica answers, as it knows it")
        assert sentinel.master_port() == replica.port
        assert not in_time(second.try_acquire_or_renew)
        assert not second.is_leader()
        assert not in_time(third.try_acquire_or_renew)
        clock.advance(16)
        tokens.append(self._lead(third))
        assert tokens == sorted(set(tokens))
        assert dict(ledger.open(tokens[2])) == {"tick": sample_claim(second=1)}
        for each in (*locks, ledger):
            each.close()

    @staticmethod
    def _lead(elector: LeaderElector) -> int:
        assert eventually(elector.try_acquire_or_renew, 5)
        assert elector.term
        return elector.term.fencing_token

    @staticmethod
    def _cut_replication(master: RedisServer) -> None:
        """Let no replica in any more. Who is connected stays so."""
        with redis.Redis(port=master.port, single_connection_client=True) as client:
            client.config_set("requirepass", "unknown to replicas")
            assert client.execute_command("CLIENT", "KILL", "TYPE", "replica") == 1

    def test_a_sentinel_that_hangs_is_passed_over(
        self, servers: tuple[RedisServer, RedisServer, SentinelServer]
    ) -> None:
        """The next one is asked, in the time of the same call; when all hang the call ends in time."""
        _, _, sentinel = servers
        with Proxy((HOST, sentinel.port)) as proxy:
            deaf = f"sentinel://{HOST}:{proxy.address[1]}"
            options = {"master_name": sentinel.master_name}
            proxy.fall_silent()
            lock = open_backend(f"{deaf};{sentinel.url}", timeout=TIMEOUT, options=options).lock("default")
            assert in_time(lambda: lock.create(sample_record())).record == sample_record()
            alone = open_backend(deaf, timeout=TIMEOUT, options=options).lock("default")
            for harm in (proxy.fall_silent, partial(proxy.trickle, TIMEOUT / 8)):
                harm()
                assert isinstance(in_time(alone.get), StoreUnavailable)
            for each in (lock, alone):
                each.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """A cluster of three nodes."""
    with RedisCluster() as running:
        yield running


class Clustered(Made):
    """In that cluster, emptied."""

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RedisCluster) -> Iterator[None]:
        self.cluster, self.url = cluster, cluster.url
        self.lose_data()
        with ExitStack() as self.made:
            yield

    def lose_data(self) -> None:
        for node in self.cluster.nodes:
            assert node.command_line("FLUSHALL") == b"+OK\r\n"


class TestClusterLock(Clustered, LockContract):
    """RedisLock; notifications, too, reach whoever listens at another node."""

    made_kind = "lock"
    notifies = True
    make_lock = Clustered.make

    def test_follows_its_keys_to_another_node(self) -> None:
        """Resharding goes on while the leader renews."""
        lock = self.make_lock()
        stored = lock.create(sample_record())
        for number in range(3):
            self.cluster.move(RECORD)
            stored = lock.update(sample_record(leader_transitions=number), stored)
        assert self.make_lock().get() == stored

    def test_a_node_that_hangs_holds_no_call_longer_than_it_may(self) -> None:
        """Calls for its keys are no answers; elections whose keys are elsewhere go on, for those who begin, too."""
        lock, other = self.make_at(self.url, timeout=TIMEOUT), self._elsewhere()
        stored = lock.create(sample_record())
        other.create(sample_record(holder_identity="other"))
        node = self.cluster.owner(RECORD)
        node.pause()
        try:
            fresh = self.make_at(self.url, timeout=TIMEOUT)
            for call in (lock.get, fresh.get, partial(lock.update, sample_record(), stored), fresh.get, lock.get):
                assert isinstance(in_time(call), StoreUnavailable)
            assert in_time(other.get).record.holder_identity == "other"
        finally:
            node.resume()
        eventually(self.cluster.is_whole, 20, interval=0.1, what="the cluster is whole again")
        found = eventually(lock.get, ignore=StoreUnavailable)
        assert found.record == stored.record

    def _elsewhere(self) -> Any:
        """Return a lock whose record another node keeps than the default election's."""
        owner = self.cluster.owner(RECORD)
        names = (f"other-{number}" for number in range(100))
        name = next(name for name in names if self.cluster.owner(f"celery-leader:{{{name}}}:record") is not owner)
        return self.make_at(self.url, name, TIMEOUT)

    def test_a_node_that_comes_back_is_used_again(self) -> None:
        """With its data, and by the same lock, which knew that node only."""
        url = f"redis+cluster://{HOST}:{self.cluster.owner(RECORD).port}"
        lock = self.make_at(url, timeout=TIMEOUT)
        stored = lock.create(sample_record())
        node = self.cluster.owner(RECORD)
        node.kill()
        try:
            for _ in range(3):
                assert isinstance(in_time(lock.get), StoreUnavailable)
        finally:
            node.start()
        assert eventually(lock.get, 20, ignore=StoreUnavailable) == stored
        eventually(self.cluster.is_whole, 20, interval=0.1, what="the cluster is whole again")


class TestClusterLedger(Clustered, LedgerContract):
    """RedisLedger."""

    made_kind = "ledger"
    make_ledger = Clustered.make


class TestClusterOnceStore(Clustered, OnceStoreContract):
    """RedisOnceStore."""

    made_kind = "once_store"

    def make_once_store(self) -> RedisOnceStore:
        once_store = open_backend(self.url).once_store()
        assert isinstance(once_store, RedisOnceStore)
        self.made.callback(once_store.close)
        return once_store

    def test_one_node_keeps_all_ticks(self) -> None:
        """A client is connected to one node: ticks on several would cost a redirection and a connection each."""
        once_store = self.make_once_store()
        for number in range(20):
            once_store.begin(f"{number}", "a", 600)
        sizes = sorted(node.command_line("DBSIZE") for node in self.cluster.nodes)
        assert sizes == [b":0\r\n", b":0\r\n", b":20\r\n"]


class TestClusterUrl:
    """redis+cluster:// and rediss+cluster://"""

    def test_a_cluster_passes_the_check(self, cluster: RedisCluster) -> None:
        """Its eviction policy is asked for, too."""
        open_backend(cluster.url).check()

    def test_one_node_is_enough_to_begin_with(self, cluster: RedisCluster) -> None:
        """And a node that is away is no harm."""
        lock = open_backend(f"redis+cluster://{HOST}:1;{HOST}:{cluster.nodes[0].port}").lock("default")
        with suppress(LookupError):
            lock.get()
        lock.close()

    def test_nodes_that_hang_are_not_asked_first_for_ever(self, cluster: RedisCluster) -> None:
        """Two of them take all of a call's time: the next calls begin with other nodes."""
        with (
            closing(open_backend(cluster.url).lock("late")) as known,
            Proxy((HOST, cluster.nodes[0].port)) as one,
            Proxy((HOST, cluster.nodes[0].port)) as two,
        ):
            stored = known.create(sample_record())
            one.fall_silent()
            two.fall_silent()
            nodes = (one.address[1], two.address[1], cluster.nodes[0].port)
            url = "redis+cluster://" + ";".join(f"{HOST}:{port}" for port in nodes)
            with closing(open_backend(url, timeout=TIMEOUT).lock("late")) as lock:
                assert stored in [in_time(lock.get) for _ in nodes]

    def test_one_node_is_enough_to_hear_of_changes(self, cluster: RedisCluster) -> None:
        """The subscription, too, passes over a node that is away."""
        node = cluster.nodes[0]
        lock = open_backend(f"redis+cluster://{HOST}:1;{HOST}:{node.port}").lock("heard")
        lock.wait(0.01)
        eventually(lambda: b":1\r\n" in node.command_line("PUBSUB NUMSUB celery-leader:{heard}:changes"))
        lock.close()

    def test_a_node_under_a_plain_url_is_told_of(self, cluster: RedisCluster) -> None:
        """With the URL to use: whichever node it is, whether it keeps the key or not."""
        for node in cluster.nodes:
            with pytest.raises(ConfigurationError, match=r"node of a Redis Cluster.*redis\+cluster://"):
                open_backend(node.url).check()

    @pytest.mark.parametrize("url", ["redis://localhost/abc", "redis://localhost:6379/0x", "rediss://localhost/1/2"])
    def test_a_database_is_a_number(self, url: str) -> None:
        """redis-py takes anything else for database 0."""
        with pytest.raises(ConfigurationError, match="ports and databases are numbers"):
            open_backend(url)

    @pytest.mark.parametrize(
        ("url", "options", "said"),
        [
            ("redis+cluster://localhost:7000/1", {}, "names a database"),
            ("redis+cluster://localhost:x", {}, "redis\\+cluster://localhost:x"),
            ("redis+cluster://localhost:7000", {"no_such_option": 1}, "no_such_option"),
        ],
    )
    def test_what_can_not_work_is_refused_at_once(self, url: str, options: dict[str, object], said: str) -> None:
        """Before a connection is opened, with the value that is wrong."""
        with pytest.raises(ConfigurationError, match=said):
            open_backend(url, options=options)

    def test_nodes_may_have_other_addresses_outside(self, cluster: RedisCluster) -> None:
        """`address_remap`, as redis-py has it, is asked for each."""
        with ExitStack() as stack:
            proxies = {node.port: stack.enter_context(Proxy((HOST, node.port))) for node in cluster.nodes}
            remap = {(HOST, port): proxy.address for port, proxy in proxies.items()}
            backend = open_backend(cluster.url, timeout=TIMEOUT, options={"address_remap": remap.__getitem__})
            lock = backend.lock("remapped")
            lock.create(sample_record())
            proxies[cluster.owner("celery-leader:{remapped}:record").port].fall_silent()
            assert isinstance(in_time(lock.get), StoreUnavailable)
            lock.close()

    def test_nodes_may_not_know_their_addresses(self, cluster: RedisCluster) -> None:
        """They redirect to a port only: on the host that was asked."""
        setting = "CONFIG SET cluster-preferred-endpoint-type"
        try:
            for node in cluster.nodes:
                assert node.command_line(f"{setting} unknown-endpoint") == b"+OK\r\n"
            locks = [open_backend(f"redis+cluster://{HOST}:{node.port}").lock("nowhere") for node in cluster.nodes]
            stored = locks[0].create(sample_record())
            for lock in locks:
                assert lock.get() == stored
                lock.close()
        finally:
            for node in cluster.nodes:
                node.command_line(f"{setting} ip")

    def test_a_key_on_its_way_is_found(self, cluster: RedisCluster) -> None:
        """While a slot moves, the old node sends on to the new one (ASK) what it has given away, and what is new."""
        key = "celery-leader:{moving}:record"
        backend = open_backend(cluster.url)
        lock = backend.lock("moving")
        with cluster.moving(key):
            stored = lock.create(sample_record())
            stored = lock.update(sample_record(holder_identity="b"), stored)
            assert lock.get() == stored
        assert lock.get() == stored
        assert lock.update(sample_record(), stored) == lock.get()
        lock.close()

    def test_over_tls_and_as_a_user(self, certificates: Certificates) -> None:
        """What stands before the @ and after the ? of the first node holds for all; neither is shown."""
        with RedisCluster(1, certificates=certificates) as secure:
            (node,) = secure.nodes
            assert node.command_line(f"ACL SETUSER leader on >s3cret {RIGHTS}") == b"+OK\r\n"
            address, query = f"{HOST}:{node.port}", f"ssl_ca_certs={certificates.authority}"
            backend = open_backend(f"rediss+cluster://leader:s3cret@{address}?{query};{HOST}:1")
            lock = backend.lock("default")
            assert lock.create(sample_record()) == lock.get()
            assert lock.describe() == f"rediss+cluster://{address}?… key {RECORD}"
            lock.close()
