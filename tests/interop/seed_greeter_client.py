"""A client of helloworld.proto, as the first page of a tutorial has it."""

import sys

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


def run(address):
    with grpc.insecure_channel(address) as channel:
        stub = helloworld_pb2_grpc.GreeterStub(channel)
        response = stub.SayHello(helloworld_pb2.HelloRequest(name='you'))
        print("Greeter client received: " + response.message)
        response = stub.Square(helloworld_pb2.Number(value=231))
        print("client Square 231 get :" + str(response.value))


if __name__ == '__main__':
    run(sys.argv[1] if len(sys.argv) > 1 else 'localhost:50051')
