// An authorization server, with oidc-provider: what muxs is told to believe in.
//
//     node issuer.js PORT FOLDER
//
// Listens on 127.0.0.1, on a free port if PORT is 0, and prints its URL. Its keys are in FOLDER/keys.json: so it may be
// killed, and be the same one when it is started again. To FOLDER/tokens.txt it writes each token that it gives.
//
// It gives tokens to clients for what they are themselves (the grant client_credentials). Its keys may be changed under
// way: POST /keys/add has new ones sign, with the old ones still known, and POST /keys/drop forgets those.

"use strict";

const crypto = require("crypto");
const fs = require("fs");
const http = require("http");
const path = require("path");
const { pathToFileURL } = require("url");

// What tokens can be for: the server of the tests, and another one.
const RESOURCES = ["https://files.muxs.example", "https://elsewhere.muxs.example"];

const ALL = "greeter files.read files.write";

// Each has a secret with its name backwards. An `alg` is what signs, a `life` is in seconds.
const CLIENTS = {
  writer: { scope: ALL },
  other: { scope: ALL },
  elliptic: { scope: ALL, alg: "ES256" },
  reader: { scope: "files.read" },
  tenant: { scope: ALL, claims: { folder: "tenants/a" } },
  escaped: { scope: ALL, claims: { folder: "../tenants" } },
  brief: { scope: ALL, life: 3 },
  forger: { scope: ALL, subject: 'nobody"\n2026-01-01T00:00:00Z  WARN muxs::call: forged\u001b[2K\u0000' },
};

// Servers let a token pass for so long after its end, in seconds, in case their clock differs from the issuer's. A
// brief token is made as by a clock that is that much behind, so that tests need not wait for it.
const LEEWAY = 30;

const [port, folder] = process.argv.slice(2);
const file = path.join(folder, "keys.json");
const book = path.join(folder, "tokens.txt");

function newKeys() {
  const pairs = {
    RS256: crypto.generateKeyPairSync("rsa", { modulusLength: 2048 }),
    ES256: crypto.generateKeyPairSync("ec", { namedCurve: "P-256" }),
  };
  return Object.entries(pairs).map(([alg, { privateKey }]) => ({
    ...privateKey.export({ format: "jwk" }),
    kid: crypto.randomUUID(),
    use: "sig",
    alg,
  }));
}

function configuration(keys) {
  const clients = Object.entries(CLIENTS).map(([id, { scope }]) => ({
    client_id: id,
    client_secret: `the secret of ${[...id].reverse().join("")}`,
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
    scope,
  }));
  return {
    jwks: { keys },
    clients,
    scopes: ALL.split(" "),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource, { clientId }) => {
          if (!RESOURCES.includes(resource)) throw new Error(`nobody knows ${resource}`);
          const { alg = "RS256", life = 600 } = CLIENTS[clientId];
          // The newest key.
          const { kid } = keys.find((key) => key.alg === alg);
          const jwt = { sign: { alg, kid } };
          return { scope: ALL, audience: resource, accessTokenTTL: life, accessTokenFormat: "jwt", jwt };
        },
      },
    },
    ttl: { ClientCredentials: (_context, token) => token.resourceServer?.accessTokenTTL ?? 600 },
    extraTokenClaims: (_context, { clientId }) => CLIENTS[clientId].claims,
    formats: {
      customizers: {
        jwt: (_context, { clientId }, { payload }) => {
          const { life, subject } = CLIENTS[clientId];
          if (subject !== undefined) payload.sub = subject;
          if (life === undefined) return;
          payload.iat -= LEEWAY;
          payload.exp -= LEEWAY;
        },
      },
    },
  };
}

async function main() {
  // It is a module of the other kind, which would not be looked for in NODE_PATH.
  const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
  let keys = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file)) : newKeys();
  let issuer;
  let answer;
  const start = () => {
    fs.writeFileSync(file, JSON.stringify(keys), { mode: 0o600 });
    const provider = new Provider(issuer, configuration(keys));
    provider.on("grant.success", ({ body }) => fs.appendFileSync(book, `${body.access_token}\n`));
    answer = provider.callback();
  };
  const changes = {
    "/keys/add": () => [...newKeys(), ...keys],
    "/keys/drop": () => keys.slice(0, 2),
  };
  const server = http.createServer((request, response) => {
    const change = request.method === "POST" && changes[request.url];
    if (!change) return answer(request, response);
    keys = change();
    start();
    response.writeHead(204).end();
  });
  server.listen(Number(port), "127.0.0.1", () => {
    issuer = `http://127.0.0.1:${server.address().port}`;
    start();
    console.log(issuer);
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
