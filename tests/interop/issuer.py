"""An authorization server of its own process, see js/issuer.js, and tokens of it."""

import base64
import json
import select
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

PROGRAM = Path(__file__).parent / "js" / "issuer.js"
TIMEOUT = 10

RESOURCE = "https://files.muxs.example"
ELSEWHERE = "https://elsewhere.muxs.example"

ALL = "greeter files.read files.write"

# Issuers record all issued tokens here: none may be in a log or in an export.
BOOKS = []


class Issuer:
    """An issuer that can be killed and restarted at the same URL with the same keys."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.port = "0"
        self.process = None
        BOOKS.append(self.folder / "tokens.txt")

    def start(self):
        command = ["node", PROGRAM, self.port, self.folder]
        with open(self.folder / "issuer.log", "a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
        line = self.process.stdout.readline() if ready else ""
        assert line, (self.folder / "issuer.log").read_text()
        self.url = line.strip()
        self.port = self.url.rpartition(":")[2]

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def token(self, client="writer", **asked):
        return token(self.url, client, **asked)

    def add_key(self):
        """Signs with new keys from now on, and keeps publishing the old ones."""
        ask(self.url + "/keys/add")

    def drop_keys(self):
        """Removes all keys but the newest."""
        ask(self.url + "/keys/drop")


def ask(url, form=(), headers=()):
    data = urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, data=data, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return response.read()


def token(issuer, client, scope=ALL, resource=RESOURCE):
    """A new token for a client, by its own credentials."""
    form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
    # RFC 6749 2.3.1
    own = urllib.parse.quote_plus(client) + ":" + urllib.parse.quote_plus(secret_of(client))
    basic = base64.b64encode(own.encode()).decode()
    return json.loads(ask(issuer + "/token", form, {"authorization": f"Basic {basic}"}))["access_token"]


def given():
    """All tokens that were issued in this run."""
    return [token for book in BOOKS if book.exists() for token in book.read_text().split()]


def secret_of(client):
    return "the secret of " + client[::-1]


def bearer(token):
    """The metadata with a token."""
    return [("authorization", f"Bearer {token}")]


def parts(token):
    """The header and the claims of a token, not verified."""
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


if __name__ == "__main__":
    # Prints a token, for `--token-command`.
    print(token(*sys.argv[1:]))
