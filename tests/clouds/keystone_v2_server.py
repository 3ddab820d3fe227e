"""Keystone's API of version 2.0, which Keystone no longer has, emulated before one of version 3.

keystone_v2_server.py FOLDER PORT KEYSTONE_V3_URL

It passes each login on to the Keystone behind it, in the domain Default, and answers in the words
of version 2.0 ("Identity API v2.0", POST /v2.0/tokens). The token is Keystone's own, so a service
that gets it asks Keystone about it. Prints READY.
"""

import json
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, keystone = int(sys.argv[2]), sys.argv[3]


def log_in(name, password, project):
    """Logs in by version 3. Returns the token and its document."""
    domain = {"name": "Default"}
    who = {"methods": ["password"], "password": {"user": {"name": name, "password": password, "domain": domain}}}
    body = {"auth": {"identity": who, "scope": {"project": {"name": project, "domain": domain}}}}
    request = urllib.request.Request(
        keystone + "/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request) as answer:
        return answer.headers["X-Subject-Token"], json.load(answer)["token"]


def in_version_2(token, document):
    catalogue = []
    for service in document["catalog"]:
        by_region = {}
        for endpoint in service["endpoints"]:
            of_region = by_region.setdefault(endpoint["region"], {"region": endpoint["region"], "id": endpoint["id"]})
            of_region[endpoint["interface"] + "URL"] = endpoint["url"]
        catalogue.append({"type": service["type"], "name": service["name"], "endpoints_links": [], "endpoints": list(by_region.values())})
    project = document["project"]
    return {"access": {
        "token": {
            "id": token, "issued_at": document["issued_at"], "expires": document["expires_at"].split(".")[0] + "Z",
            "tenant": {"id": project["id"], "name": project["name"], "enabled": True, "description": None},
        },
        "serviceCatalog": catalogue,
        "user": {
            "id": document["user"]["id"], "name": document["user"]["name"], "username": document["user"]["name"], "roles_links": [],
            "roles": [{"name": role["name"]} for role in document["roles"]],
        },
        "metadata": {"is_admin": 0, "roles": [role["id"] for role in document["roles"]]},
    }}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, document):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status, title, message):
        self.answer(status, {"error": {"message": message, "code": status, "title": title}})

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path != "/v2.0/tokens":
            return self.refuse(404, "Not Found", "The resource could not be found.")
        try:
            auth = json.loads(content)["auth"]
            who = auth["passwordCredentials"]
            name, password, project = who["username"], who["password"], auth["tenantName"]
        except (KeyError, TypeError, ValueError):
            return self.refuse(400, "Bad Request", "Expecting to find auth in request body.")
        try:
            self.answer(200, in_version_2(*log_in(name, password, project)))
        except urllib.error.HTTPError as e:
            self.refuse(e.code, e.reason, json.load(e)["error"]["message"])

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
print("READY", flush=True)
server.serve_forever()
