"""OpenStack Swift on loopback in one process: a proxy, and behind it one account, one container and
one object server.

swift_server.py FOLDER PORT [KEYSTONE_URL]

Users log in by the Keystone whose URL is given, else by TempAuth at /auth/v1.0 (test:tester,
testing). TempAuth's user and key are also access keys for S3's API. Prints READY. Needs a file
system with extended attributes; needs neither root nor memcached.
"""

import json
import logging
import logging.handlers
import os
import sys
import time
import types

import eventlet

eventlet.monkey_patch()

import eventlet.wsgi

folder, port = os.path.abspath(sys.argv[1]), int(sys.argv[2])
keystone = sys.argv[3] if len(sys.argv) > 3 else None
os.makedirs(folder + "/disk/d", exist_ok=True)
os.makedirs(folder + "/recon", exist_ok=True)


def write(name, sections):
    with open(f"{folder}/{name}.conf", "w") as file:
        for section, settings in sections.items():
            file.write(f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))


write("swift", {
    "swift-hash": {"swift_hash_path_prefix": "raic", "swift_hash_path_suffix": "raic"},
    "storage-policy:0": {"name": "only", "default": "yes"},
})

from swift.common import constraints, storage_policy, utils

utils.SWIFT_CONF_FILE = folder + "/swift.conf"
utils.validate_configuration()
storage_policy.reload_storage_policies()
constraints.reload_constraints()

from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingBuilder
from swift.common.wsgi import loadapp


class LogFile(logging.FileHandler):
    """Stands in for the system's log, which Swift writes to."""

    LOG_LOCAL0 = 16

    def __init__(self, *_, **__):
        super().__init__(folder + "/swift.log")

    def __getattr__(self, name):
        if name.startswith("LOG_"):
            return 16
        raise AttributeError(name)


for module in list(sys.modules.values()):
    if getattr(module, "ThreadSafeSysLogHandler", None):
        LogFile.priority_map = {}
        module.ThreadSafeSysLogHandler = LogFile


class Cache:
    """Stands in for memcached: it keeps tokens, and what is known of containers."""

    def __init__(self):
        self.entries = {}

    def get(self, key, raise_on_error=False):
        value, until = self.entries.get(key, (None, 0))
        if value is None or (until and until < time.time()):
            return None
        return json.loads(value)

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        until = __import__("time").time() + time if time else 0
        self.entries[key] = (json.dumps(value), until)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -int(delta), time)

    def delete(self, key, server_key=None):
        self.entries.pop(key, None)

    def set_multi(self, mapping, server_key, serialize=True, time=0, min_compress_len=0):
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]


def cache_filter(_, **__):
    cache = Cache()

    def wrap(app):
        def call(environ, start_response):
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return call

    return wrap


in_process = types.ModuleType("raic_swift_cache")
in_process.cache_filter = cache_filter
sys.modules["raic_swift_cache"] = in_process

common = {
    "swift_dir": folder,
    "devices": folder + "/disk",
    "mount_check": "false",
    "log_level": "INFO",
    "log_address": folder + "/nowhere",
    "recon_cache_path": folder + "/recon",
}
sockets = {}
for kind in ("account", "container", "object"):
    sockets[kind] = eventlet.listen(("127.0.0.1", 0), backlog=1024)
    at = {"ip": "127.0.0.1", "port": sockets[kind].getsockname()[1]}
    ring = RingBuilder(4, 1, 1)
    ring.add_dev({
        "id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "d", "meta": "",
        "replication_ip": at["ip"], "replication_port": at["port"], **at,
    })
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{kind}.ring.gz")
    write(kind, {
        "DEFAULT": common,
        "pipeline:main": {"pipeline": f"{kind}-server"},
        f"app:{kind}-server": {"use": f"egg:swift#{kind}"},
    })

auth = "authtoken keystoneauth" if keystone else "s3api tempauth"
write("proxy", {
    "DEFAULT": {**common, "bind_ip": "127.0.0.1", "bind_port": port},
    "pipeline:main": {
        "pipeline": f"catch_errors healthcheck cache listing_formats {auth} copy container-quotas slo dlo proxy-server",
    },
    "filter:cache": {"paste.filter_factory": "raic_swift_cache:cache_filter"},
    "filter:tempauth": {"use": "egg:swift#tempauth", "user_test_tester": "testing .admin"},
    "filter:authtoken": {
        "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory",
        "www_authenticate_uri": keystone, "auth_url": keystone, "auth_type": "password",
        "username": "swift", "password": "swiftpassword", "project_name": "service",
        "project_domain_id": "default", "user_domain_id": "default",
        "delay_auth_decision": "true", "include_service_catalog": "false",
        "service_token_roles_required": "false",
    },
    "filter:keystoneauth": {"use": "egg:swift#keystoneauth", "operator_roles": "admin, member", "project_reader_roles": "reader"},
    "filter:s3api": {"use": "egg:swift#s3api", "location": "us-east-1"},
    "filter:container-quotas": {"use": "egg:swift#container_quotas"},
    **{f"filter:{name}": {"use": f"egg:swift#{name}"}
       for name in ("catch_errors", "healthcheck", "listing_formats", "copy", "slo", "dlo")},
    # Swift waits half a second for a connection, and answers 503 then: too little on a machine that
    # compiles meanwhile.
    "app:proxy-server": {
        "use": "egg:swift#proxy",
        "account_autocreate": "true",
        "conn_timeout": "20",
        "node_timeout": "60",
        "recoverable_node_timeout": "60",
    },
})
sockets["proxy"] = eventlet.listen(("127.0.0.1", port), backlog=1024)


class Quiet:
    def write(self, _):
        pass


servers = []
for kind, socket in sockets.items():
    app = loadapp(f"{folder}/{kind}.conf", global_conf={"log_name": kind})
    servers.append(eventlet.spawn(
        eventlet.wsgi.server, socket, app, log=Quiet(), log_output=False, protocol=SwiftHttpProtocol,
        custom_pool=eventlet.GreenPool(1024), capitalize_response_headers=False, socket_timeout=60,
    ))
print("READY", flush=True)
servers[-1].wait()
