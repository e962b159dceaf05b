"""The contract of `proto/`, served by gRPC's Python library, with a pool of threads or with asyncio:

    pip install --requirement requirements.txt
    python server.py --listen 127.0.0.1:50051 --root DIR [--asyncio]

The code for the messages is not written anywhere: grpcio-tools makes it in memory when the server starts.

It does what the measurements need and no more: an upload cannot be resumed, and no etag is looked at.
"""

import argparse
import asyncio
from concurrent import futures
from pathlib import Path

import grpc

import blocking
import with_asyncio
from work import MIB, Paths, services

# The windows and frames of the other servers, as far as the library can be told.
OPTIONS = [
    ("grpc.http2.lookahead_bytes", MIB),
    ("grpc.http2.max_frame_size", MIB),
]

# The most calls at a time. A thread is only made when all others are busy.
THREADS = 1024


def add(server, kind, arguments):
    services.add_GreeterServicer_to_server(kind.Greeter(), server)
    services.add_FileControllerServicer_to_server(kind.FileController(Paths(arguments.root)), server)
    return server.add_insecure_port(arguments.listen)


def serve_with_threads(arguments):
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=OPTIONS)
    port = add(server, blocking, arguments)
    server.start()
    print(f"grpcio listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


async def serve_with_asyncio(arguments):
    server = grpc.aio.server(options=OPTIONS)
    port = add(server, with_asyncio, arguments)
    await server.start()
    print(f"grpcio with asyncio listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--asyncio", action="store_true")
    arguments = parser.parse_args()
    if arguments.asyncio:
        asyncio.run(serve_with_asyncio(arguments))
    else:
        serve_with_threads(arguments)


if __name__ == "__main__":
    main()
