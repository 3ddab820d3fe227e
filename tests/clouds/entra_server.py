"""Microsoft Entra's token endpoint on loopback, emulated. Authlib checks the client, and the texts
of errors are Entra's.

entra_server.py FOLDER PORT

The tenant is "tenant", its application "raic-tests" with the secret "entra+secret/of=tests". Prints
READY. The tokens are JWTs for Azure Storage. Azurite, started with --oauth basic, checks their
issuer, audience and times by itself. It checks no signature, since there is no Entra to ask for
keys.

  POST /TENANT/oauth2/v2.0/token      client credentials, RFC 6749 section 4.4
"""

import os
import sys
import time

import waitress
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from flask import Flask, request
from joserfc import jwt
from joserfc.jwk import OctKey

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
port = int(sys.argv[2])
SECONDS = int(os.environ.get("TOKEN_SECONDS", "3600"))
TENANT, APPLICATION, SECRET = "tenant", "raic-tests", "entra+secret/of=tests"
SCOPE = "https://storage.azure.com/.default"
KEY = OctKey.generate_key(256)
ERRORS = {
    "invalid_client": "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, "
                      "not the client secret ID, for a secret added to app 'raic-tests'.",
    "invalid_scope": "AADSTS1002012: The provided value for scope is not valid. Client credential flows must have a scope value with /.default "
                     "suffixed to the resource identifier (application ID URI).",
}


class Application(ClientMixin):
    def get_client_id(self):
        return APPLICATION

    def check_client_secret(self, secret):
        return secret == SECRET

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_post"

    def check_grant_type(self, grant):
        return grant == "client_credentials"

    def get_allowed_scope(self, scope):
        return scope if scope == SCOPE else ""


class Grant(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_post"]


def token_for_storage(*_, **__):
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com", "iss": f"https://sts.windows.net/{TENANT}/", "iat": now, "nbf": now, "exp": now + SECONDS,
        "appid": APPLICATION, "tid": TENANT, "ver": "1.0",
    }
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, KEY)


app = Flask(__name__)
app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"client_credentials": SECONDS}
app.config["OAUTH2_ACCESS_TOKEN_GENERATOR"] = token_for_storage
app.config["OAUTH2_SCOPES_SUPPORTED"] = [SCOPE]
server = AuthorizationServer(
    app, query_client=lambda client: Application() if client == APPLICATION else None, save_token=lambda token, request: None)
server.register_grant(Grant)


@app.post("/<tenant>/oauth2/v2.0/token")
def token(tenant):
    if tenant != TENANT:
        why = f"AADSTS90002: Tenant '{tenant}' not found."
        return {"error": "invalid_request", "error_description": why, "error_codes": [90002]}, 400
    if request.form.get("scope") != SCOPE:
        return {"error": "invalid_scope", "error_description": ERRORS["invalid_scope"], "error_codes": [1002012]}, 400
    answer = server.create_token_response()
    if answer.json.get("error") == "invalid_client":
        return {"error": "invalid_client", "error_description": ERRORS["invalid_client"], "error_codes": [7000215]}, 401
    return answer


print("READY", flush=True)
waitress.serve(app, host="127.0.0.1", port=port, threads=4)
