"""A client of mux.proto that knows only what the unary calls have always had."""

import sys

import grpc
import mux_pb2
import mux_pb2_grpc


def run(address):
    with grpc.insecure_channel(address) as channel:
        stub = mux_pb2_grpc.FileControllerStub(channel)
        response = stub.Read(mux_pb2.Files(filename='aaaa.txt'))
        print("File Read: " + response.text)
        response = stub.Write(mux_pb2.Files(filename='aaaa2.txt', text='37183714ghgjh243'))
        print("File Write: " + str(response.code))
        response = stub.Read(mux_pb2.Files(filename='aaaa2.txt'))
        print("File Read: " + response.text)


if __name__ == '__main__':
    run(sys.argv[1] if len(sys.argv) > 1 else 'localhost:50051')
