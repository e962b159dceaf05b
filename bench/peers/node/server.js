// The contract of proto/, served by gRPC's library for Node.js:
//
//     npm ci
//     node server.js --listen 127.0.0.1:50051 --root DIR
//
// It does what the measurements need and no more: an upload cannot be resumed, and no etag is looked at.
//
// The library has no setting for the windows and frames of a server, so they are those of Node.js.

"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { randomUUID } = require("node:crypto");
const { parseArgs } = require("node:util");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const { crc32c } = require("@node-rs/crc32");

const PROTO = path.join(__dirname, "..", "..", "..", "proto", "mux.proto");
const MAX_NAME = 4096;
const MAX_CHUNK = 1024 * 1024;
const DEFAULT_CHUNK = 256 * 1024;

const { values: flags } = parseArgs({ options: { listen: { type: "string" }, root: { type: "string" } } });
if (!flags.listen || !flags.root) {
  console.error("usage: node server.js --listen HOST:PORT --root DIR");
  process.exit(1);
}

const refused = (code, details) => Object.assign(new Error(details), { code, details });

function checked(name) {
  if (Buffer.byteLength(name) > MAX_NAME) throw refused(grpc.status.INVALID_ARGUMENT, "the name is too long");
  return name;
}

const greeting = (name) => ({ message: `Hello, ${checked(name)}!` });

function sayHello(call, callback) {
  try {
    callback(null, greeting(call.request.name));
  } catch (error) {
    callback(error);
  }
}

function lotsOfReplies(call) {
  const { name, replies } = call.request;
  let reply;
  try {
    reply = greeting(name);
  } catch (error) {
    call.emit("error", error);
    return;
  }
  let sent = 0;
  const more = () => {
    while (sent < replies) {
      sent += 1;
      if (!call.write(reply)) {
        call.once("drain", more);
        return;
      }
    }
    call.end();
  };
  more();
}

function lotsOfGreetings(call, callback) {
  const names = [];
  let others = 0;
  call.on("data", ({ name }) => {
    try {
      checked(name);
    } catch (error) {
      callback(error);
    }
    if (names.length < 3) names.push(name);
    else others += 1;
  });
  call.on("end", () => {
    const guests = names.length ? names : ["nobody"];
    if (others) guests.push(`${others} other${others > 1 ? "s" : ""}`);
    const last = guests.pop();
    callback(null, { message: `Hello, ${guests.length ? `${guests.join(", ")} and ${last}` : last}!` });
  });
}

function bidiHello(call) {
  call.on("data", ({ name }) => {
    try {
      if (call.write(greeting(name))) return;
      call.pause();
      call.once("drain", () => call.resume());
    } catch (error) {
      call.removeAllListeners("data");
      call.emit("error", error);
    }
  });
  call.on("end", () => call.end());
}

function pathOf(filename) {
  if (filename.split("/").some((part) => ["", ".", ".."].includes(part))) {
    throw refused(grpc.status.INVALID_ARGUMENT, "the name is not that of a file below the root");
  }
  return path.join(flags.root, filename);
}

async function readStream(call) {
  try {
    const { filename, offset, length, max_chunk_bytes: wanted } = call.request;
    const file = await fs.promises.open(pathOf(filename)).catch((error) => {
      throw refused(grpc.status.NOT_FOUND, `${filename}: ${error.code}`);
    });
    const { size } = await file.stat();
    if (offset >= size) await file.close();
    if (offset > size) throw refused(grpc.status.OUT_OF_RANGE, "the offset is beyond the end of the file");
    call.write({ info: { filename, size } });
    if (offset === size) call.end();
    else send(file, offset, length || Infinity, Math.min(wanted || DEFAULT_CHUNK, MAX_CHUNK), call);
  } catch (error) {
    call.emit("error", error);
  }
}

// Reads on while earlier chunks are on their way, as far as the client takes them.
function send(file, start, length, chunkBytes, call) {
  const source = file.createReadStream({ start, end: start + length - 1, highWaterMark: chunkBytes });
  let offset = start;
  source.on("data", (data) => {
    if (!call.write({ chunk: { offset, crc32c: crc32c(data), data } })) source.pause();
    offset += data.length;
  });
  source.on("end", () => call.end());
  source.on("error", (error) => call.emit("error", refused(grpc.status.INTERNAL, error.code)));
  call.on("drain", () => source.resume());
  call.on("close", () => source.destroy());
}

// A file on its way from a client, in a temporary file until it is whole.
class Upload {
  static async open({ filename, upload_id }) {
    const upload = new Upload();
    upload.filename = filename;
    upload.target = pathOf(filename);
    upload.temporary = path.join(flags.root, `.upload-${randomUUID()}`);
    upload.id = upload_id;
    upload.size = 0;
    upload.crc32c = 0;
    upload.file = await fs.promises.open(upload.temporary, "wx");
    return upload;
  }

  opened() {
    return { progress: { upload_id: this.id, max_chunk_bytes: MAX_CHUNK } };
  }

  async write(chunk) {
    const { offset, data } = chunk;
    if (offset !== this.size) throw refused(grpc.status.ABORTED, `expected offset ${this.size}`);
    if (chunk._crc32c && crc32c(data) !== chunk.crc32c) {
      throw refused(grpc.status.ABORTED, "the chunk does not have its checksum");
    }
    for (let written = 0; written < data.length; ) {
      const { bytesWritten } = await this.file.write(data, written, data.length - written, this.size);
      written += bytesWritten;
      this.size += bytesWritten;
    }
    this.crc32c = crc32c(data, this.crc32c);
  }

  async finish(finish) {
    if (finish.size !== this.size) throw refused(grpc.status.INVALID_ARGUMENT, `the size is ${this.size}`);
    if (finish._crc32c && finish.crc32c !== this.crc32c) {
      throw refused(grpc.status.INVALID_ARGUMENT, "the file does not have its checksum");
    }
    await this.file.datasync();
    await fs.promises.rename(this.temporary, this.target);
    return { committed: { filename: this.filename, size: this.size } };
  }

  async close() {
    await this.file.close();
    // Not there any more if it has been finished.
    await fs.promises.rm(this.temporary, { force: true });
  }
}

async function writeStream(call) {
  let upload;
  try {
    // The call is still to be answered when no more is read.
    for await (const { step, open, chunk, finish } of call.iterator({ destroyOnReturn: false })) {
      if (step === "open" && !upload) {
        upload = await Upload.open(open);
        call.write(upload.opened());
      } else if (step === "chunk" && upload) {
        await upload.write(chunk);
      } else if (step === "finish" && upload) {
        call.write(await upload.finish(finish));
        break;
      } else {
        throw refused(grpc.status.INVALID_ARGUMENT, `unexpected step: ${step}`);
      }
    }
    call.end();
  } catch (error) {
    call.emit("error", error);
  } finally {
    await upload?.close();
  }
}

const server = new grpc.Server();
const { muxs } = grpc.loadPackageDefinition(
  protoLoader.loadSync(PROTO, { keepCase: true, longs: Number, defaults: true, oneofs: true }),
);
server.addService(muxs.Greeter.service, {
  SayHello: sayHello,
  LotsOfReplies: lotsOfReplies,
  LotsOfGreetings: lotsOfGreetings,
  BidiHello: bidiHello,
});
server.addService(muxs.FileController.service, { ReadStream: readStream, WriteStream: writeStream });
server.bindAsync(flags.listen, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`node listening on 127.0.0.1:${port}`);
});
