// Calls all four shapes of the greeter, uploads bytes and downloads them again, with grpc-js.
//
//     node client.js ADDRESS FILENAME SIZE [CA [CERT KEY]]
//
// Prints what it was answered as one JSON object. An ADDRESS may be unix:PATH.

"use strict";

const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "..", "..", "..", "proto", "mux.proto");
const CHUNK = 256 * 1024;

const [address, filename, size, ca, cert, key] = process.argv.slice(2);
const read = (file) => (file ? fs.readFileSync(file) : null);
const credentials = ca
  ? grpc.credentials.createSsl(read(ca), read(key), read(cert))
  : grpc.credentials.createInsecure();
const { muxs } = grpc.loadPackageDefinition(protoLoader.loadSync(PROTO, { longs: Number, oneofs: true }));

// For one call.
const deadline = () => ({ deadline: Date.now() + 20_000 });

// What a call with one answer is answered.
function answer(call) {
  return new Promise((resolve, reject) => call((error, value) => (error ? reject(error) : resolve(value))));
}

async function collected(stream) {
  const answers = [];
  for await (const value of stream) answers.push(value);
  return answers;
}

function crc32c(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0x82f63b78 & -(crc & 1));
  }
  return ~crc >>> 0;
}

async function greetings(greeter) {
  const names = ["Ada", "Grace", "Edsger", "Barbara"];
  const one = await answer((done) => greeter.SayHello({ name: "you" }, deadline(), done));
  const lots = await collected(greeter.LotsOfReplies({ name: "you", replies: 40 }, deadline()));
  const all = await answer((done) => {
    const call = greeter.LotsOfGreetings(deadline(), done);
    for (const name of names) call.write({ name });
    call.end();
  });
  // Each name waits for the reply to the one before it.
  const chat = greeter.BidiHello(deadline());
  const replies = [];
  chat.write({ name: names[0] });
  for await (const reply of chat) {
    replies.push(reply.message);
    const name = names[replies.length];
    if (name === undefined) chat.end();
    else chat.write({ name });
  }
  return { one: one.message, lots: lots.map((reply) => reply.message), all: all.message, replies };
}

async function upload(files, content) {
  const call = files.WriteStream(deadline());
  call.write({ open: { filename, uploadId: "from-js", size: content.length } });
  for (let offset = 0; offset < content.length; offset += CHUNK) {
    const data = content.subarray(offset, offset + CHUNK);
    call.write({ chunk: { offset, crc32c: crc32c(data), data } });
  }
  call.write({ finish: { size: content.length, crc32c: crc32c(content) } });
  call.end();
  const states = await collected(call);
  return states.at(-1).committed;
}

async function download(files) {
  const [first, ...rest] = await collected(files.ReadStream({ filename }, deadline()));
  const chunks = rest.map(({ chunk }) => {
    if (chunk.crc32c !== crc32c(chunk.data)) throw new Error(`the chunk at ${chunk.offset} is damaged`);
    return chunk.data;
  });
  return { info: first.info, content: Buffer.concat(chunks) };
}

async function main() {
  const greeter = new muxs.Greeter(address, credentials);
  const files = new muxs.FileController(address, credentials);
  const content = Buffer.alloc(Number(size), "bytes from JavaScript, ");
  const greeted = await greetings(greeter);
  const committed = await upload(files, content);
  const downloaded = await download(files);
  const same = downloaded.content.equals(content) && downloaded.info.etag === committed.etag;
  const missing = await answer((done) => files.Stat({ filename: "missing" }, deadline(), done)).catch(
    (error) => error.code,
  );
  console.log(JSON.stringify({ ...greeted, committed: committed.size, same, missing }));
  greeter.close();
  files.close();
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
