"""OpenStack Keystone on loopback.

keystone_server.py FOLDER PORT SWIFT_URL

All users are of the domain Default. User demo (demopassword) is a member of the project demo,
reader (readerpassword) may only read there, and other (otherpassword) is a member of the project
other. The catalogue has SWIFT_URL as the object store of RegionOne.

Prints one line of JSON, with the id and the secret of an application credential of demo's and the
id of demo's project, then serves.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request

folder, port, swift = os.path.abspath(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
url = f"http://127.0.0.1:{port}/v3"
tools = os.path.dirname(sys.executable)
for name in ("fernet", "credential"):
    os.makedirs(f"{folder}/{name}", mode=0o700, exist_ok=True)
with open(f"{folder}/keystone.conf", "w") as file:
    file.write(f"""[DEFAULT]
log_file = {folder}/keystone.log
use_stderr = false
[database]
connection = sqlite:///{folder}/keystone.db
[token]
provider = fernet
expiration = {os.environ.get("TOKEN_SECONDS", "3600")}
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = oslo_cache.dict
[oslo_policy]
enforce_scope = false
""")


def manage(*words):
    subprocess.run([f"{tools}/keystone-manage", "--config-file", f"{folder}/keystone.conf", *words], check=True)


user, group = (subprocess.check_output(["id", flag], text=True).strip() for flag in ("-un", "-gn"))
manage("db_sync")
for keys in ("fernet_setup", "credential_setup"):
    manage(keys, "--keystone-user", user, "--keystone-group", group)
manage(
    "bootstrap", "--bootstrap-username", "admin", "--bootstrap-password", "adminpassword", "--bootstrap-project-name", "admin",
    "--bootstrap-region-id", "RegionOne", "--bootstrap-public-url", url, "--bootstrap-internal-url", url,
    "--bootstrap-admin-url", url,
)
with open(f"{folder}/application.py", "w") as file:
    file.write(f"""import sys
sys.argv = ["keystone", "--config-file", "{folder}/keystone.conf"]
from keystone.server import wsgi
application = wsgi.initialize_public_application()
""")


def ask(method, path, body=None, token=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **({"X-Auth-Token": token} if token else {})}
    request = urllib.request.Request(url + path, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return (json.loads(text) if text else None), answer.headers.get("X-Subject-Token")


def log_in(name, password, project):
    domain = {"name": "Default"}
    who = {"methods": ["password"], "password": {"user": {"name": name, "password": password, "domain": domain}}}
    scope = {"project": {"name": project, "domain": domain}}
    return ask("POST", "/auth/tokens", {"auth": {"identity": who, "scope": scope}})[1]


def provision():
    while True:
        try:
            urllib.request.urlopen(url)
            break
        except OSError:
            time.sleep(0.1)
    admin = log_in("admin", "adminpassword", "admin")

    def make(kind, **body):
        return ask("POST", f"/{kind}s", {kind: body}, admin)[0][kind]["id"]

    roles = {role["name"]: role["id"] for role in ask("GET", "/roles", token=admin)[0]["roles"]}
    projects = {name: make("project", name=name, domain_id="default") for name in ("service", "demo", "other")}
    users = {}
    for name, project, role in (
        ("swift", "service", "admin"), ("demo", "demo", "member"), ("reader", "demo", "reader"), ("other", "other", "member"),
    ):
        users[name] = make("user", name=name, domain_id="default", password=name + "password")
        ask("PUT", f"/projects/{projects[project]}/users/{users[name]}/roles/{roles[role]}", token=admin)
    service = make("service", name="swift", type="object-store")
    for interface in ("public", "internal"):
        make(
            "endpoint", service_id=service, interface=interface, region_id="RegionOne",
            url=swift + "/v1/AUTH_%(project_id)s",
        )
    demo = log_in("demo", "demopassword", "demo")
    credential = {"application_credential": {"name": "tests", "secret": "applicationsecret", "roles": [{"name": "member"}]}}
    made = ask("POST", f"/users/{users['demo']}/application_credentials", credential, demo)[0]
    ask("PUT", f"/domains/default/users/{users['demo']}/roles/{roles['member']}", token=admin)
    print(json.dumps({
        "id": made["application_credential"]["id"], "secret": "applicationsecret", "project": projects["demo"],
    }), flush=True)


threading.Thread(target=provision, daemon=True).start()
os.chdir(folder)
server = subprocess.Popen(
    [f"{tools}/gunicorn", "-w", "1", "--threads", "4", "-b", f"127.0.0.1:{port}", "application:application"],
    env={**os.environ, "OS_KEYSTONE_CONFIG_FILES": f"{folder}/keystone.conf"},
    stdout=open(f"{folder}/gunicorn.log", "w"), stderr=subprocess.STDOUT,
)
# The server ends with the process that started it: then its input is closed.
sys.stdin.read()
server.terminate()
server.wait()
